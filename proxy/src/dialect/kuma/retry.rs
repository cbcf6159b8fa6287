//! `Retry`, the policy of old, with sources and destinations by tags.

use std::collections::HashSet;
use std::sync::Arc;

use super::document::Resource;
use super::target::{below_mesh, parts};
use super::{GRPC_DEFAULT, HTTP_DEFAULT, SERVICE, by_method, connect_attempts, connects, defaults, selector};
use crate::dialect::common::{self, MAX_ENTRIES, backoff, some_of};
use crate::dialect::fields::{Field, Map, Problems};
use crate::dialect::note::Code;
use crate::policy::{
    Address, Destination, Host, HttpPolicy, LabelMatch, Policy, PolicyName, Precedence, Protocol,
    RequestMatch, RequestProtocol, Rest, Route, Setting, Sources, WorkloadSelector,
};
use crate::retry::request::{Condition, Conditions, Method, RequestRetry, StatusCodes};

const HTTP_CONDITIONS: [(&str, Condition); 19] = [
    ("all_5xx", Condition::ServerError),
    ("gateway_error", Condition::GatewayError),
    ("reset", Condition::Reset),
    ("connect_failure", Condition::ConnectFailure),
    ("envoy_ratelimited", Condition::EnvoyRateLimited),
    ("retriable_4xx", Condition::Retriable4xx),
    ("refused_stream", Condition::RefusedStream),
    ("retriable_status_codes", Condition::RetriableStatusCodes),
    ("retriable_headers", Condition::RetriableHeaders),
    ("http3_post_connect_failure", Condition::Http3PostConnectFailure),
    ("all-5xx", Condition::ServerError),
    ("gateway-error", Condition::GatewayError),
    ("connect-failure", Condition::ConnectFailure),
    ("envoy-ratelimited", Condition::EnvoyRateLimited),
    ("retriable-4xx", Condition::Retriable4xx),
    ("refused-stream", Condition::RefusedStream),
    ("retriable-status-codes", Condition::RetriableStatusCodes),
    ("retriable-headers", Condition::RetriableHeaders),
    ("http3-post-connect-failure", Condition::Http3PostConnectFailure),
];

const GRPC_CONDITIONS: [(&str, Condition); 7] = [
    ("cancelled", Condition::Cancelled),
    ("deadline_exceeded", Condition::DeadlineExceeded),
    ("internal", Condition::Internal),
    ("resource_exhausted", Condition::ResourceExhausted),
    ("unavailable", Condition::Unavailable),
    ("deadline-exceeded", Condition::DeadlineExceeded),
    ("resource-exhausted", Condition::ResourceExhausted),
];

/// The most destinations that policies for all services may come first for.
const MAX_OUTRANKED: usize = 1 << 16;

/// The fields that say how many attempts to connect there are.
const ATTEMPTS: [&str; 2] = ["maxConnectAttempts", "maxConnectAmount"];

/// One document.
pub(super) struct Retry<'a> {
    pub(super) resource: Resource<'a>,
    sources: Vec<Source>,
    services: Vec<Service<'a>>,
    sections: Sections,
    conf: Field<'a>,
}

/// A selector of workloads.
struct Source {
    selector: WorkloadSelector,
    /// How many tags it has, and how many of them with a value.
    tags: [usize; 2],
}

/// A service that is a destination; none is every one.
struct Service<'a> {
    name: Option<&'a str>,
    destinations: Vec<Destination>,
}

/// What is said, as far as it is.
struct Sections {
    http: Option<Arc<HttpPolicy>>,
    grpc: Option<Arc<HttpPolicy>>,
    connects: Option<std::num::NonZeroU32>,
}

pub(super) fn read<'a>(resource: &Resource<'a>, problems: &mut Problems) -> Option<Retry<'a>> {
    let parts = ["sources", "destinations", "conf"];
    // The universal form has them beside its name.
    let spec = match resource.root.child("apiVersion") {
        Some(_) => resource.spec.map_of(&parts, problems)?,
        None => resource.spec.map(problems)?,
    };
    let sources = sources(&spec, problems);
    let services = services(&spec, problems);
    let conf = spec.required("conf", problems)?;
    let sections = sections(&conf, problems);
    Some(Retry {
        resource: resource.clone(),
        sources: sources?,
        services: services?,
        sections: sections?,
        conf,
    })
}

