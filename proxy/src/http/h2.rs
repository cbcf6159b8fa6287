//! HTTP/2 with prior knowledge, from a client and to an upstream.
//!
//! A stream of the client's is a request, and each attempt at it a stream of an upstream connection. What goes through
//! goes through as it came: heads, data, trailers, interim responses and the codes of resets. Flow control is end to
//! end: a side is told to send more once the other has taken what it sent.
//!
//! Extended CONNECT (RFC 8441) is not offered to clients: what the upstream knows of it is not known when the client is
//! told. A client that wants a WebSocket then uses HTTP/1.1.

mod attempt;
mod fields;
mod limits;
mod prefixed;
mod serve;
mod stream;
pub(super) mod upstream;

pub use self::serve::serve;

#[cfg(test)]
mod tests;
