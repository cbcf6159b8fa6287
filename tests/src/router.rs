//! A router that answers with ICMP some milliseconds later, as one across a network does.
//!
//! Over veth an nftables `reject` answers within the very softirq that carries the SYN, while `connect()` still owns the
//! client's socket; Linux then keeps the ICMP error for later and goes on until its first SYN timer. No client further
//! away than its own host sees that, so a rig that is to stand for a network needs a delay.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::libc::ETH_P_ALL;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::firewall::{Fate, Firewall};
use crate::netns::Netns;

const DELAY: Duration = Duration::from_millis(30);

/// Answers every SYN for its ports. Drop ends it.
#[derive(Debug)]
pub struct Router {
    stop: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
}

/// What the router cannot find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    Host,
    Network,
}

impl Router {
    /// Answers for these ports in `netns`, where `firewall` keeps the SYNs from everybody else.
    pub fn start(netns: &Netns, firewall: &Firewall<'_>, ports: &[(u16, Unreachable)]) -> Result<Self> {
        for (port, _) in ports {
            firewall.set(*port, Fate::Drop)?;
        }
        let sockets = Arc::new(netns.run(|| Sockets::open().context("opening raw sockets"))?);
        let (stop, ports) = (Arc::new(AtomicBool::new(false)), ports.to_vec());
        let stopped = Arc::clone(&stop);
        let answering = thread::spawn(move || {
            let mut packet = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(length) = (&sockets.seen).read(&mut packet) else { continue };
                let packet = &packet[..length];
                let Some(syn) = Syn::parse(packet) else { continue };
                if let Some((_, unreachable)) = ports.iter().find(|(port, _)| *port == syn.port) {
                    let (sockets, unreachable, packet) =
                        (Arc::clone(&sockets), *unreachable, packet.to_vec());
                    thread::spawn(move || {
                        thread::sleep(DELAY);
                        // A client that is gone by now has no use for the answer.
                        drop(sockets.answer(&syn, unreachable, &packet));
                    });
                }
            }
        });
        Ok(Self { stop, answering: Some(answering) })
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(answering) = self.answering.take() {
            drop(answering.join());
        }
    }
}

#[derive(Debug)]
struct Sockets {
    /// Every packet of the namespace, from its IP header on, before any firewall rule.
    seen: Socket,
    icmp: Socket,
    icmpv6: Socket,
}

struct Syn {
    source: SocketAddr,
    port: u16,
}

impl Sockets {
    fn open() -> std::io::Result<Self> {
        let every = i32::from(u16::try_from(ETH_P_ALL).unwrap_or_default().to_be());
        let seen = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(every)))?;
        seen.set_read_timeout(Some(Duration::from_millis(50)))?;
        let icmp = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        let icmpv6 = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        Ok(Self { seen, icmp, icmpv6 })
    }

    /// RFC 792 and RFC 4443, section 3.1: the message quotes the packet that it is about.
    fn answer(&self, syn: &Syn, unreachable: Unreachable, packet: &[u8]) -> std::io::Result<usize> {
        let (kind, code) = match (syn.source, unreachable) {
            (SocketAddr::V4(_), Unreachable::Host) => (3, 1),
            (SocketAddr::V4(_), Unreachable::Network) => (3, 0),
            (SocketAddr::V6(_), Unreachable::Host) => (1, 3),
            (SocketAddr::V6(_), Unreachable::Network) => (1, 0),
        };
        let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
        message.extend(packet);
        let to = SockAddr::from(SocketAddr::new(syn.source.ip(), 0));
        if syn.source.is_ipv6() {
            // The kernel fills in the checksum of ICMPv6 alone.
            return self.icmpv6.send_to(&message, &to);
        }
        let checksum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&checksum);
        self.icmp.send_to(&message, &to)
    }
}

impl Syn {
    fn parse(packet: &[u8]) -> Option<Self> {
        let (source, header): (std::net::IpAddr, usize) = match packet.first()? >> 4 {
            4 if *packet.get(9)? == 6 => {
                let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
                (Ipv4Addr::from(source).into(), usize::from(packet.first()? & 15) * 4)
            }
            6 if *packet.get(6)? == 6 => {
                let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
                (Ipv6Addr::from(source).into(), 40)
            }
            _ => return None,
        };
        let tcp = packet.get(header..)?;
        // SYN without ACK.
        if tcp.get(13)? & 0x12 != 0x02 {
            return None;
        }
        let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        Some(Self { source: SocketAddr::new(source, port(0)?), port: port(2)? })
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}
