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
        // At most 20 words, the usual ones first: looking for one is cheaper than it is worth to have an index.
        let counter = self.each().find(|(each, _)| *each == word);
        debug_assert!(counter.is_some(), "{word:?} is missing among the words");
        if let Some((_, counter)) = counter {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Adds these counts to those given, by word.
    pub(super) fn add_to(&self, sums: &mut BTreeMap<String, u64>) {
        for (word, count) in self.counted() {
            *sums.entry(word.as_str().to_owned()).or_default() += count;
        }
    }

    /// The words that were counted at all.
    pub(super) fn nonzero(&self) -> BTreeMap<String, u64> {
        self.counted().map(|(word, count)| (word.as_str().to_owned(), count)).collect()
    }

    /// Writes a line a word, with these labels before the word's own.
    pub(super) fn encode_with(
        &self,
        labels: &[(&str, &str)],
        encoder: &mut MetricEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        for (word, counter) in self.each() {
            self.encode_word(word, counter.load(Ordering::Relaxed), labels, encoder)?;
        }
        Ok(())
    }

    /// The same without the words that were never counted, where there are many sets of labels.
    pub(super) fn encode_counted_with(
        &self,
        labels: &[(&str, &str)],
        encoder: &mut MetricEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        self.counted().try_for_each(|(word, count)| self.encode_word(word, count, labels, encoder))
    }

    fn encode_word(
        &self,
        word: W,
        count: u64,
        labels: &[(&str, &str)],
        encoder: &mut MetricEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        let labels = [labels, &[(self.label, word.as_str())]].concat();
        encode_counter(&labels.as_slice(), count, encoder)
    }

    fn counted(&self) -> impl Iterator<Item = (W, u64)> {
        self.each()
            .map(|(word, counter)| (word, counter.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
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
