//! Policies to documents: what is read back from one is the policy that it was made of, as far as the format can say it.
//!
//! Nothing is written that a document which leaves it out means too.

use std::time::Duration;

use super::document::{
    ApiVersion, BackOff, Budget, Bytes, From, HostSelection, Http, Kind, List, Match, Matcher, Metadata,
    Methods, NamedMethods, PodSelector, QueryMatcher, RateLimitedBackOff, ResetHeader, RetryPolicy, Route,
    Settings, Spec, Target, Tcp,
};
use super::words::{MatchType, PresentType, Word};
use crate::dialect::common::MAX_ENTRIES;
use crate::dialect::{duration, size};
use crate::policy::{
    self, HeaderMatcher, HttpPolicy, LabelMatch, PathMatch, Policy, PolicyName, Protocol, RequestMatch,
    RequestProtocol, Rest, TargetAddress, ValueMatcher, WorkloadSelector,
};
use crate::retry::request::{self, Condition, Conditions, Method, RateLimitedBackoff, ResetFormat};
use crate::retry::{Backoff, BudgetPolicy, ConnectRetry, RequestRetry};

pub(in crate::dialect) mod to;

/// The policy as a document of this name. Its routes have these priorities.
pub(in crate::dialect) fn document(
    policy: &Policy,
    name: &PolicyName,
    priority: impl Fn([u32; 5]) -> u32,
) -> RetryPolicy {
    let metadata = Metadata {
        name: name.name().to_owned(),
        namespace: name.namespace().map(str::to_owned),
        ..Metadata::default()
    };
    let spec = Spec {
        from: some(policy.from.iter().map(workload).collect()),
        to: some(to::entries(&policy.to, name.namespace())),
        fall_through: (policy.rest == Rest::GoesOn).then_some(true),
        protocol: unless(policy.protocol, Protocol::Auto).map(Word),
        tcp: tcp(policy),
        http: http(policy, priority),
        budget: budget(policy.budget),
    };
    RetryPolicy { api_version: ApiVersion::V1Alpha1, kind: Kind::RetryPolicy, metadata, spec }
}

#[expect(clippy::needless_pass_by_value, reason = "most are numbers and words")]
fn unless<T: PartialEq>(value: T, default: T) -> Option<T> {
    (value != default).then_some(value)
}

fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}

pub(in crate::dialect) fn workload(selector: &WorkloadSelector) -> From {
    let WorkloadSelector { namespace, labels, cgroup } = selector;
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    let match_labels = labels.iter().map(|(name, value)| {
        let value = match value {
            LabelMatch::Any => "*",
            LabelMatch::Is(value) => value,
        };
        (name.to_string(), value.to_owned())
    });
    // An entry says something, and be it that no label is asked for.
    let is_needed = !labels.is_empty() || namespace.is_none() && cgroup.is_none();
    From {
        pod_selector: is_needed.then(|| PodSelector { match_labels: match_labels.collect() }),
        namespace: text(namespace),
        cgroup: text(cgroup),
    }
}

fn tcp(policy: &Policy) -> Option<Tcp> {
    let Policy { tcp, targets, routes, .. } = policy;
    if targets.is_empty() && *tcp == Policy::connects_of(routes) {
        return None;
    }
    let default = ConnectRetry::default();
    Some(Tcp {
        max_connect_attempts: unless(tcp.max_connect_attempts(), default.max_connect_attempts())
            .map(Into::into),
        connect_timeout: tcp.connect_timeout().map(duration::format),
        timeout: tcp.timeout().map(duration::format),
        back_off: unless(tcp.backoff(), default.backoff()).map(backoff),
        retry_on: unless(tcp.retry_on(), default.retry_on()).map(|set| set.iter().map(Word).collect()),
        targets: some(targets.iter().map(target).collect()),
    })
}

pub(in crate::dialect) fn backoff(backoff: Backoff) -> BackOff {
    let (base, max) = (backoff.base(), backoff.max());
    let default = Backoff::try_new(base, None).map(|default| default.max());
    BackOff {
        base_interval: duration::format(base),
        max_interval: (default != Ok(max)).then(|| duration::format(max)),
    }
}

