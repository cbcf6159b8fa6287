//! The headers that redial adds where the policy says so, and those of a request that it takes out.

use std::fmt::Write as _;

use super::exchange::{Added, AddedToResponse};
use crate::policy::Headers;

pub const EXPECTED_TIMEOUT: &str = "x-envoy-expected-rq-timeout-ms";
pub const ATTEMPT_COUNT: &str = "x-envoy-attempt-count";
pub const IS_TIMEOUT_RETRY: &str = "x-envoy-is-timeout-retry";
pub const REQUEST_ID: &str = "x-request-id";
pub const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// What an attempt takes along, in the place of whatever the request has under these names.
#[must_use]
pub fn to_request(added: &Added, request: &impl Headers) -> Vec<(&'static str, String)> {
    if !added.is_on {
        return Vec::new();
    }
    let mut headers = vec![(ATTEMPT_COUNT, added.attempt_count.to_string())];
    if let Some(timeout) = added.expected_timeout {
        // A time that is up is told as the least that there is.
        headers.push((EXPECTED_TIMEOUT, timeout.as_millis().max(1).to_string()));
    }
    if let Some(is_timeout_retry) = added.is_timeout_retry {
        headers.push((IS_TIMEOUT_RETRY, is_timeout_retry.to_string()));
    }
    if let Some(id) = added.request_id.filter(|_| request.get(REQUEST_ID).is_none()) {
        headers.push((REQUEST_ID, uuid(id)));
    }
    if request.get(FORWARDED_PROTO).is_none() {
        headers.push((FORWARDED_PROTO, "http".to_owned()));
    }
    headers
}

/// What a response takes along.
#[must_use]
pub fn to_response(added: AddedToResponse) -> Option<(&'static str, String)> {
    added.attempt_count.map(|count| (ATTEMPT_COUNT, count.to_string()))
}

/// A random UUID (RFC 9562, version 4) of random bits.
fn uuid(bits: u128) -> String {
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62;
    let digits = format!("{bits:032x}");
    let mut text = String::with_capacity(36);
    for (index, digit) in digits.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        let _ = text.write_char(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::uuid;

    #[test]
    fn a_uuid_says_its_version_and_variant() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
