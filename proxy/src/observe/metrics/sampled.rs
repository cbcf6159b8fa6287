//! Figures that are somebody else's and read at each scrape: the kernel programs' counters and the process's own.

use std::fmt;
use std::fs;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::by_word::encode_counter;
use super::{KernelCounters, Timestamp};

/// The kernel programs' counters by action.
pub(super) struct Interceptions(Box<dyn Fn() -> KernelCounters + Send + Sync>);

impl Interceptions {
    pub(super) fn new(read: impl Fn() -> KernelCounters + Send + Sync + 'static) -> Self {
        Self(Box::new(read))
    }
}

impl fmt::Debug for Interceptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Interceptions").finish_non_exhaustive()
    }
}

impl EncodeMetric for Interceptions {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (counter, count) in redial_ebpf::Counter::ALL.into_iter().zip((self.0)()) {
            encode_counter(&[("action", counter.label())], count, &mut encoder)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// Registers the figures that every Prometheus client library has, under their usual names.
pub(super) fn register_process(registry: &mut Registry, started: Timestamp) {
    let started = u32::try_from(started.unix_seconds()).unwrap_or(u32::MAX);
    registry.register_with_unit(
        "process_start_time",
        "When the agent began, since 1970",
        Unit::Seconds,
        ConstGauge::new(f64::from(started)),
    );
    registry.register_with_unit(
        "process_cpu",
        "Processor time used, user and system",
        Unit::Seconds,
        Sampled { kind: MetricType::Counter, read: cpu_seconds },
    );
    registry.register_with_unit(
        "process_resident_memory",
        "Memory held in RAM",
        Unit::Bytes,
        Sampled { kind: MetricType::Gauge, read: || status("VmRSS:").map(|kibibytes| kibibytes * 1024.0) },
    );
    registry.register(
        "process_threads",
        "Threads",
        Sampled { kind: MetricType::Gauge, read: || status("Threads:") },
    );
    registry.register(
        "process_open_fds",
        "Open file descriptors",
        Sampled { kind: MetricType::Gauge, read: open_fds },
    );
}

/// One figure of the process. Where it cannot be read it is left out rather than shown as zero.
#[derive(Debug)]
struct Sampled {
    kind: MetricType,
    read: fn() -> Option<f64>,
}

impl EncodeMetric for Sampled {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match ((self.read)(), self.kind) {
            (None, _) => Ok(()),
            (Some(value), MetricType::Counter) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            (Some(value), _) => encoder.encode_gauge(&value),
        }
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|time| {
            let seconds = Duration::from_secs(u64::try_from(time.tv_sec()).ok()?);
            Some((seconds + Duration::from_micros(u64::try_from(time.tv_usec()).ok()?)).as_secs_f64())
        })
        .sum()
}

/// A field of /proc/self/status, without its unit.
fn status(field: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.split_whitespace().next()?.parse().ok()
}

fn open_fds() -> Option<f64> {
    // The directory that is being read is one of them.
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u32::try_from(open).ok().map(f64::from)
}
