//! What is legal in a policy, and does nothing or harm.
//!
//! The rules ask the policy, whatever document it came from, and say which setting they mean; the dialect knows where its
//! documents have that. What a request's own headers may change (`honour_request_headers`) is not called inert.

mod between;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub(super) use between::between;

use super::duration;
use super::fields::Problems;
use super::note::Code;
use crate::policy::{Address, HeaderMatcher, Headers, HttpPolicy, Policy, Protocol, Route, Setting, Sources};
use crate::retry::request::{Condition, Conditions, Methods, RequestRetry};
use crate::retry::{Backoff, BudgetPolicy};

/// What a rule says about a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) code: Code,
    pub(super) about: Setting,
    pub(super) message: String,
}

/// Notes what there is to know about each of these policies.
pub(super) fn note_all(policies: &[Policy], problems: &mut Problems) {
    for policy in policies {
        note(policy, problems);
    }
    unreachable_routes(policies, problems);
}

fn note(policy: &Policy, problems: &mut Problems) {
    let Policy { tcp, budget, sources, routes, .. } = policy;
    let connects =
        [(Setting::ConnectTimeout, tcp.connect_timeout()), (Setting::ConnectsTimeout, tcp.timeout())];
    tell(tiny_timeouts(&connects), sources, problems);
    let retries = tcp.max_connect_attempts().get() > 1 || routes.iter().any(|route| may_retry(&route.http));
    let (mut told, mut warned) = (HashSet::new(), HashSet::new());
    for route in routes {
        // What several routes have in common is told once.
        let said = (Arc::as_ptr(&route.http), Arc::as_ptr(&route.sources));
        if told.insert(said) {
            tell(
                of_requests(&route.http, policy.protocol, &route.sources, sources),
                &route.sources,
                problems,
            );
        }
        if may_retry(&route.http) && takes_unsafe_methods(route) && warned.insert(said) {
            tell(dangerous_methods(&route.http.retry, &route.sources), &route.sources, problems);
        }
    }
    tell(no_budget(*budget).filter(|_| retries), sources, problems);
    tell(untold_hosts(policy), sources, problems);
}

/// Connects to hosts that nothing tells: when a connection is made nobody has said a name yet.
fn untold_hosts(policy: &Policy) -> Option<Finding> {
    let is_wildcard = |address: &Address| matches!(address, Address::Suffix(_));
    let wildcards = policy.to.iter().map(|destination| &destination.address).filter(|to| is_wildcard(to));
    let is_untold = policy.routes.is_empty() && wildcards.count() > 0;
    is_untold.then(|| {
        let message = "a wildcard is told by requests alone, and nothing is said of requests: no connect follows it; say \
                       something of requests, or name hosts or networks";
        Finding::new(Code::InertSetting, Setting::To, message)
    })
}

fn tell(findings: impl IntoIterator<Item = Finding>, sources: &Sources, problems: &mut Problems) {
    for Finding { code, about, message } in findings {
        // A document that has nothing at all to point at has said nothing.
        if let Some(place) = sources.nearest(about) {
            problems.note(code, place, message);
        }
    }
}

/// What there is to know of the settings for requests.
fn of_requests(
    http: &HttpPolicy,
    protocol: Protocol,
    sources: &Sources,
    of_policy: &Sources,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    // A route that says no more than `numRetries: 0` needs not say that the rest of its policy is not meant.
    let inherits = |about| sources.place(about) == of_policy.place(about);
    let is_meant = |about| sources.is_said(about) && (inherits(Setting::NumRetries) || !inherits(about));
    let RequestRetry { per_try_timeout, per_try_idle_timeout, .. } = http.retry;
    findings.extend(tiny_timeouts(&[
        (Setting::PerTryTimeout, per_try_timeout),
        (Setting::PerTryIdleTimeout, per_try_idle_timeout),
        (Setting::Timeout, http.timeout),
        (Setting::IdleTimeout, http.idle_timeout),
    ]));
    findings.extend(inert_per_try_timeout(http));
    findings.extend(inert_http3(&http.retry));
    findings.extend(inert_hedging(http, is_meant));
    if may_retry(http) {
        findings.extend(without_effect(http));
        findings.extend(inert_grpc(&http.retry, protocol));
        findings.extend(short_timeout(http));
    } else {
        findings.extend(inert_conditions(&http.retry, is_meant));
    }
    findings
}

