//! Every effective setting, with where it was said.
//!
//! The structs are taken apart field by field, so that one that gets a new field does not compile here before it is
//! shown.

use super::words;
use crate::dialect::duration::format;
use crate::dialect::size;
use crate::policy::{
    AddedHeaders, ConnectFailure, HttpPolicy, Policy, Protocol, Rest, Setting as About, Sources, Target,
    UpstreamMode,
};
use crate::retry::connect::{DEFAULT_CONNECT_TIMEOUT, Failure};
use crate::retry::request::{Condition, HostSelection, Method, Methods, RateLimitedBackoff};
use crate::retry::{Backoff, BudgetPolicy, RequestRetry};

#[derive(Debug)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// The file, line and field, or why it has none.
    pub(super) source: String,
}

const DEFAULT: &str = "default";

const OF_CONNECTS: [About; 6] = [
    About::ConnectAttempts,
    About::ConnectTimeout,
    About::ConnectsTimeout,
    About::ConnectBackoff,
    About::ConnectRetryOn,
    About::ConnectTargets,
];

/// What a policy says that is neither of requests nor of connects.
pub(super) fn of_policy(policy: &Policy) -> Vec<Setting> {
    let Policy { name: _, origin, from, to, tcp: _, protocol, targets, routes, rest, budget, sources } =
        policy;
    let protocol = match protocol {
        Protocol::Auto => "told by the first bytes",
        Protocol::Http => "HTTP and nothing else",
        Protocol::Grpc => "gRPC, or other HTTP",
        Protocol::Tcp => "relayed untouched",
    };
    let rest = match rest {
        Rest::Passes => "go through as they are",
        Rest::GoesOn => "are asked of less specific policies",
    };
    let said = |name, value, about| Setting { name, value, source: source(sources, about) };
    // Where the document has no one place for it, it is the document's all the same.
    let whose = |name, value, is_said, about| {
        let source =
            if is_said && !sources.is_said(about) { origin.to_string() } else { source(sources, about) };
        Setting { name, value, source }
    };
    let kind =
        |value: &str| Setting { name: "other requests", value: value.to_owned(), source: DEFAULT.to_owned() };
    let mut all = vec![
        whose(
            "workloads",
            words::list(from.iter().map(words::workload), "all"),
            !from.is_empty(),
            About::From,
        ),
        whose(
            "destinations",
            words::list(to.iter().map(words::destination), "all"),
            !to.is_empty(),
            About::To,
        ),
        said("protocol", protocol.to_owned(), About::Protocol),
        said("targets of what is relayed", of_targets(targets), About::ConnectTargets),
    ];
    // A last route for every request leaves none over.
    if !routes.last().is_some_and(|route| route.matcher.is_any()) {
        all.push(kind(rest));
    }
    all.push(said("budget of the destination", of_budget(*budget), About::Budget));
    all.push(Setting {
        name: "budget of the node besides",
        value: of_budget(BudgetPolicy::NODE),
        source: "default of --node-budget-percent and --node-budget-min-per-second".to_owned(),
    });
    all
}

/// How connections are made.
pub(super) fn of_connects(policy: &Policy) -> Vec<Setting> {
    let (attempts, connect_timeout, timeout, backoff, retry_on) = policy.tcp.parts();
    // Where nobody says how connects are made, what is said of requests counts.
    let is_derived = !policy.routes.is_empty()
        && !OF_CONNECTS.iter().any(|about| policy.sources.is_said(*about))
        && policy.tcp == Policy::connects_of(&policy.routes);
    let said = |name, value, about| Setting { name, value, source: source(&policy.sources, about) };
    let derived = |name, value, about| {
        let setting = said(name, value, about);
        if is_derived { Setting { source: "as requests are retried".to_owned(), ..setting } } else { setting }
    };
    let unlimited = match (connect_timeout, attempts.get()) {
        (Some(limit), _) => format(limit),
        (None, 1) => "none".to_owned(),
        (None, _) => format!("{}, none for the last attempt", format(DEFAULT_CONNECT_TIMEOUT)),
    };
    vec![
        derived("attempts", attempts.to_string(), About::ConnectAttempts),
        said("connect timeout", unlimited, About::ConnectTimeout),
        said("timeout of all", or_none(timeout.map(format)), About::ConnectsTimeout),
        derived("backoff", of_backoff(backoff), About::ConnectBackoff),
        said("retry on", join(retry_on.iter().map(Failure::as_str)), About::ConnectRetryOn),
    ]
}

