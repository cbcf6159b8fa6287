//! Answers of redial's own, in the upstream's place: Envoy's status codes and texts, and gRPC's form for gRPC requests.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::StatusCode;

use crate::reason::AttemptOutcome;
use crate::retry::request::Cause;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    body: Cow<'static, str>,
}

impl Answer {
    /// No attempt came to a response, and this is how the last one failed.
    #[must_use]
    pub fn failed(cause: Cause, is_retried: bool) -> Self {
        let reason = match cause {
            Cause::Connect(AttemptOutcome::Timeout) => "connection timeout",
            Cause::Connect(_) => "remote connection failure",
            Cause::ConnectionLost => "connection termination",
            Cause::RefusedStream => "remote refused stream reset",
            Cause::StreamReset => "remote reset",
            Cause::Protocol => "protocol error",
            Cause::PerTryTimeout | Cause::PerTryIdleTimeout => return Self::timeout(false),
        };
        let retried = if is_retried { "retried and the latest " } else { "" };
        let body = format!(
            "upstream connect error or disconnect/reset before headers. {retried}reset reason: {reason}"
        );
        let status = if cause == Cause::Protocol { 502 } else { 503 };
        Self { status, body: body.into() }
    }

    /// The time is up.
    #[must_use]
    pub fn timeout(is_no_content: bool) -> Self {
        if is_no_content {
            return Self::refused(204);
        }
        Self { status: 504, body: "upstream request timeout".into() }
    }

    /// Nothing came or went for too long.
    #[must_use]
    pub fn idle_timeout(is_request_complete: bool) -> Self {
        let status = if is_request_complete { 504 } else { 408 };
        Self { status, body: "stream timeout".into() }
    }

    /// There is nowhere to send the request.
    #[must_use]
    pub fn no_endpoint() -> Self {
        Self { status: 503, body: "no healthy upstream".into() }
    }

    /// A status without a word: what the client sent is no HTTP, or too much of it.
    #[must_use]
    pub fn refused(status: u16) -> Self {
        Self { status, body: "".into() }
    }

    /// The answer as HTTP/1. A gRPC request is answered in gRPC's words.
    #[must_use]
    pub fn http1(
        &self,
        added: Option<&(&str, String)>,
        is_head: bool,
        is_grpc: bool,
        is_persistent: bool,
    ) -> Vec<u8> {
        let status = if is_grpc { 200 } else { self.status };
        let words = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let mut text = format!("HTTP/1.1 {status} {}\r\n", words.unwrap_or_default());
        let mut header = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                text.push_str(part);
            }
        };
        let body = if is_grpc { "" } else { &self.body };
        if status != 204 {
            header("content-length", &body.len().to_string());
        }
        if is_grpc {
            header("content-type", "application/grpc");
            header("grpc-status", &self.grpc_status().to_string());
            header("grpc-message", &self.grpc_message());
        } else if !body.is_empty() {
            header("content-type", "text/plain");
        }
        if let Some((name, value)) = added {
            header(name, value);
        }
        if !is_persistent {
            header("connection", "close");
        }
        text.push_str("\r\n");
        if !is_head {
            text.push_str(body);
        }
        text.into_bytes()
    }

    /// The text as gRPC's trailers have it: percent-encoded.
    #[must_use]
    pub fn grpc_message(&self) -> String {
        let mut message = String::with_capacity(self.body.len());
        for byte in self.body.bytes() {
            if matches!(byte, 0x20..=0x7e) && byte != b'%' {
                message.push(char::from(byte));
            } else {
                let _ = write!(message, "%{byte:02X}");
            }
        }
        message
    }

    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The status of gRPC that stands for the one of HTTP, in Envoy's table of local answers.
    #[must_use]
    pub fn grpc_status(&self) -> u32 {
        const UNKNOWN: u32 = 2;
        const INTERNAL: u32 = 13;
        const UNAVAILABLE: u32 = 14;
        match self.status {
            400 => INTERNAL,
            429 | 502..=504 => UNAVAILABLE,
            _ => UNKNOWN,
        }
    }
}