pub(in crate::dialect) fn budget(budget: BudgetPolicy) -> Option<Budget> {
    let default = BudgetPolicy::default();
    (budget != default).then(|| Budget {
        percent: unless(budget.percent(), default.percent()),
        min_per_second: unless(budget.min_per_second(), default.min_per_second()),
        interval: unless(budget.interval(), default.interval()).map(duration::format),
    })
}

fn http(policy: &Policy, priority: impl Fn([u32; 5]) -> u32) -> Option<Http> {
    let default = HttpPolicy::default();
    let (section, routes) = match (policy.rest, &policy.routes[..]) {
        (_, []) => return None,
        // What the section says of all requests comes last.
        (Rest::Passes, [routes @ .., last]) => ((*last.http).clone(), routes),
        (Rest::GoesOn, routes) => (common(routes), routes),
    };
    let routes = routes.iter().enumerate().map(|(index, route)| Route {
        name: name(&route.name, &format!("routes[{index}]")),
        priority: unless(priority(route.precedence.among_all), 0),
        r#match: matcher(&route.matcher),
        targets: some(route.targets.iter().map(target).collect()),
        settings: settings(&route.http, &section),
    });
    Some(Http { routes: some(routes.collect()), settings: settings(&section, &default) })
}

/// What all routes say alike, and the default where they do not.
fn common(routes: &[policy::Route]) -> HttpPolicy {
    let mut common = HttpPolicy::default();
    macro_rules! take {
        ($routes:expr, $($field:ident).+) => {
            let mut all = $routes.map(|route| &route.http.$($field).+);
            if let Some(first) = all.next().filter(|first| all.all(|other| other == *first)) {
                common.$($field).+ = first.clone();
            }
        };
    }
    macro_rules! all {
        ($is_meant:expr, $($($field:ident).+),+) => {
            $(take!(routes.iter().filter(|route| $is_meant(&route.http)), $($field).+);)+
        };
    }
    all!(|_: &HttpPolicy| true, timeout, idle_timeout, honour_request_headers, added_headers);
    all!(|_: &HttpPolicy| true, connect_failure, upstream, retry.per_try_timeout, retry.per_try_idle_timeout);
    // What a route could not take back has to be what all of them say that are ever retried.
    let may_be = |http: &HttpPolicy| !is_never(http);
    all!(may_be, retry.status_codes, retry.response_headers, retry.request_headers);
    all!(may_be, retry.rate_limited_backoff, retry.max_concurrent_retries);
    // How it is retried is said for those that are.
    let is_retried = |http: &HttpPolicy| !is_never(http) && http.retry.num_retries > 0;
    all!(is_retried, retry.retry_on, retry.methods, retry.num_retries, retry.backoff, retry.hosts);
    all!(is_retried, retry.hedge_on_per_try_timeout, max_buffered_body);
    if !routes.iter().any(|route| is_retried(&route.http)) {
        common.retry.num_retries = 0;
    }
    // As it will be read: a list that is there implies its condition, and a condition needs its list.
    let implied = implied(&common);
    let said = common
        .retry
        .retry_on
        .iter()
        .filter(|condition| common.honour_request_headers || !is_implied(*condition));
    let said: Conditions = said.collect();
    let is_sayable = !said.is_empty() || !implied.is_empty();
    common.retry.retry_on = if is_sayable { said } else { Conditions::DEFAULT }.with(implied);
    common
}

/// Whether no request is ever retried, for lack of a condition, which a document can only say by their number.
fn is_never(http: &HttpPolicy) -> bool {
    let HttpPolicy { retry, honour_request_headers, .. } = http;
    retry.retry_on.is_empty() && !retry.hedge_on_per_try_timeout && !honour_request_headers
}

