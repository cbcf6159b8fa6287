//! Destinations as entries of `to`: as few as stand for these in this order.

use std::num::NonZeroU16;

use super::super::document::{List, Service, To};
use crate::dialect::common;
use crate::policy::{Address, Destination, Host, Network};

/// What one entry has of each kind, in the order in which they are read.
#[derive(Default)]
struct Entry<'a> {
    networks: Vec<Network>,
    hosts: Vec<&'a Address>,
    services: Vec<(&'a str, &'a str)>,
    is_any: bool,
    ports: Vec<NonZeroU16>,
}

/// An address with all of its ports, none being any.
type Ported<'a> = (&'a Address, Vec<NonZeroU16>);

pub(in crate::dialect) fn entries(to: &[Destination], namespace: Option<&str>) -> Vec<To> {
    // Everywhere is what a document means that does not say.
    if let [Destination { address: Address::Any, port: None }] = to {
        return Vec::new();
    }
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let ported = ported(to);
    let mut rest = &ported[..];
    while let [(address, ports), after @ ..] = rest {
        let found = match address {
            Address::Host(host) => service(host, ports, after),
            Address::Any | Address::Network(_) | Address::Suffix(_) => None,
        };
        rest = found.map_or(after, |(_, after)| after);
        let last = entries.pop_if(|entry| entry.takes(address, ports, found.is_some()));
        let mut entry = last.unwrap_or_else(|| Entry { ports: ports.clone(), ..Entry::default() });
        match (address, found) {
            (_, Some((service, _))) => entry.services.push(service),
            (Address::Any, None) if ports.is_empty() => entry.networks.extend(everywhere()),
            (Address::Any, None) => entry.is_any = true,
            (Address::Network(network), None) => entry.networks.push(*network),
            (Address::Host(_) | Address::Suffix(_), None) => entry.hosts.push(address),
        }
        entries.push(entry);
    }
    entries.into_iter().map(|entry| entry.written(namespace)).collect()
}

impl Entry<'_> {
    /// Whether it can say this too, and be read in this order.
    fn takes(&self, address: &Address, ports: &[NonZeroU16], is_service: bool) -> bool {
        let is_next = match address {
            Address::Any | Address::Network(_) => self.hosts.is_empty() && self.services.is_empty(),
            Address::Host(_) | Address::Suffix(_) => is_service || self.services.is_empty(),
        };
        let is_any = *address == Address::Any && !ports.is_empty();
        self.ports == ports && is_next && !is_any && !self.is_any
    }

    fn written(self, namespace: Option<&str>) -> To {
        let service = |(name, of): (&str, &str)| Service {
            name: name.to_owned(),
            namespace: (Some(of) != namespace).then(|| of.to_owned()),
        };
        let host = |address: &Address| match address {
            Address::Host(host) => host.to_string(),
            Address::Suffix(suffix) => suffix.to_string(),
            Address::Any | Address::Network(_) => String::new(),
        };
        To {
            cidrs: some(self.networks.into_iter().map(network)),
            hosts: some(self.hosts.into_iter().map(host)),
            services: super::some(self.services.into_iter().map(service).collect()),
            ports: some(self.ports.into_iter().map(Into::into)),
        }
    }
}

fn some<T>(items: impl Iterator<Item = T>) -> Option<List<T>> {
    super::some(items.collect()).map(List)
}

fn network(network: Network) -> String {
    let net = network.get();
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { network.to_string() }
}

fn everywhere() -> impl Iterator<Item = Network> {
    ["0.0.0.0/0", "::/0"].into_iter().filter_map(|network| network.parse().ok())
}

/// Each address with the ports that follow it.
fn ported(to: &[Destination]) -> Vec<Ported<'_>> {
    let mut all: Vec<Ported<'_>> = Vec::new();
    for Destination { address, port } in to {
        match (all.last_mut(), port) {
            (Some((known, ports)), Some(port)) if *known == address && !ports.is_empty() => ports.push(*port),
            _ => all.push((address, port.iter().copied().collect())),
        }
    }
    all
}

/// The Service whose names these are, and what comes after them.
fn service<'a, 'p>(
    shortest: &'a Host,
    ports: &[NonZeroU16],
    after: &'p [Ported<'a>],
) -> Option<((&'a str, &'a str), &'p [Ported<'a>])> {
    let [(Address::Host(second), _), ..] = after else { return None };
    let (name, namespace) = second.as_str().split_once('.')?;
    if name != shortest.as_str() || namespace.contains('.') {
        return None;
    }
    let names = common::service_hosts(name, Some(namespace));
    let (_, others) = names.split_first()?;
    let (those, after) = after.split_at_checked(others.len())?;
    let are_its = those
        .iter()
        .zip(others)
        .all(|((address, of), name)| matches!(address, Address::Host(host) if host == name) && of == ports);
    are_its.then_some(((name, namespace), after))
}