/// The routes that an earlier one hides. What a document says of one route may be a route of several policies: it is
/// hidden where it is so in all of them.
fn unreachable_routes(policies: &[Policy], problems: &mut Problems) {
    let all: Vec<_> = policies.iter().flat_map(with_what_hides_it).collect();
    let said = |route: &'_ Route| (route.sources.nearest(Setting::Matches).cloned(), route.name.clone());
    let reached: HashSet<_> =
        all.iter().filter(|(_, hiding)| hiding.is_none()).map(|(route, _)| said(route)).collect();
    for (route, hiding) in all {
        if let Some(Route { name, .. }) = hiding
            && !reached.contains(&said(route))
        {
            let message =
                format!("no request takes it, since {name} comes first and takes them all; reorder them");
            let finding = Finding::new(Code::UnreachableRoute, Setting::Matches, message);
            tell([finding], &route.sources, problems);
        }
    }
}

/// The routes of a policy, each with an earlier one that hides it. Of the earlier ones so many are looked at, which are
/// all that other formats than Istio's may have.
fn with_what_hides_it(policy: &Policy) -> Vec<(&Route, Option<&Route>)> {
    const HIDING: usize = 256;
    let mut in_order: Vec<_> = policy.routes.iter().collect();
    in_order.sort_by_key(|route| route.precedence);
    let hiding = |(index, route): (usize, &&'_ Route)| {
        let earlier = in_order.iter().take(index.min(HIDING));
        earlier.copied().find(|earlier| earlier.matcher.covers(&route.matcher))
    };
    let all = in_order.iter().enumerate().map(|(index, route)| (*route, hiding((index, route))));
    // That nothing is left for what a policy says of all other requests is no mistake.
    all.filter(|(route, _)| !Arc::ptr_eq(&route.sources, &policy.sources)).collect()
}

/// The conditions that some response meets.
const RESPONSES: Conditions =
    ONLY_RESPONSES.with(Conditions::of(&[Condition::GatewayError, Condition::ServerError]));

/// The conditions that nothing but a response meets.
const ONLY_RESPONSES: Conditions = GRPC_STATUSES.with(Conditions::of(&[
    Condition::EnvoyRateLimited,
    Condition::RetriableStatusCodes,
    Condition::RetriableHeaders,
    Condition::Retriable4xx,
]));

const GRPC_STATUSES: Conditions = Conditions::of(&[
    Condition::Cancelled,
    Condition::DeadlineExceeded,
    Condition::ResourceExhausted,
    Condition::Internal,
    Condition::Unavailable,
]);

/// The conditions that do not tell whether the request was executed, and may well be met by one that was.
const ANY_END: Conditions =
    Conditions::of(&[Condition::Reset, Condition::GatewayError, Condition::ServerError]);

impl Finding {
    fn new(code: Code, about: Setting, message: impl Into<String>) -> Self {
        Self { code, about, message: message.into() }
    }
}

/// Whether requests are retried without their asking for it.
fn may_repeat(http: &HttpPolicy) -> bool {
    http.retry.num_retries > 0 && !http.retry.retry_on.is_empty()
}

fn may_retry(http: &HttpPolicy) -> bool {
    http.retry.num_retries > 0 || http.honour_request_headers
}

fn tiny_timeouts(timeouts: &[(Setting, Option<Duration>)]) -> impl Iterator<Item = Finding> {
    let tiny = |&(setting, timeout): &(Setting, Option<Duration>)| {
        let timeout = timeout.filter(|timeout| *timeout < Duration::from_millis(1))?;
        let message = format!("{} is hardly enough for any server; is the unit right?", text(timeout));
        Some(Finding::new(Code::TinyTimeout, setting, message))
    };
    timeouts.iter().filter_map(tiny)
}

fn inert_per_try_timeout(http: &HttpPolicy) -> Option<Finding> {
    let (per_try, timeout) = (http.retry.per_try_timeout?, http.timeout?);
    http.per_try_timeout().is_none().then(|| {
        let (per_try, timeout) = (text(per_try), text(timeout));
        let message = format!(
            "it is ignored, since {per_try} for one attempt is not less than the {timeout} for all of them; shorten it, or \
             leave it out"
        );
        Finding::new(Code::InertPerTryTimeout, Setting::PerTryTimeout, message)
    })
}

