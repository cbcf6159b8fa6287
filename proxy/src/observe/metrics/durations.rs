//! A histogram of durations made of atomics: prometheus-client's own takes a lock that all connections would share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// From a connect on the same host to one that outlives most clients' patience.
const UPPER_BOUNDS: [Duration; 18] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(1),
];

/// A clone observes into the same histogram.
#[derive(Clone, Debug, Default)]
pub(super) struct Durations(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    buckets: [AtomicU64; UPPER_BOUNDS.len()],
    longer: AtomicU64,
    /// Wraps after 584 years of observed time.
    sum_nanos: AtomicU64,
}

impl Durations {
    pub(super) fn observe(&self, duration: Duration) {
        let Inner { buckets, longer, sum_nanos } = &*self.0;
        let bucket = UPPER_BOUNDS.iter().position(|upper| duration <= *upper).and_then(|at| buckets.get(at));
        bucket.unwrap_or(longer).fetch_add(1, Ordering::Relaxed);
        sum_nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Durations {
    pub(super) fn encode_to(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let Inner { buckets, longer, sum_nanos } = &*self.0;
        let bounds = UPPER_BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let counts = buckets.iter().chain([longer]).map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        // The count is that of the buckets just read, so that the two agree within one scrape.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_to(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
