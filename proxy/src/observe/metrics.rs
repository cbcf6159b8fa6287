//! What the agent counts, and the text that a scrape gets.
//!
//! The data path only adds to atomics that were made beforehand: it takes no lock, and every set of labels is closed
//! or bounded. Kernel counters and the process's own figures are read when somebody scrapes.

mod by_word;
mod durations;
mod http;
mod pods;
mod policies;
mod requests;
mod sampled;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

use self::by_word::{ByWord, Word};
use self::durations::Durations;
use self::http::Http;
pub use self::http::{BodyBound, DetectedProtocol};
use self::pods::Pods;
use self::policies::Policies;
pub use self::requests::{ActiveRequest, RequestMetrics};
use self::sampled::{Interceptions, register_process};
use super::Timestamp;
use super::record::{Attempts, Connection};
use super::status::Totals;
use crate::reason::{AttemptOutcome, Reason};
use crate::retry::Scope;

/// The content type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The kernel programs' counters, in the order of [`redial_ebpf::Counter::ALL`].
pub type KernelCounters = [u64; redial_ebpf::Counter::ALL.len()];

/// Everything that the agent counts. A clone counts into the same counters.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    started: Timestamp,
    connections: ByWord<Reason>,
    policy_connections: Policies,
    connections_active: Gauge,
    connections_recovered: Counter,
    attempts: ByWord<AttemptOutcome>,
    retries: ByWord<AttemptOutcome>,
    budget_refusals: ByWord<Scope>,
    handshakes_held: Gauge,
    connect_duration: Durations,
    bytes: ByWord<Direction>,
    http: Http,
    config_reloads: ByWord<Reload>,
    config_last_reload_successful: Gauge,
    policies: Gauge,
    workloads: Gauge,
    pods: Pods,
    access_log_dropped: Counter,
    events_lost: Counter,
}

impl Metrics {
    /// `kernel` is called at each scrape.
    pub fn new(kernel: impl Fn() -> KernelCounters + Send + Sync + 'static) -> Self {
        let started = Timestamp::now();
        let mut registry = Registry::default();
        register_process(&mut registry, started);

        let redial = registry.sub_registry_with_prefix("redial");
        let build = Family::<[(&str, &str); 1], Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        redial.register("build_info", "The agent's version", build);
        redial.register(
            "interceptions",
            "What the kernel programs did, by action",
            Interceptions::new(kernel),
        );

        let connections = add(redial, "connections", "Ended connections by reason", ByWord::new("reason"));
        let policy_connections = add(
            redial,
            "policy_connections",
            "Ended connections by policy and reason; policies past the bound are counted as other",
            Policies::default(),
        );
        let connections_active =
            add(redial, "connections_active", "Connections now relayed", Gauge::default());
        let connections_recovered = add(
            redial,
            "connections_recovered",
            "Connections that were made after at least one retry",
            Counter::default(),
        );
        let attempts =
            add(redial, "connection_attempts", "Attempts to connect by outcome", ByWord::new("outcome"));
        let retries = add(
            redial,
            "connection_retries",
            "Retries by the outcome of the attempt that failed",
            ByWord::new("after"),
        );
        let budget_refusals = add(
            redial,
            "retry_budget_refusals",
            "Retries not made because a retry budget was empty",
            ByWord::new("scope"),
        );
        let handshakes_held =
            add(redial, "handshakes_held", "Handshakes now held for an upstream's answer", Gauge::default());
        let connect_duration = Durations::default();
        redial.register_with_unit(
            "connect_duration",
            "Time from the client's SYN to the verdict",
            Unit::Seconds,
            connect_duration.clone(),
        );
        let bytes = add(
            redial,
            "bytes",
            "Bytes relayed by ended connections, as the client sees the direction",
            ByWord::new("direction"),
        );
        let http = Http::register(redial);
        let config_reloads =
            add(redial, "config_reloads", "Reloads of the policies by result", ByWord::new("result"));
        let config_last_reload_successful = add(
            redial,
            "config_last_reload_successful",
            "1 where the latest reload of the policies was accepted",
            Gauge::default(),
        );
        // An agent whose first policies are refused does not start.
        config_last_reload_successful.set(1);
        let policies = add(redial, "policies", "Policies in force", Gauge::default());
        let workloads = add(redial, "workloads", "Enrolled workloads", Gauge::default());
        let pods = Pods::register(redial);
        let access_log_dropped = add(
            redial,
            "access_log_dropped",
            "Access log lines lost: the queue was full or the write failed",
            Counter::default(),
        );
        let events_lost =
            add(redial, "events_lost", "Kernel events that the agent could not use", Counter::default());

        Self(Arc::new(Inner {
            registry,
            started,
            connections,
            policy_connections,
            connections_active,
            connections_recovered,
            attempts,
            retries,
            budget_refusals,
            handshakes_held,
            connect_duration,
            bytes,
            http,
            config_reloads,
            config_last_reload_successful,
            policies,
            workloads,
            pods,
            access_log_dropped,
            events_lost,
        }))
    }

