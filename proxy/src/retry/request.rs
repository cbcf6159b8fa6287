//! Whether a failed request is tried again.

use std::time::Duration;

use super::{Attempts, Backoff, Jitter};
use crate::policy::HeaderMatcher;
use crate::reason::{AttemptOutcome, Reason};

/// How requests are retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRetry {
    pub retry_on: Conditions,
    pub status_codes: StatusCodes,
    /// Responses that `retriable-headers` retries: any of these matches.
    pub response_headers: Vec<HeaderMatcher>,
    /// Where not empty, a request that none of these matches is never retried.
    pub request_headers: Vec<HeaderMatcher>,
    /// The requests that are retried although the upstream may have executed them.
    pub methods: Methods,
    pub num_retries: u32,
    pub per_try_timeout: Option<Duration>,
    pub per_try_idle_timeout: Option<Duration>,
    pub backoff: Backoff,
    pub rate_limited_backoff: Option<RateLimitedBackoff>,
    pub hosts: HostSelection,
    /// Another try begins when the per-try timeout of one runs out, which goes on; the first good response is taken.
    pub hedge_on_per_try_timeout: bool,
    /// How many retries may be under way at a time to one destination.
    pub max_concurrent_retries: Option<u32>,
}

/// A set of [`Condition`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions(u32);

/// When a request is retried: Envoy's `retry_on` and `retry_grpc_on` tokens, with its meaning of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    ServerError,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    RefusedStream,
    Retriable4xx,
    RetriableStatusCodes,
    RetriableHeaders,
    EnvoyRateLimited,
    /// Accepted, and can never be: redial does not speak HTTP/3.
    Http3PostConnectFailure,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
}

/// A set of status codes from 100 to 599.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusCodes([u64; 8]);

/// The requests that may be executed twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    /// All.
    Any,
    /// Those of idempotent methods (RFC 9110, section 9.2.2), and those with an `Idempotency-Key`.
    Idempotent,
    /// Those of these methods, and those with an `Idempotency-Key`.
    These(Vec<Box<str>>),
}

/// The pause before a retry that the response itself asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitedBackoff {
    /// The first that a response has, and that is not over the maximum, is taken.
    pub reset_headers: Vec<ResetHeader>,
    pub max: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetHeader {
    /// In lower case.
    pub name: Box<str>,
    pub format: ResetFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetFormat {
    /// Whole seconds from now; `Retry-After`'s date is taken as well.
    Seconds,
    /// A point in time, in seconds since 1970.
    UnixTimestamp,
}

/// Where a retry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSelection {
    pub avoid_previous: bool,
    /// How many endpoints are looked at before one that was tried already is taken.
    pub max_attempts: u32,
}

/// What the decision needs to know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// By [`Methods`] and the request's own headers: it may be executed twice.
    pub repeatable: bool,
    /// By [`RequestRetry::request_headers`]: it may be retried at all.
    pub retriable: bool,
}

/// How far an attempt got before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No byte of the request was sent.
    NotSent,
    /// Bytes were sent, and the peer provably took none of them.
    NotTaken,
    /// Bytes were sent, and the peer may have taken them.
    Sent,
    /// The response's head had come.
    HeadReceived,
}

/// Why an attempt failed without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No connection was made.
    Connect(AttemptOutcome),
    /// The upstream closed or reset the connection.
    ConnectionLost,
    /// HTTP/2: REFUSED_STREAM, or GOAWAY with a lower last stream.
    RefusedStream,
    /// HTTP/2: the upstream reset the stream with another code.
    StreamReset,
    /// What came is no HTTP.
    Protocol,
    PerTryTimeout,
    PerTryIdleTimeout,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Response(ResponseFacts),
    Failed { progress: Progress, cause: Cause },
}

/// What the decision needs to know of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFacts {
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

/// Whether the request can be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// All of the body that was sent so far is kept.
    Ready,
    /// Some of what was sent is not kept.
    Lost,
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after this pause, if the budget allows.
    Retry { after: Duration, why: Condition },
    /// Give the client what the attempt ended with.
    Deliver { why: Reason },
}

/// Says what to do after an attempt. The request's own timeout is the caller's: a pause that outlasts it ends there.
#[must_use]
pub fn decide(
    _policy: &RequestRetry,
    _request: RequestFacts,
    _attempts: &Attempts,
    _outcome: &Outcome,
    _replay: Replay,
    _jitter: Jitter,
) -> Verdict {
    Verdict::Deliver { why: Reason::NotRetriable }
}
