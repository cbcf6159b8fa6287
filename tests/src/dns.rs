//! A DNS server small enough to trust: it answers A and AAAA questions from a fixed list.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;

#[derive(Debug)]
pub struct Dns {
    stop: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Dns {
    /// Serves `zone` on UDP at `address`, for a second at a time; every other name does not exist.
    pub fn start(netns: &Netns, address: SocketAddr, zone: &[(&str, &[IpAddr])]) -> Result<Self> {
        let zone: Vec<(String, Vec<IpAddr>)> =
            zone.iter().map(|(name, addresses)| ((*name).to_owned(), addresses.to_vec())).collect();
        Self::answering(netns, address, 1, move |name| {
            zone.iter().find(|(known, _)| known == name).map(|(_, addresses)| addresses.clone())
        })
    }

    /// Serves the addresses that are said of a name, for so many seconds at a time. None: it does not exist.
    pub fn answering(
        netns: &Netns,
        address: SocketAddr,
        seconds: u32,
        zone: impl Fn(&str) -> Option<Vec<IpAddr>> + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serving = netns.run(move || {
            let socket = UdpSocket::bind(address).with_context(|| format!("binding {address}"))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(thread::spawn(move || {
                let mut question = [0; 512];
                while !stopped.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                    if let Some(answer) = answer(&question[..length], seconds, &zone) {
                        drop(socket.send_to(&answer, from));
                    }
                }
            }))
        })?;
        Ok(Self { stop, serving: Some(serving) })
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(serving) = self.serving.take() {
            drop(serving.join());
        }
    }
}

/// The answer to one query (RFC 1035, section 4); `None` for what is not a query with one question.
fn answer(query: &[u8], seconds: u32, zone: &impl Fn(&str) -> Option<Vec<IpAddr>>) -> Option<Vec<u8>> {
    let header = query.get(..12)?;
    if header.get(4..6)? != [0, 1] {
        return None;
    }
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let question = query.get(12..at + 4)?;
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    let name = labels.join(".");
    let addresses = zone(&name);
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .flatten()
        .filter_map(|address| match (address, kind) {
            (IpAddr::V4(v4), 1) => Some(v4.octets().to_vec()),
            (IpAddr::V6(v6), 28) => Some(v6.octets().to_vec()),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => None,
        })
        .collect();

    let mut reply = header.get(..2)?.to_vec();
    // A response, authoritative, recursion desired and available; NXDOMAIN for a name that is not in the zone.
    reply.extend([0x85, if addresses.is_some() { 0x80 } else { 0x83 }]);
    reply.extend([0, 1]);
    reply.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    reply.extend([0, 0, 0, 0]);
    reply.extend(question);
    for data in records {
        // The name, as a pointer to the question's; kind; class IN; the time to live.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1]);
        reply.extend(seconds.to_be_bytes());
        reply.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}
