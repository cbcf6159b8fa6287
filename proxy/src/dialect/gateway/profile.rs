//! Linkerd's `ServiceProfile`: the older way to say which requests of a Service are retried.

use std::sync::Arc;
use std::time::Duration;

use super::linkerd::MAX_BODY;
use super::{OBJECT, connects, policy, service};
use crate::dialect::common::{self, Metadata};
use crate::dialect::fields::{Field, Map, Problems};
use crate::policy::{
    Address, Destination, HeaderMatcher, Host, HttpPolicy, Pattern, Policy, PolicyName, Precedence,
    RequestMatch, Route, Setting, Sources, ValueMatcher,
};
use crate::retry::request::{Condition, Conditions, StatusCodes};
use crate::retry::{BudgetPolicy, RequestRetry};

/// What Linkerd gives a request where its route does not say.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many routes a document may come to.
const MAX_ROUTES: u32 = 4_096;
/// Linkerd has no bound but the budget.
const RETRIES: u32 = u32::MAX;

/// What a request has to be like: all of some headers. Any of several is enough.
type Ways = Vec<Vec<HeaderMatcher>>;

/// The name and namespace of the Service that a profile is for.
pub(super) fn service_of(metadata: &Metadata<'_>) -> Option<(String, String)> {
    let (name, rest) = metadata.name.split_once('.')?;
    let namespace = rest.strip_suffix(".svc.cluster.local").filter(|namespace| !namespace.contains('.'))?;
    Some((name.to_owned(), namespace.to_owned()))
}

pub(super) fn read(root: &Field<'_>, metadata: &Metadata<'_>, problems: &mut Problems) -> Option<Policy> {
    let spec = root.map_of(OBJECT, problems)?.required("spec", problems)?;
    let map = spec.map_ignoring(&["routes", "retryBudget", "dstOverrides"], &["opaquePorts"], problems)?;
    let is_plain = common::is_plain(&map, &["dstOverrides"], problems);
    let budget = map.optional("retryBudget", BudgetPolicy::default(), |field| budget(&field, problems));
    let mut place = 0;
    let routes = map.each("routes", problems, |field, problems| {
        let read = route(field, place, problems)?;
        place += u32::try_from(read.len()).ok()?;
        if place > MAX_ROUTES {
            return field
                .problem(format!("with it there are {place} routes; there may be {MAX_ROUTES}"), problems);
        }
        Some(read)
    });
    let Metadata { name, namespace, .. } = metadata;
    let to = if let Some((name, namespace)) = service_of(metadata) {
        service(&name, Some(&namespace), None)
    } else {
        let host: Host = root.child("metadata")?.child("name")?.parsed(problems)?;
        vec![Destination { address: Address::Host(host), port: None }]
    };
    let (routes, budget): (Vec<_>, _) = (routes?.into_iter().flatten().collect(), budget?);
    is_plain.then_some(())?;
    let tcp = connects(routes.iter().map(|route: &Route| &*route.http), true);
    let budget_at = (Setting::Budget, spec.place(&["retryBudget"]));
    let sources = Sources::new([budget_at, (Setting::To, root.place(&["metadata", "name"]))]).into();
    let name = PolicyName::of_kind("ServiceProfile", *namespace, name);
    Some(Policy { tcp, budget, sources, ..policy(name, root, to, routes) })
}

fn budget(field: &Field<'_>, problems: &mut Problems) -> Option<BudgetPolicy> {
    let map = field.map_of(&["retryRatio", "minRetriesPerSecond", "ttl"], problems)?;
    let percent = map.required("retryRatio", problems).and_then(|field| field.share(problems));
    let floor =
        map.required("minRetriesPerSecond", problems).and_then(|field| field.whole(0..=u32::MAX, problems));
    let ttl = map.required("ttl", problems).and_then(|field| field.duration(problems));
    field.accept(BudgetPolicy::try_new(percent?, floor?, ttl?), problems)
}

