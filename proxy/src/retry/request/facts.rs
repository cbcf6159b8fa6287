//! What the decision needs to know of messages, read from their headers.

use std::time::{Duration, SystemTime};

use super::RequestRetry;
use crate::policy::{Headers, headers};

/// What the decision needs to know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// By [`Methods`](super::Methods) and the request's own headers: it may be executed twice.
    pub repeatable: bool,
    /// By [`RequestRetry::request_headers`]: it may be retried at all.
    pub retriable: bool,
    /// It came as early data, so that 425 is the client's to deal with (RFC 8470, section 5.2).
    pub early_data: bool,
}

/// What the decision needs to know of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseFacts {
    /// 0 where the head has none.
    pub status: u16,
    /// Of the head, or of trailers that no message came before.
    pub grpc_status: Option<u32>,
    /// `x-envoy-ratelimited` is there.
    pub rate_limited: bool,
    /// One of [`RequestRetry::response_headers`] matches.
    pub retriable_header: bool,
    /// How long the response asks to wait, by [`RequestRetry::rate_limited_backoff`].
    pub reset_after: Option<Duration>,
}

impl RequestFacts {
    #[must_use]
    pub fn of(retry: &RequestRetry, request: &(impl Headers + ?Sized)) -> Self {
        let matchers = &retry.request_headers;
        Self {
            repeatable: retry.methods.allow(request),
            retriable: matchers.is_empty() || matchers.iter().any(|matcher| matcher.matches(request)),
            early_data: request.get("early-data").is_some(),
        }
    }
}

impl ResponseFacts {
    /// What a response's head says. The present is asked for only where it matters.
    #[must_use]
    pub fn of(
        retry: &RequestRetry,
        response: &(impl Headers + ?Sized),
        now: impl FnOnce() -> SystemTime,
    ) -> Self {
        Self {
            status: response.get(":status").and_then(headers::number).unwrap_or_default(),
            grpc_status: grpc_status(response),
            rate_limited: response.get("x-envoy-ratelimited").is_some(),
            retriable_header: retry.response_headers.iter().any(|matcher| matcher.matches(response)),
            reset_after: retry
                .rate_limited_backoff
                .as_ref()
                .and_then(|backoff| backoff.interval(response, now())),
        }
    }

    /// With what the trailers say, where they came before any message.
    #[must_use]
    pub fn with_trailers(self, trailers: &(impl Headers + ?Sized)) -> Self {
        Self { grpc_status: self.grpc_status.or_else(|| grpc_status(trailers)), ..self }
    }
}

/// The gRPC status of a head or of trailers. Said twice, it is none.
#[must_use]
pub fn grpc_status(headers: &(impl Headers + ?Sized)) -> Option<u32> {
    headers.joined("grpc-status").as_deref().and_then(headers::number)
}
