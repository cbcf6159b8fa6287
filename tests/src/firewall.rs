//! How the network in front of a server misbehaves, as nftables rules, and what it saw.
//!
//! It counts every SYN before any rule applies, so an attempt that is dropped or refused is seen too.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::Netns;

/// The nftables table of one namespace.
#[derive(Debug)]
pub struct Firewall<'a> {
    netns: &'a Netns,
}

/// What happens to a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing ever answers.
    Drop,
    /// RST.
    Refuse,
    /// The first `.0` of every `.1` SYNs get RST.
    RefuseFirst(u32, u32),
}

impl<'a> Firewall<'a> {
    pub fn new(netns: &'a Netns) -> Result<Self> {
        let firewall = Self { netns };
        firewall.netns.nft(
            "table inet rig {
                 set attempts { typeof tcp dport . tcp sport . tcp sequence; flags dynamic; size 65535; }
                 chain count {
                     type filter hook prerouting priority raw;
                     tcp flags & (fin|syn|rst|ack) == syn update @attempts { tcp dport . tcp sport . tcp sequence }
                 }
                 chain fate { type filter hook input priority filter; }
                 chain received { type filter hook prerouting priority mangle; }
                 chain sent { type filter hook output priority filter; }
             }",
        )?;
        Ok(firewall)
    }

    /// Decides what happens to SYNs for a port from now on.
    pub fn set(&self, port: u16, fate: Fate) -> Result<()> {
        let rule = match fate {
            Fate::Drop => "drop".to_owned(),
            Fate::Refuse => "reject with tcp reset".to_owned(),
            Fate::RefuseFirst(refused, of) => {
                format!("numgen inc mod {of} < {refused} reject with tcp reset")
            }
        };
        self.netns
            .nft(&format!("add rule inet rig fate tcp dport {port} tcp flags & (syn|ack) == syn {rule}"))
    }

    /// Lets everything pass again.
    pub fn clear(&self) -> Result<()> {
        self.netns.nft("flush chain inet rig fate")
    }

    /// How many connections to a port were tried. A SYN that was sent again counts once: it has the same source port and
    /// sequence number. A source port alone may be used again by the next attempt.
    pub fn attempts_to(&self, port: u16) -> Result<usize> {
        let listing = self.list(&["set", "inet", "rig", "attempts"])?;
        let syns = listing["nftables"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| entry["set"]["elem"].as_array())
            .flatten()
            .map(|element| &element["concat"])
            .filter(|syn| syn[0].as_u64() == Some(port.into()));
        // The kernel may list an element twice where the set grows meanwhile.
        let attempts: BTreeSet<(u64, u64)> = syns
            .map(|syn| {
                let number = |index: usize| syn[index].as_u64().with_context(|| format!("not a SYN: {syn}"));
                Ok((number(1)?, number(2)?))
            })
            .collect::<Result<_>>()?;
        Ok(attempts.len())
    }

    /// Gives every packet for an address a mark as it comes in.
    pub fn mark_received(&self, address: IpAddr, mark: u32) -> Result<()> {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        self.netns.nft(&format!("add rule inet rig received {family} daddr {address} meta mark set {mark}"))
    }

    /// Counts, under a name, the SYNs that this namespace sends to a port and that match an expression of nftables.
    pub fn count_sent(&self, name: &str, port: u16, matching: &str) -> Result<()> {
        self.netns.nft(&format!(
            "add counter inet rig {name}
             add rule inet rig sent tcp dport {port} tcp flags & (syn|ack) == syn {matching} counter name {name}"
        ))
    }

    /// How many there were.
    pub fn counted(&self, name: &str) -> Result<u64> {
        let listing = self.list(&["counter", "inet", "rig", name])?;
        let mut entries = listing["nftables"].as_array().into_iter().flatten();
        entries
            .find_map(|entry| entry["counter"]["packets"].as_u64())
            .with_context(|| format!("no counter in {listing}"))
    }

    fn list(&self, what: &[&str]) -> Result<Value> {
        let output = self
            .netns
            .run(|| Command::new("nft").args(["-j", "list"]).args(what).output().context("running nft"))?;
        serde_json::from_slice(&output.stdout).context("reading nft's JSON")
    }
}