    /// When these metrics, and so the agent, began.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.0.started
    }

    /// A connection came in; it is active until the guard is dropped.
    #[must_use = "the connection counts as active for as long as this lives"]
    pub fn connection_opened(&self) -> Active {
        Active::new(&self.0.connections_active)
    }

    /// A handshake is held until the guard is dropped.
    #[must_use = "the handshake counts as held for as long as this lives"]
    pub fn handshake_held(&self) -> Active {
        Active::new(&self.0.handshakes_held)
    }

    /// An attempt to connect ended.
    pub fn attempt_ended(&self, outcome: AttemptOutcome) {
        self.0.attempts.add(outcome, 1);
    }

    /// Another attempt is made because one ended with `after`.
    pub fn retried(&self, after: AttemptOutcome) {
        self.0.retries.add(after, 1);
    }

    /// A retry was not made because a budget was empty.
    pub fn budget_refused(&self, scope: Scope) {
        self.0.budget_refusals.add(scope, 1);
    }

    /// There is a verdict, `elapsed` after the client's SYN.
    pub fn connect_ended(&self, elapsed: Duration, attempts: &Attempts) {
        self.0.connect_duration.observe(elapsed);
        let connected = attempts.last().is_some_and(|last| last.outcome == AttemptOutcome::Connected);
        if connected && attempts.total() > 1 {
            self.0.connections_recovered.inc();
        }
    }

    pub fn connection_ended(&self, connection: &Connection) {
        self.0.connections.add(connection.reason, 1);
        self.0.policy_connections.add(&connection.policy, connection.reason);
        self.0.bytes.add(Direction::Sent, connection.bytes_sent);
        self.0.bytes.add(Direction::Received, connection.bytes_received);
    }

    /// A connection ended of which too little is known to make a record.
    pub fn connection_turned_away(&self, reason: Reason) {
        self.0.connections.add(reason, 1);
    }

    /// A new set of policies is in force.
    pub fn config_reloaded(&self) {
        self.0.config_reloads.add(Reload::Ok, 1);
        self.0.config_last_reload_successful.set(1);
    }

    /// A new set of policies was refused; the last good one stays in force.
    pub fn config_refused(&self) {
        self.0.config_reloads.add(Reload::Error, 1);
        self.0.config_last_reload_successful.set(0);
    }

    pub fn policies_in_force(&self, count: usize) {
        self.0.policies.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn workloads_enrolled(&self, count: usize) {
        self.0.workloads.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A pod was enrolled, so long after its cgroup was seen to come, and whether processes were in it by then.
    pub fn pod_enrolled(&self, after: Option<Duration>, had_processes: bool) {
        self.0.pods.enrolled(after, had_processes);
    }

    /// So many kinds of objects cannot be watched now, and so often it has failed since the agent began.
    pub fn watches_failing(&self, now: usize, failures: u64) {
        self.0.pods.watches_failing(now, failures);
    }

    /// So many policy objects are not in force as they are; of so many of them what they said before is.
    pub fn objects_refused(&self, count: usize, held: usize) {
        self.0.pods.objects_refused(count, held);
    }

    pub fn access_log_dropped(&self, lines: u64) {
        self.0.access_log_dropped.inc_by(lines);
    }

    pub fn events_lost(&self, events: u64) {
        self.0.events_lost.inc_by(events);
    }

    /// What `redial status` shows of the counters.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let inner = &self.0;
        let mut totals = Totals {
            connections_active: u64::try_from(inner.connections_active.get()).unwrap_or(0),
            handshakes_held: u64::try_from(inner.handshakes_held.get()).unwrap_or(0),
            connections_total: inner.connections.nonzero(),
            connections_recovered: inner.connections_recovered.get(),
            attempts: inner.attempts.nonzero(),
            retries: inner.retries.nonzero(),
            budget_refusals: inner.budget_refusals.nonzero(),
            access_log_dropped: inner.access_log_dropped.get(),
            ..Totals::default()
        };
        inner.http.requests.add_to(&mut totals);
        totals
    }

    /// Everything in the `OpenMetrics` text format: [`CONTENT_TYPE`].
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        text::encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Metrics").field(&self.totals()).finish()
    }
}

