//! The engine's listeners on loopback in a workload's network namespace.

use super::netns::NetworkNamespace;
use nix::{errno::Errno, libc};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    ops::RangeInclusive,
    os::fd::{AsRawFd as _, FromRawFd as _},
    time::Duration,
};
use tokio::io::unix::AsyncFd;

/// Clamped by net.core.somaxconn.
const BACKLOG: i32 = 65_535;
/// Above the default range of ephemeral ports, so that no application is handed the engine's.
const PORTS: RangeInclusive<u16> = 61_000..=65_535;
const PORT_ATTEMPTS: usize = 32;
/// How long a client's connection may be silent before it is asked whether it is still there. It is on this host, so that this costs
/// little and is answered at once.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(15))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// A listener whose connections are not yet any reactor's.
#[derive(Debug)]
pub struct Listener {
    listener: AsyncFd<TcpListener>,
    address: SocketAddr,
}

impl Listener {
    /// Listens on both loopback addresses, on one port where that is free. A namespace may lack either family; at
    /// least one of the two is there.
    pub fn bind_both(namespace: &NetworkNamespace) -> io::Result<Vec<Self>> {
        namespace.run(|| {
            let mut failed = io::Error::from(io::ErrorKind::AddrInUse);
            for attempt in 0..=PORT_ATTEMPTS {
                // If nothing is free up there, any port will do.
                let port = if attempt < PORT_ATTEMPTS { fastrand::u16(PORTS) } else { 0 };
                let addresses =
                    [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()];
                let (listeners, errors): (Vec<_>, Vec<_>) =
                    addresses.into_iter().map(Self::bind).partition(Result::is_ok);
                let mut errors = errors.into_iter().filter_map(Result::err);
                let taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
                match errors.find(taken).or_else(|| errors.next()) {
                    Some(error) if taken(&error) || listeners.is_empty() => failed = error,
                    _ => return Ok(listeners.into_iter().filter_map(Result::ok).collect()),
                }
            }
            Err(failed)
        })
    }

    fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // What each client's socket is to have, which it takes over from here. The application's own pauses between small
        // writes are passed on as they come, and a byte that is marked urgent would be taken out of the stream, and so be lost. A
        // client that has closed its end altogether, and not only its sending side, is known by that nobody answers for it any more.
        socket.set_tcp_nodelay(true)?;
        socket.set_out_of_band_inline(true)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        // Not tokio's own listener, which would register each connection with this thread's reactor.
        // SAFETY: the listener owns its descriptor, and gives the same one for as long as it lives.
        #[expect(unsafe_code, reason = "the only way to wait for a descriptor")]
        let listener = unsafe { AsyncFd::register(listener)? };
        Ok(Self { listener, address })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until there may be a connection that was not there the last time. All that there are have to be accepted then.
    pub async fn readable(&self) -> io::Result<()> {
        self.listener.readable().await?.clear_ready();
        Ok(())
    }

    /// A connection that is there now, non-blocking, with the client's address.
    pub fn accept(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        match accept_nonblocking(self.listener.get_ref()) {
            Ok((stream, client)) => Ok(Some((stream, client))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// accept4(2) with SOCK_NONBLOCK, which saves a system call beside std's.
fn accept_nonblocking(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `SockAddr::try_init` gives a buffer and its length, and takes what the call has filled in.
    #[expect(unsafe_code, reason = "no library sets the flag")]
    let (accepted, address) = unsafe {
        SockAddr::try_init(|storage, len| {
            Errno::result(libc::accept4(listener.as_raw_fd(), storage.cast(), len, flags))
                .map_err(io::Error::from)
        })?
    };
    // SAFETY: the call gave a new descriptor, which nothing else owns.
    #[expect(unsafe_code, reason = "it came as a number")]
    let stream = unsafe { TcpStream::from_raw_fd(accepted) };
    let address = address.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((stream, address))
}
