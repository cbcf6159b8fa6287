//! `DestinationRule`: what holds for the requests and connections that go to a host, wherever they come from.

use std::cell::Cell;
use std::collections::HashSet;
use std::num::NonZeroU16;
use std::time::Duration;

use super::{Object, RULE, hosts, numbered, whole_name};
use crate::dialect::common::{self, Metadata};
use crate::dialect::fields::{Field, Map, Problems};
use crate::dialect::note::Code;
use crate::policy::{Address, Destination, Host, Place, Policy, PolicyName, Rest, Setting, Sources};
use crate::retry::{BudgetPolicy, ConnectRetry};

/// All rules, the oldest first.
pub(super) struct Rules<'a>(Vec<Rule<'a>>);

struct Rule<'a> {
    metadata: Metadata<'a>,
    root: Field<'a>,
    /// By all of its names.
    to: Vec<Destination>,
    /// By its whole name.
    address: Address,
    says: TrafficPolicy,
    subsets: Vec<(&'a str, TrafficPolicy)>,
    is_used: Cell<bool>,
}

/// Where requests go, as Envoy tells clusters apart.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) host: Host,
    pub(super) subset: Option<Box<str>>,
    /// None: the one that was dialled.
    pub(super) port: Option<NonZeroU16>,
}

#[derive(Default)]
struct TrafficPolicy {
    pool: Option<Pool>,
    budget: Option<Said<BudgetPolicy>>,
    ports: Vec<(NonZeroU16, Pool)>,
}

#[derive(Clone, Default)]
struct Pool {
    connect_timeout: Option<Said<Duration>>,
    max_retries: Option<Said<u32>>,
}

type Said<T> = (T, Place);

/// The settings that a rule may say something of.
const LIMITS: [Setting; 3] = [Setting::ConnectTimeout, Setting::MaxConcurrentRetries, Setting::Budget];

/// What holds for what goes to some clusters: the most generous of what is said of each. None: no limit is said.
#[derive(Clone, Default)]
pub(super) struct Limits {
    pub(super) connect_timeout: Option<Said<Duration>>,
    pub(super) max_retries: Option<Said<u32>>,
    pub(super) budget: Option<Said<BudgetPolicy>>,
}

impl<'a> Rules<'a> {
    pub(super) fn read(objects: &[Object<'_, 'a>], problems: &mut Problems) -> Self {
        let mut rules: Vec<Rule<'a>> = Vec::new();
        for object in objects {
            let Some(rule) = rule(object, problems) else { continue };
            match rules.iter_mut().find(|known| known.address == rule.address) {
                Some(first) => {
                    let name = first.name();
                    let message = format!(
                        "{name} is older, or the first by name, so that it is what holds for this host; only subsets that it \
                         has not are taken"
                    );
                    problems.note(Code::InertSetting, &rule.root.place(&["spec", "host"]), message);
                    let is_new = |(name, _): &(&str, _)| first.subsets.iter().all(|(known, _)| known != name);
                    let new: Vec<_> = rule.subsets.into_iter().filter(is_new).collect();
                    first.subsets.extend(new);
                }
                None => rules.push(rule),
            }
        }
        Self(rules)
    }

    /// What holds for requests that go to any of these, to this port where they name none.
    pub(super) fn limits(&self, clusters: &[Cluster], port: Option<NonZeroU16>) -> Limits {
        let mut all = clusters.iter().map(|cluster| {
            let rule = self.of(&cluster.host)?;
            rule.is_used.set(true);
            Some(rule.limits(cluster.subset.as_deref(), cluster.port.or(port)))
        });
        let first = all.next().flatten().unwrap_or_default();
        all.fold(first, |limits, other| limits.or_more(other.unwrap_or_default()))
    }

    /// The ports of these clusters of which something of their own is said.
    pub(super) fn ports(&self, clusters: &[Cluster]) -> Vec<NonZeroU16> {
        let own = clusters.iter().filter(|cluster| cluster.port.is_none());
        let rules = own.filter_map(|cluster| self.of(&cluster.host));
        rules.flat_map(Rule::ports).collect()
    }

