//! All policies in force, which of them hold for a connection, and which route a request of it takes.
//!
//! The most specific destination wins: a host name before a wildcard, a longer wildcard before a shorter one, any of these
//! before a network, a longer prefix before a shorter one, then one with a port before one without. "Any address" is the
//! prefix of length zero, of either family. Among equally specific ones [`Precedence`] decides.
//!
//! Precedence is settled when the table is built. A look-up then probes a hash map for each prefix length, and for each
//! label of an authority, that some policy uses, so its cost does not grow with the number of policies; host names it
//! goes through one by one when a connection comes, because only the caller knows what they resolve to.

use std::borrow::Cow;
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
    Address, Destination, Host, HttpPolicy, Identity, Origin, Policy, PolicyName, Precedence, RequestMatch,
    RequestProtocol, Rest, Route, TargetAddress, Workload,
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
        let mut takes_all = false;
        'tiers: for tier in by_address.chunk_by(|(_, one), (_, other)| one == other) {
            // Requests are asked by any of the names first, and by the address only what none of these takes.
            if takes_all && tier.iter().all(|(_, host)| host.is_none()) {
                break;
            }
            let mut taken = Taken::default();
            for (rule, _) in tier {
                may_apply.push(&rule.policy);
                if rule.says == Says::Rest {
                    break 'tiers;
                }
                taken.add(rule);
                if taken.is_all() {
                    takes_all = true;
                    break;
                }
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
            || self.authorities_have_routes
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
        let fallback_rules = tier(rules(&fallback, None).collect());
        Self {
            policies,
            fallback,
            fallback_rules,
            authorities_have_routes,
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
        let last = Routed { policy: &self.table.fallback, route: None, by: By::Fallback };
        self.asked(authority(self.has_authorities, request).as_deref(), request).next().unwrap_or(last)
    }

    /// All that might hold for a request, in the order in which it is asked: the first is what [`Router::route`] finds, and
    /// each other would hold if those before it did not.
    #[must_use]
    pub fn candidates(&self, request: &(impl Headers + ?Sized)) -> Vec<Routed<'_>> {
        self.asked(authority(self.has_authorities, request).as_deref(), request).collect()
    }

    fn asked<'a>(
        &'a self,
        authority: Option<&str>,
        request: &(impl Headers + ?Sized),
    ) -> impl Iterator<Item = Routed<'a>> {
        let exact = authority.and_then(|authority| self.table.hosts.get_key_value(authority));
        let of_exact = exact
            .into_iter()
            .flat_map(|(host, tier)| tier.iter().map(move |rule| (rule, By::Authority(host.as_str()))));
        let of_resolved =
            self.resolved.iter().filter(move |(host, _)| exact.is_none_or(|(exact, _)| exact != host));
        let of_resolved =
            of_resolved.flat_map(|(host, tier)| tier.iter().map(move |rule| (rule, By::Resolved(host))));
        let parents = authority.filter(|_| !self.table.suffixes.is_empty()).into_iter().flat_map(parents);
        let of_suffixes = parents.filter_map(|parent| self.table.suffixes.get_key_value(parent));
        let of_suffixes = of_suffixes
            .flat_map(|(host, tier)| tier.iter().map(move |rule| (rule, By::Authority(host.as_str()))));
        let of_networks = self.networks.iter().flat_map(|tier| tier.iter().map(|rule| (rule, By::Address)));
        let all = of_exact.chain(of_resolved).chain(of_suffixes).chain(of_networks);
        let fallback = self.table.fallback_rules.iter().map(|rule| (rule, By::Fallback));
        all.chain(fallback).filter(|(rule, _)| self.is_for(rule)).filter_map(|(rule, by)| {
            let route = match rule.says {
                Says::Connections => return None,
                Says::Rest => None,
                Says::Route(index) => {
                    Some(rule.policy.routes.get(index).filter(|route| route.matcher.matches(request))?)
                }
            };
            Some(Routed { policy: &rule.policy, route, by })
        })
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

/// Which requests are taken whatever else they are.
#[derive(Default)]
struct Taken {
    grpc: bool,
    others: bool,
}

impl Taken {
    fn add(&mut self, rule: &Rule) {
        let Says::Route(index) = rule.says else { return };
        let Some(Route { matcher, .. }) = rule.policy.routes.get(index) else { return };
        let all = |protocol| RequestMatch { protocol, ..RequestMatch::default() };
        self.grpc |= matcher.covers(&all(RequestProtocol::Grpc));
        self.others |= matcher.covers(&all(RequestProtocol::Http));
    }

    fn is_all(&self) -> bool {
        self.grpc && self.others
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

/// The host that a request is for, in lower case, where policies ask.
fn authority(is_asked: bool, request: &(impl Headers + ?Sized)) -> Option<Cow<'_, str>> {
    let host = if is_asked { request.get(":authority").and_then(host_of) } else { None }?;
    let has_capitals = host.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if has_capitals { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) })
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
mod tests;
