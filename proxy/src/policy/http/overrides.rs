//! What a request's own `x-envoy-*` headers change, as Envoy's router has it: conditions are added to the policy's, other
//! values take the place of the policy's, and what can't be read is passed over.

use std::borrow::Cow;
use std::str;
use std::time::Duration;

use super::HttpPolicy;
use crate::policy::{HeaderMatcher, Headers, ValueMatcher, headers};
use crate::retry::RequestRetry;
use crate::retry::request::{Condition, Conditions};

/// The headers by which a request changes its policy. Where they do, they are for redial, and are not passed on.
pub const REQUEST_HEADERS: &[&str] = &[
    RETRY_ON,
    RETRY_GRPC_ON,
    MAX_RETRIES,
    RETRIABLE_STATUS_CODES,
    RETRIABLE_HEADER_NAMES,
    TIMEOUT,
    PER_TRY_TIMEOUT,
    TIMEOUT_ALT_RESPONSE,
    HEDGE,
];

const PREFIX: &str = "x-envoy-";
const RETRY_ON: &str = "x-envoy-retry-on";
const RETRY_GRPC_ON: &str = "x-envoy-retry-grpc-on";
const MAX_RETRIES: &str = "x-envoy-max-retries";
const RETRIABLE_STATUS_CODES: &str = "x-envoy-retriable-status-codes";
const RETRIABLE_HEADER_NAMES: &str = "x-envoy-retriable-header-names";
const TIMEOUT: &str = "x-envoy-upstream-rq-timeout-ms";
const PER_TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
const TIMEOUT_ALT_RESPONSE: &str = "x-envoy-upstream-rq-timeout-alt-response";
const HEDGE: &str = "x-envoy-hedge-on-per-try-timeout";

impl HttpPolicy {
    /// What holds for this request.
    #[must_use]
    pub fn for_request(&self, request: &(impl Headers + ?Sized)) -> Cow<'_, Self> {
        let is_changed = self.honour_request_headers
            && request.may_have_prefix(PREFIX)
            && REQUEST_HEADERS.iter().any(|name| request.get(name).is_some());
        if is_changed { Cow::Owned(self.clone().changed_by(request)) } else { Cow::Borrowed(self) }
    }

    fn changed_by(mut self, request: &(impl Headers + ?Sized)) -> Self {
        change_retry(&mut self.retry, request);
        if let Some(timeout) = milliseconds(request, TIMEOUT) {
            self.timeout = limit(timeout);
        }
        if let Some(timeout) = milliseconds(request, PER_TRY_TIMEOUT) {
            self.retry.per_try_timeout = limit(timeout);
        }
        match request.joined(HEDGE).as_deref() {
            Some(b"true") => self.retry.hedge_on_per_try_timeout = true,
            Some(b"false") => self.retry.hedge_on_per_try_timeout = false,
            Some(_) | None => {}
        }
        self.timeout_alt_response |= request.get(TIMEOUT_ALT_RESPONSE).is_some();
        self
    }
}

fn change_retry(retry: &mut RequestRetry, request: &(impl Headers + ?Sized)) {
    let on = conditions(request, RETRY_ON, |condition| condition.grpc_status().is_none());
    let grpc_on = conditions(request, RETRY_GRPC_ON, |condition| condition.grpc_status().is_some());
    retry.retry_on = retry.retry_on.with(on).with(grpc_on);
    if !retry.retry_on.is_empty()
        && let Some(most) = request.joined(MAX_RETRIES).as_deref().and_then(headers::number::<u64>)
    {
        retry.num_retries = u32::try_from(most).unwrap_or(u32::MAX);
    }
    if let Some(codes) = request.joined(RETRIABLE_STATUS_CODES) {
        // A code that no response can have can't be retried either.
        let codes = tokens(&codes).filter_map(|token| headers::number(token.as_bytes()));
        retry.status_codes = codes.fold(retry.status_codes, |codes, code| codes.with(code).unwrap_or(codes));
    }
    if let Some(names) = request.joined(RETRIABLE_HEADER_NAMES) {
        let names = tokens(&names).filter_map(|token| token.parse().ok());
        let matchers = names.map(|name| HeaderMatcher { name, value: ValueMatcher::Present, invert: false });
        retry.response_headers.extend(matchers);
    }
}