    /// What holds for connections to hosts that none of these policies is for. Tells what of the others does not hold.
    pub(super) fn policies(&self, others: &[Policy], problems: &mut Problems) -> Vec<Policy> {
        let named: HashSet<_> = others.iter().flat_map(|policy| &policy.to).map(|to| &to.address).collect();
        let sources = others.iter().flat_map(|policy| {
            [&policy.sources].into_iter().chain(policy.routes.iter().map(|route| &route.sources))
        });
        let holding: HashSet<_> =
            sources.flat_map(|sources| LIMITS.map(|limit| sources.place(limit))).collect();
        let mut policies = Vec::new();
        for rule in &self.0 {
            if !named.contains(&rule.address) {
                policies.extend(rule.policies(problems));
            } else if !rule.is_used.get() {
                let message = "the VirtualService for this host leads elsewhere, so it holds for nothing";
                problems.note(Code::InertSetting, &rule.root.place(&["spec", "host"]), message);
            } else {
                for place in rule.places().filter(|place| !holding.contains(&Some(*place))) {
                    let message = "it limits nothing here, since no route leads there, or what leads there also leads to where \
                                   more is allowed";
                    problems.note(Code::Ignored, place, message);
                }
            }
        }
        policies
    }

    fn of(&self, host: &Host) -> Option<&Rule<'a>> {
        let is = |rule: &&Rule<'a>| match &rule.address {
            Address::Host(known) => known == host,
            Address::Suffix(suffix) => {
                host.as_str().strip_suffix(suffix.parent().as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            Address::Any => true,
            Address::Network(_) => false,
        };
        let length = |rule: &&Rule<'a>| match &rule.address {
            Address::Host(_) => usize::MAX,
            Address::Suffix(suffix) => suffix.parent().as_str().len(),
            Address::Any | Address::Network(_) => 0,
        };
        self.0.iter().filter(is).max_by_key(length)
    }
}

impl Rule<'_> {
    fn name(&self) -> PolicyName {
        PolicyName::of_kind(RULE, self.metadata.namespace, self.metadata.name)
    }

    fn ports(&self) -> Vec<NonZeroU16> {
        let all = [&self.says].into_iter().chain(self.subsets.iter().map(|(_, says)| says));
        let mut ports: Vec<_> = all.flat_map(|says| says.ports.iter().map(|(port, _)| *port)).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Where its limits are said.
    fn places(&self) -> impl Iterator<Item = &Place> {
        let all = [&self.says].into_iter().chain(self.subsets.iter().map(|(_, says)| says));
        all.flat_map(|TrafficPolicy { pool, budget, ports }| {
            let pools = pool.iter().chain(ports.iter().map(|(_, pool)| pool));
            let of_pools = pools.flat_map(|Pool { connect_timeout, max_retries }| {
                let connects = connect_timeout.iter().map(|(_, place)| place);
                connects.chain(max_retries.iter().map(|(_, place)| place).filter(|_| budget.is_none()))
            });
            of_pools.chain(budget.iter().map(|(_, place)| place))
        })
    }

    /// A port's settings take the place of all others, and a subset's of those of the whole host.
    fn limits(&self, subset: Option<&str>, port: Option<NonZeroU16>) -> Limits {
        let subset = self.subsets.iter().find(|(name, _)| Some(*name) == subset).map(|(_, says)| says);
        let says: Vec<_> = subset.into_iter().chain([&self.says]).collect();
        let of_port = says
            .iter()
            .find_map(|says| says.ports.iter().find(|(known, _)| Some(*known) == port).map(|(_, pool)| pool));
        let pool = of_port.or_else(|| says.iter().find_map(|says| says.pool.as_ref())).cloned();
        let Pool { connect_timeout, max_retries } = pool.unwrap_or_default();
        let budget = says.iter().find_map(|says| says.budget.clone());
        // Envoy has either of the two.
        let max_retries = max_retries.filter(|_| budget.is_none());
        Limits { connect_timeout, max_retries, budget }
    }

    /// Where nothing here says how its requests are retried, connects are all that there is to limit.
    fn policies(&self, problems: &mut Problems) -> Vec<Policy> {
        let ports = self.ports();
        let all = [None].into_iter().chain(ports.into_iter().map(Some));
        let limits: Vec<_> = all.map(|port| (port, self.limits(None, port))).collect();
        let mut policies = Vec::new();
        let to_at = (Setting::To, self.root.place(&["spec", "host"]));
        for (port, limits) in limits {
            if let Some((_, place)) = limits.max_retries.as_ref().filter(|_| !self.is_used.get()) {
                let message = "no VirtualService here says how requests to this host are retried";
                problems.note(Code::InertSetting, place, message);
            }
            if limits.connect_timeout.is_none() && limits.budget.is_none() {
                continue;
            }
            let suffix = port.map(|port| format!(":{port}")).unwrap_or_default();
            let name = format!("{}{suffix}", self.metadata.name);
            policies.push(Policy {
                name: PolicyName::of_kind(RULE, self.metadata.namespace, &name),
                origin: self.root.origin(),
                to: self.to.iter().map(|to| Destination { port, ..to.clone() }).collect(),
                tcp: limits.connects(&ConnectRetry::default()),
                budget: limits.budget(),
                rest: Rest::GoesOn,
                sources: Sources::new(limits.places().into_iter().chain([to_at.clone()])).into(),
                ..Policy::built_in()
            });
        }
        policies
    }
}

