//! A connection in memory that can end in all the ways in which a TCP connection can.

use std::cell::{Cell, RefCell};
use std::cmp::min;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::wire::Wire;
use crate::reason::Reason;
use crate::tcp::relay::Moved;

/// One end of a connection. Dropping it closes it in order.
pub struct Stream {
    inbound: Rc<RefCell<Pipe>>,
    outbound: Rc<RefCell<Pipe>>,
    /// What [`Wire::untaken`] says on either end.
    untaken: Rc<Cell<bool>>,
}

/// What one end sends.
pub struct Sending(Rc<RefCell<Pipe>>);

/// One direction.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// How many bytes may wait to be read.
    room: usize,
    /// The most bytes that one call reads or writes.
    stride: usize,
    end: Option<End>,
    /// Writing fails: the reader has gone.
    refuses: bool,
    /// How many bytes were read.
    taken: usize,
    wakers: Vec<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// How much a connection holds.
#[derive(Clone, Copy)]
pub struct Size {
    pub room: usize,
    pub stride: usize,
}

impl Default for Size {
    fn default() -> Self {
        Self { room: 64 * 1024, stride: usize::MAX }
    }
}

/// Both ends of a connection.
pub fn pair(size: Size) -> (Stream, Stream) {
    let pipe = || Rc::new(RefCell::new(Pipe { room: size.room, stride: size.stride, ..Pipe::default() }));
    let (there, back, untaken) = (pipe(), pipe(), Rc::new(Cell::new(false)));
    let one = Stream { inbound: Rc::clone(&back), outbound: Rc::clone(&there), untaken: Rc::clone(&untaken) };
    (one, Stream { inbound: there, outbound: back, untaken })
}

impl Stream {
    /// Ends the sending side in order.
    pub fn finish(&self) {
        self.outbound.borrow_mut().ends(End::Closed);
    }

    /// Ends the sending side in order; what the other end writes from now on meets an error.
    pub fn close(&self) {
        self.finish();
        self.refuse();
    }

    /// What the other end writes meets an error.
    pub fn refuse(&self) {
        let mut inbound = self.inbound.borrow_mut();
        inbound.refuses = true;
        inbound.wake();
    }

    /// Ends both directions. What was not read yet is lost.
    pub fn reset(&self) {
        self.outbound.borrow_mut().ends(End::Reset);
        self.inbound.borrow_mut().ends(End::Reset);
    }

    /// Closes as a peer does that had closed before it saw what was written last.
    pub fn close_untaken(&self) {
        self.untaken.set(true);
        self.finish();
    }

    /// The same end once more, which does not close when it is dropped.
    pub fn sending(&self) -> Sending {
        Sending(Rc::clone(&self.outbound))
    }

    /// How many bytes the other end has read.
    pub fn taken_by_peer(&self) -> usize {
        self.outbound.borrow().taken
    }

    /// Waits until there is something to read, and does not take it.
    pub async fn readable(&self) {
        poll_fn(|cx| {
            let mut inbound = self.inbound.borrow_mut();
            if inbound.bytes.is_empty() && inbound.end.is_none() { inbound.wait(cx) } else { Poll::Ready(()) }
        })
        .await;
    }

    async fn copy(&self, to: &Self, count: &Cell<u64>) -> io::Result<()> {
        loop {
            let byte = poll_fn(|cx| self.inbound.borrow_mut().poll_take(cx, 1)).await?;
            if byte.is_empty() {
                to.finish();
                return Ok(());
            }
            poll_fn(|cx| to.outbound.borrow_mut().poll_put(cx, &[&byte])).await?;
            count.set(count.get() + 1);
        }
    }
}

impl Pipe {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    fn ends(&mut self, end: End) {
        if self.end != Some(End::Reset) {
            self.end = Some(end);
        }
        self.wake();
    }

    fn poll_take(&mut self, cx: &Context<'_>, most: usize) -> Poll<io::Result<Vec<u8>>> {
        if self.end == Some(End::Reset) {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if self.bytes.is_empty() && self.end.is_none() {
            return self.wait(cx);
        }
        let count = min(min(most, self.stride), self.bytes.len());
        self.taken += count;
        self.wake();
        Poll::Ready(Ok(self.bytes.drain(..count).collect()))
    }

    fn poll_put(&mut self, cx: &Context<'_>, parts: &[&[u8]]) -> Poll<io::Result<usize>> {
        if self.end == Some(End::Reset) || self.refuses {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        assert!(self.end.is_none(), "nothing is written after the end");
        let room = min(self.room - self.bytes.len(), self.stride);
        if room == 0 {
            return self.wait(cx);
        }
        let before = self.bytes.len();
        self.bytes.extend(parts.iter().copied().flatten().take(room));
        self.wake();
        Poll::Ready(Ok(self.bytes.len() - before))
    }
}

impl Sending {
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.0.borrow_mut().poll_put(cx, &[bytes])).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let taken = self.inbound.borrow_mut().poll_take(cx, buf.remaining());
        taken.map_ok(|bytes| buf.put_slice(&bytes))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.outbound.borrow_mut().poll_put(cx, &[buf])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        self.outbound.borrow_mut().poll_put(cx, &parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}

impl Wire for Stream {
    fn local(&self) -> Option<std::net::SocketAddr> {
        None
    }

    async fn untaken(self, sent: usize) -> bool {
        self.untaken.get() && self.outbound.borrow().bytes.len() >= sent
    }

    fn is_hung_up(&self) -> bool {
        self.inbound.borrow().end == Some(End::Reset)
    }

    fn reset(&self) {
        Self::reset(self);
    }

    async fn relay(&self, upstream: &Self, moved: &Moved) -> Reason {
        let (there, back) =
            tokio::join!(self.copy(upstream, &moved.sent), upstream.copy(self, &moved.received));
        if there.and(back).is_ok() { Reason::Closed } else { Reason::UpstreamReset }
    }
}
