//! All policies in force, and which of them holds for a destination.
//!
//! The most specific wins: a host name before a network, a longer prefix before a shorter one, then one with a port
//! before one without, then the earlier name. "Any address" is the prefix of length zero, of either family.
//!
//! Precedence is settled when the table is built. A lookup then probes a hash map twice for each prefix length that
//! some policy uses, so its cost does not grow with the number of networks; host names it goes through one by one,
//! because only the caller knows what they resolve to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;

use super::{Address, Destination, Host, Origin, Policy, PolicyName};

/// The policies in force.
#[derive(Clone, Debug)]
pub struct Table {
    /// By name, without the fallback.
    policies: Vec<Arc<Policy>>,
    fallback: Arc<Policy>,
    /// Those with a port first, then by policy.
    hosts: Vec<HostRule>,
    networks: HashMap<(IpNet, Option<NonZeroU16>), Arc<Policy>>,
    /// The prefix lengths in `networks`, longest first.
    lengths_v4: Vec<u8>,
    lengths_v6: Vec<u8>,
}

/// What holds for a destination.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    pub policy: &'a Arc<Policy>,
    /// The host name by which the policy was chosen, whose other addresses a retry may try.
    pub host: Option<&'a Host>,
}

/// Two policies have one name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the name {name} is taken already, at {first}")]
pub struct DuplicateName {
    pub name: PolicyName,
    pub first: Origin,
    pub second: Origin,
}

#[derive(Clone, Debug)]
struct HostRule {
    host: Host,
    port: Option<NonZeroU16>,
    policy: Arc<Policy>,
}

impl Table {
    /// A policy named [`default`](PolicyName::is_default) takes the place of the built-in one: it holds where no other
    /// does, whatever its `to` says. All duplicates are told, in the order of the policies.
    pub fn try_new(policies: Vec<Policy>) -> Result<Self, Vec<DuplicateName>> {
        let mut by_name = BTreeMap::<PolicyName, Arc<Policy>>::new();
        let mut duplicates = Vec::new();
        for policy in policies {
            match by_name.get(&policy.name) {
                Some(first) => duplicates.push(DuplicateName {
                    name: policy.name,
                    first: first.origin.clone(),
                    second: policy.origin,
                }),
                None => {
                    by_name.insert(policy.name.clone(), Arc::new(policy));
                }
            }
        }
        if !duplicates.is_empty() {
            return Err(duplicates);
        }
        let fallback = by_name.remove(&PolicyName::default()).unwrap_or_else(|| Arc::new(Policy::built_in()));
        Ok(Self::index(by_name.into_values().collect(), fallback))
    }

    /// The policy for a connection to `destination`; `resolves_to` says whether a host name has an address. An
    /// IPv4-mapped address is the IPv4 address that it stands for.
    pub fn lookup(&self, destination: SocketAddr, resolves_to: impl Fn(&Host, IpAddr) -> bool) -> Match<'_> {
        let (address, port) = (destination.ip().to_canonical(), NonZeroU16::new(destination.port()));
        let by_host = self
            .hosts
            .iter()
            .filter(|rule| rule.port.is_none() || rule.port == port)
            .find(|rule| resolves_to(&rule.host, address));
        if let Some(rule) = by_host {
            return Match { policy: &rule.policy, host: Some(&rule.host) };
        }
        let policy = self.by_network(address, port).unwrap_or(&self.fallback);
        Match { policy, host: None }
    }

    /// Every host name that some policy applies to, each once, for the resolver.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().map(|rule| &rule.host).collect::<BTreeSet<_>>().into_iter()
    }

    /// All policies by name, and the one that holds where no other does at the end.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter().chain([&self.fallback])
    }

    /// The policies must be sorted by name: of two equally specific rules the first stays.
    fn index(policies: Vec<Arc<Policy>>, fallback: Arc<Policy>) -> Self {
        let mut hosts = BTreeMap::new();
        let mut networks = HashMap::new();
        for (order, policy) in policies.iter().enumerate() {
            let to = if policy.to.is_empty() { &EVERYWHERE[..] } else { &policy.to };
            for Destination { address, port } in to {
                let (prefixes, host) = match address {
                    Address::Any => (&ALL_ADDRESSES[..], None),
                    Address::Network(network) => (&[network.get()][..], None),
                    Address::Host(host) => (&[][..], Some(host)),
                };
                for &prefix in prefixes {
                    networks.entry((prefix, *port)).or_insert_with(|| Arc::clone(policy));
                }
                if let Some(host) = host {
                    hosts.entry((port.is_none(), order, host, *port)).or_insert_with(|| Arc::clone(policy));
                }
            }
        }
        let hosts = hosts
            .into_iter()
            .map(|((_, _, host, port), policy)| HostRule { host: host.clone(), port, policy })
            .collect();
        let lengths = |v4: bool| {
            let of_family = networks.keys().filter(|(network, _)| network.addr().is_ipv4() == v4);
            let longest_first: BTreeSet<_> =
                of_family.map(|(network, _)| Reverse(network.prefix_len())).collect();
            longest_first.into_iter().map(|Reverse(length)| length).collect()
        };
        let (lengths_v4, lengths_v6) = (lengths(true), lengths(false));
        Self { policies, fallback, hosts, networks, lengths_v4, lengths_v6 }
    }

    fn by_network(&self, address: IpAddr, port: Option<NonZeroU16>) -> Option<&Arc<Policy>> {
        let lengths = match address {
            IpAddr::V4(_) => &self.lengths_v4,
            IpAddr::V6(_) => &self.lengths_v6,
        };
        lengths.iter().find_map(|&length| {
            let prefix = IpNet::new(address, length).ok()?.trunc();
            self.networks.get(&(prefix, port)).or_else(|| self.networks.get(&(prefix, None)))
        })
    }
}

