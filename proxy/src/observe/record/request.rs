//! The record of one ended request.
//!
//! The engine tells of an end with borrowed parts; only where somebody wants to keep them is a record made, and cut to
//! its bounds. Query strings are left out: they are where applications put what nobody else is to see.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Attempts, milliseconds, text};
use crate::observe::{RequestMetrics, Timestamp};
use crate::reason::{Flags, Reason, RequestOutcome};
use crate::retry::Scope;
use crate::retry::request::Condition;

/// Longer ones are cut. No method of RFC 9110 comes near.
const MAX_METHOD: usize = 32;
/// A host name with a port.
const MAX_AUTHORITY: usize = 261;
const MAX_PATH: usize = 1024;

/// What the requests of one client connection under one policy have in common. Made once a connection.
#[derive(Clone, Debug)]
pub struct RequestOrigin {
    pub workload: Arc<str>,
    pub original_destination: SocketAddr,
    pub policy: Arc<str>,
    pub metrics: Arc<RequestMetrics>,
}

/// The end of one request, as the engine tells it.
#[derive(Clone, Copy, Debug)]
pub struct RequestEnd<'a> {
    pub origin: &'a RequestOrigin,
    /// Which of the policy's routes was taken.
    pub route: Option<&'a str>,
    /// The local address of the last attempt's connection. None where there was none.
    pub source: Option<SocketAddr>,
    pub protocol: HttpProtocol,
    /// None where the request's head could not be read, as with the next two.
    pub method: Option<&'a str>,
    pub authority: Option<&'a str>,
    /// With or without the query string.
    pub path: Option<&'a str>,
    /// None where the request is not gRPC.
    pub grpc: Option<Grpc>,
    /// As the client got it.
    pub status: Option<u16>,
    /// All of them, in order.
    pub attempts: &'a [RequestAttempt],
    /// Of the bodies, without what frames them.
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Until the head of the response that the client got was there.
    pub first_byte: Option<Duration>,
    pub duration: Duration,
    /// Whose retry budget was empty, where one was.
    pub refused: Option<Scope>,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum HttpProtocol {
    #[serde(rename = "http/1.0")]
    Http10,
    #[serde(rename = "http/1.1")]
    Http11,
    #[serde(rename = "h2")]
    H2,
}

/// What the client got of a gRPC request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grpc {
    /// None where none came.
    pub status: Option<u32>,
}

/// One attempt at a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RequestAttempt {
    pub endpoint: SocketAddr,
    pub outcome: RequestOutcome,
    /// What the upstream answered, whether the client got it or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u32>,
    /// The condition for which another attempt followed.
    #[serde(rename = "retried_on", skip_serializing_if = "Option::is_none", serialize_with = "condition")]
    pub retried: Option<Condition>,
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// Waited before this attempt: zero for the first.
    #[serde(rename = "backoff_ms", serialize_with = "milliseconds")]
    pub backoff: Duration,
}

/// One ended request. Its JSON is the access log's line; durations are written in milliseconds.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename = "http")]
pub struct Request {
    /// When the request ended.
    pub time: Timestamp,
    #[serde(serialize_with = "text")]
    pub workload: Arc<str>,
    pub source: Option<SocketAddr>,
    pub original_destination: SocketAddr,
    /// Where the last attempt went. None where there was none.
    pub endpoint: Option<SocketAddr>,
    #[serde(serialize_with = "text")]
    pub policy: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Box<str>>,
    pub protocol: HttpProtocol,
    pub method: Option<Box<str>>,
    pub authority: Option<Box<str>>,
    /// Without the query string.
    pub path: Option<Box<str>>,
    pub status: Option<u16>,
    #[serde(flatten)]
    pub grpc: Option<GrpcCall>,
    #[serde(flatten)]
    pub attempts: Attempts<RequestAttempt>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    #[serde(rename = "ttfb_ms", serialize_with = "optional_milliseconds")]
    pub first_byte: Option<Duration>,
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    pub reason: Reason,
    /// Envoy's response flags.
    pub flags: Flags,
    #[serde(rename = "budget", skip_serializing_if = "Option::is_none", serialize_with = "scope")]
    pub refused: Option<Scope>,
}

/// The call that a gRPC request makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrpcCall {
    #[serde(rename = "grpc_service")]
    pub service: Box<str>,
    #[serde(rename = "grpc_method")]
    pub method: Box<str>,
    #[serde(rename = "grpc_status")]
    pub status: Option<u32>,
}