/// The policies of one mesh. For each workload and service Kuma takes the one with the most tags, of the workload and the
/// service together, of these the one with the most values, and then the first by its name; it alone holds.
pub(super) fn policies(all: &[&Retry<'_>], is_one_of_several: bool, problems: &mut Problems) -> Vec<Policy> {
    let mut room = MAX_OUTRANKED;
    let says =
        |section: fn(&Sections) -> bool| all.iter().filter(|retry| section(&retry.sections)).count() > 0;
    let (grpc, http) = (says(|sections| sections.grpc.is_some()), says(|sections| sections.http.is_some()));
    let mut policies = Vec::new();
    for retry in all {
        let mut tags: Vec<_> = retry.sources.iter().map(|source| source.tags).collect();
        tags.sort_unstable();
        tags.dedup();
        let mut parts = Vec::new();
        for tags in tags {
            let alike = retry.sources.iter().filter(|source| source.tags == tags);
            let from: Vec<_> = alike.map(|source| source.selector.clone()).collect();
            let named = retry.services.iter().filter(|service| service.name.is_some());
            let named: Vec<_> = named.flat_map(|service| service.destinations.clone()).collect();
            if !named.is_empty() {
                parts.push((from.clone(), tags, 1, named));
            }
            if retry.services.iter().any(|service| service.name.is_none()) {
                let mut to = vec![Destination { address: Address::Any, port: None }];
                let first_for = outranked(retry, tags, all);
                let Some(left) = room.checked_sub(first_for.len()) else {
                    let message = "too many services that others name are told by policies for all services; give these \
                                   fewer tags in their sources";
                    let _: Option<()> = retry.resource.root.problem(message, problems);
                    return policies;
                };
                room = left;
                to.extend(first_for);
                parts.push((from, tags, 0, to));
            }
        }
        let is_alone = parts.len() == 1;
        for (index, (from, [total, exact], value, to)) in parts.into_iter().enumerate() {
            let mesh = Some(retry.resource.mesh).filter(|_| is_one_of_several);
            let from = from.into_iter().filter_map(|from| selector(Some(from), mesh)).collect();
            let part = if is_alone { String::new() } else { format!("/{index}") };
            let mesh = mesh.map(|mesh| format!("@{mesh}")).unwrap_or_default();
            let name = format!("{}{part}{mesh}", retry.resource.name);
            let less = |count: usize| u32::MAX.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
            // After those with targetRef, which change what these made of the proxy.
            let among_all = [1, less(total), less(exact + value), 0, 0];
            policies.push(retry.policy(&name, from, to, among_all, [grpc, http]));
        }
    }
    policies
}

/// The services that others name and that this, although it is for all services, still comes first for.
fn outranked(retry: &Retry<'_>, [total, exact]: [usize; 2], all: &[&Retry<'_>]) -> Vec<Destination> {
    let own: HashSet<_> = retry.services.iter().filter_map(|service| service.name).collect();
    let is_outranked = |other: &&&Retry<'_>| {
        let rank = |source: &Source| [source.tags[0], source.tags[1] + 1];
        other.sources.iter().map(rank).min().is_some_and(|other| other <= [total, exact])
    };
    let services = all.iter().filter(is_outranked).flat_map(|other| &other.services);
    let named = services.filter(|service| service.name.is_some_and(|name| !own.contains(name)));
    let mut seen = HashSet::new();
    let first_seen =
        named.flat_map(|service| &service.destinations).filter(|destination| seen.insert(*destination));
    first_seen.take(MAX_OUTRANKED + 1).cloned().collect()
}

impl Retry<'_> {
    /// Where another document would say something of requests of which this one says nothing, nothing is to be done.
    fn policy(
        &self,
        name: &str,
        from: Vec<WorkloadSelector>,
        to: Vec<Destination>,
        among_all: [u32; 5],
        [grpc, http]: [bool; 2],
    ) -> Policy {
        let Sections { http: own_http, grpc: own_grpc, connects: attempts } = &self.sections;
        let own = || [own_grpc, own_http].into_iter().flatten().map(|policy| &**policy);
        let is_silent = own().next().is_none();
        let of = |own: &Option<Arc<HttpPolicy>>, is_said: bool| {
            let passing = || (is_said && !is_silent).then(|| Arc::new(HttpPolicy::passing().clone()));
            own.clone().or_else(passing)
        };
        let sections = [
            ("grpc", RequestProtocol::Grpc, of(own_grpc, grpc)),
            ("http", RequestProtocol::Http, of(own_http, http)),
        ];
        let routes = (0..).zip(sections).filter_map(|(within, (name, protocol, http))| {
            Some(Route {
                name: name.into(),
                precedence: Precedence { among_all, within },
                matcher: RequestMatch { protocol, ..RequestMatch::default() },
                http: http?,
                targets: Arc::default(),
                sources: Arc::new(places(&self.conf, name)),
            })
        });
        let mut attempts_at: Vec<_> =
            ATTEMPTS.into_iter().map(|name| self.conf.place(&["tcp", name])).collect();
        attempts_at.sort_by_key(|place| !place.is_said);
        Policy {
            name: PolicyName::of_kind(self.resource.kind, self.resource.namespace, name),
            origin: self.resource.root.origin(),
            from,
            to,
            tcp: connects(*attempts, own()),
            protocol: if is_silent { Protocol::Tcp } else { Protocol::Auto },
            routes: routes.collect(),
            rest: Rest::GoesOn,
            sources: Arc::new(Sources::new(
                attempts_at.into_iter().map(|at| (Setting::ConnectAttempts, at)).chain([
                    (Setting::From, self.resource.spec.place(&["sources"])),
                    (Setting::To, self.resource.spec.place(&["destinations"])),
                ]),
            )),
            ..Policy::built_in()
        }
    }
}

