//! What the first bytes of a connection are.
//!
//! Pure: it looks at bytes and takes none. Whatever it is given, it neither panics nor asks for more than a bound.

mod tls;

pub use tls::ClientHello;

/// The longest request line that is waited for.
pub const MAX_REQUEST_LINE: usize = 8 * 1024;

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

/// How many of a server's bytes tell [`begins_as_http2`].
pub const HTTP2_SETTINGS: usize = 9;

/// Whether these are the first bytes of an HTTP/2 server. Many send their settings as soon as there is a connection,
/// without waiting for a client that has not said yet what it speaks.
#[must_use]
pub fn begins_as_http2(server: &[u8]) -> bool {
    // The head of a SETTINGS frame, of stream 0 and without flags (RFC 9113, section 6.5).
    matches!(server, [0, 0, length, 4, 0, 0, 0, 0, 0] if length % 6 == 0)
}

/// How HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a request line of HTTP/1 ends with, but for its last digit.
const VERSION: &[u8] = b"HTTP/1.";

/// The methods that IANA has registered. A protocol of another kind is far less likely to begin with one of these, a
/// space and no other letter than with any token.
const METHODS: [&[u8]; 40] = [
    b"ACL",
    b"BASELINE-CONTROL",
    b"BIND",
    b"CHECKIN",
    b"CHECKOUT",
    b"CONNECT",
    b"COPY",
    b"DELETE",
    b"GET",
    b"HEAD",
    b"LABEL",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MKREDIRECTREF",
    b"MKWORKSPACE",
    b"MOVE",
    b"OPTIONS",
    b"ORDERPATCH",
    b"PATCH",
    b"POST",
    b"PROPFIND",
    b"PROPPATCH",
    b"PUT",
    b"QUERY",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"TRACE",
    b"UNBIND",
    b"UNCHECKOUT",
    b"UNLINK",
    b"UNLOCK",
    b"UPDATE",
    b"UPDATEREDIRECTREF",
    b"VERSION-CONTROL",
    // Not registered, and much in use by caches.
    b"PURGE",
];

/// Says what these bytes are, of which none are missing at the front.
#[must_use]
pub fn detect(bytes: &[u8]) -> Detected {
    match bytes {
        [] => Detected::NeedMore,
        [tls::HANDSHAKE, ..] => tls::detect(bytes),
        _ if bytes.starts_with(PREFACE) => Detected::Http2,
        _ if PREFACE.starts_with(bytes) => Detected::NeedMore,
        _ => request_line(bytes),
    }
}

fn request_line(bytes: &[u8]) -> Detected {
    // A client may send an empty line after a request and so before its next (RFC 9112, section 2.2), or out of habit.
    let bytes = match bytes {
        [b'\r'] => return Detected::NeedMore,
        [b'\r', b'\n', rest @ ..] => rest,
        bytes => bytes,
    };
    let mut words = bytes.splitn(3, |byte| *byte == b' ');
    let (method, target, version) = (words.next().unwrap_or_default(), words.next(), words.next());
    let Some(target) = target else {
        return more_if(METHODS.iter().any(|known| known.starts_with(method)));
    };
    if !METHODS.contains(&method) || !target.iter().all(u8::is_ascii_graphic) {
        return Detected::Unknown;
    }
    match version {
        None => more_if(bytes.len() < MAX_REQUEST_LINE),
        Some(_) if target.is_empty() => Detected::Unknown,
        Some(version) => match version.strip_prefix(VERSION) {
            Some([b'0'..=b'9', ..]) => Detected::Http1,
            Some([]) => Detected::NeedMore,
            Some(_) => Detected::Unknown,
            None => more_if(VERSION.starts_with(version)),
        },
    }
}

fn more_if(possible: bool) -> Detected {
    if possible { Detected::NeedMore } else { Detected::Unknown }
}

#[cfg(test)]
pub(crate) mod tests;