fn route(field: &Field<'_>, first: u32, problems: &mut Problems) -> Option<Vec<Route>> {
    let map = field.map_of(&["name", "condition", "isRetryable", "timeout", "responseClasses"], problems)?;
    let name = map.required("name", problems).and_then(|field| field.text(problems));
    let ways = map.required("condition", problems).and_then(|condition| request(&condition, false, problems));
    let is_retried = map.optional("isRetryable", false, |field| field.boolean(problems));
    let timeout = map.optional("timeout", TIMEOUT, |field| field.duration_or_zero(problems));
    let failures = failures(&map, problems);
    let default = common::envoy_defaults();
    let (is_retried, status_codes) = (is_retried?, failures?);
    let retry = RequestRetry {
        retry_on: if is_retried { FAILURES } else { Conditions::default() },
        num_retries: if is_retried { RETRIES } else { 0 },
        status_codes,
        ..default.retry
    };
    let timeout = Some(timeout?).filter(|timeout| !timeout.is_zero());
    let http = Arc::new(HttpPolicy { retry, timeout, max_buffered_body: MAX_BODY, ..default });
    let places = [
        (Setting::RetryOn, field.place(&["isRetryable"])),
        (Setting::NumRetries, field.place(&["isRetryable"])),
        (Setting::StatusCodes, field.place(&["responseClasses"])),
        (Setting::Timeout, field.place(&["timeout"])),
        (Setting::Matches, field.place(&["condition"])),
    ];
    let (name, sources) = (name?, Arc::new(Sources::new(places)));
    let routes = (first..).zip(ways?).map(|(within, headers)| Route {
        name: name.into(),
        precedence: Precedence { within, ..Precedence::default() },
        matcher: RequestMatch { headers, ..RequestMatch::default() },
        http: Arc::clone(&http),
        targets: Arc::default(),
        sources: Arc::clone(&sources),
    });
    Some(routes.collect())
}

/// What Linkerd takes for a failure, as far as there are words for it: the status codes, and any of gRPC's.
const FAILURES: Conditions = Conditions::of(&[
    Condition::RetriableStatusCodes,
    Condition::Cancelled,
    Condition::DeadlineExceeded,
    Condition::ResourceExhausted,
    Condition::Internal,
    Condition::Unavailable,
]);

/// The ways in which a condition holds, or does not where it is negated.
fn request(field: &Field<'_>, is_negated: bool, problems: &mut Problems) -> Option<Ways> {
    let map = field.map_of(&["pathRegex", "method", "all", "any", "not"], problems)?;
    let path = map.optional("pathRegex", None, |field| {
        let text = field.text(problems)?;
        let pattern = Pattern::try_new(text).and_then(|_| Pattern::try_new(&format!("(?:{text})(?:\\?.*)?")));
        let pattern = pattern.map_or_else(|error| field.expected(&error, problems), Some)?;
        Some(Some(HeaderMatcher {
            name: ":path".parse().ok()?,
            value: ValueMatcher::Regex(pattern),
            invert: is_negated,
        }))
    });
    let method = map.optional("method", None, |field| {
        let value = ValueMatcher::Exact(field.text(problems)?.into());
        Some(Some(HeaderMatcher { name: ":method".parse().ok()?, value, invert: is_negated }))
    });
    let mut several = |name: &str| {
        map.each_up_to(name, common::MAX_ENTRIES, problems, |field, problems| {
            request(field, is_negated, problems)
        })
    };
    let (all, any) = (several("all"), several("any"));
    let not = map.optional("not", None, |field| request(&field, !is_negated, problems).map(Some));
    let single = path?.into_iter().chain(method?).map(|header| vec![vec![header]]);
    let mut parts: Vec<Ways> = single.chain(all?).chain(not?).collect();
    let any = any?;
    // What has to hold together need not hold together to be negated, and the other way round.
    if map.get("any").is_some() {
        parts.push(if is_negated { together(field, any, problems)? } else { either(field, any, problems)? });
    }
    if parts.is_empty() {
        return field.problem("one of pathRegex, method, all, any and not is required", problems);
    }
    if is_negated { either(field, parts, problems) } else { together(field, parts, problems) }
}

