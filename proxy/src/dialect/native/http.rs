//! The `http` section: what holds for requests.

use std::time::Duration;

use super::words::{MatchType, Words};
use crate::dialect::common::{backoff, some_of};
use crate::dialect::fields::{Field, Map, Problems};
use crate::policy::{
    AddedHeaders, ConnectFailure, HeaderMatcher, HeaderName, HttpPolicy, NoHeaderName, Pattern, Place,
    UpstreamMode, ValueMatcher,
};
use crate::retry::RequestRetry;
use crate::retry::request::{
    Condition, Conditions, HostSelection, Method, Methods, RateLimitedBackoff, ResetFormat, ResetHeader,
    StatusCodes,
};

/// The most that may be kept of one request's body.
pub(super) const MAX_BUFFERED_BODY: u64 = 1 << 30;
/// The pseudo-headers of a request.
pub(super) const OF_REQUESTS: &[&str] = &[":method", ":path", ":authority", ":scheme"];

pub(super) const FIELDS: &[&str] = &[
    "retryOn",
    "numRetries",
    "retriableStatusCodes",
    "retriableHeaders",
    "retriableRequestHeaders",
    "methods",
    "perTryTimeout",
    "perTryIdleTimeout",
    "timeout",
    "idleTimeout",
    "backOff",
    "rateLimitedBackOff",
    "hostSelection",
    "hedgeOnPerTryTimeout",
    "maxConcurrentRetries",
    "maxBufferedBody",
    "honourRequestHeaders",
    "addHeaders",
    "onConnectFailure",
    "upstream",
];

/// The settings of a section or a route. What it does not say is as in `default`.
pub(super) fn policy(map: &Map<'_>, default: &HttpPolicy, problems: &mut Problems) -> Option<HttpPolicy> {
    let default = default.clone();
    let honour_request_headers =
        map.optional("honourRequestHeaders", default.honour_request_headers, |field| field.boolean(problems));
    let retry = retry(map, &default.retry, honour_request_headers, problems);
    let timeout = limit(map, "timeout", default.timeout, problems);
    let idle_timeout = limit(map, "idleTimeout", default.idle_timeout, problems);
    let max_buffered_body = map.optional("maxBufferedBody", default.max_buffered_body, |field| {
        let bytes = field.size(MAX_BUFFERED_BODY, problems)?;
        usize::try_from(bytes).ok()
    });
    let added_headers = map.optional("addHeaders", default.added_headers, |field| {
        field.one_of(&AddedHeaders::words(), problems)
    });
    let connect_failure = map.optional("onConnectFailure", default.connect_failure, |field| {
        field.one_of(&ConnectFailure::words(), problems)
    });
    let upstream =
        map.optional("upstream", default.upstream, |field| field.one_of(&UpstreamMode::words(), problems));
    Some(HttpPolicy {
        retry: retry?,
        timeout: timeout?,
        idle_timeout: idle_timeout?,
        max_buffered_body: max_buffered_body?,
        honour_request_headers: honour_request_headers?,
        added_headers: added_headers?,
        connect_failure: connect_failure?,
        upstream: upstream?,
        ..default
    })
}

/// Where a condition is named, or implied.
pub(super) fn condition_place(root: &Field<'_>, section: &[&str], condition: Condition) -> Place {
    let list = section.iter().try_fold(root.clone(), |field, key| field.child(key));
    let list = list.and_then(|http| http.child("retryOn"));
    if let Some(item) = list.and_then(|list| list.item(condition.as_str())) {
        return item.place(&[]);
    }
    let field = match condition {
        Condition::RetriableStatusCodes => "retriableStatusCodes",
        Condition::RetriableHeaders => "retriableHeaders",
        Condition::EnvoyRateLimited
        | Condition::Cancelled
        | Condition::DeadlineExceeded
        | Condition::ResourceExhausted
        | Condition::Internal
        | Condition::Unavailable
        | Condition::Retriable4xx
        | Condition::ConnectFailure
        | Condition::Http3PostConnectFailure
        | Condition::RefusedStream
        | Condition::ResetBeforeRequest
        | Condition::Reset
        | Condition::GatewayError
        | Condition::ServerError => "retryOn",
    };
    root.place(&[section, &[field]].concat())
}

