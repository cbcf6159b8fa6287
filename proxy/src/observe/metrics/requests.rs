//! What is counted of requests, by policy and destination.
//!
//! A connection looks its counters up once, under a lock; a request then adds to atomics only, which few others use: a
//! request that succeeds at once costs about eight additions. Both policies and destinations come and go, so what is past
//! the bounds is counted as `other`, and nothing is ever removed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Direction;
use super::by_word::{ByWord, Word, encode_counter};
use super::durations::Durations;
use crate::observe::RequestEnd;
use crate::observe::status::Totals;
use crate::reason::{Reason, RequestOutcome};
use crate::retry::request::Condition;

/// How many policies have series of their own.
const MAX_POLICIES: usize = 1_000;
/// How many destinations have series of their own, all policies together.
const MAX_DESTINATIONS: usize = 512;
/// How many destinations of one policy have: a policy for everything does not use the others' up.
const MAX_DESTINATIONS_OF_POLICY: usize = 128;
/// The policy, and the destination, that stands for all others.
const OTHER: &str = "other";

/// Counts the requests to one destination under one policy.
#[derive(Debug)]
pub struct RequestMetrics {
    policy: Arc<str>,
    destination: Box<str>,
    active: AtomicU64,
    /// In the order of [`StatusClass::ALL`].
    ended: [ByWord<Reason>; StatusClass::ALL.len()],
    recovered: AtomicU64,
    attempts: ByWord<RequestOutcome>,
    retries: ByWord<Condition>,
    grpc: ByWord<GrpcStatus>,
    duration: Durations,
    body_bytes: ByWord<Direction>,
}

/// A request that has begun and not ended.
#[derive(Debug)]
#[must_use = "the request counts as active for as long as this lives"]
pub struct ActiveRequest<'a>(&'a AtomicU64);

impl RequestMetrics {
    /// A request begins; it is active until the guard is dropped.
    pub fn begin(&self) -> ActiveRequest<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(&self.active)
    }

    pub(in crate::observe) fn ended(&self, end: &RequestEnd<'_>) {
        let class = StatusClass::of(end.status);
        let by_class = StatusClass::ALL.iter().zip(&self.ended).find(|(each, _)| **each == class);
        if let Some((_, reasons)) = by_class {
            reasons.add(end.reason, 1);
        }
        self.duration.observe(end.duration);
        for attempt in end.attempts {
            self.attempts.add(attempt.outcome, 1);
            if let Some(condition) = attempt.retried {
                self.retries.add(condition, 1);
            }
        }
        if end.reason == Reason::Responded && end.attempts.len() > 1 {
            self.recovered.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(grpc) = end.grpc {
            self.grpc.add(GrpcStatus::of(grpc.status), 1);
        }
        for (direction, bytes) in
            [(Direction::Sent, end.request_bytes), (Direction::Received, end.response_bytes)]
        {
            if bytes > 0 {
                self.body_bytes.add(direction, bytes);
            }
        }
    }

    fn new(policy: Arc<str>, destination: Box<str>) -> Self {
        Self {
            policy,
            destination,
            active: AtomicU64::new(0),
            ended: StatusClass::ALL.map(|_| ByWord::new("reason")),
            recovered: AtomicU64::new(0),
            attempts: ByWord::new("outcome"),
            retries: ByWord::new("condition"),
            grpc: ByWord::new("grpc_status"),
            duration: Durations::default(),
            body_bytes: ByWord::new("direction"),
        }
    }

    fn labels(&self) -> [(&str, &str); 2] {
        [("policy", &self.policy), ("destination", &self.destination)]
    }
}

impl Drop for ActiveRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All of them. A clone is the same counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    policies: BTreeMap<Arc<str>, Policy>,
    destinations: usize,
}

#[derive(Debug, Default)]
struct Policy {
    destinations: BTreeMap<SocketAddr, Arc<RequestMetrics>>,
    others: Option<Arc<RequestMetrics>>,
}

