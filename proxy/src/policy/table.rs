//! All policies in force, which of them hold for a connection, and which route a request of it takes.
//!
//! The most specific destination wins: a host name before a wildcard, a longer wildcard before a shorter one, any of these
//! before a network, a longer prefix before a shorter one, then one with a port before one without. "Any address" is the
//! prefix of length zero, of either family. Among equally specific ones [`super::Precedence`] decides.
//!
//! Precedence is settled when the table is built. A look-up then probes a hash map for each prefix length, and for each
//! label of an authority, that some policy uses, so its cost does not grow with the number of policies. What hosts resolve
//! to, and which of them to nothing, only the caller knows.

mod order;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str;
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;

use self::order::Key;
pub use self::order::{Before, By, Considered, Passed};
use super::headers::Headers;
use super::{
    Address, Destination, Host, HttpPolicy, Identity, Origin, Policy, PolicyName, Protocol, RequestMatch,
    RequestProtocol, Rest, Route, TargetAddress, UpstreamMode, Workload,
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

/// Which routes the requests of one connection take.
#[derive(Clone, Debug)]
pub struct Router {
    table: Arc<Table>,
    port: Option<NonZeroU16>,
    cgroup: Arc<str>,
    identity: Option<Arc<Identity>>,
    /// By the address that was dialled, the most specific first.
    resolved: Vec<(Host, Tier)>,
    networks: Vec<(IpNet, Tier)>,
    has_authorities: bool,
}

/// What holds for a request.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    pub policy: &'a Arc<Policy>,
    /// None: the request goes through as it is.
    pub route: Option<&'a Route>,
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
        let router = self.router(destination, cgroup, identity, names);
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

    /// The policies that never hold, each with one that takes all that they are for: where the same destinations are
    /// meant, the first that takes every request leaves nothing to those after it.
    #[must_use]
    pub fn hidden(&self) -> Vec<(&Arc<Policy>, &Arc<Policy>)> {
        let mut hiding = BTreeMap::<&PolicyName, (&Arc<Policy>, Option<&Arc<Policy>>)>::new();
        for tier in self.hosts.values().chain(self.suffixes.values()).chain(self.networks.values()) {
            let mut takes_all: Vec<&Rule> = Vec::new();
            for rule in tier.iter() {
                let first =
                    takes_all.iter().find(|earlier| earlier.hides(rule)).map(|earlier| &earlier.policy);
                let known = hiding.entry(&rule.policy.name).or_insert((&rule.policy, first));
                if first.is_none() {
                    known.1 = None;
                    takes_all.extend(Some(rule).filter(|rule| rule.takes_all()));
                }
            }
        }
        hiding.into_values().filter_map(|(policy, first)| Some((policy, first?))).collect()
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

impl Router {
    /// What holds for a request.
    #[must_use]
    pub fn route(&self, request: &(impl Headers + ?Sized)) -> Routed<'_> {
        let last = Routed { policy: &self.table.fallback, route: None };
        let authority = authority(self.has_authorities, request);
        let mut asked = self.asked(authority.as_deref());
        let first = asked.find_map(|(rule, _)| {
            let route = self.verdict(rule, request).ok()?;
            Some(Routed { policy: &rule.policy, route })
        });
        first.unwrap_or(last)
    }

    /// All that is asked about a request, in its order: the first that does not pass is what [`Router::route`] finds, and
    /// each other that does not pass would hold if those before it did not.
    #[must_use]
    pub fn considered(&self, request: &(impl Headers + ?Sized)) -> Vec<Considered<'_>> {
        let authority = authority(self.has_authorities, request);
        let considered = |(rule, by): (_, _)| {
            let rule: &Rule = rule;
            let (policy, route, key) = (&rule.policy, rule.route(), Key::of(rule));
            Considered { policy, route, by, passed: self.verdict(rule, request).err(), key }
        };
        self.asked(authority.as_deref()).map(considered).collect()
    }

    /// Whose connection it turns out to be that asks for this server.
    #[must_use]
    pub fn of_server(&self, name: &str) -> &Arc<Policy> {
        let mut asked = self.asked(Some(name)).filter(|(rule, _)| self.is_for(rule));
        asked.next().map_or(&self.table.fallback, |(rule, _)| &rule.policy)
    }

    /// Every rule, in the order in which a request with this authority is asked for it.
    fn asked<'a>(&'a self, authority: Option<&str>) -> impl Iterator<Item = (&'a Rule, By<'a>)> {
        let exact = authority.and_then(|authority| self.table.hosts.get_key_value(authority));
        let of_exact = exact.into_iter().map(|(host, tier)| (tier, By::Authority(host)));
        let is_exact = move |host: &Host| exact.is_some_and(|(exact, _)| exact == host);
        let of_resolved = self.resolved.iter().filter(move |(host, _)| !is_exact(host));
        let of_resolved = of_resolved.map(|(host, tier)| (tier, By::Resolved(host)));
        let parents = authority.filter(|_| !self.table.suffixes.is_empty()).into_iter().flat_map(parents);
        let of_suffixes = parents.filter_map(|parent| self.table.suffixes.get_key_value(parent));
        let of_suffixes = of_suffixes.map(|(host, tier)| (tier, By::Below(host)));
        let of_networks = self.networks.iter().map(|(network, tier)| (tier, By::Network(*network)));
        let fallback = [(&self.table.fallback_rules, By::Fallback)];
        let tiers = of_exact.chain(of_resolved).chain(of_suffixes).chain(of_networks).chain(fallback);
        tiers.flat_map(|(tier, by)| tier.iter().map(move |rule| (rule, by)))
    }

    /// The route that holds by this rule, none where the request goes through as it is; or why the rule does not hold.
    fn verdict<'a>(
        &'a self,
        rule: &'a Rule,
        request: &(impl Headers + ?Sized),
    ) -> Result<Option<&'a Route>, Passed<'a>> {
        if let Some(port) = rule.port.filter(|port| Some(*port) != self.port) {
            return Err(Passed::Port(port));
        }
        if !self.is_from(rule) {
            return Err(Passed::Workload);
        }
        match (rule.says, rule.route()) {
            (Says::Connections, _) | (Says::Route(_), None) => Err(Passed::Connections),
            (Says::Rest, _) => Ok(None),
            (Says::Route(_), Some(route)) => match route.matcher.mismatch(request) {
                Some(part) => Err(Passed::Part(part)),
                None => Ok(Some(route)),
            },
        }
    }

    /// Of all policies that may turn out to apply, the one whose connects are the most patient.
    fn patient<'a>(&'a self, names: &impl Resolution) -> &'a Arc<Policy> {
        let patience = |policy: &Arc<Policy>| {
            let retry = &policy.tcp;
            let timeout = |timeout: Option<_>| timeout.map_or((1, None), |timeout| (0, Some(timeout)));
            (retry.max_connect_attempts(), timeout(retry.timeout()), timeout(retry.connect_timeout()))
        };
        let mut most: Option<&Arc<Policy>> = None;
        let mut consider = |rule: &'a Rule| {
            if most.is_none_or(|most| patience(most) <= patience(&rule.policy)) {
                most = Some(&rule.policy);
            }
        };
        self.may_take().into_iter().for_each(&mut consider);
        let mut may_be = |tier: &'a Tier| {
            tier.iter()
                .filter(|rule| rule.is_told_by_requests() && self.is_for(rule))
                .for_each(&mut consider);
        };
        names.unresolved(&mut |host| {
            if let Some(tier) = self.table.hosts.get(host) {
                may_be(tier);
            }
        });
        may_be(&self.table.of_suffixes);
        most.unwrap_or(&self.table.fallback)
    }

    /// Whether all that is said of requests leads away from where the connection was dialled to, as far as its address
    /// tells: then it is not worth a connection.
    #[must_use]
    pub fn leads_elsewhere(&self) -> bool {
        let mut routes = self.until_rest().filter_map(Rule::route).peekable();
        routes.peek().is_some() && routes.all(Route::leads_elsewhere)
    }

    /// Whether the connection's requests may go over upstream connections that are shared.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.any(|http| http.upstream == UpstreamMode::Pool)
    }

    /// What some route of those that the address tells says of requests as a whole.
    #[must_use]
    pub fn any(&self, says: impl Fn(&HttpPolicy) -> bool) -> bool {
        let fallback = self.table.fallback_rules.iter();
        let rules = self.by_address().map(|(rule, _)| rule).chain(fallback);
        rules.filter_map(Rule::route).any(|route| says(&route.http))
    }

    /// The policy that the address alone tells, and how.
    #[must_use]
    pub fn of_address(&self) -> (&Arc<Policy>, By<'_>) {
        let first = self.by_address().next();
        first.map_or((&self.table.fallback, By::Fallback), |(rule, by)| (&rule.policy, by))
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

    /// The rules that the address tells, without the fallback's.
    fn by_address(&self) -> impl Iterator<Item = (&Rule, By<'_>)> {
        self.asked(None).filter(|(rule, by)| *by != By::Fallback && self.is_for(rule))
    }

    /// Those of them that are asked about some request.
    fn until_rest(&self) -> impl Iterator<Item = &Rule> {
        let mut is_over = false;
        self.by_address().map(|(rule, _)| rule).take_while(move |rule| {
            let was_over = is_over;
            is_over = rule.says == Says::Rest;
            !was_over
        })
    }

    /// Those of them that may take a request, or the connection: what comes after routes that take every request does not,
    /// unless it is for another name of the address.
    fn may_take(&self) -> Vec<&Rule> {
        let by_address: Vec<_> = self.by_address().collect();
        let host = |by: By<'_>| matches!(by, By::Resolved(_));
        let (mut may_take, mut takes_all) = (Vec::new(), false);
        let is_same = |one: By<'_>, other: By<'_>| one == other || !host(one) && !host(other);
        for tier in by_address.chunk_by(|(_, one), (_, other)| is_same(*one, *other)) {
            // Requests are asked by any of the names first, and by the address only what none of these takes.
            if takes_all && tier.iter().all(|(_, by)| !host(*by)) {
                break;
            }
            let mut taken = Taken::default();
            for (rule, _) in tier {
                may_take.push(*rule);
                if rule.says == Says::Rest {
                    return may_take;
                }
                taken.add(rule);
                if taken.is_all() {
                    takes_all = true;
                    break;
                }
            }
        }
        may_take
    }

    /// Whether some request may come to the fallback.
    fn is_open(&self) -> bool {
        !self.by_address().any(|(rule, _)| rule.says == Says::Rest)
    }

    fn is_for(&self, rule: &Rule) -> bool {
        rule.applies(self.port) && self.is_from(rule)
    }

    fn is_from(&self, rule: &Rule) -> bool {
        rule.policy.is_from(Workload { cgroup: &self.cgroup, identity: self.identity.as_deref() })
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

    /// Whether no request of its workloads is asked for what comes later.
    fn takes_all(&self) -> bool {
        self.route().map_or(self.says == Says::Rest, |route| route.matcher.is_any())
    }

    /// Whether another policy's rule, which comes later, is never asked since this one takes all.
    fn hides(&self, later: &Self) -> bool {
        // What is said of connections counts up to where the asking ends.
        (self.says == Says::Rest || !later.policy.routes.is_empty())
            && self.policy.name != later.policy.name
            && (self.port.is_none() || self.port == later.port)
            && (self.policy.from.is_empty() || self.policy.from == later.policy.from)
    }

    fn route(&self) -> Option<&Route> {
        match self.says {
            Says::Route(index) => self.policy.routes.get(index),
            Says::Connections | Says::Rest => None,
        }
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
    rules.sort_by_cached_key(Key::of);
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