fn retry(
    map: &Map<'_>,
    default: &RequestRetry,
    honour_request_headers: Option<bool>,
    problems: &mut Problems,
) -> Option<RequestRetry> {
    let default = default.clone();
    let status_codes = map.each("retriableStatusCodes", problems, |field, problems| {
        let (first, last) = (*StatusCodes::RANGE.start(), *StatusCodes::RANGE.end());
        u16::try_from(field.whole(first.into()..=last.into(), problems)?).ok()
    });
    let status_codes = status_codes.and_then(|codes| match map.get("retriableStatusCodes") {
        Some(_) => StatusCodes::try_new(codes).ok(),
        None => Some(default.status_codes),
    });
    let response_headers = map.optional("retriableHeaders", default.response_headers, |_| {
        some_of(map, "retriableHeaders", problems, |field, problems| matcher(field, &[":status"], problems))
    });
    let retry_on = map.optional("retryOn", default.retry_on, |field| conditions(&field, problems));
    let retry_on = if let (Some(on), Some(codes), Some(headers), Some(honours)) =
        (retry_on, &status_codes, &response_headers, honour_request_headers)
    {
        // Codes and headers are said to be retried by being there, and a request that is listened to may bring its own.
        let implied = [
            (Condition::RetriableStatusCodes, "retriableStatusCodes", !codes.is_empty()),
            (Condition::RetriableHeaders, "retriableHeaders", !headers.is_empty()),
        ];
        let mut all = Some(on);
        for (condition, field, is_there) in implied {
            if is_there {
                all = all.map(|all| all.with(Conditions::of(&[condition])));
            } else if on.contains(condition) && !honours {
                let message = format!("{} is in the list, but there are no {field}", condition.as_str());
                // The list, or what makes it one that says too much.
                let said = map.get("retryOn").or_else(|| map.get("honourRequestHeaders"));
                all = said.and_then(|field| field.problem(message, problems));
            }
        }
        all
    } else {
        None
    };
    let num_retries =
        map.optional("numRetries", default.num_retries, |field| field.whole(0..=u32::MAX, problems));
    let request_headers = map.optional("retriableRequestHeaders", default.request_headers, |_| {
        some_of(map, "retriableRequestHeaders", problems, |field, problems| {
            matcher(field, OF_REQUESTS, problems)
        })
    });
    let methods = methods(map, default.methods, problems);
    let per_try_timeout = limit(map, "perTryTimeout", default.per_try_timeout, problems);
    let per_try_idle_timeout = limit(map, "perTryIdleTimeout", default.per_try_idle_timeout, problems);
    let backoff = map.optional("backOff", default.backoff, |field| backoff(&field, problems));
    let rate_limited_backoff = map.optional("rateLimitedBackOff", default.rate_limited_backoff, |field| {
        rate_limited_backoff(&field, problems).map(Some)
    });
    let hosts = map.optional("hostSelection", default.hosts, |field| host_selection(&field, problems));
    let hedge_on_per_try_timeout =
        map.optional("hedgeOnPerTryTimeout", default.hedge_on_per_try_timeout, |field| {
            field.boolean(problems)
        });
    let max_concurrent_retries =
        map.optional("maxConcurrentRetries", default.max_concurrent_retries, |field| {
            field.whole(0..=u32::MAX, problems).map(Some)
        });
    Some(RequestRetry {
        retry_on: retry_on?,
        status_codes: status_codes?,
        response_headers: response_headers?,
        request_headers: request_headers?,
        methods: methods?,
        num_retries: num_retries?,
        per_try_timeout: per_try_timeout?,
        per_try_idle_timeout: per_try_idle_timeout?,
        backoff: backoff?,
        rate_limited_backoff: rate_limited_backoff?,
        hosts: hosts?,
        hedge_on_per_try_timeout: hedge_on_per_try_timeout?,
        max_concurrent_retries: max_concurrent_retries?,
    })
}

fn conditions(list: &Field<'_>, problems: &mut Problems) -> Option<Conditions> {
    let words = Condition::words();
    let conditions: Vec<_> =
        list.list(problems)?.iter().map(|field| field.one_of(&words, problems)).collect();
    conditions.into_iter().collect()
}

fn methods(map: &Map<'_>, default: Methods, problems: &mut Problems) -> Option<Methods> {
    match map.get("methods") {
        None => Some(default),
        Some(field) if field.is_list() => {
            some_of(map, "methods", problems, Field::parsed::<Method>).map(Methods::These)
        }
        Some(field) => match field.word().as_deref() {
            Some("idempotent") => Some(Methods::Idempotent),
            Some("any") => Some(Methods::Any),
            Some(_) | None => {
                field.expected(&"idempotent, any, or a list of methods such as [GET, POST]", problems)
            }
        },
    }
}

/// What a header has to be like. Of the pseudo-headers a message has only some.
pub(super) fn matcher(entry: &Field<'_>, pseudo: &[&str], problems: &mut Problems) -> Option<HeaderMatcher> {
    let map = entry.map_of(&["name", "type", "value", "start", "end", "invert"], problems)?;
    let name = map.required("name", problems).and_then(|field| header_name(&field, pseudo, problems));
    let inverted = map.optional("invert", false, |field| field.boolean(problems));
    let kind = map.optional("type", MatchType::Exact, |field| field.one_of(&MatchType::words(), problems))?;
    let value = value_matcher(&map, kind, problems)?;
    Some(HeaderMatcher { name: name?, value, invert: (kind == MatchType::Absent) != inverted? })
}