fn inert_http3(retry: &RequestRetry) -> Option<Finding> {
    let condition = Condition::Http3PostConnectFailure;
    retry.retry_on.contains(condition).then(|| {
        let message = "it can never be met, since redial does not speak HTTP/3; take it out";
        Finding::new(Code::InertHttp3, Setting::Condition(condition), message)
    })
}

fn inert_hedging(http: &HttpPolicy, is_meant: impl Fn(Setting) -> bool) -> Option<Finding> {
    let HttpPolicy { retry, honour_request_headers, .. } = http;
    let is_inert = retry.hedge_on_per_try_timeout
        && !honour_request_headers
        && (retry.per_try_timeout.is_none()
            || (retry.num_retries == 0 && is_meant(Setting::HedgeOnPerTryTimeout)));
    is_inert.then(|| {
        let message = "nothing is hedged: that takes a timeout of each try, and at least one retry";
        Finding::new(Code::InertHedging, Setting::HedgeOnPerTryTimeout, message)
    })
}

/// Where no retry is allowed, what is said of when to retry is in vain.
fn inert_conditions(retry: &RequestRetry, is_said: impl Fn(Setting) -> bool) -> Option<Finding> {
    let mut conditions = retry.retry_on.iter().map(Setting::Condition);
    conditions.any(is_said).then(|| {
        let message =
            "with no retries allowed, the conditions are in vain; allow at least 1, or take the conditions out";
        Finding::new(Code::InertConditions, Setting::NumRetries, message)
    })
}

/// What keeps retries that are allowed from being made, or from being made as the policy says.
fn without_effect(http: &HttpPolicy) -> impl Iterator<Item = Finding> {
    let HttpPolicy { retry, honour_request_headers, max_buffered_body, .. } = http;
    let is_closed = !honour_request_headers;
    let rules = [
        (
            is_closed && retry.retry_on.is_empty() && !retry.hedge_on_per_try_timeout,
            Code::NoConditions,
            Setting::RetryOn,
            "without a condition no request is ever retried; name at least one",
        ),
        (
            retry.max_concurrent_retries == Some(0),
            Code::NoConcurrentRetries,
            Setting::MaxConcurrentRetries,
            "with 0 no request is ever retried; leave it out, or allow at least 1",
        ),
        (
            *max_buffered_body == 0,
            Code::NoReplay,
            Setting::MaxBufferedBody,
            "with 0 no request is sent again once some of its body was sent; leave it out, or allow some bytes",
        ),
        (
            is_closed && retry.rate_limited_backoff.is_some() && !retry.retry_on.intersects(RESPONSES),
            Code::InertRateLimitedBackoff,
            Setting::RateLimitedBackoff,
            "only a response can ask for a pause, and no condition retries one; add a condition such as \
             envoy-ratelimited, or leave it out",
        ),
    ];
    rules
        .into_iter()
        .filter(|(holds, ..)| *holds)
        .map(|(_, code, about, message)| Finding::new(code, about, message))
}

/// gRPC's requests are POST, and what was answered was executed.
fn inert_grpc(retry: &RequestRetry, protocol: Protocol) -> Option<Finding> {
    let has_post = match &retry.methods {
        Methods::Any => true,
        Methods::Idempotent => false,
        Methods::These(methods) => methods.iter().any(|method| method.as_str() == "POST"),
    };
    if has_post {
        return None;
    }
    let grpc_only = match protocol {
        Protocol::Grpc => ONLY_RESPONSES,
        Protocol::Auto | Protocol::Http | Protocol::Tcp => GRPC_STATUSES,
    };
    let inert: Vec<_> = retry.retry_on.iter().filter(|&condition| grpc_only.contains(condition)).collect();
    let message = format!(
        "gRPC requests are POST, which may not be executed twice here: without an Idempotency-Key none is retried for {}; \
         if they may be, list POST in `methods`",
        words(&inert)
    );
    inert.first().map(|&first| Finding::new(Code::InertGrpc, Setting::Condition(first), message))
}