impl From<&RequestEnd<'_>> for Request {
    fn from(end: &RequestEnd<'_>) -> Self {
        let RequestOrigin { workload, original_destination, policy, metrics: _ } = end.origin;
        let last = end.attempts.last();
        let path = end.path.map(|path| cut(without_query(path), MAX_PATH));
        Self {
            time: Timestamp::now(),
            workload: Arc::clone(workload),
            source: end.source,
            original_destination: *original_destination,
            endpoint: last.map(|last| last.endpoint),
            policy: Arc::clone(policy),
            route: end.route.map(Box::from),
            protocol: end.protocol,
            method: end.method.map(|method| cut(method, MAX_METHOD)),
            authority: end.authority.map(|authority| cut(without_user(authority), MAX_AUTHORITY)),
            grpc: end.grpc.map(|grpc| GrpcCall::new(path.as_deref().unwrap_or_default(), grpc)),
            path,
            status: end.status,
            attempts: end.attempts.iter().copied().collect(),
            request_bytes: end.request_bytes,
            response_bytes: end.response_bytes,
            first_byte: end.first_byte,
            duration: end.duration,
            reason: end.reason,
            flags: Flags::of(last.map(|last| last.outcome), end.reason),
            refused: end.refused,
        }
    }
}

impl GrpcCall {
    /// A call's path is `/package.Service/Method`.
    fn new(path: &str, grpc: Grpc) -> Self {
        let call = path.strip_prefix('/').unwrap_or(path);
        let (service, method) = call.rsplit_once('/').unwrap_or((call, ""));
        Self { service: service.into(), method: method.into(), status: grpc.status }
    }
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

/// An authority may begin with a user's name and password.
fn without_user(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// The text, or its beginning where it is longer than that many bytes.
fn cut(text: &str, max: usize) -> Box<str> {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default().into()
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn condition<S: Serializer>(condition: &Option<Condition>, serializer: S) -> Result<S::Ok, S::Error> {
    condition.map(Condition::as_str).serialize(serializer)
}

#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn scope<S: Serializer>(scope: &Option<Scope>, serializer: S) -> Result<S::Ok, S::Error> {
    scope.map(Scope::as_str).serialize(serializer)
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference")]
fn optional_milliseconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => milliseconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
pub(in crate::observe) mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{Grpc, HttpProtocol, Request, RequestAttempt, RequestEnd, RequestOrigin};
    use crate::observe::Metrics;
    use crate::observe::metrics::tests::metrics;
    use crate::reason::{AttemptOutcome, Reason, RequestOutcome};
    use crate::retry::Scope;
    use crate::retry::request::Condition;

    pub(in crate::observe) const REFUSED: RequestOutcome = RequestOutcome::Connect(AttemptOutcome::Refused);

    pub(in crate::observe) fn origin(metrics: &Metrics) -> RequestOrigin {
        let original_destination = "10.0.0.7:8080".parse().unwrap();
        RequestOrigin {
            workload: "web".into(),
            original_destination,
            policy: "shop/checkout".into(),
            metrics: metrics.requests_of("shop/checkout", original_destination),
        }
    }

    /// A failed attempt that was retried.
    pub(in crate::observe) fn failed(outcome: RequestOutcome, retried: Condition) -> RequestAttempt {
        RequestAttempt { retried: Some(retried), ..attempt(outcome, None) }
    }

    pub(in crate::observe) fn attempt(outcome: RequestOutcome, status: Option<u16>) -> RequestAttempt {
        RequestAttempt {
            endpoint: "10.0.0.7:8080".parse().unwrap(),
            outcome,
            status,
            grpc_status: None,
            retried: None,
            duration: Duration::from_micros(1_250),
            backoff: Duration::ZERO,
        }
    }

    pub(in crate::observe) fn end<'a>(
        origin: &'a RequestOrigin,
        attempts: &'a [RequestAttempt],
        reason: Reason,
    ) -> RequestEnd<'a> {
        RequestEnd {
            route: None,
            origin,
            source: Some("10.0.0.2:40000".parse().unwrap()),
            protocol: HttpProtocol::Http11,
            method: Some("POST"),
            authority: Some("shop.example:8080"),
            path: Some("/cart/7?token=secret"),
            grpc: None,
            status: attempts.last().and_then(|last| last.status),
            attempts,
            request_bytes: 17,
            response_bytes: 4_000,
            first_byte: Some(Duration::from_millis(27)),
            duration: Duration::from_micros(30_500),
            refused: None,
            reason,
        }
    }

