//! What is asked of the table about the requests of one connection, and in which order.

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::str;
use std::sync::Arc;

use ipnet::IpNet;

use super::order::Key;
use super::{By, Considered, Passed, Resolution, Rule, Says, Table, Tier};
use crate::policy::headers::Headers;
use crate::policy::{
    Host, HttpPolicy, Identity, Policy, RequestMatch, RequestProtocol, Route, TargetAddress, UpstreamMode,
    Workload,
};

/// Which routes the requests of one connection take.
#[derive(Clone, Debug)]
pub struct Router {
    pub(super) table: Arc<Table>,
    pub(super) port: Option<NonZeroU16>,
    pub(super) cgroup: Arc<str>,
    pub(super) identity: Option<Arc<Identity>>,
    /// By the address that was dialled, the most specific first.
    pub(super) resolved: Vec<(Host, Tier)>,
    pub(super) networks: Vec<(IpNet, Tier)>,
    pub(super) has_authorities: bool,
}

/// What holds for a request.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    pub policy: &'a Arc<Policy>,
    /// None: the request goes through as it is.
    pub route: Option<&'a Route>,
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
    pub(super) fn patient<'a>(&'a self, names: &impl Resolution) -> &'a Arc<Policy> {
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
    pub(super) fn by_address(&self) -> impl Iterator<Item = (&Rule, By<'_>)> {
        self.asked(None).filter(|(rule, by)| *by != By::Fallback && self.is_for(rule))
    }

    /// Those of them that are asked about some request.
    pub(super) fn until_rest(&self) -> impl Iterator<Item = &Rule> {
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
    pub(super) fn is_open(&self) -> bool {
        !self.by_address().any(|(rule, _)| rule.says == Says::Rest)
    }

    /// Without the many rules that are for other ports and workloads, through which else each request would go.
    pub(super) fn narrowed(self) -> Self {
        // Fewer are gone through sooner than copied.
        const MANY: usize = 64;
        let narrow = |tier: &Tier| {
            if tier.len() <= MANY {
                return Arc::clone(tier);
            }
            // Rules of one policy stand together as a rule.
            let of_policies = tier.chunk_by(|one, other| Arc::ptr_eq(&one.policy, &other.policy));
            let from = of_policies.filter(|rules| rules.first().is_some_and(|rule| self.is_from(rule)));
            let own: Vec<_> = from.flatten().filter(|rule| rule.applies(self.port)).collect();
            if own.len() == tier.len() { Arc::clone(tier) } else { own.into_iter().cloned().collect() }
        };
        let resolved = self.resolved.iter().map(|(host, tier)| (host.clone(), narrow(tier))).collect();
        let networks = self.networks.iter().map(|(network, tier)| (*network, narrow(tier))).collect();
        Self { resolved, networks, ..self }
    }

    fn is_for(&self, rule: &Rule) -> bool {
        rule.applies(self.port) && self.is_from(rule)
    }

    fn is_from(&self, rule: &Rule) -> bool {
        rule.policy.is_from(Workload { cgroup: &self.cgroup, identity: self.identity.as_deref() })
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