/// The conditions that a list implies.
fn implied(http: &HttpPolicy) -> Conditions {
    let RequestRetry { status_codes, response_headers, .. } = &http.retry;
    let codes = (!status_codes.is_empty()).then_some(Condition::RetriableStatusCodes);
    let headers = (!response_headers.is_empty()).then_some(Condition::RetriableHeaders);
    codes.into_iter().chain(headers).collect()
}

fn is_implied(condition: Condition) -> bool {
    matches!(condition, Condition::RetriableStatusCodes | Condition::RetriableHeaders)
}

/// What is said where it is not as in `base`.
pub(in crate::dialect) fn settings(http: &HttpPolicy, base: &HttpPolicy) -> Settings {
    let never;
    let http = if is_never(http) {
        let RequestRetry { per_try_timeout, per_try_idle_timeout, .. } = http.retry;
        let retry =
            RequestRetry { num_retries: 0, per_try_timeout, per_try_idle_timeout, ..base.retry.clone() };
        never = HttpPolicy { retry, max_buffered_body: base.max_buffered_body, ..http.clone() };
        &never
    } else {
        http
    };
    let (retry, base_retry) = (&http.retry, &base.retry);
    let limit = |limit: Option<Duration>, base| {
        unless(limit, base).map(|limit| duration::format(limit.unwrap_or_default()))
    };
    let matchers = |matchers: &[HeaderMatcher], base: &[HeaderMatcher]| {
        unless(matchers, base).map(|matchers| matchers.iter().map(header).collect())
    };
    let codes = unless(&retry.status_codes, &base_retry.status_codes);
    Settings {
        retry_on: conditions(http, base),
        num_retries: unless(retry.num_retries, base_retry.num_retries),
        retriable_status_codes: codes.map(|codes| codes.iter().collect()),
        retriable_headers: matchers(&retry.response_headers, &base_retry.response_headers),
        retriable_request_headers: matchers(&retry.request_headers, &base_retry.request_headers),
        methods: unless(&retry.methods, &base_retry.methods).map(methods),
        per_try_timeout: limit(retry.per_try_timeout, base_retry.per_try_timeout),
        per_try_idle_timeout: limit(retry.per_try_idle_timeout, base_retry.per_try_idle_timeout),
        timeout: limit(http.timeout, base.timeout),
        idle_timeout: limit(http.idle_timeout, base.idle_timeout),
        back_off: unless(retry.backoff, base_retry.backoff).map(backoff),
        rate_limited_back_off: unless(&retry.rate_limited_backoff, &base_retry.rate_limited_backoff)
            .and_then(|backoff| backoff.as_ref().map(rate_limited)),
        host_selection: unless(retry.hosts, base_retry.hosts).map(hosts),
        hedge_on_per_try_timeout: unless(retry.hedge_on_per_try_timeout, base_retry.hedge_on_per_try_timeout),
        max_concurrent_retries: unless(retry.max_concurrent_retries, base_retry.max_concurrent_retries)
            .flatten(),
        max_buffered_body: unless(http.max_buffered_body, base.max_buffered_body).map(bytes),
        honour_request_headers: unless(http.honour_request_headers, base.honour_request_headers),
        add_headers: unless(http.added_headers, base.added_headers).map(Word),
        on_connect_failure: unless(http.connect_failure, base.connect_failure).map(Word),
        upstream: unless(http.upstream, base.upstream).map(Word),
    }
}

fn conditions(http: &HttpPolicy, base: &HttpPolicy) -> Option<List<Word<Condition>>> {
    let (own, implied) = (http.retry.retry_on, implied(http));
    if own == base.retry.retry_on.with(implied) {
        return None;
    }
    let rest: Vec<_> = own.iter().filter(|condition| !implied.contains(*condition)).collect();
    let said = if rest.is_empty() { own.iter().collect() } else { rest };
    Some(said.into_iter().map(Word).collect())
}

fn methods(methods: &request::Methods) -> Methods {
    match methods {
        request::Methods::Any => Methods::Named(NamedMethods::Any),
        request::Methods::Idempotent => Methods::Named(NamedMethods::Idempotent),
        request::Methods::These(methods) => Methods::These(methods.iter().map(ToString::to_string).collect()),
    }
}