/// One of what a gauge counts, until it is dropped.
#[derive(Debug)]
pub struct Active(Gauge);

impl Active {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Registers a metric and gives it back, so that each is named once.
fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

/// As the client sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Direction {
    Sent,
    Received,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reload {
    Ok,
    Error,
}

impl Word for Reason {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

impl Word for AttemptOutcome {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

impl Word for Scope {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

impl Word for Direction {
    const ALL: &'static [Self] = &[Self::Sent, Self::Received];

    fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

impl Word for Reload {
    const ALL: &'static [Self] = &[Self::Ok, Self::Error];

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::{KernelCounters, Metrics, Scope};
    use crate::observe::record::tests::connection;
    use crate::reason::{AttemptOutcome, Reason};

    pub(in crate::observe) fn metrics() -> Metrics {
        Metrics::new(KernelCounters::default)
    }

    /// The samples by their name and labels.
    pub(in crate::observe) fn samples(metrics: &Metrics) -> BTreeMap<String, f64> {
        metrics
            .encode()
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    #[track_caller]
    pub(in crate::observe) fn assert_samples(metrics: &Metrics, expected: &[(&str, f64)]) {
        let samples = samples(metrics);
        for (name, value) in expected {
            let sample = samples.get(*name).unwrap_or_else(|| panic!("no {name} in {samples:#?}"));
            assert!((sample - value).abs() < 1e-9, "{name} is {sample}, not {value}");
        }
    }

    #[test]
    fn a_connection_that_a_retry_saved() {
        let metrics = metrics();
        let record = connection(Reason::Closed, &[AttemptOutcome::Refused, AttemptOutcome::Connected]);
        let active = metrics.connection_opened();
        let held = metrics.handshake_held();
        assert_samples(&metrics, &[("redial_connections_active", 1.0), ("redial_handshakes_held", 1.0)]);
        metrics.attempt_ended(AttemptOutcome::Refused);
        metrics.retried(AttemptOutcome::Refused);
        metrics.attempt_ended(AttemptOutcome::Connected);
        metrics.connect_ended(record.connect, &record.attempts);
        drop(held);
        metrics.connection_ended(&record);
        drop(active);

        assert_samples(
            &metrics,
            &[
                (r#"redial_connections_total{reason="closed"}"#, 1.0),
                (r#"redial_connections_total{reason="timed-out"}"#, 0.0),
                (r#"redial_policy_connections_total{policy="shop/checkout",reason="closed"}"#, 1.0),
                (r#"redial_policy_connections_total{policy="other",reason="closed"}"#, 0.0),
                (r#"redial_connection_attempts_total{outcome="refused"}"#, 1.0),
                (r#"redial_connection_attempts_total{outcome="connected"}"#, 1.0),
                (r#"redial_connection_retries_total{after="refused"}"#, 1.0),
                ("redial_connections_recovered_total", 1.0),
                ("redial_connections_active", 0.0),
                ("redial_handshakes_held", 0.0),
                (r#"redial_bytes_total{direction="sent"}"#, 100.0),
                (r#"redial_bytes_total{direction="received"}"#, 2000.0),
                ("redial_connect_duration_seconds_count", 1.0),
                ("redial_connect_duration_seconds_sum", 0.0264),
                (r#"redial_connect_duration_seconds_bucket{le="0.025"}"#, 0.0),
                (r#"redial_connect_duration_seconds_bucket{le="0.05"}"#, 1.0),
                (r#"redial_connect_duration_seconds_bucket{le="+Inf"}"#, 1.0),
            ],
        );
    }

    #[test]
    fn a_connection_that_was_lost_is_not_recovered() {
        let metrics = metrics();
        let record = connection(Reason::BudgetExhausted, &[AttemptOutcome::Refused; 2]);
        metrics.connect_ended(Duration::from_secs(61), &record.attempts);
        metrics.budget_refused(Scope::Destination);
        metrics.connection_ended(&record);
        metrics.connection_turned_away(Reason::NoOriginalDestination);
        assert_samples(
            &metrics,
            &[
                ("redial_connections_recovered_total", 0.0),
                (r#"redial_retry_budget_refusals_total{scope="destination"}"#, 1.0),
                (r#"redial_retry_budget_refusals_total{scope="node"}"#, 0.0),
                (r#"redial_connections_total{reason="budget-exhausted"}"#, 1.0),
                (r#"redial_connections_total{reason="no-original-destination"}"#, 1.0),
                (r#"redial_connect_duration_seconds_bucket{le="60.0"}"#, 0.0),
                (r#"redial_connect_duration_seconds_bucket{le="+Inf"}"#, 1.0),
            ],
        );
        let totals = metrics.totals();
        assert_eq!(totals.budget_refusals, BTreeMap::from([("destination".to_owned(), 1)]));
        assert_eq!(totals.connections_total.len(), 2);
    }

    #[test]
    fn reloads_and_the_agents_own_losses() {
        let metrics = metrics();
        assert_samples(&metrics, &[("redial_config_last_reload_successful", 1.0)]);
        metrics.config_reloaded();
        metrics.policies_in_force(3);
        metrics.config_refused();
        metrics.workloads_enrolled(2);
        metrics.access_log_dropped(5);
        metrics.events_lost(1);
        assert_samples(
            &metrics,
            &[
                (r#"redial_config_reloads_total{result="ok"}"#, 1.0),
                (r#"redial_config_reloads_total{result="error"}"#, 1.0),
                ("redial_config_last_reload_successful", 0.0),
                ("redial_policies", 3.0),
                ("redial_workloads", 2.0),
                ("redial_access_log_dropped_total", 5.0),
                ("redial_events_lost_total", 1.0),
                (concat!("redial_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
            ],
        );
    }

    #[test]
    fn kernel_counters_are_read_at_each_scrape() {
        let scrapes = std::sync::atomic::AtomicU64::new(0);
        let metrics = Metrics::new(move || {
            let mut counters = KernelCounters::default();
            counters[1] = 1 + scrapes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            counters
        });
        assert_samples(&metrics, &[(r#"redial_interceptions_total{action="held"}"#, 1.0)]);
        assert_samples(&metrics, &[(r#"redial_interceptions_total{action="held"}"#, 2.0)]);
    }

    #[test]
    fn the_process_figures_are_there() {
        let samples = samples(&metrics());
        for name in [
            "process_start_time_seconds",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_threads",
            "process_open_fds",
        ] {
            assert!(samples.get(name).is_some_and(|value| *value > 0.0), "{name} in {samples:#?}");
        }
    }

    #[test]
    fn no_series_is_written_twice_and_the_text_ends() {
        let metrics = metrics();
        metrics.connection_ended(&connection(Reason::Closed, &[]));
        let text = metrics.encode().unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples(&metrics).len(), lines);
        assert!(text.ends_with("# EOF\n"));
    }
}