impl Requests {
    pub(super) fn of(&self, policy: &str, destination: SocketAddr) -> Arc<RequestMetrics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).of(policy, destination)
    }

    pub(super) fn add_to(&self, totals: &mut Totals) {
        for metrics in self.all() {
            totals.requests_active += metrics.active.load(Ordering::Relaxed);
            totals.requests_recovered += metrics.recovered.load(Ordering::Relaxed);
            metrics.ended.iter().for_each(|reasons| reasons.add_to(&mut totals.requests_total));
            metrics.attempts.add_to(&mut totals.request_attempts);
            metrics.retries.add_to(&mut totals.request_retries);
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, metric_type, encode| {
            registry.register(name, help, View { requests: self.clone(), metric_type, encode });
        };
        add(
            "requests",
            "Ended requests by the class of the status that the client got, and by reason",
            MetricType::Counter,
            |metrics, encoder| {
                StatusClass::ALL.iter().zip(&metrics.ended).try_for_each(|(class, reasons)| {
                    let labels = [metrics.labels().as_slice(), &[("status", class.as_str())]].concat();
                    reasons.encode_counted_with(&labels, encoder)
                })
            },
        );
        add("requests_active", "Requests now under way", MetricType::Gauge, |metrics, encoder| {
            let active = i64::try_from(metrics.active.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
            encoder.encode_family(&metrics.labels())?.encode_gauge(&active)
        });
        add(
            "requests_recovered",
            "Requests that got a good response after at least one retry",
            MetricType::Counter,
            |metrics, encoder| {
                encode_counter(&metrics.labels(), metrics.recovered.load(Ordering::Relaxed), encoder)
            },
        );
        add(
            "request_attempts",
            "Attempts at requests by outcome",
            MetricType::Counter,
            |metrics, encoder| metrics.attempts.encode_counted_with(&metrics.labels(), encoder),
        );
        add(
            "request_retries",
            "Retries of requests by the condition that the failed attempt met",
            MetricType::Counter,
            |metrics, encoder| metrics.retries.encode_counted_with(&metrics.labels(), encoder),
        );
        add(
            "grpc_requests",
            "Ended gRPC requests by the status that the client got",
            MetricType::Counter,
            |metrics, encoder| metrics.grpc.encode_counted_with(&metrics.labels(), encoder),
        );
        add(
            "request_body_bytes",
            "Bytes of the bodies of ended requests and their responses, as the client sees the direction",
            MetricType::Counter,
            |metrics, encoder| metrics.body_bytes.encode_counted_with(&metrics.labels(), encoder),
        );
        registry.register_with_unit(
            "request_duration",
            "Time from a request's head to the end of its response",
            Unit::Seconds,
            View {
                requests: self.clone(),
                metric_type: MetricType::Histogram,
                encode: |metrics, encoder| {
                    metrics.duration.encode_to(encoder.encode_family(&metrics.labels())?)
                },
            },
        );
    }

    fn all(&self) -> Vec<Arc<RequestMetrics>> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_policy = |policy: &Policy| -> Vec<_> {
            policy.destinations.values().chain(&policy.others).cloned().collect()
        };
        table.policies.values().flat_map(of_policy).collect()
    }
}

impl Table {
    fn of(&mut self, policy: &str, destination: SocketAddr) -> Arc<RequestMetrics> {
        let is_other = self.policies.len() >= MAX_POLICIES && !self.policies.contains_key(policy);
        let name: Arc<str> = if is_other { OTHER.into() } else { policy.into() };
        let policy = self.policies.entry(Arc::clone(&name)).or_default();
        if let Some(metrics) = policy.destinations.get(&destination) {
            return Arc::clone(metrics);
        }
        let has_room =
            self.destinations < MAX_DESTINATIONS && policy.destinations.len() < MAX_DESTINATIONS_OF_POLICY;
        if has_room {
            let metrics = Arc::new(RequestMetrics::new(name, destination.to_string().into()));
            policy.destinations.insert(destination, Arc::clone(&metrics));
            self.destinations += 1;
            return metrics;
        }
        let others = policy.others.get_or_insert_with(|| Arc::new(RequestMetrics::new(name, OTHER.into())));
        Arc::clone(others)
    }
}

/// One metric of all policies and destinations.
struct View {
    requests: Requests,
    metric_type: MetricType,
    encode: fn(&RequestMetrics, &mut MetricEncoder<'_>) -> Result<(), fmt::Error>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("metric_type", &self.metric_type).finish_non_exhaustive()
    }
}