fn bytes(bytes: usize) -> Bytes {
    let number = u64::try_from(bytes).unwrap_or(u64::MAX);
    let text = size::format(number);
    if text.ends_with('B') { Bytes::Text(text) } else { Bytes::Number(number) }
}

fn hosts(hosts: request::HostSelection) -> HostSelection {
    let default = request::HostSelection::default();
    HostSelection {
        avoid_previous: unless(hosts.avoid_previous, default.avoid_previous),
        max_attempts: unless(hosts.max_attempts, default.max_attempts),
    }
}

fn rate_limited(backoff: &RateLimitedBackoff) -> RateLimitedBackOff {
    let header = |header: &request::ResetHeader| ResetHeader {
        name: header.name.to_string(),
        format: unless(header.format, ResetFormat::Seconds).map(Word),
    };
    RateLimitedBackOff {
        reset_headers: backoff.reset_headers().iter().map(header).collect(),
        max_interval: unless(backoff.max(), RateLimitedBackoff::DEFAULT_MAX).map(duration::format),
    }
}

/// A name as documents may have it, if it is not the one that is there without it.
fn name(name: &str, default: &str) -> Option<String> {
    const MAX: usize = 253;
    let plain: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = plain.floor_char_boundary(MAX);
    plain.get(..end).filter(|name| !name.is_empty() && *name != default).map(str::to_owned)
}

pub(in crate::dialect) fn target(target: &policy::Target) -> Target {
    let weight = unless(target.weight, 1);
    let named = |default: &str, of: Target| Target { name: name(&target.name, default), weight, ..of };
    match &target.address {
        TargetAddress::Original => named("original", Target { original: Some(true), ..Target::default() }),
        TargetAddress::Host { host, port } => {
            let (host, port) = (host.to_string(), port.map(Into::into));
            named(&host.clone(), Target { host: Some(host), port, ..Target::default() })
        }
        TargetAddress::Addresses(addresses) => {
            // One port for all, or each with its own.
            let first = addresses.first().and_then(|(_, port)| *port);
            let common = first.filter(|_| addresses.iter().all(|(_, port)| *port == first));
            let written = addresses.iter().map(|(address, port)| match port.filter(|_| common.is_none()) {
                Some(port) => std::net::SocketAddr::new(*address, port.get()).to_string(),
                None => address.to_string(),
            });
            let (addresses, port) = (Some(written.collect()), common.map(Into::into));
            named("addresses", Target { port, addresses, ..Target::default() })
        }
    }
}

