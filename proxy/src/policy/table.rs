//! All policies in force, which of them hold for a connection, and which route a request of it takes.
//!
//! The most specific destination wins: a host name before a wildcard, a longer wildcard before a shorter one, any of these
//! before a network, a longer prefix before a shorter one, then one with a port before one without. "Any address" is the
//! prefix of length zero, of either family. Among equally specific ones [`super::Precedence`] decides.
//!
//! Precedence is settled when the table is built. A look-up then probes a hash map for each prefix length, and for each
//! label of an authority, that some policy uses, so its cost does not grow with the number of policies. What hosts resolve
//! to, and which of them to nothing, only the caller knows.

mod hidden;
mod order;
mod router;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;

use self::order::Key;
pub use self::order::{Before, By, Considered, Passed};
pub use self::router::{Routed, Router};
use super::{
    Address, Destination, Host, Identity, Origin, Policy, PolicyName, Protocol, Rest, Route, TargetAddress,
};

/// The policies in force.
#[derive(Clone, Debug)]
pub struct Table {
    /// By name, without the fallback.
    policies: Vec<Arc<Policy>>,
    fallback: Arc<Policy>,
    fallback_rules: Tier,
    hosts: BTreeMap<Host, Tier>,
    /// By the name that the hosts are below.
    suffixes: HashMap<Host, Tier>,
    /// What requests alone can tell to apply, of all those.
    of_suffixes: Tier,
    /// Some authority may have a request take a route.
    authorities_have_routes: bool,
    networks: HashMap<IpNet, Tier>,
    /// The prefix lengths in `networks`, longest first.
    lengths_v4: Vec<u8>,
    lengths_v6: Vec<u8>,
}

/// What holds for a connection.
#[derive(Clone, Debug)]
pub struct Matched {
    /// The most specific one that the destination's address tells.
    pub policy: Arc<Policy>,
    /// The host name by which it was chosen, whose other addresses a retry may try.
    pub host: Option<Host>,
    /// The connection is made as this one says: the most patient of all policies that may turn out to apply.
    pub patient: Arc<Policy>,
    /// What its requests are asked for. None: there is nothing to say about requests.
    pub router: Option<Router>,
}

/// What is known of the addresses of hosts.
pub trait Resolution {
    /// Visits each host that has this address.
    fn hosts_at(&self, address: IpAddr, visit: &mut dyn FnMut(&Host));

    /// Visits each host of which no address is known.
    fn unresolved(&self, visit: &mut dyn FnMut(&Host));
}

/// These hosts have every address, and no other has any.
#[cfg(test)]
impl Resolution for Vec<Host> {
    fn hosts_at(&self, _: IpAddr, visit: &mut dyn FnMut(&Host)) {
        self.iter().for_each(visit);
    }

    fn unresolved(&self, _: &mut dyn FnMut(&Host)) {}
}

/// Two policies have one name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the name {name} is taken already, at {first}")]
pub struct DuplicateName {
    pub name: PolicyName,
    pub first: Origin,
    pub second: Origin,
}

/// What policies say of one destination, in the order in which they are asked.
type Tier = Arc<[Rule]>;

#[derive(Clone, Debug)]
struct Rule {
    port: Option<NonZeroU16>,
    policy: Arc<Policy>,
    says: Says,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// This about some requests.
    Route(usize),
    /// Something about connections alone.
    Connections,
    /// That no less specific policy is asked about requests.
    Rest,
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

    /// What holds for a connection of a workload to `destination`. An IPv4-mapped address is the IPv4 address that it
    /// stands for.
    pub fn lookup(
        self: &Arc<Self>,
        destination: SocketAddr,
        cgroup: &Arc<str>,
        identity: Option<&Arc<Identity>>,
        names: &impl Resolution,
    ) -> Matched {
        let router = self.router(destination, cgroup, identity, names).narrowed();
        let chosen = router.by_address().next().map(|(rule, by)| (&rule.policy, by));
        let (policy, host) = match chosen {
            Some((policy, By::Resolved(host))) => (policy, Some(host.clone())),
            Some((policy, _)) => (policy, None),
            None => (&self.fallback, None),
        };
        let (policy, patient) = (Arc::clone(policy), Arc::clone(router.patient(names)));
        let has_routes = self.authorities_have_routes
            || router.until_rest().any(|rule| !rule.policy.routes.is_empty())
            || router.is_open() && !self.fallback.routes.is_empty();
        let looks_at_requests = has_routes && policy.protocol != Protocol::Tcp;
        Matched { policy, host, patient, router: looks_at_requests.then_some(router) }
    }

    /// What the requests of such a connection are asked for, also where there is nothing to say about any.
    pub fn router(
        self: &Arc<Self>,
        destination: SocketAddr,
        cgroup: &Arc<str>,
        identity: Option<&Arc<Identity>>,
        names: &impl Resolution,
    ) -> Router {
        let address = destination.ip().to_canonical();
        let port = NonZeroU16::new(destination.port());
        let mut resolved = Vec::new();
        names.hosts_at(address, &mut |host| {
            if let Some((host, tier)) = self.hosts.get_key_value(host) {
                resolved.push((host.clone(), Arc::clone(tier)));
            }
        });
        // The host whose first rule would be asked first.
        resolved.sort_by_cached_key(|(host, tier)| {
            let first = tier.iter().find(|rule| rule.applies(port)).map(Key::of);
            (first.is_none(), first, host.clone())
        });
        Router {
            table: Arc::clone(self),
            port,
            cgroup: Arc::clone(cgroup),
            identity: identity.map(Arc::clone),
            resolved,
            networks: self.by_network(address),
            has_authorities: !self.suffixes.is_empty() || !self.hosts.is_empty(),
        }
    }