impl EncodeMetric for View {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.requests.all().iter().try_for_each(|metrics| (self.encode)(metrics, &mut encoder))
    }

    fn metric_type(&self) -> MetricType {
        self.metric_type
    }
}

/// The class of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StatusClass {
    Successful,
    Informational,
    Redirection,
    ClientError,
    ServerError,
    /// The client got none.
    None,
}

impl StatusClass {
    /// The usual one first.
    const ALL: [Self; 6] = [
        Self::Successful,
        Self::Informational,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
        Self::None,
    ];

    fn of(status: Option<u16>) -> Self {
        match status {
            None => Self::None,
            Some(..200) => Self::Informational,
            Some(200..300) => Self::Successful,
            Some(300..400) => Self::Redirection,
            Some(400..500) => Self::ClientError,
            Some(500..) => Self::ServerError,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Successful => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::None => "none",
        }
    }
}

/// A gRPC status code, as an index of [`GRPC_STATUSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GrpcStatus(u32);

/// In the order of their codes, and last the word for a response without one.
const GRPC_STATUSES: [&str; 18] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
    "none",
];

impl GrpcStatus {
    const UNKNOWN: Self = Self(2);
    const NONE: Self = Self(17);

    /// A code that is none counts as unknown, which is what clients take it for.
    fn of(status: Option<u32>) -> Self {
        match status {
            None => Self::NONE,
            Some(code @ 0..17) => Self(code),
            Some(17..) => Self::UNKNOWN,
        }
    }
}

impl Word for GrpcStatus {
    const ALL: &'static [Self] = &{
        let mut all = [Self(0); GRPC_STATUSES.len()];
        let mut code = 0;
        let mut rest = all.as_mut_slice();
        while let Some((first, others)) = rest.split_first_mut() {
            *first = Self(code);
            code += 1;
            rest = others;
        }
        all
    };

    fn as_str(self) -> &'static str {
        let index = usize::try_from(self.0).unwrap_or(usize::MAX);
        GRPC_STATUSES.get(index).copied().unwrap_or("unknown")
    }
}

impl Word for RequestOutcome {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

impl Word for Condition {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::{GRPC_STATUSES, GrpcStatus, MAX_DESTINATIONS, MAX_DESTINATIONS_OF_POLICY, Requests, Word};
    use crate::observe::metrics::tests::{assert_samples, metrics, samples};
    use crate::observe::record::request_tests::{REFUSED, attempt, end, failed, origin};
    use crate::observe::{Grpc, RequestEnd};
    use crate::reason::{Reason, RequestOutcome};
    use crate::retry::request::Condition;