    fn line(end: &RequestEnd<'_>) -> serde_json::Value {
        serde_json::to_value(Request::from(end)).unwrap()
    }

    #[test]
    fn the_line_has_these_fields() {
        let origin = origin(&metrics());
        let last = RequestAttempt {
            backoff: Duration::from_millis(25),
            ..attempt(RequestOutcome::Response, Some(200))
        };
        let attempts = [failed(REFUSED, Condition::ConnectFailure), last];
        let mut line = line(&end(&origin, &attempts, Reason::Responded));
        assert!(line["time"].take().as_str().unwrap().ends_with('Z'));
        assert_eq!(
            line,
            json!({
                "time": null,
                "kind": "http",
                "workload": "web",
                "source": "10.0.0.2:40000",
                "original_destination": "10.0.0.7:8080",
                "endpoint": "10.0.0.7:8080",
                "policy": "shop/checkout",
                "protocol": "http/1.1",
                "method": "POST",
                "authority": "shop.example:8080",
                "path": "/cart/7",
                "status": 200,
                "attempts": [
                    {"endpoint": "10.0.0.7:8080", "outcome": "connect-refused", "retried_on": "connect-failure",
                     "duration_ms": 1.25, "backoff_ms": 0.0},
                    {"endpoint": "10.0.0.7:8080", "outcome": "response", "status": 200,
                     "duration_ms": 1.25, "backoff_ms": 25.0},
                ],
                "request_bytes": 17,
                "response_bytes": 4000,
                "ttfb_ms": 27.0,
                "duration_ms": 30.5,
                "reason": "responded",
                "flags": "-",
            })
        );
    }

    #[test]
    fn a_grpc_request_names_its_call() {
        let origin = origin(&metrics());
        let attempts = [attempt(RequestOutcome::Response, Some(200))];
        let call = RequestEnd {
            protocol: HttpProtocol::H2,
            path: Some("/shop.v1.Cart/Add"),
            grpc: Some(Grpc { status: Some(14) }),
            refused: Some(Scope::Node),
            ..end(&origin, &attempts, Reason::BudgetExhausted)
        };
        let line = line(&call);
        assert_eq!(
            [&line["protocol"], &line["grpc_service"], &line["grpc_method"], &line["grpc_status"]],
            [&json!("h2"), &json!("shop.v1.Cart"), &json!("Add"), &json!(14)]
        );
        assert_eq!([&line["flags"], &line["budget"]], [&json!("UO"), &json!("node")]);
    }

    #[test]
    fn what_the_client_sends_does_not_make_a_line_long_or_tell_secrets() {
        let origin = origin(&metrics());
        let attempts = [failed(REFUSED, Condition::ConnectFailure); 40];
        let (method, path) = ("M".repeat(5_000), format!("/{}?a=b", "ä".repeat(5_000)));
        let long = RequestEnd {
            method: Some(&method),
            path: Some(&path),
            authority: Some("me:secret@shop.example"),
            ..end(&origin, &attempts, Reason::AttemptsExhausted)
        };
        let line = line(&long);
        assert_eq!(line["method"].as_str().unwrap().len(), 32);
        assert_eq!(line["path"].as_str().unwrap().len(), 1_023);
        assert_eq!(line["authority"], "shop.example");
        assert_eq!(line["attempts"].as_array().unwrap().len(), 32);
        assert_eq!(line["attempts_omitted"], 8);
        assert!(line.to_string().len() < 8_000);
    }

    #[test]
    fn a_head_that_could_not_be_read_leaves_its_fields_empty() {
        let origin = origin(&metrics());
        let unread = RequestEnd {
            source: None,
            method: None,
            authority: None,
            path: None,
            status: Some(400),
            first_byte: None,
            ..end(&origin, &[], Reason::BadRequest)
        };
        let line = line(&unread);
        for field in ["source", "endpoint", "method", "authority", "path", "ttfb_ms"] {
            assert_eq!(line[field], json!(null), "{field}");
        }
        assert_eq!([&line["status"], &line["flags"]], [&json!(400), &json!("DPE")]);
    }
}
