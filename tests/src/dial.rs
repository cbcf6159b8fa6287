//! One outbound connection, as a workload makes it: the arguments and the result of the `dial` program, and the dialling
//! itself.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::script::{Played, Step, errno_name, play};

/// What to dial, and how. An IPv4-mapped IPv6 address is dialled over an IPv6 socket, as Java does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dial {
    pub to: SocketAddr,
    pub wait: Wait,
    pub bind: Option<SocketAddr>,
    pub device: Option<String>,
    pub fast_open: bool,
    pub multipath: bool,
    /// `IP_TRANSPARENT`: the socket may be bound to an address that is not this host's.
    pub transparent: bool,
    /// `SO_MARK`.
    pub mark: Option<u32>,
    /// `IP_TOS` or `IPV6_TCLASS`, whichever the packets will carry.
    pub traffic_class: Option<u8>,
    /// Where the same socket is to connect after `to` has failed.
    pub otherwise: Option<SocketAddr>,
    pub script: Vec<Step>,
}

/// How the client waits for `connect()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    Blocking,
    /// Non-blocking, then epoll and `SO_ERROR`.
    Epoll,
    /// Blocking with `SO_SNDTIMEO`: `connect()` fails with EINPROGRESS after so many milliseconds, and the client
    /// closes.
    AtMost(u64),
}

/// What the client saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dialled {
    /// What `connect()` failed with.
    pub errno: Option<String>,
    pub connect_ms: u64,
    /// `getsockname()`, once connected.
    pub local: Option<SocketAddr>,
    /// `getpeername()`, once connected.
    pub peer: Option<SocketAddr>,
    pub played: Vec<Played>,
}

impl Dial {
    #[must_use]
    pub fn to(to: SocketAddr) -> Self {
        Self {
            to,
            wait: Wait::Blocking,
            bind: None,
            device: None,
            fast_open: false,
            multipath: false,
            transparent: false,
            mark: None,
            traffic_class: None,
            otherwise: None,
            script: Vec::new(),
        }
    }

    #[must_use]
    pub fn play(mut self, script: &[Step]) -> Self {
        self.script = script.to_vec();
        self
    }

    /// Dials and plays the script. The error is one of the rig; what the network said is in [`Dialled`].
    pub fn run(&self, pause: impl FnMut()) -> io::Result<Dialled> {
        let socket = self.socket()?;
        let start = Instant::now();
        let connected = match (self.connect(&socket, self.to), self.otherwise) {
            (Err(_), Some(otherwise)) => self.connect(&socket, otherwise),
            (connected, _) => connected,
        };
        let connect_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Err(error) = connected {
            let errno = Some(errno_name(&error));
            return Ok(Dialled { errno, connect_ms, local: None, peer: None, played: Vec::new() });
        }
        let (local, peer) =
            (socket.local_addr()?.as_socket(), socket.peer_addr().ok().and_then(|peer| peer.as_socket()));
        socket.set_nonblocking(false)?;
        let played = play(TcpStream::from(socket), &self.script, pause);
        Ok(Dialled { errno: None, connect_ms, local, peer, played })
    }

    fn socket(&self) -> io::Result<Socket> {
        let protocol = if self.multipath { Protocol::MPTCP } else { Protocol::TCP };
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, Some(protocol))?;
        if self.to.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        if self.transparent {
            if self.to.is_ipv4() {
                socket.set_ip_transparent_v4(true)?;
            } else {
                socket.set_ip_transparent_v6(true)?;
            }
        }
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(class) = self.traffic_class.map(u32::from) {
            if unmapped(self.to).is_ipv4() {
                socket.set_tos_v4(class)?;
            } else {
                socket.set_tclass_v6(class)?;
            }
        }
        if let Some(address) = self.bind {
            socket.bind(&SockAddr::from(address))?;
        }
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if self.fast_open {
            setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)?;
        }
        Ok(socket)
    }

    fn connect(&self, socket: &Socket, to: SocketAddr) -> io::Result<()> {
        let to = SockAddr::from(to);
        match self.wait {
            Wait::Blocking => socket.connect(&to),
            Wait::AtMost(milliseconds) => {
                socket.set_write_timeout(Some(Duration::from_millis(milliseconds)))?;
                socket.connect(&to)?;
                socket.set_write_timeout(None)
            }
            Wait::Epoll => {
                socket.set_nonblocking(true)?;
                match socket.connect(&to) {
                    Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => return Err(error),
                    Ok(()) | Err(_) => {}
                }
                let epoll = Epoll::new(EpollCreateFlags::empty())?;
                epoll.add(socket.as_fd(), EpollEvent::new(EpollFlags::EPOLLOUT, 0))?;
                epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE)?;
                socket.take_error()?.map_or(Ok(()), Err)
            }
        }
    }
}

impl Dialled {
    /// The step's outcome, where the script got that far.
    #[must_use]
    pub fn step(&self, index: usize) -> Option<&Played> {
        self.played.get(index)
    }
}

/// The same address for an IPv6 socket: `::ffff:a.b.c.d` for IPv4.
#[must_use]
pub fn mapped(address: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match address {
        SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped(),
        SocketAddr::V6(v6) => *v6.ip(),
    };
    SocketAddr::from((ip, address.port()))
}

/// The address without the mapping: what a server on an IPv4 socket sees.
#[must_use]
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
