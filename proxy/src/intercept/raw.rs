//! Raw sockets in a workload's network namespace, for the packets of held handshakes.

use super::{netns::NetworkNamespace, packet::Packet};
use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Sends packets to loopback, header included, in one network namespace. Receives nothing.
#[derive(Debug)]
pub struct RawSocket {
    v4: Socket,
    /// Absent where the namespace has no IPv6.
    v6: Option<Socket>,
}

impl RawSocket {
    pub fn open(namespace: &NetworkNamespace) -> io::Result<Self> {
        namespace.run(|| {
            // With IPPROTO_RAW the header is the sender's in both families (raw(7), and `inet6_create` in Linux).
            let protocol = Some(Protocol::from(libc::IPPROTO_RAW));
            let v4 = Socket::new(Domain::IPV4, Type::RAW, protocol)?;
            v4.set_nonblocking(true)?;
            let v6 = Socket::new(Domain::IPV6, Type::RAW, protocol).ok();
            if let Some(v6) = &v6 {
                v6.set_nonblocking(true)?;
            }
            Ok(Self { v4, v6 })
        })
    }

    pub fn send(&self, packet: &Packet) -> io::Result<()> {
        let bytes = packet.bytes();
        let (socket, to): (&Socket, SockAddr) = if bytes.first().is_some_and(|byte| byte >> 4 == 4) {
            (&self.v4, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        } else {
            let v6 = self.v6.as_ref().ok_or(io::ErrorKind::AddrNotAvailable)?;
            (v6, SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into())
        };
        socket.send_to(bytes, &to).map(drop)
    }
}
