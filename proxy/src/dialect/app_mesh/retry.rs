//! Retry policies and timeouts.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::common;
use super::super::fields::{Field, Map, Problems};
use crate::policy::{HttpPolicy, Place, Setting};
use crate::retry::connect::RetryOn;
use crate::retry::request::{Condition, Conditions, HostSelection, StatusCodes};
use crate::retry::{Backoff, ConnectRetry, RequestRetry};

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_mins(5);
const DEFAULT_PER_RETRY_TIMEOUT: Duration = Duration::from_secs(15);

const HTTP: &str = "httpRetryEvents";
const TCP: &str = "tcpRetryEvents";
const GRPC: &str = "grpcRetryEvents";

const HTTP_EVENTS: [&str; 4] = ["server-error", "gateway-error", "client-error", "stream-error"];
const GRPC_EVENTS: [(&str, Condition); 5] = [
    ("cancelled", Condition::Cancelled),
    ("deadline-exceeded", Condition::DeadlineExceeded),
    ("internal", Condition::Internal),
    ("resource-exhausted", Condition::ResourceExhausted),
    ("unavailable", Condition::Unavailable),
];

/// What holds for the requests of a route.
pub(super) fn policy(
    map: &Map<'_>,
    is_grpc: bool,
    default_retry: bool,
    problems: &mut Problems,
) -> Option<HttpPolicy> {
    let mut http = common::envoy_defaults();
    http.idle_timeout = Some(DEFAULT_IDLE_TIMEOUT);
    let timeouts = map.optional("timeout", (http.timeout, http.idle_timeout), |field| {
        let map = field.map_of(&["perRequest", "idle"], problems)?;
        let request = map.optional("perRequest", http.timeout, |field| duration(&field, problems));
        let idle = map.optional("idle", http.idle_timeout, |field| duration(&field, problems));
        Some((request?, idle?))
    });
    let retry = match map.get("retryPolicy") {
        Some(field) => retry(&field, http.retry, is_grpc, problems),
        None if default_retry => default_policy(http.retry),
        None => Some(RequestRetry { num_retries: 0, ..http.retry }),
    };
    let (timeout, idle_timeout) = timeouts?;
    Some(HttpPolicy { retry: retry?, timeout, idle_timeout, ..http })
}

/// What App Mesh does where a route has no retry policy.
fn default_policy(retry: RequestRetry) -> Option<RequestRetry> {
    Some(RequestRetry {
        retry_on: Conditions::of(&[
            Condition::Unavailable,
            Condition::ConnectFailure,
            Condition::RefusedStream,
            Condition::Reset,
            Condition::RetriableStatusCodes,
        ]),
        status_codes: StatusCodes::try_new([503]).ok()?,
        num_retries: 2,
        hosts: HostSelection { avoid_previous: true, max_attempts: 5 },
        ..retry
    })
}

fn retry(
    field: &Field<'_>,
    retry: RequestRetry,
    is_grpc: bool,
    problems: &mut Problems,
) -> Option<RequestRetry> {
    let known = ["maxRetries", "perRetryTimeout", HTTP, TCP, GRPC];
    let lists = if is_grpc { &[HTTP, TCP, GRPC][..] } else { &[HTTP, TCP] };
    let map = field.map_of(if is_grpc { &known[..] } else { &known[..4] }, problems)?;
    let num_retries = map.optional("maxRetries", 1, |field| field.whole(0..=u32::MAX, problems));
    let default = Some(DEFAULT_PER_RETRY_TIMEOUT);
    let per_try_timeout = map.optional("perRetryTimeout", default, |field| duration(&field, problems));
    if lists.iter().all(|list| map.get(list).is_none()) {
        let message = format!("at least one value for one of {} is required", lists.join(", "));
        return field.problem(message, problems);
    }
    let words = HTTP_EVENTS.map(|word| (word, word));
    let http = events(&map, HTTP, &words, 25, problems);
    let tcp = events(&map, TCP, &[("connection-error", Condition::ConnectFailure)], 1, problems);
    let grpc = if is_grpc { events(&map, GRPC, &GRPC_EVENTS, 5, problems) } else { Some(Vec::new()) };
    let mut conditions: Vec<_> = tcp?.into_iter().chain(grpc?).collect();
    let mut codes = Vec::new();
    for event in http? {
        match event {
            "server-error" => codes.extend((500..=508).chain([510, 511])),
            "gateway-error" => codes.extend(502..=504),
            "client-error" => codes.push(409),
            _ => conditions.push(Condition::RefusedStream),
        }
        if matches!(event, "server-error" | "gateway-error") {
            conditions.push(Condition::Reset);
        }
    }
    if !codes.is_empty() {
        conditions.push(Condition::RetriableStatusCodes);
    }
    Some(RequestRetry {
        retry_on: conditions.into_iter().collect(),
        status_codes: field.accept(StatusCodes::try_new(codes), problems)?,
        num_retries: num_retries?,
        per_try_timeout: per_try_timeout?,
        ..retry
    })
}

