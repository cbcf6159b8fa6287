//! What the first bytes of a connection are.
//!
//! Pure: it looks at bytes and takes none. Whatever it is given, it neither panics nor asks for more than a bound.

/// What a connection speaks, told by the first bytes of its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// They may still become something.
    NeedMore,
    /// A request line of HTTP/1.
    Http1,
    /// The preface of HTTP/2, sent with prior knowledge.
    Http2,
    Tls(ClientHello),
    /// None of these.
    Unknown,
}

/// What a client says in the clear before it encrypts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name of the server that is asked for, in lower case.
    pub sni: Option<Box<str>>,
    /// The protocols that are offered, in order.
    pub alpn: Vec<Box<[u8]>>,
}

/// Says what these bytes are, of which none are missing at the front.
#[must_use]
pub fn detect(_bytes: &[u8]) -> Detected {
    Detected::NeedMore
}
