//! A counter for each word of a closed enum.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// A closed enum whose words are a label's values.
pub(super) trait Word: Copy + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Every word, in the order of the enum's definition.
    const ALL: &'static [Self];

    fn as_str(self) -> &'static str;
}

/// A clone counts into the same counters.
#[derive(Clone, Debug)]
pub(super) struct ByWord<W> {
    label: &'static str,
    /// In the order of `W::ALL`.
    counts: Arc<[AtomicU64]>,
    words: PhantomData<W>,
}

impl<W: Word> ByWord<W> {
    pub(super) fn new(label: &'static str) -> Self {
        Self { label, counts: W::ALL.iter().map(|_| AtomicU64::new(0)).collect(), words: PhantomData }
    }

    pub(super) fn add(&self, word: W, count: u64) {
        // At most 13 words: looking for one is cheaper than it is worth to have an index.
        for (_, counter) in self.each().filter(|(each, _)| *each == word) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// The words that were counted at all.
    pub(super) fn nonzero(&self) -> BTreeMap<String, u64> {
        self.each()
            .map(|(word, counter)| (word.as_str().to_owned(), counter.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Writes a line a word, with these labels before the word's own.
    pub(super) fn encode_with(
        &self,
        labels: &[(&str, &str)],
        encoder: &mut MetricEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        for (word, counter) in self.each() {
            let labels = [labels, &[(self.label, word.as_str())]].concat();
            encode_counter(&labels.as_slice(), counter.load(Ordering::Relaxed), encoder)?;
        }
        Ok(())
    }

    fn each(&self) -> impl Iterator<Item = (W, &AtomicU64)> {
        W::ALL.iter().copied().zip(self.counts.iter())
    }
}

impl<W: Word> EncodeMetric for ByWord<W> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_with(&[], &mut encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// Writes one line of a counter.
pub(super) fn encode_counter(
    labels: &impl EncodeLabelSet,
    count: u64,
    encoder: &mut MetricEncoder<'_>,
) -> Result<(), fmt::Error> {
    encoder.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)
}
