//! The records of what has ended, TCP connections and requests: what the access log writes.
//!
//! Plain data without references into the engine, bounded in size whatever the policy allows and the client sends.

mod request;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

pub use self::request::{Grpc, HttpProtocol, Request, RequestAttempt, RequestEnd, RequestOrigin};
use super::Timestamp;
use crate::reason::{AttemptOutcome, Reason};

/// How many attempts a record keeps.
const MAX_ATTEMPTS: usize = 32;

/// What the access log has a line for.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Record {
    Connection(Box<Connection>),
    Request(Box<Request>),
}

/// One ended TCP connection. Its JSON is the access log's line; durations are written in milliseconds.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename = "tcp")]
pub struct Connection {
    /// When the connection ended.
    pub time: Timestamp,
    #[serde(serialize_with = "text")]
    pub workload: Arc<str>,
    /// The upstream connection's local address: what the server saw. None where no upstream connection was made.
    pub source: Option<SocketAddr>,
    pub original_destination: SocketAddr,
    /// What the upstream connection leads to. None where there was none.
    pub endpoint: Option<SocketAddr>,
    #[serde(serialize_with = "text")]
    pub policy: Arc<str>,
    pub handshake: Handshake,
    /// The server that the client asked for in its TLS handshake. Known only where a policy has the protocol told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<Box<str>>,
    #[serde(flatten)]
    pub attempts: Attempts,
    /// From the client to the upstream.
    pub bytes_sent: u64,
    /// From the upstream to the client.
    pub bytes_received: u64,
    /// From the client's SYN to the verdict.
    #[serde(rename = "connect_ms", serialize_with = "milliseconds")]
    pub connect: Duration,
    /// From the client's SYN to the end.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    pub reason: Reason,
}

/// Whether the client's `connect()` waited for the upstream's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handshake {
    Held,
    Eager,
}

/// One attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    pub endpoint: SocketAddr,
    pub outcome: AttemptOutcome,
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// Waited before this attempt: zero for the first.
    #[serde(rename = "backoff_ms", serialize_with = "milliseconds")]
    pub backoff: Duration,
}

/// The attempts of one connection or request in order. Where there were too many to keep, those before the last are counted
/// only: the first ones show how it began and the last one why it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempts<A = Attempt> {
    #[serde(rename = "attempts")]
    kept: Vec<A>,
    #[serde(rename = "attempts_omitted", skip_serializing_if = "is_zero")]
    omitted: usize,
}

impl<A> Attempts<A> {
    pub fn push(&mut self, attempt: A) {
        if self.kept.len() == MAX_ATTEMPTS {
            self.kept.pop();
            self.omitted += 1;
        }
        self.kept.push(attempt);
    }

    /// The attempts that were kept.
    #[must_use]
    pub fn kept(&self) -> &[A] {
        &self.kept
    }

    /// The latest attempt.
    #[must_use]
    pub fn last(&self) -> Option<&A> {
        self.kept.last()
    }

    /// How many attempts were made, kept or not.
    #[must_use]
    pub fn total(&self) -> usize {
        self.kept.len() + self.omitted
    }
}

impl<A> Default for Attempts<A> {
    fn default() -> Self {
        Self { kept: Vec::new(), omitted: 0 }
    }
}

impl<A> FromIterator<A> for Attempts<A> {
    fn from_iter<I: IntoIterator<Item = A>>(attempts: I) -> Self {
        let mut all = Self::default();
        attempts.into_iter().for_each(|attempt| all.push(attempt));
        all
    }
}

impl From<Connection> for Record {
    fn from(connection: Connection) -> Self {
        Self::Connection(Box::new(connection))
    }
}

impl From<Request> for Record {
    fn from(request: Request) -> Self {
        Self::Request(Box::new(request))
    }
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// Rounded to microseconds, so that a line is not full of digits that mean nothing.
fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
pub(super) use self::request::tests as request_tests;

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::{Attempt, Connection, Handshake};
    use crate::reason::{AttemptOutcome, Reason};

    pub(in crate::observe) fn attempt(outcome: AttemptOutcome) -> Attempt {
        Attempt {
            endpoint: "10.0.0.7:5432".parse().unwrap(),
            outcome,
            duration: Duration::from_nanos(305_040),
            backoff: Duration::from_millis(25),
        }
    }

    pub(in crate::observe) fn connection(reason: Reason, outcomes: &[AttemptOutcome]) -> Connection {
        let attempts = outcomes.iter().copied().map(attempt).collect();
        Connection {
            time: (UNIX_EPOCH + Duration::from_millis(1_790_726_400_007)).into(),
            workload: "web".into(),
            source: Some("10.0.0.2:40000".parse().unwrap()),
            original_destination: "10.0.0.7:5432".parse().unwrap(),
            endpoint: Some("10.0.0.7:5432".parse().unwrap()),
            policy: "shop/checkout".into(),
            handshake: Handshake::Held,
            sni: None,
            attempts,
            bytes_sent: 100,
            bytes_received: 2000,
            connect: Duration::from_micros(26_400),
            duration: Duration::from_millis(1500),
            reason,
        }
    }

    #[test]
    fn the_line_has_these_fields() {
        let mut record = connection(Reason::Closed, &[AttemptOutcome::Refused, AttemptOutcome::Connected]);
        assert_eq!(
            serde_json::to_value(&record).unwrap(),
            json!({
                "time": "2026-09-30T00:00:00.007Z",
                "kind": "tcp",
                "workload": "web",
                "source": "10.0.0.2:40000",
                "original_destination": "10.0.0.7:5432",
                "endpoint": "10.0.0.7:5432",
                "policy": "shop/checkout",
                "handshake": "held",
                "attempts": [
                    {"endpoint": "10.0.0.7:5432", "outcome": "refused", "duration_ms": 0.305, "backoff_ms": 25.0},
                    {"endpoint": "10.0.0.7:5432", "outcome": "connected", "duration_ms": 0.305, "backoff_ms": 25.0},
                ],
                "bytes_sent": 100,
                "bytes_received": 2000,
                "connect_ms": 26.4,
                "duration_ms": 1500.0,
                "reason": "closed",
            })
        );

        record.source = None;
        record.handshake = Handshake::Eager;
        record.original_destination = "[2001:db8::7]:443".parse().unwrap();
        let line = serde_json::to_value(&record).unwrap();
        assert_eq!(line["source"], json!(null));
        assert_eq!(line["handshake"], "eager");
        assert_eq!(line["original_destination"], "[2001:db8::7]:443");
    }

    #[test]
    fn the_first_attempts_and_the_last_one_are_kept() {
        let outcomes = [[AttemptOutcome::Refused; 39].as_slice(), &[AttemptOutcome::Connected]].concat();
        let record = connection(Reason::Closed, &outcomes);
        assert_eq!(record.attempts.total(), 40);
        assert_eq!(record.attempts.kept().len(), 32);
        assert_eq!(record.attempts.last().unwrap().outcome, AttemptOutcome::Connected);
        assert_eq!(record.attempts.kept()[30].outcome, AttemptOutcome::Refused);

        let line = serde_json::to_value(&record).unwrap();
        assert_eq!(line["attempts"].as_array().unwrap().len(), 32);
        assert_eq!(line["attempts_omitted"], 8);
    }

    #[test]
    fn a_connection_without_attempts_has_an_empty_list() {
        let line = serde_json::to_value(connection(Reason::Overloaded, &[])).unwrap();
        assert_eq!(line["attempts"], json!([]));
    }
}