impl Limits {
    /// What is generous enough for both.
    pub(super) fn or_more(self, other: Self) -> Self {
        let of_budget = |(budget, _): &Said<BudgetPolicy>| (budget.percent(), budget.min_per_second());
        Self {
            connect_timeout: self.connect_timeout.zip(other.connect_timeout).map(longer),
            max_retries: self.max_retries.zip(other.max_retries).map(longer),
            budget: self
                .budget
                .zip(other.budget)
                .map(|(one, other)| if of_budget(&one) >= of_budget(&other) { one } else { other }),
        }
    }

    /// These attempts to connect, within the time that each may take.
    pub(super) fn connects(&self, retry: &ConnectRetry) -> ConnectRetry {
        let limit = self.connect_timeout.as_ref().map(|(limit, _)| *limit).or(retry.connect_timeout());
        let attempts = retry.max_connect_attempts();
        // It is more than zero.
        ConnectRetry::try_new(attempts, limit, retry.timeout(), retry.backoff(), retry.retry_on())
            .unwrap_or_else(|_| retry.clone())
    }

    pub(super) fn budget(&self) -> BudgetPolicy {
        self.budget.as_ref().map_or_else(BudgetPolicy::default, |(budget, _)| *budget)
    }

    /// Where a policy's own limits are said.
    pub(super) fn places(&self) -> Vec<(Setting, Place)> {
        let connects = self.connect_timeout.iter().map(|(_, place)| (Setting::ConnectTimeout, place.clone()));
        let budget = self.budget.iter().map(|(_, place)| (Setting::Budget, place.clone()));
        connects.chain(budget).collect()
    }
}

fn longer<T: PartialOrd>((one, other): (Said<T>, Said<T>)) -> Said<T> {
    if one.0 >= other.0 { one } else { other }
}

fn rule<'a>((root, metadata): &Object<'_, 'a>, problems: &mut Problems) -> Option<Rule<'a>> {
    let map = root.map_of(&["apiVersion", "kind", "metadata", "spec", "status"], problems)?;
    let spec = map.required("spec", problems)?;
    let known = ["host", "trafficPolicy", "subsets", "exportTo", "workloadSelector"];
    let spec = spec.map_of(&known, problems)?;
    for field in ["exportTo", "workloadSelector"].into_iter().filter_map(|name| spec.get(name)) {
        let message = "what a DestinationRule says holds for every workload here";
        problems.note(Code::Ignored, &field.here(), message);
    }
    let host = spec.required("host", problems);
    let to = host.as_ref().and_then(|host| hosts(host, metadata.namespace, problems));
    let says = spec.optional("trafficPolicy", TrafficPolicy::default(), |field| {
        traffic_policy(&field, &["portLevelSettings"], problems)
    });
    let subsets = spec.each_up_to("subsets", common::MAX_ENTRIES, problems, |field, problems| {
        let map = field.map_of(&["name", "labels", "trafficPolicy"], problems)?;
        let name = map.required("name", problems).and_then(|field| field.text(problems));
        let says = map.optional("trafficPolicy", TrafficPolicy::default(), |field| {
            traffic_policy(&field, &["portLevelSettings"], problems)
        });
        Some((name?, says?))
    });
    if let Some(field) = spec.get("subsets") {
        let message = "subsets are not told apart here; what they say of retries and connects is taken";
        problems.note(Code::Ignored, &field.here(), message);
    }
    let to = to?;
    let address = match (host?.text(problems)?.parse::<Host>(), to.first()) {
        (Ok(host), _) => Address::Host(whole_name(&host, metadata.namespace)),
        (Err(_), first) => first?.address.clone(),
    };
    Some(Rule {
        metadata: metadata.clone(),
        root: (*root).clone(),
        to,
        address,
        says: says?,
        subsets: subsets?,
        is_used: Cell::new(false),
    })
}

