//! Whether a failed request is tried again.
//!
//! What a condition means is Envoy's word. Beyond it one rule of redial's own holds: what the upstream may have executed is
//! repeated only where [`Methods`] allows it, whatever the conditions say. The budget is not asked here: the caller asks it
//! once the verdict is to retry, so that no retry is paid for which is not made.

mod conditions;
mod facts;
mod methods;
mod rate_limited;
mod status_codes;

use std::time::Duration;

pub use conditions::{Condition, Conditions};
pub use facts::{RequestFacts, ResponseFacts, grpc_status};
pub use methods::{Method, Methods, NoMethod};
pub use rate_limited::{RateLimitedBackoff, RateLimitedBackoffError, ResetFormat, ResetHeader};
pub use status_codes::{NoStatusCode, StatusCodes};

use super::{Attempts, Backoff, Jitter};
use crate::policy::HeaderMatcher;
use crate::reason::{AttemptOutcome, Reason};

/// How requests are retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRetry {
    pub retry_on: Conditions,
    /// What [`Condition::RetriableStatusCodes`] retries.
    pub status_codes: StatusCodes,
    /// Responses that [`Condition::RetriableHeaders`] retries: any of these matches.
    pub response_headers: Vec<HeaderMatcher>,
    /// Where not empty, a request that none of these matches is never retried.
    pub request_headers: Vec<HeaderMatcher>,
    /// The requests that are retried although the upstream may have executed them.
    pub methods: Methods,
    /// How many attempts may follow the first.
    pub num_retries: u32,
    /// From the end of the client's request, once the attempt has a connection, to the response's head.
    pub per_try_timeout: Option<Duration>,
    /// How long an attempt may go without a byte from the upstream; begins as the per-try timeout does.
    pub per_try_idle_timeout: Option<Duration>,
    pub backoff: Backoff,
    pub rate_limited_backoff: Option<RateLimitedBackoff>,
    pub hosts: HostSelection,
    /// Another try begins when the per-try timeout of one runs out, which goes on; the first good response is taken.
    pub hedge_on_per_try_timeout: bool,
    /// How many retries may be under way at a time to one destination.
    pub max_concurrent_retries: Option<u32>,
}

/// Where a retry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSelection {
    pub avoid_previous: bool,
    /// How many endpoints are looked at before one that was tried already is taken.
    pub max_attempts: u32,
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
    policy: &RequestRetry,
    request: RequestFacts,
    attempts: &Attempts,
    outcome: &Outcome,
    replay: Replay,
    jitter: Jitter,
) -> Verdict {
    if let Outcome::Failed { cause: Cause::Connect(AttemptOutcome::Cancelled), .. } = outcome {
        return Verdict::Deliver { why: Reason::ClientGone };
    }
    let matched = if request.retriable { matched(policy, request, outcome) } else { None };
    let Some(why) = matched else {
        let why = match outcome {
            Outcome::Response(_) => Reason::Responded,
            Outcome::Failed { .. } => Reason::NotRetriable,
        };
        return Verdict::Deliver { why };
    };
    if outcome.may_be_executed() && !request.repeatable {
        return Verdict::Deliver { why: Reason::NotRepeatable };
    }
    if attempts.made > policy.num_retries {
        return Verdict::Deliver { why: Reason::AttemptsExhausted };
    }
    match replay {
        Replay::Lost => return Verdict::Deliver { why: Reason::NotReplayable },
        Replay::Ready => {}
    }
    let after = match outcome {
        // The upstream may be asked again at once, only not in early data (RFC 8470, section 5.2).
        Outcome::Response(ResponseFacts { status: TOO_EARLY, .. })
            if why == Condition::RetriableStatusCodes =>
        {
            Duration::ZERO
        }
        Outcome::Response(ResponseFacts { reset_after: Some(interval), .. }) => {
            RateLimitedBackoff::delay(*interval, jitter)
        }
        Outcome::Response(ResponseFacts { reset_after: None, .. }) | Outcome::Failed { .. } => {
            policy.backoff.delay(attempts.made, jitter)
        }
    };
    Verdict::Retry { after, why }
}

const CONFLICT: u16 = 409;
const TOO_EARLY: u16 = 425;

/// The conditions that are about a failure without a response, whatever it was.
const ANY_FAILURE: Conditions =
    Conditions::of(&[Condition::Reset, Condition::GatewayError, Condition::ServerError]);

/// The conditions that a policy shows by that it repeats what the upstream provably did not take.
const NOT_TAKEN: Conditions = ANY_FAILURE.with(Conditions::of(&[
    Condition::ConnectFailure,
    Condition::RefusedStream,
    Condition::ResetBeforeRequest,
]));

