//! All policies in force, which of them hold for a connection, and which route a request of it takes.
//!
//! The most specific destination wins: a host name before a wildcard, a longer wildcard before a shorter one, any of these
//! before a network, a longer prefix before a shorter one, then one with a port before one without. "Any address" is the
//! prefix of length zero, of either family. Among equally specific ones [`Precedence`] decides.
//!
//! Precedence is settled when the table is built. A look-up then probes a hash map for each prefix length, and for each
//! label of an authority, that some policy uses, so its cost does not grow with the number of policies; host names it
//! goes through one by one when a connection comes, because only the caller knows what they resolve to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str;
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;

use super::headers::Headers;
use super::{
    Address, Destination, Host, HttpPolicy, Identity, Origin, Policy, PolicyName, Precedence, Rest, Route,
    TargetAddress, Workload,
};
use crate::retry::ConnectRetry;

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
    /// How the connection is made: of all policies that may turn out to apply, the most patient one.
    pub connect: ConnectRetry,
    /// What its requests are asked for. None: there is nothing to say about requests.
    pub router: Option<Router>,
}

/// Which routes the requests of one connection take.
#[derive(Clone, Debug)]
pub struct Router {
    table: Arc<Table>,
    port: Option<NonZeroU16>,
    cgroup: Arc<str>,
    identity: Option<Arc<Identity>>,
    /// By the address that was dialled, the most specific first.
    resolved: Vec<(Host, Tier)>,
    networks: Vec<Tier>,
    has_authorities: bool,
}

/// What holds for a request.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    pub policy: &'a Arc<Policy>,
    /// None: the request goes through as it is.
    pub route: Option<&'a Route>,
    /// The destination by which the policy was chosen, for who wants to know why.
    pub by: By<'a>,
}

