//! Moves bytes between a client and its upstream until both are done, in order, and passes on how each side ends.
//!
//! An end of stream is passed on as one while the other direction goes on; a reset is passed on as a reset. A
//! connection that is idle holds nothing but its sockets: bytes are read into a buffer that all connections of a
//! thread share, and only what the other side does not take at once is kept.

use super::socket;
use crate::reason::Reason;
use nix::errno::Errno;
use socket2::{SockRef, TcpKeepalive};
use std::{
    cell::{Cell, RefCell},
    future::{pending, poll_fn},
    io,
    net::Shutdown,
    os::fd::AsFd,
    pin::pin,
    time::Duration,
};
use tokio::{io::Interest, net::TcpStream, sync::watch, time::timeout};

const BUFFER: usize = 256 * 1024;
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// How long a server may take nothing of what a client said that is gone.
const GONE_PATIENCE: Duration = Duration::from_mins(2);

thread_local! {
    static BUFFERS: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// How many bytes went each way. Lives outside the relay, so that one that is stopped is still accounted for.
#[derive(Debug, Default)]
pub struct Moved {
    pub sent: Cell<u64>,
    pub received: Cell<u64>,
}

impl Moved {
    pub fn count_sent(&self, bytes: usize) {
        count(&self.sent, bytes);
    }

    pub fn count_received(&self, bytes: usize) {
        count(&self.received, bytes);
    }
}

/// Becomes true when every connection is to end at once.
pub type Stopped = watch::Receiver<bool>;

/// Waits until it is true: for ever, where nobody is left who could say so.
pub async fn told(signal: &mut Stopped) {
    if signal.wait_for(|is_true| *is_true).await.is_err() {
        pending::<()>().await;
    }
}

/// One end of the relay.
#[derive(Clone, Copy)]
struct End<'a> {
    stream: &'a TcpStream,
    side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

/// A side broke.
#[derive(Debug)]
struct Broken {
    side: Side,
    error: io::Error,
}

/// Relays until both directions have ended, or a side breaks: then the other is to be reset.
pub async fn relay(client: &TcpStream, upstream: &TcpStream, moved: &Moved) -> Reason {
    let (client, upstream) =
        (End { stream: client, side: Side::Client }, End { stream: upstream, side: Side::Upstream });
    let one_ended = Cell::new(false);
    let mut sending = pin!(one_way(client, upstream, &moved.sent, &one_ended));
    let mut receiving = pin!(one_way(upstream, client, &moved.received, &one_ended));
    let mut client_has_ended = false;
    // A side that has sent its last byte may still be reset, and nobody reads from it any more to see that.
    let result = tokio::select! {
        ended = &mut sending => match ended {
            Ok(()) => {
                client_has_ended = true;
                tokio::select! {
                    ended = receiving => ended,
                    broken = breaks(client) => Err(broken),
                }
            }
            broken => broken,
        },
        ended = &mut receiving => match ended {
            Ok(()) => tokio::select! {
                ended = sending => ended,
                broken = breaks(upstream) => Err(broken),
            },
            broken => broken,
        },
    };
    match result {
        Ok(()) => Reason::Closed,
        Err(broken) => {
            reset(client.stream);
            // What a client said before it was gone is still the server's to read: the kernel sees to that once this is closed.
            client_has_ended |= broken.side == Side::Client && broken.had_ended();
            if !(client_has_ended && is_sending(upstream.stream)) {
                reset(upstream.stream);
            }
            broken.reason()
        }
    }
}

/// Relays until then, or until all connections are to end: with a reset.
pub async fn relay_until(
    client: &TcpStream,
    upstream: &TcpStream,
    moved: &Moved,
    mut stopped: Stopped,
) -> Reason {
    tokio::select! {
        reason = relay(client, upstream, moved) => reason,
        () = told(&mut stopped) => {
            reset(client);
            reset(upstream);
            Reason::Drained
        }
    }
}

/// Sets up what is needed of an upstream's socket, which is nothing that the client would have to wait for. None of this can
/// fail on a TCP socket, and a connection without it is still one.
///
/// The client's socket has the like from the listener. Both have keepalive: the client's own ends at the engine.
pub fn prepare_upstream(upstream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let _ = upstream.set_nodelay(true);
    let _ = SockRef::from(upstream).set_tcp_keepalive(&keepalive);
    let _ = SockRef::from(upstream).set_out_of_band_inline(true);
}

/// Makes the end of a connection a reset: RST goes out when the stream is dropped.
pub fn reset(stream: &impl AsFd) {
    // The socket may be reset already: then there is nothing left to say.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Moves bytes until the end of the stream, and passes that on.
async fn one_way(
    from: End<'_>,
    to: End<'_>,
    moved: &Cell<u64>,
    one_ended: &Cell<bool>,
) -> Result<(), Broken> {
    let mut rest = Vec::new();
    let mut gone = None;
    loop {
        poll_fn(|cx| from.stream.poll_read_ready(cx)).await.map_err(|error| from.broken(error))?;
        let (read, written) = BUFFERS.with_borrow_mut(|buffer| pass_on(from, to, buffer, &mut rest))?;
        match read {
            Read::Nothing => {}
            Read::Bytes(bytes) => count(moved, bytes),
            Read::End => break,
        }
        if !written {
            finish(from, to, &rest, &mut gone).await?;
            rest = Vec::new();
        }
    }
    if let Some(gone) = gone {
        return Err(gone);
    }
    if one_ended.replace(true) {
        // Both have: to close the sockets, which comes next, says the same.
        return Ok(());
    }
    // A side that is gone already has nothing to be told.
    let _ = SockRef::from(to.stream).shutdown(Shutdown::Write);
    Ok(())
}

enum Read {
    Nothing,
    Bytes(usize),
    End,
}

/// Reads what there is and writes what the other side takes at once. Says whether that was all of it; where it was
/// not, `rest` has the remainder.
fn pass_on(
    from: End<'_>,
    to: End<'_>,
    buffer: &mut [u8],
    rest: &mut Vec<u8>,
) -> Result<(Read, bool), Broken> {
    let count = match try_read(from.stream, buffer) {
        Ok(Some(0)) => return Ok((Read::End, true)),
        Ok(Some(count)) => count,
        Ok(None) => return Ok((Read::Nothing, true)),
        Err(error) => return Err(from.broken(error)),
    };
    let bytes = buffer.get(..count).unwrap_or_default();
    let written = match to.stream.try_write(bytes) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(to.broken(error)),
    };
    let left = bytes.get(written..).unwrap_or_default();
    rest.extend_from_slice(left);
    Ok((Read::Bytes(count), left.is_empty()))
}

fn count(counter: &Cell<u64>, bytes: usize) {
    counter.set(counter.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
}

/// `None` where there is nothing to read now. A read that does not fill the buffer says nothing about what is left: it also
/// stops in front of an urgent byte.
fn try_read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.try_read(buffer) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes what the other side did not take at once. `gone`: how it was seen that `from` is gone, which had sent its last byte.
async fn finish(from: End<'_>, to: End<'_>, rest: &[u8], gone: &mut Option<Broken>) -> Result<(), Broken> {
    let mut writing = pin!(write_rest(to.stream, rest));
    if from.side == Side::Client && gone.is_none() {
        tokio::select! {
            written = &mut writing => return written.map_err(|error| to.broken(error)),
            // A client that has given up is not kept waiting for by a server that does not read. One that had said all that
            // it had to say has not given up.
            broken = breaks(from) => if broken.had_ended() { *gone = Some(broken) } else { return Err(broken) },
        }
    }
    let written = match gone {
        Some(_) => timeout(GONE_PATIENCE, writing)
            .await
            .map_err(|_| from.broken(io::Error::from(Errno::ETIMEDOUT)))?,
        // What a server said before it reset the connection is still the client's to read.
        None => writing.await,
    };
    written.map_err(|error| to.broken(error))
}

async fn write_rest(to: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        poll_fn(|cx| to.poll_write_ready(cx)).await?;
        match to.try_write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until a side is reset, or its connection fails otherwise.
async fn breaks(end: End<'_>) -> Broken {
    let error = match end.stream.ready(Interest::ERROR).await {
        Ok(_) => end.stream.take_error().unwrap_or_else(Some),
        Err(error) => Some(error),
    };
    match error {
        Some(error) => end.broken(error),
        // An error condition without an error: whoever moves bytes will see what it is.
        None => pending().await,
    }
}

impl End<'_> {
    fn broken(self, error: io::Error) -> Broken {
        Broken { side: self.side, error }
    }
}

/// Whether there is something that the other side has not acknowledged.
fn is_sending(stream: &TcpStream) -> bool {
    socket::unacknowledged(stream).is_ok_and(|bytes| bytes > 0)
}

impl Broken {
    /// Whether the side had sent its last byte: the kernel tells a reset after that by another error.
    fn had_ended(&self) -> bool {
        self.error.raw_os_error().map(Errno::from_raw) == Some(Errno::EPIPE)
    }

    fn reason(&self) -> Reason {
        match (self.side, self.error.raw_os_error().map(Errno::from_raw)) {
            (Side::Client, _) => Reason::ClientReset,
            (
                Side::Upstream,
                Some(Errno::ETIMEDOUT | Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ENETDOWN),
            ) => Reason::UpstreamTimeout,
            (Side::Upstream, _) => Reason::UpstreamReset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GONE_PATIENCE, Moved, prepare_upstream, relay, reset};
    use crate::reason::Reason;
    use socket2::SockRef;
    use std::{net::Ipv4Addr, time::Duration};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::{advance, pause, sleep, timeout},
    };

    /// Longer than it takes a packet to be there.
    const A_WHILE: Duration = Duration::from_millis(300);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn an_urgent_byte_stays_in_the_stream_and_stops_nothing() {
        let (mut application, client) = pair().await;
        let (upstream, mut server) = pair().await;
        // The engine's listener passes it on to those that it accepts.
        SockRef::from(&client).set_out_of_band_inline(true).unwrap();
        prepare_upstream(&upstream);
        application.write_all(b"before").await.unwrap();
        SockRef::from(&application).send_out_of_band(b"!").unwrap();
        application.write_all(b"after").await.unwrap();
        let moved = Moved::default();
        let talk = async {
            let mut received = [0; 12];
            server.read_exact(&mut received).await.unwrap();
            drop((application, server));
            received
        };
        let (_, received) = tokio::join!(relay(&client, &upstream, &moved), talk);
        assert_eq!(&received, b"before!after");
        assert_eq!(moved.sent.get(), 12);
    }

    #[tokio::test]
    async fn a_client_that_resets_does_not_wait_for_a_server_that_does_not_read() {
        let (mut application, client) = pair().await;
        let (upstream, server) = pair().await;
        let moved = Moved::default();
        let talk = async {
            // Until both connections' buffers are full.
            let flood = vec![0; 1 << 16];
            while timeout(Duration::from_millis(300), application.write_all(&flood)).await.is_ok() {}
            reset(&application);
            drop(application);
        };
        let (reason, ()) = tokio::join!(relay(&client, &upstream, &moved), talk);
        assert_eq!(reason, Reason::ClientReset);
        drop(server);
    }

    const SAID: usize = 1 << 16;

    /// Leaves no room in a connection's buffers. Returns how much is in them.
    async fn fill(stream: &TcpStream) -> usize {
        let (flood, mut filled) = (vec![0; 1 << 16], 0);
        while timeout(A_WHILE, stream.writable()).await.is_ok() {
            filled += stream.try_write(&flood).unwrap_or(0);
        }
        filled
    }

    /// Says what fits into the engine's own socket, ends, and is gone.
    async fn say_and_go(mut application: TcpStream) {
        application.write_all(&vec![0; SAID]).await.unwrap();
        application.shutdown().await.unwrap();
        sleep(A_WHILE).await;
        reset(&application);
    }

    #[tokio::test]
    async fn a_client_that_has_said_all_and_is_gone_is_seen_once_that_is_written() {
        let (application, client) = pair().await;
        let (upstream, mut server) = pair().await;
        let (moved, filled) = (Moved::default(), fill(&upstream).await);
        let talk = async {
            say_and_go(application).await;
            sleep(A_WHILE).await;
            // It reads all, and says nothing itself.
            let (mut heard, mut buffer) = (0, vec![0; 1 << 16]);
            while heard < filled + SAID {
                heard += server.read(&mut buffer).await.unwrap();
            }
        };
        let both = async { tokio::join!(relay(&client, &upstream, &moved), talk) };
        let (reason, ()) = timeout(Duration::from_mins(1), both).await.expect("the relay ends");
        assert_eq!(reason, Reason::ClientReset);
    }

    #[tokio::test]
    async fn a_server_that_never_reads_is_not_waited_for_for_ever() {
        let (application, client) = pair().await;
        let (upstream, server) = pair().await;
        fill(&upstream).await;
        let moved = Moved::default();
        let talk = async {
            say_and_go(application).await;
            sleep(A_WHILE).await;
            pause();
            advance(GONE_PATIENCE).await;
        };
        let (reason, ()) = tokio::join!(relay(&client, &upstream, &moved), talk);
        assert_eq!(reason, Reason::ClientReset);
        drop(server);
    }
}
