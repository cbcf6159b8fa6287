//! The retries and the timeout of a route.

use super::super::common;
use super::super::fields::{Field, Map, Problems};
use super::super::note::Code;
use crate::policy::{HttpPolicy, Place, Setting};
use crate::retry::request::{Condition, Conditions, HostSelection, StatusCodes};
use crate::retry::{Backoff, RequestRetry};

/// What Istio retries where a document does not say. Its `retriable-status-codes` is left out, since there are no codes.
const DEFAULT: Conditions = Conditions::of(&[
    Condition::ConnectFailure,
    Condition::RefusedStream,
    Condition::Unavailable,
    Condition::Cancelled,
]);
const DEFAULT_RETRIES: u32 = 2;
const HOSTS: HostSelection = HostSelection { avoid_previous: true, max_attempts: 5 };

/// What holds for the requests of a route.
pub(super) fn policy(route: &Map<'_>, problems: &mut Problems) -> Option<HttpPolicy> {
    let default = common::envoy_defaults();
    let base =
        RequestRetry { retry_on: DEFAULT, num_retries: DEFAULT_RETRIES, hosts: HOSTS, ..default.retry };
    let retry = match route.get("retries") {
        Some(field) => retry(&field, base, problems),
        None => Some(base),
    };
    let timeout = route.optional("timeout", None, |field| {
        field.duration_or_zero(problems).map(|limit| Some(limit).filter(|limit| !limit.is_zero()))
    });
    Some(HttpPolicy { retry: retry?, timeout: timeout?, ..default })
}

fn retry(field: &Field<'_>, base: RequestRetry, problems: &mut Problems) -> Option<RequestRetry> {
    let known = ["attempts", "perTryTimeout", "retryOn", "retryIgnorePreviousHosts", "backoff"];
    let map = field.map_ignoring(&known, &["retryRemoteLocalities"], problems)?;
    let attempts = map.optional("attempts", 0, |field| field.whole(0..=i32::MAX.unsigned_abs(), problems));
    let per_try_timeout = map.optional("perTryTimeout", None, |field| field.duration(problems).map(Some));
    let said = map.optional("retryOn", (DEFAULT, StatusCodes::default()), |field| retry_on(&field, problems));
    let avoid_previous =
        map.optional("retryIgnorePreviousHosts", HOSTS.avoid_previous, |field| field.boolean(problems));
    let backoff = map.optional("backoff", base.backoff, |field| {
        let interval = field.duration(problems)?;
        field.accept(Backoff::try_new(interval, None), problems)
    });
    let num_retries = attempts?;
    if num_retries == 0 {
        for field in known.iter().skip(1).filter_map(|name| map.get(name)) {
            problems.note(Code::InertSetting, &field.here(), "it does nothing without attempts, which are 0");
        }
    }
    let (retry_on, status_codes) = said?;
    Some(RequestRetry {
        retry_on: if num_retries == 0 { Conditions::default() } else { retry_on },
        status_codes,
        num_retries,
        // Envoy gets no retry policy without attempts.
        per_try_timeout: per_try_timeout?.filter(|_| num_retries > 0),
        hosts: HostSelection { avoid_previous: avoid_previous?, ..HOSTS },
        backoff: backoff?,
        ..base
    })
}

/// Conditions and status codes, separated by commas. Envoy passes over words that it does not know.
fn retry_on(field: &Field<'_>, problems: &mut Problems) -> Option<(Conditions, StatusCodes)> {
    let Some(text) = field.word() else {
        return field.expected(&"conditions and status codes, separated by commas", problems);
    };
    let (mut conditions, mut codes) = (Vec::new(), Vec::new());
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let code = word.parse::<u16>().ok().filter(|code| StatusCodes::RANGE.contains(code));
        match code {
            Some(code) => {
                codes.push(code);
                conditions.push(Condition::RetriableStatusCodes);
            }
            None => conditions.extend(common::condition(word, field, problems)),
        }
    }
    let codes = field.accept(StatusCodes::try_new(codes), problems)?;
    Some((conditions.into_iter().collect(), codes))
}

/// Where a route says what of all this.
pub(super) fn places(route: &Field<'_>) -> Vec<(Setting, Place)> {
    let retries = |name: &str| route.place(&["retries", name]);
    vec![
        (Setting::RetryOn, retries("retryOn")),
        (Setting::StatusCodes, retries("retryOn")),
        (Setting::NumRetries, retries("attempts")),
        (Setting::PerTryTimeout, retries("perTryTimeout")),
        (Setting::Backoff, retries("backoff")),
        (Setting::HostSelection, retries("retryIgnorePreviousHosts")),
        (Setting::Timeout, route.place(&["timeout"])),
        (Setting::Matches, route.place(&["match"])),
        (Setting::Targets, route.place(&["route"])),
    ]
}