/// How a request was found to be a policy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By<'a> {
    /// Its authority is this host or below it.
    Authority(&'a str),
    /// The dialled address is one of this host's.
    Resolved(&'a Host),
    /// The dialled address is in one of its networks, or may be any.
    Address,
    /// No other policy applies.
    Fallback,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// What holds for a connection of a workload to `destination`; `resolves_to` says whether a host name has an address,
    /// and, without an address, whether it has any. An IPv4-mapped address is the IPv4 address that it stands for.
    pub fn lookup(
        self: &Arc<Self>,
        destination: SocketAddr,
        cgroup: &Arc<str>,
        identity: Option<&Arc<Identity>>,
        resolves_to: impl Fn(&Host, Option<IpAddr>) -> bool,
    ) -> Matched {
        let address = destination.ip().to_canonical();
        let mut router = Router {
            table: Arc::clone(self),
            port: NonZeroU16::new(destination.port()),
            cgroup: Arc::clone(cgroup),
            identity: identity.map(Arc::clone),
            resolved: Vec::new(),
            networks: self.by_network(address),
            has_authorities: !self.suffixes.is_empty() || !self.hosts.is_empty(),
        };
        for (host, tier) in &self.hosts {
            if resolves_to(host, Some(address)) {
                router.resolved.push((host.clone(), Arc::clone(tier)));
            }
        }
        // The host whose first rule would be asked first.
        let port = router.port;
        router.resolved.sort_by_key(|(host, tier)| {
            let first = tier.iter().find(|rule| rule.applies(port)).map(Rule::key);
            (first.is_none(), first, host.clone())
        });

        let by_address = router.by_address().collect::<Vec<_>>();
        let chosen = by_address.first().map(|(rule, host)| (Arc::clone(&rule.policy), host.cloned()));
        let mut may_apply: Vec<&Arc<Policy>> = Vec::new();
        for (rule, _) in &by_address {
            may_apply.push(&rule.policy);
            if rule.says == Says::Rest {
                break;
            }
        }
        let of_unresolved =
            self.hosts.iter().filter(|(host, _)| !resolves_to(host, None)).map(|(_, tier)| tier);
        for tier in of_unresolved.chain(self.suffixes.values()) {
            may_apply.extend(tier.iter().filter(|rule| router.is_for(rule)).map(|rule| &rule.policy));
        }
        let patience = |retry: &&ConnectRetry| {
            let timeout = |timeout: Option<_>| timeout.map_or((1, None), |timeout| (0, Some(timeout)));
            (retry.max_connect_attempts(), timeout(retry.timeout()), timeout(retry.connect_timeout()))
        };
        let connect =
            may_apply.iter().map(|policy| &policy.tcp).max_by_key(patience).unwrap_or(&self.fallback.tcp);
        let connect = connect.clone();
        let (policy, host) = chosen.unwrap_or_else(|| (Arc::clone(&self.fallback), None));
        let has_routes = may_apply.iter().any(|policy| !policy.routes.is_empty())
            || router.has_authorities && self.authorities_have_routes()
            || !self.fallback.routes.is_empty()
                && !by_address.iter().any(|(rule, _)| rule.says == Says::Rest);
        drop(by_address);
        Matched { policy, host, connect, router: has_routes.then_some(router) }
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

    fn authorities_have_routes(&self) -> bool {
        self.hosts
            .values()
            .chain(self.suffixes.values())
            .any(|tier| tier.iter().any(|rule| matches!(rule.says, Says::Route(_))))
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
                        ALL_ADDRESSES
                            .iter()
                            .for_each(|all| networks.entry(*all).or_default().extend(rules()));
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
        let fallback_rules = tier(rules(&fallback, None).collect());
        Self {
            policies,
            fallback,
            fallback_rules,
            hosts: hosts.into_iter().map(|(host, rules)| (host, tier(rules))).collect(),
            suffixes: suffixes.into_iter().map(|(host, rules)| (host, tier(rules))).collect(),
            networks: networks.into_iter().map(|(network, rules)| (network, tier(rules))).collect(),
            lengths_v4,
            lengths_v6,
        }
    }

    fn by_network(&self, address: IpAddr) -> Vec<Tier> {
        let lengths = match address {
            IpAddr::V4(_) => &self.lengths_v4,
            IpAddr::V6(_) => &self.lengths_v6,
        };
        let tiers = lengths.iter().filter_map(|&length| {
            let prefix = IpNet::new(address, length).ok()?.trunc();
            self.networks.get(&prefix).map(Arc::clone)
        });
        tiers.collect()
    }
}

impl Router {
    /// What holds for a request.
    #[must_use]
    pub fn route(&self, request: &(impl Headers + ?Sized)) -> Routed<'_> {
        let authority = if self.has_authorities { request.get(":authority").and_then(host_of) } else { None };
        let lower;
        let authority = match authority {
            Some(authority) if authority.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                lower = authority.to_ascii_lowercase();
                Some(lower.as_str())
            }
            authority => authority,
        };
        let exact = authority.and_then(|authority| self.table.hosts.get_key_value(authority));
        let of_exact = exact
            .iter()
            .flat_map(|(host, tier)| tier.iter().map(move |rule| (rule, By::Authority(host.as_str()))));
        let of_resolved =
            self.resolved.iter().filter(|(host, _)| exact.is_none_or(|(exact, _)| exact != host));
        let of_resolved =
            of_resolved.flat_map(|(host, tier)| tier.iter().map(move |rule| (rule, By::Resolved(host))));
        let parents = authority.filter(|_| !self.table.suffixes.is_empty()).into_iter().flat_map(parents);
        let of_suffixes = parents.filter_map(|parent| self.table.suffixes.get_key_value(parent));
        let of_suffixes = of_suffixes
            .flat_map(|(host, tier)| tier.iter().map(move |rule| (rule, By::Authority(host.as_str()))));
        let of_networks = self.networks.iter().flat_map(|tier| tier.iter().map(|rule| (rule, By::Address)));
        let all = of_exact.chain(of_resolved).chain(of_suffixes).chain(of_networks);
        let fallback = self.table.fallback_rules.iter().map(|rule| (rule, By::Fallback));
        for (rule, by) in all.chain(fallback).filter(|(rule, _)| self.is_for(rule)) {
            let route = match rule.says {
                Says::Connections => continue,
                Says::Rest => None,
                Says::Route(index) => match rule.policy.routes.get(index) {
                    Some(route) if route.matcher.matches(request) => Some(route),
                    Some(_) | None => continue,
                },
            };
            return Routed { policy: &rule.policy, route, by };
        }
        Routed { policy: &self.table.fallback, route: None, by: By::Fallback }
    }

    /// Whether all that is said of requests leads away from where the connection was dialled to, as far as its address
    /// tells: then it is not worth a connection.
    #[must_use]
    pub fn leads_elsewhere(&self) -> bool {
        let mut routes = self
            .by_address()
            .take_while(|(rule, _)| rule.says != Says::Rest)
            .filter_map(|(rule, _)| match rule.says {
                Says::Route(index) => rule.policy.routes.get(index),
                Says::Connections | Says::Rest => None,
            })
            .peekable();
        routes.peek().is_some() && routes.all(Route::leads_elsewhere)
    }

    /// What some route of those that the address tells says of requests as a whole.
    #[must_use]
    pub fn any(&self, says: impl Fn(&HttpPolicy) -> bool) -> bool {
        self.by_address().chain(self.table.fallback_rules.iter().map(|rule| (rule, None))).any(|(rule, _)| {
            match rule.says {
                Says::Route(index) => rule.policy.routes.get(index).is_some_and(|route| says(&route.http)),
                Says::Connections | Says::Rest => false,
            }
        })
    }

    /// One policy for everything, whatever its destinations.
    #[must_use]
    pub fn of(policy: Policy) -> Self {
        let table = Arc::new(Table::index(Vec::new(), Arc::new(policy)));
        Self {
            table,
            port: None,
            cgroup: Arc::from(""),
            identity: None,
            resolved: Vec::new(),
            networks: Vec::new(),
            has_authorities: false,
        }
    }

    fn by_address(&self) -> impl Iterator<Item = (&Rule, Option<&Host>)> {
        let resolved =
            self.resolved.iter().flat_map(|(host, tier)| tier.iter().map(move |rule| (rule, Some(host))));
        let networks = self.networks.iter().flat_map(|tier| tier.iter().map(|rule| (rule, None)));
        resolved.chain(networks).filter(|(rule, _)| self.is_for(rule))
    }

    fn is_for(&self, rule: &Rule) -> bool {
        let workload = Workload { cgroup: &self.cgroup, identity: self.identity.as_deref() };
        rule.applies(self.port) && rule.policy.is_from(workload)
    }
}