/// Where the settings of a section are.
fn places(conf: &Field<'_>, section: &str) -> Sources {
    let settings = [
        (Setting::RetryOn, "retryOn"),
        (Setting::NumRetries, "numRetries"),
        (Setting::PerTryTimeout, "perTryTimeout"),
        (Setting::Backoff, "backOff"),
        (Setting::StatusCodes, "retriableStatusCodes"),
        (Setting::RequestHeaders, "retriableMethods"),
        (Setting::Methods, "retriableMethods"),
    ];
    Sources::new(settings.map(|(setting, name)| (setting, conf.place(&[section, name]))))
}

fn sources(spec: &Map<'_>, problems: &mut Problems) -> Option<Vec<Source>> {
    spec.required("sources", problems)?;
    some_of(spec, "sources", problems, |selector, problems| {
        let tags = tags(selector, problems)?;
        let labels = tags.into_iter().map(|(name, value)| {
            let text = value.text(problems)?;
            let value = if text == "*" { LabelMatch::Any } else { LabelMatch::Is(text.into()) };
            Some((name.into(), value))
        });
        let labels: Vec<_> = labels.collect();
        let labels: Vec<(Box<str>, LabelMatch)> = labels.into_iter().collect::<Option<_>>()?;
        let exact = labels.iter().filter(|(_, value)| *value != LabelMatch::Any).count();
        let tags = [labels.len(), exact];
        Some(Source { selector: WorkloadSelector { labels, ..WorkloadSelector::default() }, tags })
    })
}

fn services<'a>(spec: &Map<'a>, problems: &mut Problems) -> Option<Vec<Service<'a>>> {
    spec.required("destinations", problems)?;
    some_of(spec, "destinations", problems, |selector, problems| {
        let mut found = None;
        for (name, value) in tags(selector, problems)? {
            if name == SERVICE {
                found = service(&value, problems);
            } else {
                let message = format!("destinations are told by {SERVICE} alone; leave this tag out");
                return value.problem(message, problems);
            }
        }
        found
    })
}

/// A service by its name: `backend`, or `backend_kuma-demo_svc_3001` as Kuma calls the port of a Kubernetes Service. The
/// names below `.mesh` are on a port of Kuma's own, so that they are taken on every port.
fn service<'a>(field: &Field<'a>, problems: &mut Problems) -> Option<Service<'a>> {
    let name = field.text(problems)?;
    if name == "*" {
        return Some(Service { name: None, destinations: Vec::new() });
    }
    let whole: Host = match format!("{name}.mesh").parse() {
        Ok(host) => host,
        Err(error) => return field.expected(&format!("the name of a service, or *; {error}"), problems),
    };
    let at = |port| move |host| Destination { address: Address::Host(host), port };
    let destinations = match parts(name) {
        Some((service, namespace, port)) => {
            let Ok(port) = port.map(str::parse).transpose() else {
                return field.expected(&"a port from 1 to 65535 behind _svc_", problems);
            };
            let hosts = common::service_hosts(service, Some(namespace)).into_iter().map(at(port));
            hosts.chain(below_mesh(service, namespace, port)).collect()
        }
        None => name.parse().into_iter().chain([whole]).map(at(None)).collect(),
    };
    Some(Service { name: Some(name), destinations })
}

/// The tags of a selector, at least one.
fn tags<'a>(selector: &Field<'a>, problems: &mut Problems) -> Option<Vec<(&'a str, Field<'a>)>> {
    let map = selector.map_of(&["match"], problems)?;
    let tags = map.required("match", problems)?;
    let entries: Vec<_> = tags.map(problems)?.entries().collect();
    match entries.len() {
        0 => tags.expected(&format!("a tag at least, such as {SERVICE}: '*'"), problems),
        1..=MAX_ENTRIES => Some(entries),
        many => tags.problem(format!("{many} tags are too many; there may be {MAX_ENTRIES}"), problems),
    }
}