/// The built-in policy alone.
impl Default for Table {
    fn default() -> Self {
        Self::index(Vec::new(), Arc::new(Policy::built_in()))
    }
}

static EVERYWHERE: [Destination; 1] = [Destination { address: Address::Any, port: None }];

static ALL_ADDRESSES: [IpNet; 2] = [
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
];

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::net::{IpAddr, SocketAddr};
    use std::num::NonZeroU16;
    use std::path::Path;
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::{DuplicateName, Table};
    use crate::policy::{Address, Destination, Host, Origin, Policy, PolicyName};

    fn destination(address: &str, port: u16) -> Destination {
        let address = match address {
            "any" => Address::Any,
            text => text.parse().map_or_else(|_| Address::Host(text.parse().unwrap()), Address::Network),
        };
        Destination { address, port: NonZeroU16::new(port) }
    }

    fn policy(name: &str, line: u64, to: Vec<Destination>) -> Policy {
        Policy {
            name: PolicyName::try_new(None, name).unwrap(),
            origin: Origin::File { path: Arc::from(Path::new("p.yaml")), line },
            to,
            ..Policy::built_in()
        }
    }

    /// The hosts' addresses in these tests: a and b share one.
    fn resolves_to(host: &Host, address: IpAddr) -> bool {
        let addresses: &[&str] = match host.as_str() {
            "a" => &["10.1.2.3", "fd00::1"],
            "b" => &["10.1.2.3", "10.9.9.9"],
            _ => &[],
        };
        addresses.iter().any(|text| text.parse() == Ok(address))
    }

    fn chosen(table: &Table, destination: &str) -> (String, Option<String>) {
        let found = table.lookup(destination.parse().unwrap(), resolves_to);
        (found.policy.name.to_string(), found.host.map(ToString::to_string))
    }

    #[test]
    fn the_most_specific_wins() {
        let table = Table::try_new(vec![
            policy("host-port", 1, vec![destination("a", 443)]),
            policy("host", 1, vec![destination("a", 0)]),
            policy("net16", 1, vec![destination("10.1.0.0/16", 0)]),
            policy("net8-port", 1, vec![destination("10.0.0.0/8", 443)]),
            policy("net8", 1, vec![destination("10.0.0.0/8", 0)]),
            policy("net8-again", 1, vec![destination("10.0.0.0/8", 0)]),
            policy("port", 1, vec![destination("any", 443)]),
            policy("v4", 1, vec![destination("0.0.0.0/0", 0)]),
        ])
        .unwrap();
        for (to, name, host) in [
            ("10.1.2.3:443", "host-port", Some("a")),
            ("[fd00::1]:443", "host-port", Some("a")),
            ("[::ffff:10.1.2.3]:443", "host-port", Some("a")),
            ("10.1.2.3:80", "host", Some("a")),
            ("10.1.2.4:443", "net16", None),
            ("10.2.0.1:443", "net8-port", None),
            ("10.2.0.1:80", "net8", None),
            ("[::ffff:10.2.0.1]:80", "net8", None),
            ("192.0.2.1:443", "port", None),
            ("[2001:db8::1]:443", "port", None),
            ("192.0.2.1:80", "v4", None),
            ("[2001:db8::1]:80", "default", None),
        ] {
            assert_eq!(chosen(&table, to), (name.to_owned(), host.map(str::to_owned)), "{to}");
        }
    }

    #[test]
    fn a_policy_without_to_holds_everywhere() {
        let table = Table::try_new(vec![policy("z", 1, vec![])]).unwrap();
        assert_eq!(chosen(&table, "192.0.2.1:1").0, "z");
        assert_eq!(chosen(&table, "[2001:db8::1]:1").0, "z");
    }

    #[test]
    fn a_policy_named_default_replaces_the_built_in_one() {
        let built_in = Table::default();
        assert_eq!(
            built_in.lookup("192.0.2.1:1".parse().unwrap(), resolves_to).policy.origin,
            Origin::BuiltIn
        );
        let table = Table::try_new(vec![policy("default", 7, vec![]), policy("z", 1, vec![])]).unwrap();
        assert_eq!(chosen(&table, "192.0.2.1:1").0, "z");
        let table = Table::try_new(vec![policy("default", 7, vec![])]).unwrap();
        assert_eq!(
            table.lookup("192.0.2.1:1".parse().unwrap(), resolves_to).policy.origin.to_string(),
            "p.yaml:7"
        );
        assert_eq!(table.policies().count(), 1);
    }

    #[test]
    fn every_duplicate_name_is_told_with_both_places() {
        let policies =
            ["a", "b", "a", "a"].into_iter().zip(1..).map(|(name, line)| policy(name, line, vec![]));
        let duplicates = Table::try_new(policies.collect()).unwrap_err();
        let lines = duplicates.iter().map(|DuplicateName { first, second, .. }| format!("{first} {second}"));
        assert_eq!(lines.collect::<Vec<_>>(), ["p.yaml:1 p.yaml:3", "p.yaml:1 p.yaml:4"]);
        assert_eq!(duplicates[0].to_string(), "the name a is taken already, at p.yaml:1");
    }

    #[test]
    fn each_host_is_resolved_once() {
        let table = Table::try_new(vec![
            policy("one", 1, vec![destination("b", 1), destination("a", 0), destination("b", 0)]),
            policy("two", 1, vec![destination("b", 2), destination("10.0.0.0/8", 0)]),
        ])
        .unwrap();
        assert_eq!(table.hosts().map(Host::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }

    /// Goes through every destination of every policy and keeps the best by the rules as they are written down.
    fn oracle(policies: &[Policy], to: SocketAddr) -> (String, Option<String>) {
        let address = to.ip().to_canonical();
        let everywhere = vec![destination("any", 0)];
        let candidates = policies.iter().flat_map(|policy| {
            let to = if policy.to.is_empty() { &everywhere } else { &policy.to };
            to.iter().map(move |destination| (policy, destination))
        });
        let matching = candidates.filter_map(|(policy, Destination { address: pattern, port })| {
            let (kind, length, host) = match pattern {
                Address::Any => (0, 0, None),
                Address::Network(network) if network.get().contains(&address) => {
                    (0, network.get().prefix_len(), None)
                }
                Address::Host(host) if resolves_to(host, address) => (1, 0, Some(host.to_string())),
                Address::Network(_) | Address::Host(_) => return None,
            };
            if port.is_some_and(|port| port.get() != to.port()) {
                return None;
            }
            let rank = (kind, length, port.is_some(), Reverse(policy.name.clone()), Reverse(host.clone()));
            Some((rank, policy.name.to_string(), host))
        });
        let best = matching.max_by(|one, other| one.0.cmp(&other.0));
        best.map_or(("default".to_owned(), None), |(_, name, host)| (name, host))
    }

    prop_compose! {
        fn any_destination()(
            address in select(&[
                "any", "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "::/0", "fd00::/8", "fd00::1", "a", "b",
            ][..]),
            port in 0u16..3,
        ) -> Destination {
            destination(address, port)
        }
    }

    fn any_policies() -> impl Strategy<Value = Vec<Policy>> {
        vec(vec(any_destination(), 0..4), 0..8).prop_map(|all| {
            // In an order that is not the names' own.
            let names = ["f", "b", "h", "a", "d", "g", "c", "e"];
            names.into_iter().zip(all).map(|(name, to)| policy(name, 1, to)).collect()
        })
    }

    proptest! {
        #[test]
        fn a_lookup_finds_what_going_through_all_finds(policies in any_policies(), port in 0u16..4) {
            let table = Table::try_new(policies.clone()).unwrap();
            for address in ["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1", "fd00::1", "fd00::2", "2001:db8::1", "::ffff:10.9.9.9"] {
                let to = SocketAddr::new(address.parse().unwrap(), port);
                prop_assert_eq!(chosen(&table, &to.to_string()), oracle(&policies, to), "{}", to);
            }
        }
    }
}
