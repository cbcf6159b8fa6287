//! One form for all policies that mean the same, so that what is left to differ is a difference.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::dialect::native::print;
use crate::policy::{
    Address, Destination, HeaderMatcher, HttpPolicy, Network, PathMatch, Pattern, Policy, RequestMatch,
    RequestProtocol, Rest, Route, Target, ValueMatcher,
};
use crate::retry::request::{Condition, Conditions, StatusCodes};
use crate::retry::{ConnectRetry, RequestRetry};

/// Its routes are in the order in which its own document has them.
pub(super) fn policy(policy: &Policy) -> Policy {
    let mut one = policy.clone();
    for selector in &mut one.from {
        selector.labels.sort_by(|(one, _), (other, _)| one.cmp(other));
    }
    one.to = destinations(&policy.to);
    if policy.tcp.max_connect_attempts() == NonZeroU32::MIN {
        // Without a second attempt it does not matter what it would be made for, and when.
        let (attempts, default) = (policy.tcp.max_connect_attempts(), ConnectRetry::default());
        let (each, all) = (policy.tcp.connect_timeout(), policy.tcp.timeout());
        one.tcp = ConnectRetry::try_new(attempts, each, all, default.backoff(), default.retry_on())
            .unwrap_or(default);
    }
    one.targets = targets(&policy.targets);
    one.routes.sort_by_key(|route| route.precedence.within);
    one.routes = one.routes.iter().map(route).collect();
    // Nothing is left for the rest.
    if one.routes.iter().any(|route| route.matcher.is_any()) {
        one.rest = Rest::GoesOn;
    }
    one
}

pub(super) fn route(route: &Route) -> Route {
    let matcher = matcher(&route.matcher);
    Route { matcher, http: Arc::new(http(&route.http)), targets: targets(&route.targets), ..route.clone() }
}

/// Any address is that of every network.
fn destinations(to: &[Destination]) -> Vec<Destination> {
    let everywhere = [Destination { address: Address::Any, port: None }];
    if to == everywhere {
        return Vec::new();
    }
    let all = to.iter().flat_map(|one| match one {
        Destination { address: Address::Any, port: None } => {
            let networks = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|text| text.parse::<Network>().ok());
            networks.map(|network| Destination { address: Address::Network(network), port: None }).collect()
        }
        one => vec![one.clone()],
    });
    all.collect()
}

/// Names are for people.
fn targets(targets: &[Target]) -> Arc<[Target]> {
    targets.iter().map(|target| Target { name: Box::default(), ..target.clone() }).collect()
}

pub(super) fn matcher(matcher: &RequestMatch) -> RequestMatch {
    let RequestMatch { protocol, path: of_path, headers, query } = matcher;
    let header = |header: &HeaderMatcher| HeaderMatcher { value: value(&header.value), ..header.clone() };
    let mut headers: Vec<_> = headers.iter().map(header).collect();
    // All have to match, in whatever order.
    headers.sort_by_cached_key(|header| (header.name.as_str() != ":method", format!("{header:?}")));
    let mut query = query.clone();
    for matcher in &mut query {
        matcher.value = value(&matcher.value);
    }
    RequestMatch { protocol: *protocol, path: path(of_path, *protocol), headers, query }
}

fn path(path: &PathMatch, protocol: RequestProtocol) -> PathMatch {
    if let Some(pattern) = print::unrooted(path).and_then(|expression| Pattern::try_new(&expression).ok()) {
        return PathMatch::Regex(pattern);
    }
    match path {
        PathMatch::Prefix { path, .. } | PathMatch::Segments(path) if matches!(&**path, "" | "/") => {
            PathMatch::Any
        }
        PathMatch::Segments(path) => PathMatch::Segments(path.trim_end_matches('/').into()),
        // A path of gRPC is a service and a method.
        PathMatch::Prefix { path, ignore_case: false } if protocol == RequestProtocol::Grpc => {
            match path.strip_suffix('/').filter(|service| service.rfind('/') == Some(0)) {
                Some(service) => PathMatch::Segments(service.into()),
                None => PathMatch::Prefix { path: path.clone(), ignore_case: false },
            }
        }
        path => path.clone(),
    }
}

fn value(value: &ValueMatcher) -> ValueMatcher {
    match value {
        ValueMatcher::Prefix(text) | ValueMatcher::Suffix(text) | ValueMatcher::Contains(text)
            if text.is_empty() =>
        {
            ValueMatcher::Present
        }
        ValueMatcher::Exact(text) if text.is_empty() => {
            Pattern::try_new("").map_or_else(|_| value.clone(), ValueMatcher::Regex)
        }
        value => value.clone(),
    }
}

fn http(http: &HttpPolicy) -> HttpPolicy {
    // What a request may change is not looked at more closely.
    if http.honour_request_headers {
        return http.clone();
    }
    let mut one = http.clone();
    let retry = &mut one.retry;
    if http.timeout.is_some_and(|timeout| retry.per_try_timeout.is_some_and(|each| each >= timeout)) {
        retry.per_try_timeout = None;
    }
    (retry.retry_on, retry.status_codes) = conditions(retry);
    if !retry.retry_on.contains(Condition::RetriableHeaders) {
        retry.response_headers.clear();
    }
    let is_never = retry.num_retries == 0 || retry.retry_on.is_empty() && !retry.hedge_on_per_try_timeout;
    if is_never {
        // How it would be done does not matter.
        let RequestRetry { per_try_timeout, per_try_idle_timeout, .. } = *retry;
        let none =
            RequestRetry { retry_on: Conditions::default(), num_retries: 0, ..RequestRetry::default() };
        one.retry = RequestRetry { per_try_timeout, per_try_idle_timeout, ..none };
        one.max_buffered_body = HttpPolicy::DEFAULT_MAX_BUFFERED_BODY;
    }
    one
}

/// The conditions as what they are made of: status codes, and ways to get no response.
fn conditions(retry: &RequestRetry) -> (Conditions, StatusCodes) {
    let on = |condition| retry.retry_on.contains(condition);
    let own = on(Condition::RetriableStatusCodes).then(|| retry.status_codes.iter().collect::<Vec<_>>());
    let mut codes = own.unwrap_or_default();
    for (condition, of) in [
        (Condition::Retriable4xx, 409..=409),
        (Condition::GatewayError, 502..=504),
        (Condition::ServerError, 500..=599),
    ] {
        codes.extend(on(condition).then_some(of).into_iter().flatten());
    }
    let codes = StatusCodes::try_new(codes).unwrap_or_default();
    let is_any = on(Condition::Reset) || on(Condition::GatewayError) || on(Condition::ServerError);
    let conditions = Condition::ALL.into_iter().filter(|condition| match condition {
        Condition::RetriableStatusCodes => !codes.is_empty(),
        Condition::RetriableHeaders => on(*condition) && !retry.response_headers.is_empty(),
        Condition::ConnectFailure | Condition::RefusedStream | Condition::ResetBeforeRequest => {
            is_any || on(*condition)
        }
        Condition::Reset => is_any,
        // Never, or among the codes.
        Condition::Http3PostConnectFailure
        | Condition::Retriable4xx
        | Condition::GatewayError
        | Condition::ServerError => false,
        Condition::EnvoyRateLimited
        | Condition::Cancelled
        | Condition::DeadlineExceeded
        | Condition::ResourceExhausted
        | Condition::Internal
        | Condition::Unavailable => on(*condition),
    });
    (conditions.collect(), codes)
}