/// The ways in which one of these holds.
fn either(field: &Field<'_>, parts: Vec<Ways>, problems: &mut Problems) -> Option<Ways> {
    few(field, parts.iter().map(Vec::len).sum(), problems)?;
    Some(parts.into_iter().flatten().collect())
}

fn few(field: &Field<'_>, ways: usize, problems: &mut Problems) -> Option<()> {
    if ways > common::MAX_ENTRIES {
        let message = format!("there may be at most {} ways to match", common::MAX_ENTRIES);
        return field.problem(message, problems);
    }
    Some(())
}

/// The ways in which all of these hold.
fn together(field: &Field<'_>, parts: Vec<Ways>, problems: &mut Problems) -> Option<Ways> {
    let mut all = vec![Vec::new()];
    for part in parts {
        few(field, all.len().saturating_mul(part.len()), problems)?;
        all = all.iter().flat_map(|one| part.iter().map(|more| [&one[..], more].concat())).collect();
    }
    Some(all)
}

/// What a class says of each status code.
type Codes = Vec<bool>;

/// The status codes that are failures: the first class that has a code says so, and without any it is from 500 on.
fn failures(route: &Map<'_>, problems: &mut Problems) -> Option<StatusCodes> {
    let classes = route.each_up_to("responseClasses", common::MAX_ENTRIES, problems, |field, problems| {
        let map = field.map_of(&["condition", "isFailure"], problems)?;
        let codes = map.required("condition", problems).and_then(|field| response(&field, problems));
        let is_failure = map.optional("isFailure", false, |field| field.boolean(problems));
        Some((codes?, is_failure?))
    })?;
    let is_failure = |(index, code): &(usize, u16)| {
        let class = classes.iter().find(|(codes, _)| codes.get(*index) == Some(&true));
        class.map_or(*code >= 500, |(_, is_failure)| *is_failure)
    };
    let failures = StatusCodes::RANGE.enumerate().filter(is_failure).map(|(_, code)| code);
    StatusCodes::try_new(failures).ok()
}

fn response(field: &Field<'_>, problems: &mut Problems) -> Option<Codes> {
    let map = field.map_of(&["status", "all", "any", "not"], problems)?;
    let status = map.optional("status", None, |field| {
        let map = field.map_of(&["min", "max"], problems)?;
        let mut end = |name, default| map.optional(name, default, |field| field.whole(100..=599, problems));
        let (min, max) = (end("min", 100), end("max", 599));
        let range = min?..=max?;
        if range.is_empty() {
            return field.problem("min must not be more than max", problems);
        }
        Some(Some(StatusCodes::RANGE.map(|code| range.contains(&code.into())).collect::<Codes>()))
    });
    let mut several = |name: &str| map.each_up_to(name, common::MAX_ENTRIES, problems, response);
    let (all, any) = (several("all"), several("any"));
    let not = map.optional("not", None, |field| response(&field, problems).map(Some));
    let not = not?.map(|codes| codes.iter().map(|is| !is).collect());
    let mut parts: Vec<Codes> = status?.into_iter().chain(all?).chain(not).collect();
    parts.extend(any?.into_iter().reduce(|one, other| merged(&one, &other, |one, other| one || other)));
    let all = parts.into_iter().reduce(|one, other| merged(&one, &other, |one, other| one && other));
    all.or_else(|| field.problem("one of status, all, any and not is required", problems))
}

fn merged(one: &[bool], other: &[bool], both: impl Fn(bool, bool) -> bool) -> Codes {
    one.iter().zip(other).map(|(one, other)| both(*one, *other)).collect()
}
