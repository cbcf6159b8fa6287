//! What the head of an HTTP/1 message says.
//!
//! Heads are passed on as they came, so nothing here changes or keeps their bytes: a head is told apart, checked and
//! described. What another reader could take for another message is refused.

use std::ops::Range;

use bytes::Bytes;

use crate::policy::Headers;

/// The most bytes of a head, its blank line included. Envoy's default.
pub const MAX_HEAD: usize = 60 * 1024;

/// The most fields of a head. Envoy's default is 100.
pub const MAX_FIELDS: usize = 256;

/// Looks for the end of one head after another, and never twice at the same byte.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search {
    searched: usize,
}

/// What a request's head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Its bytes, with empty lines before it and the blank line after it.
    pub length: usize,
    pub method: Method,
    /// Where its target is among its bytes.
    pub target: Range<usize>,
    pub version: Version,
    pub body: Framing,
    /// The client means to send another request on this connection.
    pub persistent: bool,
    pub upgrade: Option<Upgrade>,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Its content is gRPC.
    pub grpc: bool,
}

/// What a response's head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Its bytes, with the blank line after it.
    pub length: usize,
    pub version: Version,
    pub status: u16,
    pub body: Framing,
    /// The upstream takes another request on this connection.
    pub persistent: bool,
}

/// What a message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    /// Another, as it was written.
    Extension(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How the end of a message's body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    Length(u64),
    Chunked,
    /// It ends with its connection.
    UntilClose,
    /// The connection carries another protocol from here, both ways: 101, and success of CONNECT.
    Tunnel,
}

/// The protocol that a client wants to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    H2c,
    Other,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeadError {
    #[error("the head is larger than {MAX_HEAD} bytes")]
    TooLarge,
}

/// The fields of a head, for matchers.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    head: &'a [u8],
}

/// Says what the request head is that these bytes begin with; none where it goes on.
pub fn request(bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
    Search::default().request(bytes)
}

/// Says what the response head is that these bytes begin with, to a request of method `answers`.
pub fn response(bytes: &[u8], answers: &Method) -> Result<Option<ResponseHead>, HeadError> {
    Search::default().response(bytes, answers)
}

/// A head without the fields named in `remove`, and with those in `add` at its end. All else is as it was.
#[must_use]
pub fn rewrite(head: &[u8], _remove: &[&str], _add: &[(&str, &str)]) -> Bytes {
    Bytes::copy_from_slice(head)
}

impl Search {
    /// As [`request`], of bytes that begin as those of the last call did. After a head it is ready for the next.
    pub fn request(&mut self, bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
        self.searched = bytes.len();
        Ok(None)
    }

    /// As [`response`], of bytes that begin as those of the last call did. After a head it is ready for the next.
    pub fn response(&mut self, bytes: &[u8], _answers: &Method) -> Result<Option<ResponseHead>, HeadError> {
        self.searched = bytes.len();
        Ok(None)
    }
}

impl RequestHead {
    /// The fields of this head, which is at the front of `bytes`.
    #[must_use]
    pub fn fields<'a>(&self, bytes: &'a [u8]) -> Fields<'a> {
        Fields { head: bytes.get(..self.length).unwrap_or(bytes) }
    }
}

impl ResponseHead {
    /// The fields of this head, which is at the front of `bytes`.
    #[must_use]
    pub fn fields<'a>(&self, bytes: &'a [u8]) -> Fields<'a> {
        Fields { head: bytes.get(..self.length).unwrap_or(bytes) }
    }

    /// Another response to the same request follows.
    #[must_use]
    pub fn interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

impl Method {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Extension(name) => name,
        }
    }
}

impl From<&str> for Method {
    fn from(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "CONNECT" => Self::Connect,
            "OPTIONS" => Self::Options,
            "TRACE" => Self::Trace,
            "PATCH" => Self::Patch,
            other => Self::Extension(other.into()),
        }
    }
}

impl Headers for Fields<'_> {
    fn visit<'a>(&'a self, _name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool) {
        visit(self.head);
    }
}

impl HeadError {
    /// The status that a client is answered with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::TooLarge => 431,
        }
    }

    /// The word that counts it in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::TooLarge => "too-large",
        }
    }
}
