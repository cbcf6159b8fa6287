//! Ended connections by policy and reason, for a bounded number of policies.
//!
//! Policies come and go with reloads, so the set is not closed: a hash table of cells that are written once. A
//! look-up takes no lock, nothing is ever removed, and a policy that finds the table full is counted as `other`.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

use super::by_word::ByWord;
use crate::reason::Reason;

/// How many policies have series of their own.
const MAX_POLICIES: usize = 1_000;
/// At most half of the cells are taken, so that a look-up meets few others.
const CELLS: usize = 2 * MAX_POLICIES;
/// The policy that stands for all others.
const OTHER: &str = "other";

/// A clone counts into the same counters.
#[derive(Clone, Debug)]
pub(super) struct Policies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cells: Box<[OnceLock<Policy>]>,
    taken: AtomicUsize,
    hasher: RandomState,
    other: Policy,
}

#[derive(Debug)]
struct Policy {
    name: Arc<str>,
    connections: ByWord<Reason>,
}

impl Policies {
    pub(super) fn add(&self, policy: &Arc<str>, reason: Reason) {
        self.0.policy(policy).connections.add(reason, 1);
    }
}

impl Default for Policies {
    fn default() -> Self {
        Self(Arc::new(Inner {
            cells: (0..CELLS).map(|_| OnceLock::new()).collect(),
            taken: AtomicUsize::new(0),
            hasher: RandomState::new(),
            other: Policy::new(OTHER.into()),
        }))
    }
}

impl Inner {
    fn policy(&self, name: &Arc<str>) -> &Policy {
        if **name == *OTHER {
            return &self.other;
        }
        // On a 32-bit machine the conversion may fail; a look-up that begins at the first cell is only slower.
        let first = usize::try_from(self.hasher.hash_one(name)).unwrap_or(0) % CELLS;
        let (before, from_first) = self.cells.split_at(first);
        for cell in from_first.iter().chain(before) {
            let Some(policy) = cell.get().or_else(|| self.take(cell, name)) else { return &self.other };
            if policy.name == *name {
                return policy;
            }
        }
        &self.other
    }

    /// Fills the cell unless the table is full. Another thread may fill it first, with another policy even.
    fn take<'a>(&self, cell: &'a OnceLock<Policy>, name: &Arc<str>) -> Option<&'a Policy> {
        let one_more = |taken| (taken < MAX_POLICIES).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let mut filled = false;
        let policy = cell.get_or_init(|| {
            filled = true;
            Policy::new(Arc::clone(name))
        });
        if !filled {
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
        Some(policy)
    }
}

impl Policy {
    fn new(name: Arc<str>) -> Self {
        Self { name, connections: ByWord::new("reason") }
    }

    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.connections.encode_with(&[("policy", &*self.name)], encoder)
    }
}

impl EncodeMetric for Policies {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for policy in self.0.cells.iter().filter_map(OnceLock::get) {
            policy.encode(&mut encoder)?;
        }
        self.0.other.encode(&mut encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::{MAX_POLICIES, Policies};
    use crate::reason::Reason;

    fn count(policies: &Policies, name: &str) -> u64 {
        policies.0.policy(&name.into()).connections.nonzero().values().sum()
    }

    #[test]
    fn policies_past_the_bound_are_others() {
        let policies = Policies::default();
        for round in 0..2 {
            for number in 0..MAX_POLICIES + 50 {
                policies.add(&format!("shop/{number}").into(), Reason::Closed);
            }
            assert_eq!(policies.0.other.connections.nonzero()["closed"], 50 * (round + 1));
        }
        assert_eq!(count(&policies, "shop/0"), 2);
        assert_eq!(count(&policies, "shop/999"), 2);
    }

    #[test]
    fn nothing_is_lost_where_threads_race_for_the_cells() {
        let policies = Policies::default();
        let names: Vec<Arc<str>> = (0..200).map(|number| format!("shop/{number}").into()).collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| names.iter().for_each(|name| policies.add(name, Reason::Closed)));
            }
        });
        for name in &names {
            assert_eq!(count(&policies, name), 4, "{name}");
        }
        assert_eq!(policies.0.taken.load(std::sync::atomic::Ordering::Relaxed), 200);
        assert_eq!(count(&policies, "other"), 0);
    }

    #[test]
    fn a_policy_named_other_shares_the_series() {
        let policies = Policies::default();
        policies.add(&"other".into(), Reason::Closed);
        assert_eq!(policies.0.other.connections.nonzero()["closed"], 1);
        assert_eq!(policies.0.taken.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}