pub(in crate::dialect) fn matcher(matcher: &RequestMatch) -> Option<Match> {
    let RequestMatch { protocol, path: of_path, headers, query } = matcher;
    // A method is said apart, and read before the headers.
    let mut rest: Vec<_> = headers.iter().collect();
    rest.sort_by_key(|header| header.name.as_str() != ":method");
    let mut written = Match {
        grpc: match protocol {
            RequestProtocol::Any => None,
            RequestProtocol::Http => Some(false),
            RequestProtocol::Grpc => Some(true),
        },
        path: path(of_path),
        ..Match::default()
    };
    if let Some(first) = rest.first().filter(|first| first.name.as_str() == ":method" && !first.invert) {
        match &first.value {
            ValueMatcher::Exact(text) if text.parse::<Method>().is_ok() => {
                written.method = Some(text.to_string());
            }
            ValueMatcher::Regex(pattern) => written.methods = several(pattern.as_str()),
            _ => {}
        }
    }
    if written.method.is_some() || written.methods.is_some() {
        rest.remove(0);
    }
    written.headers = some(rest.into_iter().map(header).collect());
    let query = query.iter().map(|matcher| {
        let (kind, value, start, end) = value(&matcher.value);
        let r#type = unless(kind, MatchType::Exact).map(|kind| Word(PresentType(kind)));
        QueryMatcher { name: matcher.name.to_string(), r#type, value, start, end }
    });
    written.query = some(query.collect());
    unless(written, Match::default())
}

/// The methods that an expression lists.
fn several(pattern: &str) -> Option<List<String>> {
    let words: Vec<_> = pattern.split('|').collect();
    let are_methods =
        (2..=MAX_ENTRIES).contains(&words.len()) && words.iter().all(|word| word.parse::<Method>().is_ok());
    are_methods.then(|| words.into_iter().map(str::to_owned).collect())
}

fn path(path: &PathMatch) -> Option<super::document::PathMatch> {
    use super::document::PathMatch as Written;
    let ignored = |ignore_case: bool| ignore_case.then_some(true);
    let regex = |regex: String| Written { regex: Some(regex), ..Written::default() };
    if let Some(expression) = unrooted(path) {
        return Some(regex(expression));
    }
    Some(match path {
        PathMatch::Any => return None,
        PathMatch::Prefix { path, .. } if path.is_empty() => return None,
        PathMatch::Exact { path, ignore_case } => Written {
            exact: Some(path.to_string()),
            ignore_case: ignored(*ignore_case),
            ..Written::default()
        },
        PathMatch::Prefix { path, ignore_case } => Written {
            prefix: Some(path.to_string()),
            ignore_case: ignored(*ignore_case),
            ..Written::default()
        },
        PathMatch::Segments(path) => Written { segments: Some(path.to_string()), ..Written::default() },
        PathMatch::Regex(pattern) => regex(pattern.as_str().to_owned()),
    })
}

/// What does not begin as paths do, as the expression that it can be said by: `*`, and what other systems take for a path.
pub(in crate::dialect) fn unrooted(path: &PathMatch) -> Option<String> {
    let (text, ignore_case, end) = match path {
        PathMatch::Exact { path, ignore_case } => (path, *ignore_case, ""),
        PathMatch::Prefix { path, ignore_case } if !path.is_empty() => (path, *ignore_case, ".*"),
        PathMatch::Any | PathMatch::Prefix { .. } | PathMatch::Segments(_) | PathMatch::Regex(_) => {
            return None;
        }
    };
    let flags = if ignore_case { "is-u" } else { "s-u" };
    (!text.starts_with('/')).then(|| format!("(?{flags}:{}{end})", regex::escape(text)))
}

fn header(matcher: &HeaderMatcher) -> Matcher {
    let (kind, value, start, end) = value(&matcher.value);
    let (kind, invert) = match (kind, matcher.invert) {
        (MatchType::Present, true) => (MatchType::Absent, None),
        (kind, invert) => (kind, invert.then_some(true)),
    };
    let r#type = unless(kind, MatchType::Exact).map(Word);
    Matcher { name: matcher.name.to_string(), r#type, value, start, end, invert }
}

type Written = (MatchType, Option<String>, Option<i64>, Option<i64>);

fn value(value: &ValueMatcher) -> Written {
    let text = |kind, text: &str| (kind, Some(text.to_owned()), None, None);
    match value {
        // Texts are not empty; what these mean can be said otherwise.
        ValueMatcher::Exact(value) if value.is_empty() => text(MatchType::RegularExpression, ""),
        ValueMatcher::Prefix(value) | ValueMatcher::Suffix(value) | ValueMatcher::Contains(value)
            if value.is_empty() =>
        {
            (MatchType::Present, None, None, None)
        }
        ValueMatcher::Present => (MatchType::Present, None, None, None),
        ValueMatcher::Exact(value) => text(MatchType::Exact, value),
        ValueMatcher::Prefix(value) => text(MatchType::Prefix, value),
        ValueMatcher::Suffix(value) => text(MatchType::Suffix, value),
        ValueMatcher::Contains(value) => text(MatchType::Contains, value),
        ValueMatcher::Regex(pattern) => text(MatchType::RegularExpression, pattern.as_str()),
        ValueMatcher::Range { start, end } => {
            (MatchType::Range, None, unless(*start, i64::MIN), unless(*end, i64::MAX))
        }
    }
}

#[cfg(test)]
pub(in crate::dialect) mod tests;
