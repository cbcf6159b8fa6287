//! `MeshRetry`, the policy of today, with `targetRef` and `to`.
//!
//! Three slips of Kuma's are not repeated: `5XX`, as its documentation writes it, is read; `Canceled` retries what gRPC
//! calls cancelled; and `retriableResponseHeaders` retries by itself.

use std::num::NonZeroU16;
use std::time::Duration;

use super::retry::by_method;
use super::{
    GRPC_DEFAULT, HTTP_DEFAULT, Resource, SERVICE, Sections, backoff, connect_attempts, defaults, resource,
    service,
};
use crate::dialect::common;
use crate::dialect::common::{MAX_ENTRIES, some_of};
use crate::dialect::fields::{Field, Map, Problems};
use crate::dialect::note::Code;
use crate::policy::{
    Address, Destination, HeaderMatcher, HttpPolicy, LabelMatch, Pattern, Policy, ValueMatcher,
    WorkloadSelector,
};
use crate::retry::request::{
    Condition, Conditions, HostSelection, RateLimitedBackoff, RequestRetry, ResetFormat, ResetHeader,
    StatusCodes,
};

const BASE: Duration = Duration::from_millis(25);

const HTTP_CONDITIONS: [(&str, Condition); 9] = [
    ("5xx", Condition::ServerError),
    ("5XX", Condition::ServerError),
    ("GatewayError", Condition::GatewayError),
    ("Reset", Condition::Reset),
    ("Retriable4xx", Condition::Retriable4xx),
    ("ConnectFailure", Condition::ConnectFailure),
    ("EnvoyRatelimited", Condition::EnvoyRateLimited),
    ("RefusedStream", Condition::RefusedStream),
    ("Http3PostConnectFailure", Condition::Http3PostConnectFailure),
];

const GRPC_CONDITIONS: [(&str, Condition); 6] = [
    ("Canceled", Condition::Cancelled),
    ("Cancelled", Condition::Cancelled),
    ("DeadlineExceeded", Condition::DeadlineExceeded),
    ("Internal", Condition::Internal),
    ("ResourceExhausted", Condition::ResourceExhausted),
    ("Unavailable", Condition::Unavailable),
];

const METHODS: [(&str, &str); 9] = [
    ("HttpMethodConnect", "CONNECT"),
    ("HttpMethodDelete", "DELETE"),
    ("HttpMethodGet", "GET"),
    ("HttpMethodHead", "HEAD"),
    ("HttpMethodOptions", "OPTIONS"),
    ("HttpMethodPatch", "PATCH"),
    ("HttpMethodPost", "POST"),
    ("HttpMethodPut", "PUT"),
    ("HttpMethodTrace", "TRACE"),
];