fn events<T: Copy>(
    map: &Map<'_>,
    name: &str,
    words: &[(&str, T)],
    max: usize,
    problems: &mut Problems,
) -> Option<Vec<T>> {
    map.each_up_to(name, max, problems, |field, problems| field.one_of(words, problems))
}

/// A value with its unit; 0 is no limit.
pub(super) fn duration(field: &Field<'_>, problems: &mut Problems) -> Option<Option<Duration>> {
    let map = field.map_of(&["value", "unit"], problems)?;
    let value = map.required("value", problems).and_then(|field| field.whole(0..=u32::MAX, problems));
    let units = [("ms", Duration::from_millis(1)), ("s", Duration::from_secs(1))];
    let unit = map.required("unit", problems).and_then(|field| field.one_of(&units, problems));
    let duration = unit?.saturating_mul(value?);
    Some(Some(duration).filter(|duration| !duration.is_zero()))
}

/// App Mesh retries no connects of TCP routes.
pub(super) fn connects_once() -> ConnectRetry {
    ConnectRetry::try_new(NonZeroU32::MIN, None, None, Backoff::default(), RetryOn::ALL).unwrap_or_default()
}

/// Where a route says what of all this.
pub(super) fn places(route: &Field<'_>) -> Vec<(Setting, Place)> {
    let retry = |field: &str| route.place(&["retryPolicy", field]);
    let event = |list: &str, words: &[&str]| {
        let list = route.child("retryPolicy").and_then(|policy| policy.child(list));
        let item = list.and_then(|list| words.iter().find_map(|word| list.item(word)));
        item.map(|item| item.here())
    };
    let mut places = Vec::new();
    let mut condition = |condition, place: Option<Place>| {
        places.extend(place.map(|place| (Setting::Condition(condition), place)));
    };
    let errors = ["server-error", "gateway-error"];
    condition(Condition::Reset, event(HTTP, &errors));
    condition(Condition::RetriableStatusCodes, event(HTTP, &HTTP_EVENTS[..3]));
    condition(Condition::RefusedStream, event(HTTP, &["stream-error"]));
    condition(Condition::ConnectFailure, event(TCP, &["connection-error"]));
    for (word, meaning) in GRPC_EVENTS {
        condition(meaning, event(GRPC, &[word]));
    }
    places.extend([
        (Setting::RetryOn, route.place(&["retryPolicy"])),
        (Setting::StatusCodes, retry(HTTP)),
        (Setting::NumRetries, retry("maxRetries")),
        (Setting::PerTryTimeout, retry("perRetryTimeout")),
        (Setting::Timeout, route.place(&["timeout", "perRequest"])),
        (Setting::IdleTimeout, route.place(&["timeout", "idle"])),
        (Setting::Matches, route.place(&["match"])),
        (Setting::Targets, route.place(&["action", "weightedTargets"])),
    ]);
    places
}
