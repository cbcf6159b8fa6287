//! `Retry`, the policy of old, with sources and destinations by tags.

use super::{
    GRPC_DEFAULT, HTTP_DEFAULT, Resource, SERVICE, Sections, backoff, connect_attempts, defaults, resource,
    service,
};
use crate::dialect::common::{MAX_ENTRIES, some_of};
use crate::dialect::fields::{Field, Map, Problems};
use crate::policy::{
    Destination, HeaderMatcher, HttpPolicy, LabelMatch, Policy, ValueMatcher, WorkloadSelector,
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

pub(super) fn policy(root: &Field<'_>, problems: &mut Problems) -> Option<Policy> {
    let resource: Resource<'_> = resource(root, "Retry", &["sources", "destinations", "conf"], problems)?;
    let spec = if resource.path.is_empty() {
        resource.spec.map(problems)?
    } else {
        resource.spec.map_of(&["sources", "destinations", "conf"], problems)?
    };
    let from = selectors(&spec, problems);
    let to = destinations(&spec, problems);
    let conf = spec.required("conf", problems)?;
    let sections = sections(&conf, problems);
    let from = from?;
    let policy = resource.policy(resource.name, &conf, (from.clone(), to?), precedence(&from), sections?);
    Some(policy)
}

/// Among policies for the same destinations Kuma takes the one with the most tags of the workload, a value before `*`.
fn precedence(from: &[WorkloadSelector]) -> [u32; 5] {
    let count = |selector: &WorkloadSelector| {
        let exact = selector.labels.iter().filter(|(_, value)| *value != LabelMatch::Any).count();
        let less = |count: usize| u32::MAX.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        [less(exact), less(selector.labels.len()), 0, 0, 0]
    };
    from.iter().map(count).min().unwrap_or([u32::MAX, u32::MAX, 0, 0, 0])
}

fn selectors(spec: &Map<'_>, problems: &mut Problems) -> Option<Vec<WorkloadSelector>> {
    spec.required("sources", problems)?;
    some_of(spec, "sources", problems, |selector, problems| {
        let tags = tags(selector, problems)?;
        let labels = tags.into_iter().map(|(name, value)| {
            let text = value.text(problems)?;
            let value = if text == "*" { LabelMatch::Any } else { LabelMatch::Is(text.into()) };
            Some((name.into(), value))
        });
        let labels: Vec<_> = labels.collect();
        let labels = labels.into_iter().collect::<Option<_>>()?;
        Some(WorkloadSelector { labels, ..WorkloadSelector::default() })
    })
}

fn destinations(spec: &Map<'_>, problems: &mut Problems) -> Option<Vec<Destination>> {
    spec.required("destinations", problems)?;
    let all = some_of(spec, "destinations", problems, |selector, problems| {
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
    })?;
    Some(all.into_iter().flatten().collect())
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
    let tcp = map.optional("tcp", None, |field| {
        connect_attempts(&field, &["maxConnectAttempts", "maxConnectAmount"], problems).map(Some)
    });
    Some(Sections { http: http?, grpc: grpc?, tcp: tcp? })
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
    let backoff = map.optional("backOff", default.backoff, |field| backoff(&field, None, problems));
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

/// What a request with this method matches.
pub(super) fn by_method(method: &str) -> Option<HeaderMatcher> {
    let value = ValueMatcher::Exact(method.into());
    Some(HeaderMatcher { name: ":method".parse().ok()?, value, invert: false })
}
