//! What the head of an HTTP/1 message says.
//!
//! Heads are passed on as they came, so nothing here changes or keeps their bytes: a head is told apart, checked and
//! described. What another reader could take for another message is refused.
//!
//! What is refused, and with which status, is what Envoy 1.40 refuses, but for these. Envoy writes every message anew,
//! so it may mend what it reads; here the upstream reads the very bytes, so what needs mending is refused with 400 where
//! nothing else is said:
//!
//! - requests with bare line feeds, carriage returns within a line or in a target, and folded fields. Envoy takes the
//!   first as line ends, drops the second and joins the third. Carriage returns within a response's line are refused, too.
//! - request lines with other separators than one space, and with space at their end.
//! - more than one Host. Envoy takes them.
//! - a request without Host whose target is in absolute form. Envoy makes a Host of the target.
//! - requests of HTTP/1.0 with a Transfer-Encoding, which servers are free to ignore. Envoy takes them as chunked.
//! - versions that are not 1.0 or 1.1: 505. Envoy takes `HTTP/2.0` and no version at all as 1.0, which it refuses with 426
//!   unless it is told to take it. 1.0 is always taken here, and without Host. In responses Envoy takes any version.
//! - chunks that do not end in CR LF where their size says, sizes of more than 16 digits, and extensions over 4 KiB.
//!
//! These Envoy refuses, and they are passed on, because they are the upstream's matter and end nowhere else for it: unknown
//! methods, relative targets and targets with a fragment, values of Host, Connection options that name Host, and up to
//! [`MAX_FIELDS`] fields.

mod error;
mod fields;
mod parse;

use std::ops::Range;

pub use error::HeadError;
pub use fields::{Fields, rewrite};

/// The most bytes of a head, its blank line included. Envoy's default.
pub const MAX_HEAD: usize = 60 * 1024;

/// The most fields of a head. Envoy's default is 100.
pub const MAX_FIELDS: usize = 256;

/// Looks for the end of one head after another, and never twice at the same byte.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search {
    searched: usize,
    /// Where the line begins that `searched` is in.
    line: usize,
    /// The first line is complete.
    begun: bool,
    /// The first line was looked at before the others came.
    checked: bool,
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

/// Which side a head comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
}

/// Says what the request head is that these bytes begin with; none where it goes on.
pub fn request(bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
    Search::default().request(bytes)
}

/// Says what the response head is that these bytes begin with, to a request of method `answers`.
pub fn response(bytes: &[u8], answers: &Method) -> Result<Option<ResponseHead>, HeadError> {
    Search::default().response(bytes, answers)
}

impl Search {
    /// As [`request`], of bytes that begin as those of the last call did. After a head it is ready for the next.
    pub fn request(&mut self, bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
        match self.next(bytes, Kind::Request)? {
            Some(head) => parse::request(head).map(Some),
            None => Ok(None),
        }
    }

    /// As [`response`], of bytes that begin as those of the last call did. After a head it is ready for the next.
    pub fn response(&mut self, bytes: &[u8], answers: &Method) -> Result<Option<ResponseHead>, HeadError> {
        match self.next(bytes, Kind::Response)? {
            Some(head) => parse::response(head, answers).map(Some),
            None => Ok(None),
        }
    }

    fn next<'a>(&mut self, bytes: &'a [u8], kind: Kind) -> Result<Option<&'a [u8]>, HeadError> {
        if let Some(length) = self.end(bytes, kind)? {
            *self = Self::default();
            return Ok(bytes.get(..length));
        }
        if self.begun && !self.checked {
            // Whoever writes something else than HTTP may wait for an answer, and never write a blank line.
            self.checked = true;
            parse::first_line(bytes, kind)?;
        }
        Ok(None)
    }

    fn end(&mut self, bytes: &[u8], kind: Kind) -> Result<Option<usize>, HeadError> {
        let bytes = bytes.get(..MAX_HEAD).unwrap_or(bytes);
        while let Some(rest) = bytes.get(self.searched..)
            && let Some(newline) = rest.iter().position(|byte| *byte == b'\n')
        {
            let end = self.searched + newline;
            let line = bytes.get(self.line..end).unwrap_or_default();
            self.searched = end + 1;
            self.line = end + 1;
            let line = match (line.strip_suffix(b"\r"), kind) {
                (Some(line), _) => line,
                (None, Kind::Request) => return Err(HeadError::BareLf),
                (None, Kind::Response) => line,
            };
            match kind {
                _ if !line.is_empty() => self.begun = true,
                // Empty lines before a request are skipped (RFC 9112, section 2.2).
                Kind::Request if !self.begun => {}
                Kind::Request | Kind::Response => return Ok(Some(end + 1)),
            }
        }
        self.searched = bytes.len();
        if bytes.len() < MAX_HEAD { Ok(None) } else { Err(HeadError::TooLarge) }
    }
}

impl RequestHead {
    /// The fields of this head, which is at the front of `bytes`.
    #[must_use]
    pub fn fields<'a>(&self, bytes: &'a [u8]) -> Fields<'a> {
        Fields::request(bytes.get(..self.length).unwrap_or(bytes))
    }
}

impl ResponseHead {
    /// The fields of this head, which is at the front of `bytes`.
    #[must_use]
    pub fn fields<'a>(&self, bytes: &'a [u8]) -> Fields<'a> {
        Fields::response(bytes.get(..self.length).unwrap_or(bytes))
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

/// Whether this byte may be in a token, as the names of methods and fields are.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
