//! The byte streams that HTTP runs over, and what redial asks of them beside reading and writing.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::reason::Reason;
use crate::tcp::relay::{self, Moved};
use crate::tcp::socket;

/// The peer's kernel answers what a closed socket gets within a round trip.
const PROOF_PATIENCE: Duration = Duration::from_secs(1);

/// A connection.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + 'static {
    /// After the end of the stream was read: whether the peer provably took none of the last `sent` bytes that were
    /// written.
    fn untaken(self, sent: usize) -> impl Future<Output = bool> + 'static;

    /// The address that the peer sees.
    fn local(&self) -> Option<SocketAddr>;

    /// Whether the connection was reset, or has ended both ways.
    fn is_hung_up(&self) -> bool;

    /// Makes the connection's end a reset.
    fn reset(&self);

    /// Moves bytes both ways until both have ended.
    fn relay(&self, upstream: &Self, moved: &Moved) -> impl Future<Output = Reason>;
}

impl Wire for TcpStream {
    /// The peer has closed its side in order (FIN), and its FIN acknowledged nothing of what was written; what was written
    /// then met a closed socket, which answered with RST. So the peer had taken no byte of it when it closed, and from then
    /// on could answer nothing: a server that executes what it reads after that breaks RFC 9112, section 9.6.
    ///
    /// What the peer acknowledged is not enough by itself. A server that reads a request and then resets the connection
    /// (SO_LINGER of 0) leaves no trace of having read it: the kernel does not look at the acknowledgement of an RST
    /// (seen on Linux 6.18). There the end of the stream is an error, and this is not asked.
    async fn untaken(self, sent: usize) -> bool {
        let is_proven = || -> Option<bool> {
            match socket::unacknowledged(&self) {
                Ok(bytes) if bytes < sent => Some(false),
                // Closed on both sides without our having closed ours: by RST.
                Ok(_) if socket::is_hung_up(&self) => Some(true),
                Ok(_) => None,
                Err(_) => Some(false),
            }
        };
        if let Some(proven) = is_proven() {
            return proven;
        }
        let _ = timeout(PROOF_PATIENCE, self.ready(Interest::ERROR)).await;
        is_proven().unwrap_or(false)
    }

    fn local(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }

    fn is_hung_up(&self) -> bool {
        socket::is_hung_up(self)
    }

    fn reset(&self) {
        relay::reset(self);
    }

    async fn relay(&self, upstream: &Self, moved: &Moved) -> Reason {
        relay::relay(self, upstream, moved).await
    }
}

#[cfg(test)]
impl Wire for tokio::io::DuplexStream {
    async fn untaken(self, _sent: usize) -> bool {
        false
    }

    fn local(&self) -> Option<SocketAddr> {
        None
    }

    fn is_hung_up(&self) -> bool {
        false
    }

    fn reset(&self) {}

    async fn relay(&self, _upstream: &Self, _moved: &Moved) -> Reason {
        Reason::Closed
    }
}