fn sections(conf: &Field<'_>, problems: &mut Problems) -> Option<Sections> {
    let map = conf.map_of(&["http", "grpc", "tcp"], problems)?;
    if map.entries().next().is_none() {
        return conf.problem("at least one of http, grpc and tcp is required", problems);
    }
    let http = map.optional("http", None, |field| http(&field, problems).map(Some));
    let grpc = map.optional("grpc", None, |field| grpc(&field, problems).map(Some));
    let tcp = map.optional("tcp", None, |field| connect_attempts(&field, &ATTEMPTS, problems).map(Some));
    Some(Sections { http: http?.map(Arc::new), grpc: grpc?.map(Arc::new), connects: tcp? })
}

fn http(http: &Field<'_>, problems: &mut Problems) -> Option<HttpPolicy> {
    let known =
        ["numRetries", "perTryTimeout", "backOff", "retriableStatusCodes", "retriableMethods", "retryOn"];
    let map = http.map_of(&known, problems)?;
    let retry = common(&map, problems);
    let codes = some_of(&map, "retriableStatusCodes", problems, |field, problems| {
        let (first, last) = (*StatusCodes::RANGE.start(), *StatusCodes::RANGE.end());
        u16::try_from(field.whole(first.into()..=last.into(), problems)?).ok()
    });
    let codes = codes.and_then(|codes| StatusCodes::try_new(codes).ok());
    let methods = some_of(&map, "retriableMethods", problems, Field::parsed::<Method>);
    let said = conditions(&map, &HTTP_CONDITIONS, problems);
    let (codes, said) = (codes?, said?);
    if said.is_some_and(|said| said.contains(Condition::RetriableHeaders))
        && let Some(list) = map.get("retryOn")
    {
        let message =
            "retriable_headers retries nothing, since a Retry can't name the headers; use a MeshRetry";
        problems.note(Code::InertSetting, &list.here(), message);
    }
    let by_code = Conditions::of(&[Condition::RetriableStatusCodes]);
    let retry_on = match (said, codes.is_empty()) {
        (None, true) => HTTP_DEFAULT,
        // The codes take the place of the default's 502, 503 and 504.
        (None, false) => by_code.with(Conditions::of(&[Condition::ConnectFailure, Condition::RefusedStream])),
        (Some(said), false) => said.with(by_code),
        (Some(said), true) if said.contains(Condition::RetriableStatusCodes) => {
            let message = "retriable_status_codes is in the list, but there are no retriableStatusCodes";
            return map.get("retryOn").and_then(|field| field.problem(message, problems));
        }
        (Some(said), true) => said,
    };
    let request_headers = methods?.iter().filter_map(|method| by_method(method.as_str())).collect();
    let defaults = defaults(retry_on);
    let retry = RequestRetry { retry_on, status_codes: codes, request_headers, ..retry? };
    Some(HttpPolicy { retry, ..defaults })
}

fn grpc(grpc: &Field<'_>, problems: &mut Problems) -> Option<HttpPolicy> {
    let map = grpc.map_of(&["numRetries", "perTryTimeout", "backOff", "retryOn"], problems)?;
    let retry = common(&map, problems);
    let retry_on = conditions(&map, &GRPC_CONDITIONS, problems)?.unwrap_or(GRPC_DEFAULT);
    Some(HttpPolicy { retry: RequestRetry { retry_on, ..retry? }, ..defaults(retry_on) })
}

/// What is said of HTTP and gRPC alike.
fn common(map: &Map<'_>, problems: &mut Problems) -> Option<RequestRetry> {
    let default = defaults(Conditions::default()).retry;
    let num_retries =
        map.optional("numRetries", default.num_retries, |field| field.whole(1..=u32::MAX, problems));
    let per_try_timeout = map.optional("perTryTimeout", None, |field| field.duration(problems).map(Some));
    let backoff = map.optional("backOff", default.backoff, |field| backoff(&field, problems));
    Some(RequestRetry {
        num_retries: num_retries?,
        per_try_timeout: per_try_timeout?,
        backoff: backoff?,
        ..default
    })
}

/// The conditions that are named. An empty list is none, as if it were left out.
fn conditions(
    map: &Map<'_>,
    words: &[(&str, Condition)],
    problems: &mut Problems,
) -> Option<Option<Conditions>> {
    match map.get("retryOn") {
        None => Some(None),
        Some(field) if field.is_empty_list() => Some(None),
        Some(_) => {
            let said = some_of(map, "retryOn", problems, |field, problems| field.one_of(words, problems))?;
            Some(Some(said.into_iter().collect()))
        }
    }
}
