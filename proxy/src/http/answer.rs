//! Answers of redial's own, in the upstream's place: Envoy's status codes and texts, and gRPC's form for gRPC requests.

use std::borrow::Cow;

use crate::reason::AttemptOutcome;
use crate::retry::request::Cause;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    body: Cow<'static, str>,
    grpc_status: u32,
}

const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

impl Answer {
    /// No attempt came to a response, and this is how the last one failed.
    #[must_use]
    pub fn failed(cause: Cause, is_retried: bool) -> Self {
        let (reason, transport) = match cause {
            Cause::Connect(AttemptOutcome::Timeout) => ("connection timeout", None),
            Cause::Connect(outcome) => ("remote connection failure", Some(transport(outcome))),
            Cause::ConnectionLost => ("connection termination", None),
            Cause::RefusedStream => ("remote refused stream reset", None),
            Cause::StreamReset => ("remote reset", None),
            Cause::Protocol => ("protocol error", None),
            Cause::PerTryTimeout | Cause::PerTryIdleTimeout => return Self::timeout(false),
        };
        let retried = if is_retried { "retried and the latest " } else { "" };
        let mut body =
            format!("upstream connect error or disconnect/reset before headers. {retried}reset reason: {reason}");
        if let Some(transport) = transport {
            body.push_str(", transport failure reason: ");
            body.push_str(transport);
        }
        let status = if cause == Cause::Protocol { 502 } else { 503 };
        Self { status, body: body.into(), grpc_status: UNAVAILABLE }
    }

    /// The time is up.
    #[must_use]
    pub fn timeout(is_no_content: bool) -> Self {
        if is_no_content {
            return Self { status: 204, body: "".into(), grpc_status: DEADLINE_EXCEEDED };
        }
        Self { status: 504, body: "upstream request timeout".into(), grpc_status: DEADLINE_EXCEEDED }
    }

    /// Nothing came or went for too long.
    #[must_use]
    pub fn idle_timeout(is_request_complete: bool) -> Self {
        let status = if is_request_complete { 504 } else { 408 };
        Self { status, body: "stream timeout".into(), grpc_status: DEADLINE_EXCEEDED }
    }

    /// What the client sent is no HTTP, or too much of it.
    #[must_use]
    pub fn refused(status: u16) -> Self {
        let grpc_status = match status {
            400 => INTERNAL,
            429 | 502..=504 => UNAVAILABLE,
            _ => UNKNOWN,
        };
        Self { status, body: "".into(), grpc_status }
    }

    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    #[must_use]
    pub fn grpc_status(&self) -> u32 {
        self.grpc_status
    }
}

fn transport(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Refused => "delayed connect error: Connection refused",
        AttemptOutcome::HostUnreachable => "delayed connect error: No route to host",
        AttemptOutcome::NetworkUnreachable => "delayed connect error: Network is unreachable",
        AttemptOutcome::Reset => "delayed connect error: Connection reset by peer",
        AttemptOutcome::Local => "immediate connect error",
        AttemptOutcome::Connected | AttemptOutcome::Timeout | AttemptOutcome::Cancelled => "none",
    }
}