    #[test]
    fn a_request_that_a_retry_saved() {
        let metrics = metrics();
        let origin = origin(&metrics);
        let active = origin.metrics.begin();
        assert_samples(
            &metrics,
            &[(r#"redial_requests_active{policy="shop/checkout",destination="10.0.0.7:8080"}"#, 1.0)],
        );
        let attempts =
            [failed(REFUSED, Condition::ConnectFailure), attempt(RequestOutcome::Response, Some(201))];
        origin.metrics.ended(&end(&origin, &attempts, Reason::Responded));
        drop(active);

        let of = r#"policy="shop/checkout",destination="10.0.0.7:8080""#;
        let expected = [
            ("redial_requests_active{OF}", 0.0),
            (r#"redial_requests_total{OF,status="2xx",reason="responded"}"#, 1.0),
            ("redial_requests_recovered_total{OF}", 1.0),
            (r#"redial_request_attempts_total{OF,outcome="connect-refused"}"#, 1.0),
            (r#"redial_request_attempts_total{OF,outcome="response"}"#, 1.0),
            (r#"redial_request_retries_total{OF,condition="connect-failure"}"#, 1.0),
            ("redial_request_duration_seconds_count{OF}", 1.0),
            ("redial_request_duration_seconds_sum{OF}", 0.0305),
            (r#"redial_request_duration_seconds_bucket{le="0.05",OF}"#, 1.0),
            (r#"redial_request_body_bytes_total{OF,direction="sent"}"#, 17.0),
            (r#"redial_request_body_bytes_total{OF,direction="received"}"#, 4_000.0),
        ]
        .map(|(name, value)| (name.replace("OF", of), value));
        assert_samples(&metrics, &expected.each_ref().map(|(name, value)| (name.as_str(), *value)));
        let totals = metrics.totals();
        assert_eq!((totals.requests_active, totals.requests_recovered), (0, 1));
        assert_eq!(totals.requests_total, [("responded".to_owned(), 1)].into());
        assert_eq!(totals.request_attempts.len(), 2);
        assert_eq!(totals.request_retries, [("connect-failure".to_owned(), 1)].into());
    }

    #[test]
    fn a_request_that_was_not_saved_and_what_was_never_counted() {
        let metrics = metrics();
        let origin = origin(&metrics);
        let attempts = [
            failed(RequestOutcome::ConnectionLost, Condition::Reset),
            attempt(RequestOutcome::ConnectionLost, None),
        ];
        let lost = RequestEnd { status: Some(503), ..end(&origin, &attempts, Reason::AttemptsExhausted) };
        origin.metrics.ended(&lost);
        origin.metrics.ended(&RequestEnd { status: None, ..end(&origin, &[], Reason::ClientGone) });
        let samples = samples(&metrics);
        let of = |name: &str| -> Vec<_> {
            samples.iter().filter(|(sample, _)| sample.starts_with(name)).map(|(_, value)| *value).collect()
        };
        assert_eq!(of("redial_requests_total").len(), 2, "{samples:#?}");
        assert_eq!(of("redial_request_attempts_total"), [2.0]);
        assert_eq!(of("redial_requests_recovered_total"), [0.0]);
        assert!(of("redial_grpc_requests_total").is_empty());
    }

    #[test]
    fn grpc_statuses_are_counted_by_name() {
        let metrics = metrics();
        let origin = origin(&metrics);
        let attempts = [attempt(RequestOutcome::Response, Some(200))];
        for status in [Some(0), Some(14), Some(14), Some(99), None] {
            let grpc = Some(Grpc { status });
            origin.metrics.ended(&RequestEnd { grpc, ..end(&origin, &attempts, Reason::Responded) });
        }
        let of = r#"redial_grpc_requests_total{policy="shop/checkout",destination="10.0.0.7:8080","#;
        let expected = [("ok", 1.0), ("unavailable", 2.0), ("unknown", 1.0), ("none", 1.0)]
            .map(|(word, count)| (format!("{of}grpc_status=\"{word}\"}}"), count));
        assert_samples(&metrics, &expected.each_ref().map(|(name, value)| (name.as_str(), *value)));
        assert_eq!(
            <GrpcStatus as Word>::ALL.iter().map(|status| status.as_str()).collect::<Vec<_>>(),
            GRPC_STATUSES
        );
    }

    #[test]
    fn what_is_past_the_bounds_is_other() {
        let requests = Requests::default();
        let destination = |index: usize| ([10, 0, 0, 1], u16::try_from(index).unwrap()).into();
        for index in 0..2 * MAX_DESTINATIONS_OF_POLICY {
            let metrics = requests.of("default", destination(index));
            assert_eq!(&*metrics.destination == "other", index >= MAX_DESTINATIONS_OF_POLICY);
        }
        let first = requests.of("default", destination(0));
        assert!(Arc::ptr_eq(&first, &requests.of("default", destination(0))));
        for index in 0..2_000 {
            requests.of(&format!("shop/{index}"), destination(index));
        }
        let all = requests.all();
        let own = all.iter().filter(|metrics| &*metrics.destination != "other").count();
        assert_eq!(own, MAX_DESTINATIONS);
        assert!(all.len() <= MAX_DESTINATIONS + 1_001);
        let last = requests.of("shop/1999", destination(1));
        assert_eq!((&*last.policy, &*last.destination), ("other", "other"));
        assert_eq!(&*requests.of("shop/0", destination(7)).policy, "shop/0");
    }

    #[test]
    fn no_request_is_lost_where_threads_count_together() {
        let metrics = metrics();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let origin = origin(&metrics);
                    let attempts = [attempt(RequestOutcome::Response, Some(200))];
                    for _ in 0..1_000 {
                        let _active = origin.metrics.begin();
                        origin.metrics.ended(&end(&origin, &attempts, Reason::Responded));
                    }
                });
            }
        });
        let totals = metrics.totals();
        assert_eq!(totals.requests_total, [("responded".to_owned(), 4_000)].into());
        assert_eq!(totals.requests_active, 0);
    }
}