/// The first of the policy's conditions that holds for the outcome.
fn matched(policy: &RequestRetry, request: RequestFacts, outcome: &Outcome) -> Option<Condition> {
    policy.retry_on.iter().find(|&condition| match outcome {
        Outcome::Response(response) => holds_for_response(condition, policy, request, response),
        Outcome::Failed { progress, cause } => holds_for_failure(condition, *progress, *cause),
    })
}

fn holds_for_response(
    condition: Condition,
    policy: &RequestRetry,
    request: RequestFacts,
    response: &ResponseFacts,
) -> bool {
    let status = response.status;
    // Whoever limits the rate has said that a retry is no help; only who asks for just that gets one.
    if response.rate_limited {
        return condition == Condition::EnvoyRateLimited;
    }
    match condition {
        Condition::RetriableStatusCodes => {
            policy.status_codes.contains(status) && !(status == TOO_EARLY && request.early_data)
        }
        Condition::RetriableHeaders => response.retriable_header,
        Condition::Retriable4xx => status == CONFLICT,
        Condition::GatewayError => matches!(status, 502..=504),
        Condition::ServerError => matches!(status, 500..=599),
        Condition::Cancelled
        | Condition::DeadlineExceeded
        | Condition::ResourceExhausted
        | Condition::Internal
        | Condition::Unavailable => response.grpc_status == condition.grpc_status(),
        Condition::EnvoyRateLimited
        | Condition::ConnectFailure
        | Condition::Http3PostConnectFailure
        | Condition::RefusedStream
        | Condition::ResetBeforeRequest
        | Condition::Reset => false,
    }
}

fn holds_for_failure(condition: Condition, progress: Progress, cause: Cause) -> bool {
    match (progress, cause) {
        // The client may have seen some of the response. And a connection that was made has not failed to be made.
        (Progress::HeadReceived, _) | (_, Cause::Connect(AttemptOutcome::Connected)) => return false,
        (Progress::NotTaken, _) => return NOT_TAKEN.contains(condition),
        (Progress::NotSent | Progress::Sent, _) => {}
    }
    match condition {
        Condition::ConnectFailure => cause.is_connect(),
        Condition::RefusedStream => cause == Cause::RefusedStream,
        Condition::ResetBeforeRequest => progress == Progress::NotSent || cause.is_connect(),
        Condition::Reset | Condition::GatewayError | Condition::ServerError => {
            ANY_FAILURE.contains(condition)
        }
        Condition::EnvoyRateLimited
        | Condition::RetriableStatusCodes
        | Condition::RetriableHeaders
        | Condition::Cancelled
        | Condition::DeadlineExceeded
        | Condition::ResourceExhausted
        | Condition::Internal
        | Condition::Unavailable
        | Condition::Retriable4xx
        | Condition::Http3PostConnectFailure => false,
    }
}

impl Outcome {
    /// Whether the upstream may have executed the request.
    #[must_use]
    pub fn may_be_executed(&self) -> bool {
        match self {
            Self::Response(_) => true,
            Self::Failed { progress, cause } => match progress {
                Progress::NotSent | Progress::NotTaken => false,
                Progress::Sent | Progress::HeadReceived => {
                    !cause.is_connect() && *cause != Cause::RefusedStream
                }
            },
        }
    }
}

impl Cause {
    const fn is_connect(self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::ConnectionLost
            | Self::RefusedStream
            | Self::StreamReset
            | Self::Protocol
            | Self::PerTryTimeout
            | Self::PerTryIdleTimeout => false,
        }
    }
}

impl HostSelection {
    /// The most endpoints that may be looked at for one attempt.
    pub const MAX_ATTEMPTS: u32 = 1_000;
}

/// Another endpoint than those tried, if five looks find one.
impl Default for HostSelection {
    fn default() -> Self {
        Self { avoid_previous: true, max_attempts: 5 }
    }
}

/// What a native document that says nothing gets: two retries of what tells of an upstream that is not there.
impl Default for RequestRetry {
    fn default() -> Self {
        Self {
            retry_on: Conditions::DEFAULT,
            status_codes: StatusCodes::default(),
            response_headers: Vec::new(),
            request_headers: Vec::new(),
            methods: Methods::Idempotent,
            num_retries: 2,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            backoff: Backoff::default(),
            rate_limited_backoff: None,
            hosts: HostSelection::default(),
            hedge_on_per_try_timeout: false,
            max_concurrent_retries: None,
        }
    }
}

#[cfg(test)]
mod tests;