fn traffic_policy(field: &Field<'_>, besides: &[&str], problems: &mut Problems) -> Option<TrafficPolicy> {
    let known: Vec<_> = ["connectionPool", "retryBudget"].iter().chain(besides).copied().collect();
    let ignored = ["loadBalancer", "outlierDetection", "tls", "tunnel", "proxyProtocol"];
    let map = field.map_ignoring(&known, &ignored, problems)?;
    let pool = pool(&map, problems);
    let budget =
        map.optional("retryBudget", None, |field| Some(Some((budget(&field, problems)?, field.here()))));
    let ports = map.each_up_to("portLevelSettings", common::MAX_ENTRIES, problems, |field, problems| {
        let map = field.map_ignoring(&["port", "connectionPool"], &ignored, problems)?;
        let port = map.required("port", problems).and_then(|field| numbered(&field, problems));
        Some((port?, pool_or_none(&map, problems)?))
    });
    let (pool, budget) = (pool?, budget?);
    if let Some((_, place)) = pool.iter().find_map(|pool| pool.max_retries.as_ref())
        && budget.is_some()
    {
        problems.note(Code::InertSetting, place, "retryBudget takes its place");
    }
    Some(TrafficPolicy { pool, budget, ports: ports? })
}

/// A port's own settings: what is left out is Istio's default, whatever the whole host has.
fn pool_or_none(map: &Map<'_>, problems: &mut Problems) -> Option<Pool> {
    pool(map, problems).map(Option::unwrap_or_default)
}

fn pool(map: &Map<'_>, problems: &mut Problems) -> Option<Option<Pool>> {
    let Some(field) = map.get("connectionPool") else { return Some(None) };
    let map = field.map_of(&["tcp", "http"], problems)?;
    let connect_timeout = map.optional("tcp", None, |field| {
        let ignored = ["maxConnections", "tcpKeepalive", "maxConnectionDuration", "idleTimeout"];
        let map = field.map_ignoring(&["connectTimeout"], &ignored, problems)?;
        map.optional("connectTimeout", None, |field| Some(Some((field.duration(problems)?, field.here()))))
    });
    let max_retries = map.optional("http", None, |field| {
        let ignored = [
            "http1MaxPendingRequests",
            "http2MaxRequests",
            "maxRequestsPerConnection",
            "idleTimeout",
            "h2UpgradePolicy",
            "useClientProtocol",
            "maxConcurrentStreams",
        ];
        let map = field.map_ignoring(&["maxRetries"], &ignored, problems)?;
        map.optional("maxRetries", None, |field| {
            let max = field.whole(0..=i32::MAX.unsigned_abs(), problems)?;
            // Istio takes 0 for what was left out.
            Some(Some((max, field.here())).filter(|_| max > 0))
        })
    });
    Some(Some(Pool { connect_timeout: connect_timeout?, max_retries: max_retries? }))
}

fn budget(field: &Field<'_>, problems: &mut Problems) -> Option<BudgetPolicy> {
    const MIN_CONCURRENCY: u32 = 3;
    let map = field.map_of(&["percent", "minRetryConcurrency", "budgetInterval"], problems)?;
    let default = BudgetPolicy::default();
    let percent = map
        .optional("percent", default.percent(), |field| field.whole(0..=BudgetPolicy::MAX_PERCENT, problems));
    let floor =
        map.optional("minRetryConcurrency", MIN_CONCURRENCY, |field| field.whole(0..=u32::MAX, problems));
    let interval = map.optional("budgetInterval", Duration::ZERO, |field| field.duration_or_zero(problems));
    let floor = Some(floor?).filter(|floor| *floor > 0).unwrap_or(MIN_CONCURRENCY);
    let interval = Some(interval?).filter(|interval| !interval.is_zero()).unwrap_or(default.interval());
    let message = format!(
        "Istio counts the requests and retries that are under way; here minRetryConcurrency is {floor} retries a second, and \
         percent is of the requests of the last {interval:?}"
    );
    problems.note(Code::Ignored, &field.here(), message);
    field.accept(BudgetPolicy::try_new(percent?, floor, interval), problems)
}