impl Rule {
    fn applies(&self, port: Option<NonZeroU16>) -> bool {
        self.port.is_none() || self.port == port
    }

    fn key(&self) -> (bool, [u32; 5], PolicyName, Says, u32) {
        let Precedence { among_all, within } = match self.says {
            Says::Route(index) => {
                self.policy.routes.get(index).map(|route| route.precedence).unwrap_or_default()
            }
            // What ends the asking comes after what its own policy has to say, and before other documents of its kind
            // that have nothing but their names to be told by.
            Says::Connections | Says::Rest => Precedence { among_all: [0; 5], within: u32::MAX },
        };
        let rank = match self.says {
            Says::Route(_) => Says::Route(0),
            says => says,
        };
        (self.port.is_none(), among_all, self.policy.name.clone(), rank, within)
    }
}

impl Route {
    /// Whether no request that takes it goes where it was sent to.
    #[must_use]
    pub fn leads_elsewhere(&self) -> bool {
        !self.targets.is_empty()
            && self
                .targets
                .iter()
                .all(|target| target.address != TargetAddress::Original || target.weight == 0)
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
    rules.sort_by_cached_key(Rule::key);
    rules.into()
}

/// The host of an authority, without its port.
fn host_of(authority: &[u8]) -> Option<&str> {
    let authority = str::from_utf8(authority).ok()?;
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    Some(host.strip_suffix('.').unwrap_or(host)).filter(|host| host.len() <= 253)
}

/// The names that a host is below, from the nearest on.
fn parents(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').filter_map(|(dot, _)| host.get(dot + 1..))
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

    use super::{DuplicateName, Matched, Table};
    use crate::policy::{
        Address, Destination, Host, HttpPolicy, Identity, LabelMatch, Origin, PathMatch, Policy, PolicyName,
        Precedence, RequestMatch, Rest, Route, Routed, Target, TargetAddress, WorkloadSelector,
    };
    use crate::retry::ConnectRetry;

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
    fn resolves_to(host: &Host, address: Option<IpAddr>) -> bool {
        let addresses: &[&str] = match host.as_str() {
            "a" => &["10.1.2.3", "fd00::1"],
            "b" => &["10.1.2.3", "10.9.9.9"],
            _ => &[],
        };
        addresses.iter().any(|text| address.is_none_or(|address| text.parse() == Ok(address)))
    }

    fn lookup(table: &Table, destination: &str) -> Matched {
        Arc::new(table.clone()).lookup(destination.parse().unwrap(), &Arc::from("web"), None, resolves_to)
    }

    fn chosen(table: &Table, destination: &str) -> (String, Option<String>) {
        let found = lookup(table, destination);
        (found.policy.name.to_string(), found.host.map(|host| host.to_string()))
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
        assert_eq!(lookup(&built_in, "192.0.2.1:1").policy.origin, Origin::BuiltIn);
        let table = Table::try_new(vec![policy("default", 7, vec![]), policy("z", 1, vec![])]).unwrap();
        assert_eq!(chosen(&table, "192.0.2.1:1").0, "z");
        let table = Table::try_new(vec![policy("default", 7, vec![])]).unwrap();
        assert_eq!(lookup(&table, "192.0.2.1:1").policy.origin.to_string(), "p.yaml:7");
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
                Address::Host(host) if resolves_to(host, Some(address)) => (1, 0, Some(host.to_string())),
                Address::Network(_) | Address::Host(_) | Address::Suffix(_) => return None,
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

    fn route(name: &str, path: &str, among_all: u32, within: u32) -> Route {
        let path = PathMatch::Prefix { path: path.into(), ignore_case: false };
        Route {
            name: name.into(),
            precedence: Precedence { among_all: [among_all, 0, 0, 0, 0], within },
            matcher: RequestMatch { path, ..RequestMatch::default() },
            http: Arc::new(HttpPolicy::default()),
            targets: Arc::default(),
            sources: Arc::default(),
        }
    }

    fn routed(name: &str, rest: Rest, to: &[&str], routes: Vec<Route>) -> Policy {
        let destination = |text: &&str| match text.parse().map(Address::Suffix) {
            Ok(address) => Destination { address, port: None },
            Err(_) => match text.split_once(':') {
                Some((text, port)) => destination(text, port.parse().unwrap()),
                None => destination(text, 0),
            },
        };
        let to = to.iter().map(destination).collect();
        Policy { rest, routes, ..policy(name, 1, to) }
    }

    /// `policy/route` for a request to an address of a host that nothing names.
    fn taken(table: &Table, destination: &str, authority: &str, path: &str) -> String {
        let Some(router) = lookup(table, destination).router else { return "untouched".to_owned() };
        let request = &[(":authority", authority), (":path", path)][..];
        let Routed { policy, route, .. } = router.route(request);
        format!("{}/{}", policy.name, route.map_or("-", |route| &route.name))
    }

    #[test]
    fn a_request_takes_the_first_route_of_the_most_specific_destination() {
        let (passes, goes_on) = (Rest::Passes, Rest::GoesOn);
        let table = Table::try_new(vec![
            routed("exact", goes_on, &["x.test"], vec![route("a", "/a", 0, 0)]),
            routed("exact-port", goes_on, &["x.test:81"], vec![route("all", "/", 0, 0)]),
            routed("wide", goes_on, &["*.test"], vec![route("b", "/a/b", 0, 0), route("all", "/b", 0, 1)]),
            routed("wider", goes_on, &["*.a.test"], vec![route("all", "/", 0, 0)]),
            routed("net", passes, &["10.0.0.0/8"], vec![route("n", "/n", 0, 0)]),
            // The same destination, for all: the precedence of the routes counts, then the policies' names.
            routed("any-2", goes_on, &[], vec![route("low", "/", 9, 0), route("high", "/h", 1, 0)]),
            routed("any-1", goes_on, &[], vec![route("mid", "/h", 5, 0), route("tie", "/t", 9, 0)]),
            routed("default", passes, &[], vec![]),
        ])
        .unwrap();
        for (destination, authority, path, expected) in [
            ("192.0.2.1:80", "x.test", "/a", "exact/a"),
            ("192.0.2.1:80", "X.Test.:8080", "/a", "exact/a"),
            // The port that counts is the one that was dialled.
            ("192.0.2.1:81", "x.test:80", "/a", "exact-port/all"),
            ("192.0.2.1:80", "x.test", "/b", "wide/all"),
            ("192.0.2.1:80", "y.a.test", "/", "wider/all"),
            ("192.0.2.1:80", "y.b.test", "/a/b", "wide/b"),
            ("192.0.2.1:80", "test", "/", "any-2/low"),
            ("192.0.2.1:80", "x.test", "/h", "any-2/high"),
            ("192.0.2.1:80", "", "/t", "any-1/tie"),
            ("10.0.0.1:80", "x.test", "/a", "exact/a"),
            ("10.0.0.1:80", "z", "/n", "net/n"),
            // It has the last word.
            ("10.0.0.1:80", "z", "/h", "net/-"),
        ] {
            assert_eq!(
                taken(&table, destination, authority, path),
                expected,
                "{destination} {authority} {path}"
            );
        }
    }

    /// A host that the address belongs to counts as if the request had said it, after what it did say.
    #[test]
    fn an_address_stands_for_its_host() {
        let table = Table::try_new(vec![
            routed("by-name", Rest::GoesOn, &["a"], vec![route("r", "/r", 0, 0), route("s", "/s", 0, 1)]),
            routed("said", Rest::GoesOn, &["c"], vec![route("r", "/r", 0, 0)]),
        ])
        .unwrap();
        assert_eq!(taken(&table, "10.1.2.3:80", "10.1.2.3", "/r"), "by-name/r");
        assert_eq!(taken(&table, "10.1.2.3:80", "c", "/r"), "said/r");
        assert_eq!(taken(&table, "10.1.2.3:80", "c", "/s"), "by-name/s");
        assert_eq!(taken(&table, "192.0.2.1:80", "192.0.2.1", "/r"), "default/-");
    }

    #[test]
    fn policies_are_for_their_workloads() {
        let selector = WorkloadSelector {
            labels: vec![("app".into(), LabelMatch::Is("web".into()))],
            ..WorkloadSelector::default()
        };
        let web =
            Policy { from: vec![selector], ..routed("web", Rest::GoesOn, &[], vec![route("r", "/", 0, 0)]) };
        let table = Arc::new(Table::try_new(vec![web]).unwrap());
        let chosen = |app: Option<&str>| {
            let identity = app.map(|app| {
                Arc::new(Identity { namespace: None, labels: [("app".into(), app.into())].into() })
            });
            let to = "192.0.2.1:80".parse().unwrap();
            let matched = table.lookup(to, &Arc::from("x"), identity.as_ref(), resolves_to);
            let routed = matched
                .router
                .as_ref()
                .map(|router| router.route(&[(":path", "/")][..]).policy.name.to_string());
            (matched.policy.name.to_string(), routed)
        };
        assert_eq!(chosen(None), ("web".to_owned(), Some("web".to_owned())));
        assert_eq!(chosen(Some("web")), ("web".to_owned(), Some("web".to_owned())));
        assert_eq!(chosen(Some("db")).0, "default");
    }

    #[test]
    fn the_connection_is_as_patient_as_what_may_apply() {
        let patient = |policy: Policy, attempts: u32| {
            let default = ConnectRetry::default();
            let attempts = attempts.try_into().unwrap();
            let tcp =
                ConnectRetry::try_new(attempts, None, None, default.backoff(), default.retry_on()).unwrap();
            Policy { tcp, ..policy }
        };
        let table = Table::try_new(vec![
            patient(routed("net", Rest::Passes, &["10.0.0.0/8"], vec![]), 2),
            patient(routed("any", Rest::GoesOn, &[], vec![route("r", "/", 0, 0)]), 7),
            // It has other addresses than those that are asked for.
            patient(routed("elsewhere", Rest::GoesOn, &["a"], vec![route("r", "/", 0, 0)]), 9),
            // Nobody knows its address: any may be.
            patient(routed("unknown", Rest::GoesOn, &["nowhere:81"], vec![route("r", "/", 0, 0)]), 8),
        ])
        .unwrap();
        for (to, attempts) in
            [("10.9.9.1:80", 2), ("192.0.2.1:80", 7), ("192.0.2.1:81", 8), ("10.1.2.3:80", 9)]
        {
            assert_eq!(lookup(&table, to).connect.max_connect_attempts().get(), attempts, "{to}");
        }
    }

    #[test]
    fn where_all_leads_elsewhere_no_connection_is_made() {
        let target = |address| Target { name: "t".into(), weight: 1, address };
        let elsewhere = target(TargetAddress::Addresses([("10.0.0.9".parse().unwrap(), None)].into()));
        let with =
            |name: &str, targets: Vec<Target>| Route { targets: targets.into(), ..route(name, "/", 0, 0) };
        for (targets, expected) in [
            (vec![vec![elsewhere.clone()]], true),
            (vec![vec![elsewhere.clone()], vec![]], false),
            (vec![vec![elsewhere.clone(), target(TargetAddress::Original)]], false),
            (vec![vec![elsewhere, Target { weight: 0, ..target(TargetAddress::Original) }]], true),
            (vec![vec![]], false),
        ] {
            let routes = targets.into_iter().map(|targets| with("r", targets)).collect();
            let table = Table::try_new(vec![routed("p", Rest::GoesOn, &[], routes)]).unwrap();
            assert_eq!(lookup(&table, "192.0.2.1:80").router.unwrap().leads_elsewhere(), expected);
        }
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