/// What holds for a request.
pub(super) fn of_request(http: &HttpPolicy, sources: &Sources) -> Vec<Setting> {
    let HttpPolicy {
        retry,
        timeout,
        idle_timeout,
        max_buffered_body,
        honour_request_headers,
        added_headers,
        connect_failure,
        upstream,
        timeout_alt_response,
    } = http;
    let RequestRetry {
        retry_on,
        status_codes,
        response_headers,
        request_headers,
        methods,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        backoff,
        rate_limited_backoff,
        hosts: HostSelection { avoid_previous, max_attempts },
        hedge_on_per_try_timeout,
        max_concurrent_retries,
    } = retry;
    let methods = match methods {
        Methods::Any => "any".to_owned(),
        Methods::Idempotent => "idempotent".to_owned(),
        Methods::These(methods) => join(methods.iter().map(Method::as_str)),
    };
    let per_try = match (per_try_timeout, http.per_try_timeout()) {
        (Some(said), None) => format!("{}, ignored since the timeout is not longer", format(*said)),
        (_, holds) => or_none(holds.map(format)),
    };
    let hosts = if *avoid_previous {
        format!("another address than those tried, if {max_attempts} looks find one")
    } else {
        "the address of the attempt before".to_owned()
    };
    let added = match added_headers {
        AddedHeaders::None => "none",
        AddedHeaders::Envoy => "Envoy's",
    };
    let connect_failure = match connect_failure {
        ConnectFailure::Errno => "the error of connect()",
        ConnectFailure::Unavailable => "503",
    };
    let upstream = match upstream {
        UpstreamMode::Connection => "one for each of the client's",
        UpstreamMode::Pool => "shared",
    };
    let timeout_answer = if *timeout_alt_response { "204" } else { "504" };
    let concurrent = max_concurrent_retries.map_or_else(|| "no limit".to_owned(), |max| max.to_string());
    let yes_or_no = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let matchers = |matchers: &[_], nothing: &str| words::list(matchers.iter().map(words::header), nothing);
    let said = |name, value, about| Setting { name, value, source: source(sources, about) };
    vec![
        said("retry on", join(retry_on.iter().map(Condition::as_str)), About::RetryOn),
        said("status codes", join(ranges(status_codes.iter()).into_iter()), About::StatusCodes),
        said("response headers", matchers(response_headers, "none"), About::ResponseHeaders),
        said("request headers", matchers(request_headers, "any"), About::RequestHeaders),
        said("methods", methods, About::Methods),
        said("retries", num_retries.to_string(), About::NumRetries),
        said("per-try timeout", per_try, About::PerTryTimeout),
        said("per-try idle timeout", or_none(per_try_idle_timeout.map(format)), About::PerTryIdleTimeout),
        said("timeout", or_none(timeout.map(format)), About::Timeout),
        Setting { name: "answer to a timeout", value: timeout_answer.to_owned(), source: DEFAULT.to_owned() },
        said("idle timeout", or_none(idle_timeout.map(format)), About::IdleTimeout),
        said("backoff", of_backoff(*backoff), About::Backoff),
        said(
            "rate-limited backoff",
            or_none(rate_limited_backoff.as_ref().map(of_rate_limited)),
            About::RateLimitedBackoff,
        ),
        said("a retry goes to", hosts, About::HostSelection),
        said("hedging", yes_or_no(*hedge_on_per_try_timeout), About::HedgeOnPerTryTimeout),
        said("concurrent retries", concurrent, About::MaxConcurrentRetries),
        said(
            "body kept",
            size::format(u64::try_from(*max_buffered_body).unwrap_or(u64::MAX)),
            About::MaxBufferedBody,
        ),
        said("request's own headers", yes_or_no(*honour_request_headers), About::HonourRequestHeaders),
        said("added headers", added.to_owned(), About::AddedHeaders),
        said("after no connect", connect_failure.to_owned(), About::ConnectFailure),
        said("upstream connections", upstream.to_owned(), About::Upstream),
    ]
}

fn source(sources: &Sources, about: About) -> String {
    match sources.place(about) {
        Some(place) if place.is_said => place.to_string(),
        Some(_) | None => DEFAULT.to_owned(),
    }
}

fn of_backoff(backoff: Backoff) -> String {
    format!("{}, doubling up to {}", format(backoff.base()), format(backoff.max()))
}

fn of_rate_limited(limited: &RateLimitedBackoff) -> String {
    let headers = limited.reset_headers().iter();
    let headers = join(headers.map(|header| format!("{} ({})", header.name, header.format.as_str())));
    format!("by {headers}, up to {}", format(limited.max()))
}

fn of_budget(budget: BudgetPolicy) -> String {
    let (percent, min_per_second, interval) = budget.parts();
    format!("{percent}% of what began in {}, and {min_per_second} a second", format(interval))
}

fn of_targets(targets: &[Target]) -> String {
    let all = targets.iter().map(|target| format!("{} ({})", target.name, words::target(target, targets)));
    words::list(all, "where it was dialled to")
}

/// Numbers in their order, three and more in a row as the first and the last.
fn ranges(numbers: impl Iterator<Item = u16>) -> Vec<String> {
    let mut rows: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match rows.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            Some(_) | None => rows.push((number, number)),
        }
    }
    let words = rows.into_iter().flat_map(|(first, last)| match last - first {
        0 => vec![first.to_string()],
        1 => vec![first.to_string(), last.to_string()],
        _ => vec![format!("{first}-{last}")],
    });
    words.collect()
}

fn join<T: ToString>(all: impl Iterator<Item = T>) -> String {
    let words: Vec<_> = all.map(|one| one.to_string()).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| "none".to_owned())
}
