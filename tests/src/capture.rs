//! Every byte of every TCP connection of a network namespace, as it is on the wire.
//!
//! A workload's intercepted connection is on the pod's loopback, and the engine's own on its veth: one capture has both
//! sides of redial. What was not captured whole is an error, so nothing can be missing from what is compared.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::libc::ETH_P_ALL;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Room for what comes while the capturing thread waits for a processor.
const RECEIVE_BUFFER: usize = 256 << 20;
/// The longest packet of IPv4.
const MAX_PACKET: usize = 64 * 1024;

/// A capture that runs. Drop ends it.
#[derive(Debug)]
pub struct Capture {
    enough: Arc<AtomicBool>,
    capturing: Option<JoinHandle<Result<Streams>>>,
}

/// Both directions of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub client: SocketAddrV4,
    pub server: SocketAddrV4,
    /// What the client sent.
    pub sent: Vec<u8>,
    pub received: Vec<u8>,
}

type Streams = BTreeMap<(SocketAddrV4, SocketAddrV4), Stream>;

/// One direction of a connection.
#[derive(Debug, Default)]
struct Stream {
    /// The number of its first packet among all packets.
    first: usize,
    /// The sequence number of its SYN, and whether that was an opening one.
    syn: Option<(u32, bool)>,
    /// Data by sequence number.
    segments: BTreeMap<u32, Vec<u8>>,
}

/// What matters of a packet.
struct Segment<'a> {
    from: SocketAddrV4,
    to: SocketAddrV4,
    sequence: u32,
    syn: bool,
    ack: bool,
    data: &'a [u8],
}

impl Capture {
    /// Captures whatever passes any interface of the namespace from now on.
    pub fn start(netns: &Netns) -> Result<Self> {
        let socket = netns.run(|| {
            // The protocol's number is in network order.
            let every = i32::from(u16::try_from(ETH_P_ALL)?.to_be());
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(every)))
                .context("a packet socket; these tests need root")?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(socket)
        })?;
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let capturing = Some(thread::spawn(move || capture(&socket, &told)));
        Ok(Self { enough, capturing })
    }

    /// Ends, with every connection that was opened meanwhile, in the order of their opening.
    pub fn finish(mut self) -> Result<Vec<Connection>> {
        self.enough.store(true, Ordering::Relaxed);
        let capturing = self.capturing.take().context("it has ended")?;
        let streams = capturing.join().map_err(|_| anyhow!("the capture panicked"))??;
        let mut connections = Vec::new();
        for (&(client, server), stream) in &streams {
            let Some((_, true)) = stream.syn else { continue };
            // Whoever was refused heard nothing.
            let received = match streams.get(&(server, client)) {
                Some(back) if back.syn.is_some() => back.data()?,
                Some(_) | None => Vec::new(),
            };
            connections.push((stream.first, Connection { client, server, sent: stream.data()?, received }));
        }
        connections.sort_by_key(|(first, _)| *first);
        Ok(connections.into_iter().map(|(_, connection)| connection).collect())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(capturing) = self.capturing.take() {
            drop(capturing.join());
        }
    }
}

impl Stream {
    /// Repeated segments may overlap; holes are an error.
    fn data(&self) -> Result<Vec<u8>> {
        let (syn, _) = self.syn.context("a connection without a SYN")?;
        let start = syn.wrapping_add(1);
        let mut segments: Vec<(u32, &[u8])> = self
            .segments
            .iter()
            .map(|(sequence, data)| (sequence.wrapping_sub(start), data.as_slice()))
            .collect();
        segments.sort_by_key(|(offset, _)| *offset);
        let mut bytes = Vec::new();
        for (offset, data) in segments {
            let offset = usize::try_from(offset)?;
            if offset > bytes.len() {
                bail!("the capture lacks {} bytes after {}", offset - bytes.len(), bytes.len());
            }
            if let Some(new) = data.get(bytes.len() - offset..) {
                bytes.extend_from_slice(new);
            }
        }
        Ok(bytes)
    }
}

fn capture(mut socket: &Socket, enough: &AtomicBool) -> Result<Streams> {
    let mut streams = Streams::new();
    let mut packet = vec![0; MAX_PACKET];
    for number in 0.. {
        let length = match socket.read(&mut packet) {
            Ok(length) => length,
            // What is there is read before the end.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if enough.load(Ordering::Relaxed) {
                    break;
                }
                continue;
            }
            Err(error) => return Err(error).context("capturing"),
        };
        let Some(segment) = packet.get(..length).and_then(Segment::parse) else { continue };
        let new = || Stream { first: number, ..Stream::default() };
        let stream = streams.entry((segment.from, segment.to)).or_insert_with(new);
        if segment.syn {
            stream.syn = Some((segment.sequence, !segment.ack));
        } else if !segment.data.is_empty() {
            // What goes over loopback is seen when it is sent and when it is received.
            let known = stream.segments.entry(segment.sequence).or_default();
            if known.len() < segment.data.len() {
                *known = segment.data.to_vec();
            }
        }
    }
    Ok(streams)
}

impl<'a> Segment<'a> {
    /// A TCP segment over IPv4; nothing else is of interest.
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let header = packet.first()?;
        if header >> 4 != 4 || *packet.get(9)? != 6 {
            return None;
        }
        let total = usize::from(u16::from_be_bytes(array(packet, 2)?));
        let tcp = packet.get(usize::from(header & 15) * 4..total)?;
        let flags = *tcp.get(13)?;
        let end = |address: usize, port: usize| {
            let ip = Ipv4Addr::from(array::<4>(packet, address)?);
            Some(SocketAddrV4::new(ip, u16::from_be_bytes(array(tcp, port)?)))
        };
        Some(Self {
            from: end(12, 0)?,
            to: end(16, 2)?,
            sequence: u32::from_be_bytes(array(tcp, 4)?),
            syn: flags & 0x02 != 0,
            ack: flags & 0x10 != 0,
            data: tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?,
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