/// What a value has to be like; of what is to be absent, what it is not.
pub(super) fn value_matcher(map: &Map<'_>, kind: MatchType, problems: &mut Problems) -> Option<ValueMatcher> {
    if kind != MatchType::Range
        && let Some(bound) = map.get("start").or_else(|| map.get("end"))
    {
        return bound.problem("only a matcher of type Range has it", problems);
    }
    let has_value = !matches!(kind, MatchType::Range | MatchType::Present | MatchType::Absent);
    if let Some(value) = map.get("value").filter(|_| !has_value) {
        return value.problem("a matcher of this type has no value", problems);
    }
    let text = |problems: &mut Problems| -> Option<Box<str>> {
        let value = map.required("value", problems)?;
        match value.text(problems)? {
            "" => value.expected(&"text that is not empty", problems),
            text => Some(text.into()),
        }
    };
    match kind {
        MatchType::Exact => text(problems).map(ValueMatcher::Exact),
        MatchType::Prefix => text(problems).map(ValueMatcher::Prefix),
        MatchType::Suffix => text(problems).map(ValueMatcher::Suffix),
        MatchType::Contains => text(problems).map(ValueMatcher::Contains),
        MatchType::RegularExpression => {
            pattern(&map.required("value", problems)?, problems).map(ValueMatcher::Regex)
        }
        MatchType::Range => {
            let bound = |field: Field<'_>, problems: &mut Problems| {
                let number = field.word().and_then(|word| word.parse().ok());
                number.or_else(|| field.expected(&"a whole number of 64 bits", problems))
            };
            let start = map.optional("start", i64::MIN, |field| bound(field, problems));
            let end = map.optional("end", i64::MAX, |field| bound(field, problems));
            Some(ValueMatcher::Range { start: start?, end: end? })
        }
        MatchType::Present | MatchType::Absent => Some(ValueMatcher::Present),
    }
}

/// A regular expression.
pub(super) fn pattern(value: &Field<'_>, problems: &mut Problems) -> Option<Pattern> {
    Pattern::try_new(value.text(problems)?).map_or_else(|error| value.expected(&error, problems), Some)
}

fn header_name(name: &Field<'_>, pseudo: &[&str], problems: &mut Problems) -> Option<HeaderName> {
    let parsed = name.parsed::<HeaderName>(problems)?;
    if parsed.is_pseudo() && !pseudo.contains(&parsed.as_str()) {
        let or = if pseudo.is_empty() { String::new() } else { format!(", or {}", pseudo.join(", ")) };
        return name.expected(&format!("{NoHeaderName}{or}"), problems);
    }
    Some(parsed)
}

fn rate_limited_backoff(backoff: &Field<'_>, problems: &mut Problems) -> Option<RateLimitedBackoff> {
    let map = backoff.map_of(&["resetHeaders", "maxInterval"], problems)?;
    let named = map.required("resetHeaders", problems);
    let headers = some_of(&map, "resetHeaders", problems, |entry, problems| {
        let map = entry.map_of(&["name", "format"], problems)?;
        let name = map.required("name", problems).and_then(|field| header_name(&field, &[], problems));
        let format = map
            .optional("format", ResetFormat::Seconds, |field| field.one_of(&ResetFormat::words(), problems));
        Some(ResetHeader { name: name?, format: format? })
    });
    let max = map.optional("maxInterval", RateLimitedBackoff::DEFAULT_MAX, |field| field.duration(problems));
    named?;
    backoff.accept(RateLimitedBackoff::try_new(headers?, max?), problems)
}

fn host_selection(hosts: &Field<'_>, problems: &mut Problems) -> Option<HostSelection> {
    let map = hosts.map_of(&["avoidPrevious", "maxAttempts"], problems)?;
    let default = HostSelection::default();
    let avoid_previous =
        map.optional("avoidPrevious", default.avoid_previous, |field| field.boolean(problems));
    let max_attempts = map.optional("maxAttempts", default.max_attempts, |field| {
        field.whole(1..=HostSelection::MAX_ATTEMPTS, problems)
    });
    Some(HostSelection { avoid_previous: avoid_previous?, max_attempts: max_attempts? })
}

/// How long something may take. Zero is no limit.
fn limit(
    map: &Map<'_>,
    name: &str,
    default: Option<Duration>,
    problems: &mut Problems,
) -> Option<Option<Duration>> {
    map.optional(name, default, |field| {
        field.duration_or_zero(problems).map(|limit| Some(limit).filter(|limit| !limit.is_zero()))
    })
}

#[cfg(test)]
mod tests;