    /// Every host name that some policy applies to or leads to, each once, for the resolver.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        let leads_to = self.policies().flat_map(|policy| {
            let targets =
                policy.routes.iter().flat_map(|route| route.targets.iter()).chain(policy.targets.iter());
            targets.filter_map(|target| match &target.address {
                TargetAddress::Host { host, .. } => Some(host),
                TargetAddress::Original | TargetAddress::Addresses(_) => None,
            })
        });
        self.hosts.keys().chain(leads_to).collect::<BTreeSet<_>>().into_iter()
    }

    /// All policies by name, and the one that holds where no other does at the end.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter().chain([&self.fallback])
    }

    fn index(policies: Vec<Arc<Policy>>, fallback: Arc<Policy>) -> Self {
        let (mut hosts, mut suffixes, mut networks) =
            (BTreeMap::<_, Vec<Rule>>::new(), HashMap::<_, Vec<Rule>>::new(), HashMap::<_, Vec<Rule>>::new());
        for policy in &policies {
            let to = if policy.to.is_empty() { &EVERYWHERE[..] } else { &policy.to };
            for Destination { address, port } in to {
                let rules = || rules(policy, *port);
                match address {
                    Address::Any => {
                        for all in ALL_ADDRESSES {
                            networks.entry(all).or_default().extend(rules());
                        }
                    }
                    Address::Network(network) => networks.entry(network.get()).or_default().extend(rules()),
                    Address::Host(host) => hosts.entry(host.clone()).or_default().extend(rules()),
                    Address::Suffix(suffix) => {
                        suffixes.entry(suffix.parent().clone()).or_default().extend(rules());
                    }
                }
            }
        }
        let lengths = |v4: bool| {
            let of_family = networks.keys().filter(|network| network.addr().is_ipv4() == v4);
            let longest_first: BTreeSet<_> = of_family.map(|network| Reverse(network.prefix_len())).collect();
            longest_first.into_iter().map(|Reverse(length)| length).collect()
        };
        let (lengths_v4, lengths_v6) = (lengths(true), lengths(false));
        let authorities_have_routes = hosts
            .values()
            .chain(suffixes.values())
            .flatten()
            .any(|rule: &Rule| matches!(rule.says, Says::Route(_)));
        let of_suffixes =
            suffixes.values().flatten().filter(|rule: &&Rule| rule.is_told_by_requests()).cloned();
        let of_suffixes = tier(of_suffixes.collect());
        let fallback_rules = tier(rules(&fallback, None).collect());
        Self {
            policies,
            fallback,
            fallback_rules,
            of_suffixes,
            authorities_have_routes,
            hosts: hosts.into_iter().map(|(host, rules)| (host, tier(rules))).collect(),
            suffixes: suffixes.into_iter().map(|(host, rules)| (host, tier(rules))).collect(),
            networks: networks.into_iter().map(|(network, rules)| (network, tier(rules))).collect(),
            lengths_v4,
            lengths_v6,
        }
    }

    fn by_network(&self, address: IpAddr) -> Vec<(IpNet, Tier)> {
        let lengths = match address {
            IpAddr::V4(_) => &self.lengths_v4,
            IpAddr::V6(_) => &self.lengths_v6,
        };
        let tiers = lengths.iter().filter_map(|&length| {
            let prefix = IpNet::new(address, length).ok()?.trunc();
            self.networks.get(&prefix).map(|tier| (prefix, Arc::clone(tier)))
        });
        tiers.collect()
    }
}

impl Rule {
    fn applies(&self, port: Option<NonZeroU16>) -> bool {
        self.port.is_none() || self.port == port
    }

    /// Whether only a request can tell that its policy applies, where the address does not. Of its policy's rules for a
    /// destination one says so.
    fn is_told_by_requests(&self) -> bool {
        !matches!(self.says, Says::Route(_)) && !self.policy.routes.is_empty()
    }

    fn route(&self) -> Option<&Route> {
        match self.says {
            Says::Route(index) => self.policy.routes.get(index),
            Says::Connections | Says::Rest => None,
        }
    }
}

fn rules(policy: &Arc<Policy>, port: Option<NonZeroU16>) -> impl Iterator<Item = Rule> {
    let last = match policy.rest {
        Rest::Passes => Says::Rest,
        Rest::GoesOn => Says::Connections,
    };
    let says = (0..policy.routes.len()).map(Says::Route).chain([last]);
    says.map(move |says| Rule { port, policy: Arc::clone(policy), says })
}

fn tier(mut rules: Vec<Rule>) -> Tier {
    rules.sort_by_cached_key(Key::of);
    rules.into()
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
mod tests;
