//! What is counted of HTTP for the whole agent, beside the requests themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::by_word::{ByWord, Word, encode_counter};
use super::requests::{RequestMetrics, Requests};
use super::{Metrics, add};

/// What the first bytes of a connection were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectedProtocol {
    Http1,
    H2,
    Tls,
    /// None of the others.
    Unknown,
    /// The server spoke before the client did.
    ServerFirst,
}

/// Which bound kept a body from being kept for a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyBound {
    /// The policy's, for one request.
    Request,
    /// That of all requests of one network namespace.
    Namespace,
    /// The agent's, for all requests together.
    Agent,
}

impl Metrics {
    /// The counters of the requests to a destination under a policy. For once a connection: this takes a lock.
    #[must_use]
    pub fn requests_of(&self, policy: &str, destination: SocketAddr) -> Arc<RequestMetrics> {
        self.0.http.requests.of(policy, destination)
    }

    /// It is known what a connection speaks.
    pub fn protocol_detected(&self, protocol: DetectedProtocol) {
        self.0.http.detected.add(protocol, 1);
    }

    /// A client sent what is no HTTP; `error` is the word for how.
    pub fn request_malformed(&self, error: &'static str) {
        self.0.http.malformed.add(error);
    }

    /// A request can no longer be tried again, because not all of its body is kept.
    pub fn body_not_kept(&self, bound: BodyBound) {
        self.0.http.not_kept.add(bound, 1);
    }

    /// Says how the bytes of bodies are read that are kept now. Called at each scrape; only the first one counts.
    pub fn watch_bodies(&self, kept: impl Fn() -> usize + Send + Sync + 'static) {
        // There is one such bound an agent.
        let _ = self.0.http.bodies.0.set(Box::new(kept));
    }
}

#[derive(Debug)]
pub(super) struct Http {
    pub(super) requests: Requests,
    detected: ByWord<DetectedProtocol>,
    malformed: Malformed,
    not_kept: ByWord<BodyBound>,
    bodies: Bodies,
}

impl Http {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let requests = Requests::default();
        requests.register(registry);
        Self {
            requests,
            detected: add(
                registry,
                "protocols_detected",
                "Connections whose protocol was told by their first bytes",
                ByWord::new("protocol"),
            ),
            malformed: add(
                registry,
                "malformed_requests",
                "Requests that are no HTTP, by what is wrong with them",
                Malformed::default(),
            ),
            not_kept: add(
                registry,
                "bodies_not_kept",
                "Requests that could no longer be tried again because their body was over a bound",
                ByWord::new("bound"),
            ),
            bodies: add(
                registry,
                "buffered_body_bytes",
                "Bytes of bodies that are kept now for retries",
                Bodies::default(),
            ),
        }
    }
}

/// Malformed requests by word. The words are the program's own, so there are not many, and none of these requests is in a
/// hurry.
#[derive(Clone, Debug, Default)]
struct Malformed(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Malformed {
    fn add(&self, error: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(error).or_default() += 1;
    }
}

impl EncodeMetric for Malformed {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        counts
            .into_iter()
            .try_for_each(|(error, count)| encode_counter(&[("error", error)], count, &mut encoder))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// Zero until somebody says how it is read.
#[derive(Clone, Default)]
struct Bodies(Arc<OnceLock<Box<dyn Fn() -> usize + Send + Sync>>>);

impl fmt::Debug for Bodies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bodies").finish_non_exhaustive()
    }
}

impl EncodeMetric for Bodies {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let kept = self.0.get().map_or(0, |kept| kept());
        encoder.encode_gauge(&i64::try_from(kept).unwrap_or(i64::MAX))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

impl Word for DetectedProtocol {
    const ALL: &'static [Self] = &[Self::Http1, Self::H2, Self::Tls, Self::Unknown, Self::ServerFirst];

    fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::H2 => "h2",
            Self::Tls => "tls",
            Self::Unknown => "unknown",
            Self::ServerFirst => "server-first",
        }
    }
}

impl Word for BodyBound {
    const ALL: &'static [Self] = &[Self::Request, Self::Namespace, Self::Agent];

    fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Namespace => "namespace",
            Self::Agent => "agent",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{BodyBound, DetectedProtocol};
    use crate::observe::metrics::tests::{assert_samples, metrics};

    #[test]
    fn what_belongs_to_no_policy_is_counted_for_the_agent() {
        let metrics = metrics();
        assert_samples(&metrics, &[("redial_buffered_body_bytes", 0.0)]);
        let kept = Arc::new(AtomicUsize::new(7));
        let read = Arc::clone(&kept);
        metrics.watch_bodies(move || read.load(Ordering::Relaxed));
        metrics.protocol_detected(DetectedProtocol::H2);
        metrics.protocol_detected(DetectedProtocol::H2);
        metrics.request_malformed("conflicting-lengths");
        metrics.body_not_kept(BodyBound::Agent);
        assert_samples(
            &metrics,
            &[
                (r#"redial_protocols_detected_total{protocol="h2"}"#, 2.0),
                (r#"redial_protocols_detected_total{protocol="server-first"}"#, 0.0),
                (r#"redial_malformed_requests_total{error="conflicting-lengths"}"#, 1.0),
                (r#"redial_bodies_not_kept_total{bound="agent"}"#, 1.0),
                (r#"redial_bodies_not_kept_total{bound="request"}"#, 0.0),
                ("redial_buffered_body_bytes", 7.0),
            ],
        );
        kept.store(0, Ordering::Relaxed);
        assert_samples(&metrics, &[("redial_buffered_body_bytes", 0.0)]);
    }
}