/// Whether requests come here that may not be executed twice, by their methods. A list of the methods that may be retried
/// is taken as meant.
fn takes_unsafe_methods(route: &Route) -> bool {
    let is_of_method = |matcher: &&HeaderMatcher| matcher.name.as_str() == ":method";
    let methods = &route.http.retry.request_headers;
    let is_list = !methods.is_empty() && methods.iter().all(|matcher| is_of_method(&matcher));
    let takes = |method| {
        route.matcher.headers.iter().filter(is_of_method).all(|matcher| matcher.matches(&WithMethod(method)))
    };
    !is_list && ["POST", "PATCH"].into_iter().any(takes)
}

/// A request of which the method alone is known.
struct WithMethod(&'static str);

impl Headers for WithMethod {
    fn visit<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool) {
        if name == ":method" {
            visit(self.0.as_bytes());
        }
    }
}

fn dangerous_methods(retry: &RequestRetry, sources: &Sources) -> Option<Finding> {
    let has_server_errors = (500..=599).any(|code| retry.status_codes.contains(code));
    let is_dangerous = |condition: &Condition| {
        ANY_END.contains(*condition) || (*condition == Condition::RetriableStatusCodes && has_server_errors)
    };
    let conditions: Vec<_> = retry.retry_on.iter().filter(is_dangerous).collect();
    let hedges = retry.hedge_on_per_try_timeout && retry.per_try_timeout.is_some();
    let causes = match (conditions.is_empty(), hedges) {
        (true, false) => return None,
        (true, true) => "hedging".to_owned(),
        (false, false) => words(&conditions),
        (false, true) => format!("{}, hedging", words(&conditions)),
    };
    // A format that has no word for methods has one for retries.
    let advice = if sources.place(Setting::Methods).is_some() {
        "list the methods that may be executed twice, such as GET and PUT"
    } else {
        "retry for less, or only in routes for methods that may be executed twice"
    };
    let message = format!(
        "requests that the server may have executed are sent again, POST and all ({causes}); {advice}"
    );
    let places = [Setting::Methods, Setting::RetryOn, Setting::NumRetries];
    let about = places.into_iter().find(|about| sources.is_said(*about)).unwrap_or(Setting::Methods);
    let is_any = retry.methods == Methods::Any;
    is_any.then(|| Finding::new(Code::DangerousMethods, about, message))
}

/// Where an attempt's own time is ignored, it says nothing about how long all take.
fn short_timeout(http: &HttpPolicy) -> Option<Finding> {
    let (retry, timeout, per_try) = (&http.retry, http.timeout?, http.per_try_timeout()?);
    let attempts = per_try.saturating_mul(retry.num_retries).saturating_add(per_try);
    let worst = attempts.saturating_add(longest_pauses(retry.backoff, retry.num_retries));
    (worst > timeout).then(|| {
        let message = format!(
            "the last attempts have less than their {} or do not begin: {} attempts and the pauses between them may take \
             {}, and {} end them; lengthen it, or allow for fewer or shorter attempts",
            text(per_try),
            u64::from(retry.num_retries) + 1,
            text(worst),
            text(timeout)
        );
        Finding::new(Code::ShortTimeout, Setting::Timeout, message)
    })
}

fn no_budget(budget: BudgetPolicy) -> Option<Finding> {
    (budget.percent() == 0 && budget.min_per_second() == 0).then(|| {
        let message =
            "with 0 percent and 0 a second nothing is ever retried, connects included; raise one of them";
        Finding::new(Code::NoBudget, Setting::Budget, message)
    })
}

/// All pauses before so many retries, each as long as it can be.
fn longest_pauses(backoff: Backoff, retries: u32) -> Duration {
    let (mut sum, mut pause, mut left) = (Duration::ZERO, backoff.base(), retries);
    while left > 0 && pause < backoff.max() {
        sum = sum.saturating_add(pause);
        pause = pause.saturating_mul(2).min(backoff.max());
        left -= 1;
    }
    sum.saturating_add(backoff.max().saturating_mul(left))
}

fn words(conditions: &[Condition]) -> String {
    conditions.iter().map(|condition| condition.as_str()).collect::<Vec<_>>().join(", ")
}

fn text(duration: Duration) -> String {
    duration::format(duration)
}

#[cfg(test)]
mod tests;