pub(super) fn policies(root: &Field<'_>, problems: &mut Problems) -> Option<Vec<Policy>> {
    let resource: Resource<'_> = resource(root, "MeshRetry", &["spec"], problems)?;
    let spec = resource.spec.map_of(&["targetRef", "to"], problems)?;
    let from = spec.optional("targetRef", (Vec::new(), 0), |field| workloads(&field, problems));
    spec.required("to", problems)?;
    let entries = some_of(&spec, "to", problems, |entry, problems| {
        let map = entry.map_of(&["targetRef", "default"], problems)?;
        let to = map.required("targetRef", problems).and_then(|field| destinations(&field, problems));
        let default = map.required("default", problems)?;
        let sections = sections(&default, problems);
        Some((to?, default, sections?))
    })?;
    let (from, specificity) = from?;
    let among_all = [u32::MAX - specificity, 0, 0, 0, 0];
    let is_alone = entries.len() == 1;
    let policy = |(index, (to, default, sections)): (usize, (_, Field<'_>, _))| {
        let name = if is_alone { resource.name.to_owned() } else { format!("{}/to[{index}]", resource.name) };
        resource.policy(&name, &default, (from.clone(), to), among_all, sections)
    };
    Some(entries.into_iter().enumerate().map(policy).collect())
}

/// Whose connections are meant, and how narrowly that is said.
fn workloads(target: &Field<'_>, problems: &mut Problems) -> Option<(Vec<WorkloadSelector>, u32)> {
    let map = target
        .map_of(&["kind", "name", "namespace", "labels", "tags", "sectionName", "proxyTypes"], problems)?;
    let kind = map.required("kind", problems)?;
    let unsupported = ["name", "namespace", "sectionName", "proxyTypes"];
    let (specificity, labels, known): (u32, _, &[&str]) = match kind.word().as_deref() {
        Some("Mesh") => (0, Some(Vec::new()), &[]),
        Some("MeshSubset") => (1, labels(&map, "tags", problems), &["tags"]),
        Some("Dataplane") => (2, labels(&map, "labels", problems), &["labels"]),
        Some("MeshService") => {
            let name = map.required("name", problems).and_then(|field| field.text(problems));
            (3, name.map(|name| vec![(SERVICE.into(), LabelMatch::Is(name.into()))]), &["name"])
        }
        Some("MeshHTTPRoute" | "MeshGateway" | "MeshServiceSubset") => {
            let message = "whose requests are retried can't be told from it here; use Mesh, MeshSubset, Dataplane or MeshService";
            return kind.problem(message, problems);
        }
        _ => return kind.expected(&"one of Mesh, MeshSubset, Dataplane, MeshService", problems),
    };
    let others = unsupported.iter().chain(&["tags", "labels"]).filter(|name| !known.contains(*name));
    let mut is_sound = true;
    for field in others.filter_map(|name| map.get(name)) {
        let message = format!("it narrows whose requests are retried, which is not supported for {kind}");
        let _: Option<()> = field.problem(message, problems);
        is_sound = false;
    }
    let labels = labels?;
    let from = if labels.is_empty() {
        Vec::new()
    } else {
        vec![WorkloadSelector { labels, ..WorkloadSelector::default() }]
    };
    is_sound.then_some((from, specificity))
}

fn labels(map: &Map<'_>, name: &str, problems: &mut Problems) -> Option<Vec<(Box<str>, LabelMatch)>> {
    let Some(field) = map.get(name) else { return Some(Vec::new()) };
    let entries: Vec<_> = field.map(problems)?.entries().collect();
    if entries.len() > MAX_ENTRIES {
        let message = format!("{} are too many; there may be {MAX_ENTRIES}", entries.len());
        return field.problem(message, problems);
    }
    let read: Vec<_> = entries
        .into_iter()
        .map(|(name, value)| Some((name.into(), LabelMatch::Is(value.text(problems)?.into()))))
        .collect();
    read.into_iter().collect()
}

fn destinations(target: &Field<'_>, problems: &mut Problems) -> Option<Vec<Destination>> {
    let map = target.map_of(&["kind", "name", "namespace", "labels", "sectionName"], problems)?;
    let kind = map.required("kind", problems)?;
    let known: &[&str] = match kind.word().as_deref() {
        Some("Mesh") => &[],
        Some("MeshService") => &["name", "namespace", "sectionName"],
        Some("MeshExternalService" | "MeshMultiZoneService") => &["name"],
        Some("MeshHTTPRoute") => {
            let message = "the requests of a route are told by another document that is not read; name its service instead";
            return kind.problem(message, problems);
        }
        _ => {
            let kinds = "one of Mesh, MeshService, MeshExternalService, MeshMultiZoneService";
            return kind.expected(&kinds, problems);
        }
    };
    let others = ["name", "namespace", "labels", "sectionName"];
    let mut odd = others.iter().filter(|name| !known.contains(name)).filter_map(|name| map.get(name));
    if let Some(field) = odd.next() {
        let message =
            format!("the services that it means can't be told from it for {kind}; name one instead");
        return field.problem(message, problems);
    }
    if known.is_empty() {
        return Some(Vec::new());
    }
    let name_field = map.required("name", problems)?;
    let name = name_field.text(problems)?;
    let namespace = map.optional("namespace", None, |field| field.text(problems).map(Some))?;
    let port = map.optional("sectionName", None, |field| port(&field, problems).map(Some))?;
    let mut to = service(&name_field, problems)?;
    if name == "*" {
        return name_field.expected(&"the name of a service; kind Mesh is all of them", problems);
    }
    let suffix = match kind.word().as_deref() {
        Some("MeshExternalService") => "extsvc",
        Some("MeshMultiZoneService") => "mzsvc",
        _ => "svc",
    };
    let middle = namespace.map(|namespace| format!(".{namespace}")).unwrap_or_default();
    let mut hosts = common::service_hosts(name, namespace);
    hosts.extend(format!("{name}{middle}.{suffix}.mesh.local").parse());
    for host in hosts {
        let destination = Destination { address: Address::Host(host), port: None };
        if !to.contains(&destination) {
            to.push(destination);
        }
    }
    if port.is_some() {
        for destination in &mut to {
            destination.port = port;
        }
    }
    Some(to)
}

/// A section of a service is a port, by number. Its name is said by the service alone.
fn port(section: &Field<'_>, problems: &mut Problems) -> Option<NonZeroU16> {
    let port = section.word().and_then(|word| word.parse().ok());
    port.or_else(|| {
        section.expected(&"the number of a port, since a name is told by the service alone", problems)
    })
}

fn sections(default: &Field<'_>, problems: &mut Problems) -> Option<Sections> {
    let map = default.map_of(&["http", "grpc", "tcp"], problems)?;
    if map.entries().next().is_none() {
        return default.problem("at least one of http, grpc and tcp is required", problems);
    }
    let http = map.optional("http", None, |field| http(&field, problems).map(Some));
    let grpc = map.optional("grpc", None, |field| grpc(&field, problems).map(Some));
    let tcp = map.optional("tcp", None, |field| {
        connect_attempts(&field, &["maxConnectAttempt", "maxConnectAttempts"], problems).map(Some)
    });
    Some(Sections { http: http?, grpc: grpc?, tcp: tcp? })
}

/// An item of `retryOn`.
enum Trigger {
    On(Condition),
    Method(&'static str),
    Code(u16),
}

fn http(http: &Field<'_>, problems: &mut Problems) -> Option<HttpPolicy> {
    let known = [
        "numRetries",
        "perTryTimeout",
        "backOff",
        "rateLimitedBackOff",
        "retryOn",
        "retriableResponseHeaders",
        "retriableRequestHeaders",
        "hostSelection",
        "hostSelectionMaxAttempts",
    ];
    let map = http.map_of(&known, problems)?;
    let retry = common(&map, problems);
    let triggers = some_of(&map, "retryOn", problems, trigger);
    let response_headers = some_of(&map, "retriableResponseHeaders", problems, matcher);
    let request_headers = some_of(&map, "retriableRequestHeaders", problems, matcher);
    let hosts = host_selection(&map, problems);
    let (mut retry_on, mut codes) = (Conditions::default(), StatusCodes::default());
    let mut request_headers = request_headers?;
    for trigger in triggers? {
        match trigger {
            Trigger::On(condition) => retry_on = retry_on.with(Conditions::of(&[condition])),
            // It says which requests, and not when.
            Trigger::Method(method) => request_headers.extend(by_method(method)),
            Trigger::Code(code) => {
                codes = codes.with(code).unwrap_or(codes);
                retry_on = retry_on.with(Conditions::of(&[Condition::RetriableStatusCodes]));
            }
        }
    }
    if retry_on.is_empty() {
        retry_on = HTTP_DEFAULT;
    }
    let response_headers = response_headers?;
    if !response_headers.is_empty() {
        retry_on = retry_on.with(Conditions::of(&[Condition::RetriableHeaders]));
    }
    let retry = RequestRetry {
        retry_on,
        status_codes: codes,
        response_headers,
        request_headers,
        hosts: hosts?,
        ..retry?
    };
    Some(HttpPolicy { retry, ..defaults(retry_on) })
}

fn grpc(grpc: &Field<'_>, problems: &mut Problems) -> Option<HttpPolicy> {
    let known = ["numRetries", "perTryTimeout", "backOff", "rateLimitedBackOff", "retryOn"];
    let map = grpc.map_of(&known, problems)?;
    let retry = common(&map, problems);
    let said =
        some_of(&map, "retryOn", problems, |field, problems| field.one_of(&GRPC_CONDITIONS, problems))?;
    let retry_on = if said.is_empty() { GRPC_DEFAULT } else { said.into_iter().collect() };
    Some(HttpPolicy { retry: RequestRetry { retry_on, ..retry? }, ..defaults(retry_on) })
}

/// What is said of HTTP and gRPC alike.
fn common(map: &Map<'_>, problems: &mut Problems) -> Option<RequestRetry> {
    let default = defaults(Conditions::default()).retry;
    let num_retries =
        map.optional("numRetries", default.num_retries, |field| field.whole(0..=u32::MAX, problems));
    let per_try = map.optional("perTryTimeout", Duration::ZERO, |field| field.duration_or_zero(problems));
    let backoff = map.optional("backOff", default.backoff, |field| backoff(&field, Some(BASE), problems));
    let rate_limited_backoff =
        map.optional("rateLimitedBackOff", None, |field| rate_limited(&field, problems).map(Some));
    Some(RequestRetry {
        num_retries: num_retries?,
        per_try_timeout: per_try.map(|limit| Some(limit).filter(|limit| !limit.is_zero()))?,
        backoff: backoff?,
        rate_limited_backoff: rate_limited_backoff?,
        ..default
    })
}

fn trigger(item: &Field<'_>, problems: &mut Problems) -> Option<Trigger> {
    let word = item.word().unwrap_or_default();
    let condition = HTTP_CONDITIONS.iter().find(|(known, _)| *known == word);
    let method = || METHODS.iter().find(|(known, _)| *known == word);
    if let Some((_, condition)) = condition {
        return Some(Trigger::On(*condition));
    }
    if let Some((_, method)) = method() {
        return Some(Trigger::Method(method));
    }
    let code = word.parse().ok().filter(|code| StatusCodes::RANGE.contains(code)).map(Trigger::Code);
    code.or_else(|| {
        let words: Vec<_> = HTTP_CONDITIONS.iter().map(|(word, _)| *word).collect();
        let expected = format!(
            "one of {}, HttpMethod with a method such as HttpMethodGet, or a status code",
            words.join(", ")
        );
        item.expected(&expected, problems)
    })
}

fn matcher(entry: &Field<'_>, problems: &mut Problems) -> Option<HeaderMatcher> {
    let map = entry.map_of(&["name", "type", "value"], problems)?;
    let name = map.required("name", problems).and_then(|field| field.parsed(problems));
    let words = ["Exact", "Prefix", "RegularExpression", "Present", "Absent"].map(|word| (word, word));
    let kind = map.optional("type", "Exact", |field| field.one_of(&words, problems))?;
    if matches!(kind, "Present" | "Absent") {
        if let Some(value) = map.get("value") {
            return value.problem("a matcher of this type has no value", problems);
        }
        let invert = kind == "Absent";
        return Some(HeaderMatcher { name: name?, value: ValueMatcher::Present, invert });
    }
    let field = map.required("value", problems)?;
    let text = field.text(problems)?;
    let value = match kind {
        "Prefix" => ValueMatcher::Prefix(text.into()),
        "RegularExpression" => match Pattern::try_new(text) {
            Ok(pattern) => ValueMatcher::Regex(pattern),
            Err(error) => return field.expected(&error, problems),
        },
        _ => ValueMatcher::Exact(text.into()),
    };
    Some(HeaderMatcher { name: name?, value, invert: false })
}

fn rate_limited(field: &Field<'_>, problems: &mut Problems) -> Option<RateLimitedBackoff> {
    let map = field.map_of(&["resetHeaders", "maxInterval"], problems)?;
    let named = map.required("resetHeaders", problems);
    let headers = some_of(&map, "resetHeaders", problems, |entry, problems| {
        let map = entry.map_of(&["name", "format"], problems)?;
        let name = map.required("name", problems).and_then(|field| field.parsed(problems));
        let words = [("Seconds", ResetFormat::Seconds), ("UnixTimestamp", ResetFormat::UnixTimestamp)];
        let format = map.required("format", problems).and_then(|field| field.one_of(&words, problems));
        Some(ResetHeader { name: name?, format: format? })
    });
    let max = map.optional("maxInterval", RateLimitedBackoff::DEFAULT_MAX, |field| field.duration(problems));
    named?;
    field.accept(RateLimitedBackoff::try_new(headers?, max?), problems)
}

fn host_selection(map: &Map<'_>, problems: &mut Problems) -> Option<HostSelection> {
    let max_attempts = map.optional("hostSelectionMaxAttempts", 1, |field| {
        field.whole(1..=HostSelection::MAX_ATTEMPTS, problems)
    });
    let omits = some_of(map, "hostSelection", problems, |item, problems| {
        let map = item.map_of(&["predicate", "tags", "updateFrequency"], problems)?;
        let words =
            [("OmitPreviousHosts", true), ("OmitHostsWithTags", false), ("OmitPreviousPriorities", false)];
        let omits = map.required("predicate", problems)?.one_of(&words, problems)?;
        if !omits {
            // It changes only which of the service's endpoints is taken, of which no tags and priorities are known here.
            let message = "nothing is done about it, since the tags and priorities of endpoints are not known here; \
                           a retry goes to any endpoint of the service";
            problems.note(Code::Ignored, &item.here(), message);
        }
        Some(omits)
    })?;
    Some(HostSelection { avoid_previous: omits.contains(&true), max_attempts: max_attempts? })
}