/// The conditions that a header names. gRPC's have a header of their own, and count in no other.
fn conditions(
    request: &(impl Headers + ?Sized),
    name: &str,
    belongs: impl Fn(Condition) -> bool,
) -> Conditions {
    let Some(value) = request.joined(name) else { return Conditions::default() };
    tokens(&value).filter_map(Condition::parse).filter(|&condition| belongs(condition)).collect()
}

/// The parts between commas, without white space around them. Where one is no text, none is.
fn tokens(value: &[u8]) -> impl Iterator<Item = &str> {
    str::from_utf8(value)
        .unwrap_or_default()
        .split(',')
        .map(str::trim_ascii)
        .filter(|token| !token.is_empty())
}

fn milliseconds(request: &(impl Headers + ?Sized), name: &str) -> Option<Duration> {
    request.joined(name).as_deref().and_then(headers::number).map(Duration::from_millis)
}

/// No time at all is no limit.
fn limit(timeout: Duration) -> Option<Duration> {
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::REQUEST_HEADERS;
    use crate::policy::HttpPolicy;
    use crate::retry::RequestRetry;
    use crate::retry::request::{Condition, Conditions};

    fn policy() -> HttpPolicy {
        let retry = RequestRetry {
            retry_on: Conditions::of(&[Condition::Reset]),
            per_try_timeout: Some(ms(1_000)),
            ..RequestRetry::default()
        };
        HttpPolicy { retry, timeout: Some(ms(9_000)), honour_request_headers: true, ..HttpPolicy::default() }
    }

    fn changed(request: &[(&str, &str)]) -> HttpPolicy {
        policy().for_request(request).into_owned()
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_policy_that_nothing_changes_is_not_copied() {
        let request = &[(":method", "GET"), ("x-envoy-retry-on", "5xx")][..];
        let deaf = HttpPolicy { honour_request_headers: false, ..policy() };
        assert!(matches!(deaf.for_request(request), Cow::Borrowed(_)));
        assert!(matches!(policy().for_request(request), Cow::Owned(_)));
        let other = &[(":method", "GET"), ("x-envoy-attempt-count", "2"), ("x-retry-on", "5xx")][..];
        assert!(matches!(policy().for_request(other), Cow::Borrowed(_)));
    }

    #[test]
    fn conditions_are_added() {
        for (name, value, added) in [
            ("x-envoy-retry-on", "5xx", &[Condition::ServerError][..]),
            (
                "x-envoy-retry-on",
                " retriable-4xx ,,gateway-error,\tno-such-thing",
                &[Condition::Retriable4xx, Condition::GatewayError],
            ),
            ("x-envoy-retry-on", "http3-post-connect-failure", &[Condition::Http3PostConnectFailure]),
            // Each header has its own words.
            ("x-envoy-retry-on", "unavailable", &[]),
            ("x-envoy-retry-grpc-on", "5xx", &[]),
            (
                "x-envoy-retry-grpc-on",
                "unavailable, internal",
                &[Condition::Unavailable, Condition::Internal],
            ),
            ("x-envoy-retry-on", "5XX", &[]),
            ("x-envoy-retry-on", "", &[]),
        ] {
            let expected = Conditions::of(&[Condition::Reset]).with(Conditions::of(added));
            assert_eq!(changed(&[(name, value)]).retry.retry_on, expected, "{name}: {value}");
        }
        let twice = changed(&[("x-envoy-retry-on", "5xx"), ("x-envoy-retry-on", "retriable-4xx")]);
        let all = [Condition::Reset, Condition::ServerError, Condition::Retriable4xx];
        assert_eq!(twice.retry.retry_on, Conditions::of(&all));
    }

    #[test]
    fn numbers_take_the_policy_s_place() {
        for (value, most) in [
            ("5", 5),
            (" 5 ", 5),
            ("+5", 5),
            ("0", 0),
            ("4294967296", u32::MAX),
            ("18446744073709551616", 2),
            ("-1", 2),
            ("5.0", 2),
            ("many", 2),
            ("", 2),
        ] {
            assert_eq!(changed(&[("x-envoy-max-retries", value)]).retry.num_retries, most, "{value:?}");
        }
        assert_eq!(
            changed(&[("x-envoy-max-retries", "5"), ("x-envoy-max-retries", "6")]).retry.num_retries,
            2
        );
        let mut never = policy();
        never.retry.retry_on = Conditions::default();
        let most = |request: &[(&str, &str)]| never.for_request(request).retry.num_retries;
        assert_eq!(most(&[("x-envoy-max-retries", "5")]), 2);
        assert_eq!(most(&[("x-envoy-max-retries", "5"), ("x-envoy-retry-on", "5xx")]), 5);
        for (value, timeout, per_try) in [
            ("250", Some(ms(250)), Some(ms(250))),
            ("0", None, None),
            ("soon", Some(ms(9_000)), Some(ms(1_000))),
            ("1.5", Some(ms(9_000)), Some(ms(1_000))),
            ("", Some(ms(9_000)), Some(ms(1_000))),
            ("18446744073709551615", Some(ms(u64::MAX)), Some(ms(u64::MAX))),
        ] {
            let policy = changed(&[("x-envoy-upstream-rq-timeout-ms", value)]);
            assert_eq!(
                (policy.timeout, policy.retry.per_try_timeout),
                (timeout, Some(ms(1_000))),
                "{value:?}"
            );
            let policy = changed(&[("x-envoy-upstream-rq-per-try-timeout-ms", value)]);
            assert_eq!(
                (policy.timeout, policy.retry.per_try_timeout),
                (Some(ms(9_000)), per_try),
                "{value:?}"
            );
        }
    }

    #[test]
    fn codes_and_names_are_added() {
        let policy = changed(&[("x-envoy-retriable-status-codes", "429, 999,503,x,,-1, 70000,429")]);
        assert_eq!(policy.retry.status_codes.iter().collect::<Vec<_>>(), [429, 503]);
        assert_eq!(
            policy.retry.retry_on,
            Conditions::of(&[Condition::Reset]),
            "the condition is asked for apart"
        );
        let policy = changed(&[("x-envoy-retriable-header-names", "X-Again, ,a b,x-busy")]);
        let matchers = &policy.retry.response_headers;
        assert_eq!(
            matchers.iter().map(|matcher| matcher.name.as_str()).collect::<Vec<_>>(),
            ["x-again", "x-busy"]
        );
        assert!(matchers.iter().all(|matcher| matcher.matches(&[("x-again", ""), ("x-busy", "1")][..])));
    }

    #[test]
    fn hedging_and_the_answer_to_a_timeout_are_switched() {
        for (before, value, after) in [
            (false, "true", true),
            (true, "false", false),
            (true, "no", true),
            (false, "TRUE", false),
            (false, " true", false),
        ] {
            let mut policy = policy();
            policy.retry.hedge_on_per_try_timeout = before;
            let request = &[("x-envoy-hedge-on-per-try-timeout", value)][..];
            assert_eq!(policy.for_request(request).retry.hedge_on_per_try_timeout, after, "{before} {value}");
        }
        assert!(changed(&[("x-envoy-upstream-rq-timeout-alt-response", "")]).timeout_alt_response);
        assert!(!changed(&[("x-envoy-max-retries", "1")]).timeout_alt_response);
    }

    proptest! {
        #[test]
        fn no_value_is_too_much(
            values in proptest::collection::vec("\\PC{0,20}|[0-9, -]{0,30}", REQUEST_HEADERS.len()),
        ) {
            let request: Vec<_> =
                REQUEST_HEADERS.iter().copied().zip(values.iter().map(String::as_str)).collect();
            let policy = changed(&request);
            prop_assert_ne!(policy.timeout, Some(Duration::ZERO));
            prop_assert_ne!(policy.retry.per_try_timeout, Some(Duration::ZERO));
            prop_assert!(policy.retry.retry_on.contains(Condition::Reset));
        }
    }
}
