//! The byte streams that HTTP runs over, and what redial asks of them beside reading and writing.

use std::io;
use std::task::{Context, Poll, ready};

use nix::libc;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;

use crate::tcp::relay;

/// A connection.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + 'static {
    /// After the end of the stream was read: whether the peer provably took none of the last `sent` bytes that were
    /// written. Waits for the peer's answer to them, if that is still to come.
    fn poll_untaken(&self, cx: &mut Context<'_>, sent: usize) -> Poll<bool>;

    /// Makes the connection's end a reset.
    fn reset(&self);

    /// Waits until the connection is reset, or fails otherwise.
    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()>;
}
