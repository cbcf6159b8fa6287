//! All the retry budgets of an agent: one for each destination and policy, and one for the node.
//!
//! A retry needs both. They are shared by all threads: a connection looks its destination's budget up once, and counts
//! its requests without a lock from then on. The number of destinations that are remembered is bounded; what is
//! forgotten is what was looked up longest ago and, if that is enough, is not in use. A destination that comes back
//! starts with a full floor.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Budget, BudgetPolicy};

/// How many destinations are remembered.
const MAX_DESTINATIONS: usize = 8192;

/// Which budget was empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Destination,
    Node,
}

/// A clone is the same budgets.
#[derive(Clone, Debug)]
pub struct Budgets(Arc<Inner>);

/// What one destination can stand under one policy. Time is as in [`Budget`].
#[derive(Debug)]
pub struct DestinationBudget {
    own: Budget,
    node: Arc<Budget>,
    under_way: Arc<AtomicU32>,
}

/// A retry to a destination, from the decision to make it until this is dropped.
#[derive(Debug)]
#[must_use = "the retry counts as under way for as long as this lives"]
pub struct RetryUnderWay(Arc<AtomicU32>);

impl Scope {
    pub const ALL: [Self; 2] = [Self::Destination, Self::Node];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Destination => "destination",
            Self::Node => "node",
        }
    }
}

impl Budgets {
    #[must_use]
    pub fn new(node: BudgetPolicy) -> Self {
        Self(Arc::new(Inner { node: Arc::new(Budget::new(node)), known: Mutex::default() }))
    }

    /// The budget of a destination under a policy: a policy that has changed starts a new one. For once a connection:
    /// this takes a lock.
    #[must_use]
    pub fn destination(&self, destination: SocketAddr, policy: BudgetPolicy) -> Arc<DestinationBudget> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.look_up((destination, policy), || DestinationBudget {
            own: Budget::new(policy),
            node: Arc::clone(&self.0.node),
            under_way: Arc::default(),
        })
    }
}

impl DestinationBudget {
    /// Counts a first attempt. Takes no lock.
    pub fn deposit(&self, now: Duration) {
        self.node.deposit(now);
        self.own.deposit(now);
    }

    /// Takes one retry out of both budgets, or says which of them is empty. What the node refuses costs the destination
    /// nothing.
    pub fn withdraw(&self, now: Duration) -> Result<(), Scope> {
        let own = self.own.offer(now).ok_or(Scope::Destination)?;
        let node = self.node.offer(now).ok_or(Scope::Node)?;
        own.take();
        node.take();
        Ok(())
    }

    /// Begins a retry unless so many are under way already, those that wait for their backoff to end included.
    pub fn begin_retry(&self, max_concurrent: Option<u32>) -> Option<RetryUnderWay> {
        let max = max_concurrent.unwrap_or(u32::MAX);
        let one_more = |under_way: u32| under_way.checked_add(1).filter(|more| *more <= max);
        let began = self.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        began.is_ok().then(|| RetryUnderWay(Arc::clone(&self.under_way)))
    }
}

impl Drop for RetryUnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Inner {
    node: Arc<Budget>,
    known: Mutex<Known>,
}

type Key = (SocketAddr, BudgetPolicy);

#[derive(Debug, Default)]
struct Known {
    destinations: HashMap<Key, Entry>,
    look_ups: u64,
}

#[derive(Debug)]
struct Entry {
    budget: Arc<DestinationBudget>,
    /// The latest look-up's number.
    used: u64,
}

impl Known {
    fn look_up(&mut self, key: Key, new: impl FnOnce() -> DestinationBudget) -> Arc<DestinationBudget> {
        if self.destinations.len() >= MAX_DESTINATIONS && !self.destinations.contains_key(&key) {
            self.forget_oldest();
        }
        self.look_ups += 1;
        let entry =
            self.destinations.entry(key).or_insert_with(|| Entry { budget: Arc::new(new()), used: 0 });
        entry.used = self.look_ups;
        Arc::clone(&entry.budget)
    }

    /// Forgets the half that was looked up longest ago, so that the search for it is paid for once in so many times. Of
    /// that half those in use stay, unless that would leave little room: the holder of one that is forgotten keeps it, and
    /// the next connection to that destination starts another.
    fn forget_oldest(&mut self) {
        let mut used: Vec<u64> = self.destinations.values().map(|entry| entry.used).collect();
        let middle = used.len() / 2;
        let (_, &mut median, _) = used.select_nth_unstable(middle);
        self.destinations.retain(|_, entry| entry.used > median || Arc::strong_count(&entry.budget) > 1);
        if self.destinations.len() > MAX_DESTINATIONS * 3 / 4 {
            self.destinations.retain(|_, entry| entry.used > median);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Budgets, MAX_DESTINATIONS, Scope};
    use crate::retry::BudgetPolicy;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    const START: Duration = Duration::ZERO;

    fn destination(index: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], u16::try_from(index).unwrap()))
    }

    fn floor(min_per_second: u32) -> BudgetPolicy {
        BudgetPolicy::try_new(0, min_per_second, Duration::from_secs(10)).unwrap()
    }

    fn known(budgets: &Budgets, index: usize) -> bool {
        budgets.0.known.lock().unwrap().destinations.contains_key(&(destination(index), floor(1)))
    }

    fn count(budgets: &Budgets) -> usize {
        budgets.0.known.lock().unwrap().destinations.len()
    }

    #[test]
    fn a_destination_that_is_down_does_not_spend_what_others_need() {
        let budgets = Budgets::new(floor(3));
        let policy = floor(2);
        let take = |index| budgets.destination(destination(index), policy).withdraw(START);
        assert_eq!([take(1), take(1), take(1)], [Ok(()), Ok(()), Err(Scope::Destination)]);
        assert_eq!([take(2), take(2)], [Ok(()), Err(Scope::Node)]);
        let later = START + Duration::from_secs(2);
        let take = |_| budgets.destination(destination(2), policy).withdraw(later);
        assert_eq!([1, 2].map(take), [Ok(()), Ok(())], "what the node refused cost the destination nothing");
    }

    #[test]
    fn a_request_counts_for_its_destination_and_for_the_node() {
        let half = BudgetPolicy::try_new(50, 0, Duration::from_secs(10)).unwrap();
        let budgets = Budgets::new(half);
        let [one, other] = [1, 2].map(|index| budgets.destination(destination(index), half));
        assert_eq!(one.withdraw(START), Err(Scope::Destination));
        (0..4).for_each(|_| one.deposit(START));
        other.deposit(START);
        assert_eq!(other.withdraw(START), Err(Scope::Destination), "half of one is none");
        assert_eq!([(); 3].map(|()| one.withdraw(START)), [Ok(()), Ok(()), Err(Scope::Destination)]);
    }

    #[test]
    fn a_changed_policy_starts_a_new_budget() {
        let budgets = Budgets::new(floor(100));
        let withdraw = |policy| budgets.destination(destination(1), policy).withdraw(START);
        assert!(withdraw(floor(1)).is_ok());
        assert!(withdraw(floor(1)).is_err());
        assert!(withdraw(floor(2)).is_ok());
        assert!(withdraw(floor(1)).is_err(), "two policies that take turns do not fill each other's up");
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let budgets = Budgets::new(floor(100));
        let held = budgets.destination(destination(1), floor(1));
        for index in 2..MAX_DESTINATIONS * 3 {
            drop(budgets.destination(destination(index), floor(1)));
            drop(budgets.destination(destination(0), floor(1)));
            assert!(count(&budgets) <= MAX_DESTINATIONS);
        }
        assert!(known(&budgets, 0) && known(&budgets, 1) && !known(&budgets, 2));
        assert!(Arc::ptr_eq(&held, &budgets.destination(destination(1), floor(1))));
    }

    #[test]
    fn memory_is_bounded_where_all_are_in_use() {
        let budgets = Budgets::new(floor(100));
        let held: Vec<_> =
            (0..=MAX_DESTINATIONS).map(|index| budgets.destination(destination(index), floor(1))).collect();
        assert!(count(&budgets) <= MAX_DESTINATIONS / 2 + 1);
        assert!(held[0].withdraw(START).is_ok(), "one that was forgotten still serves its holder");
    }

    #[test]
    fn so_many_retries_are_under_way_at_a_time() {
        let budgets = Budgets::new(floor(100));
        let budget = budgets.destination(destination(1), floor(1));
        let first = budget.begin_retry(Some(2)).unwrap();
        let second = budget.begin_retry(Some(2)).unwrap();
        assert!(budget.begin_retry(Some(2)).is_none());
        assert!(budget.begin_retry(Some(0)).is_none());
        let unbounded = budget.begin_retry(None).unwrap();
        drop((first, unbounded));
        let third = budget.begin_retry(Some(2)).unwrap();
        assert!(budget.begin_retry(Some(2)).is_none());
        drop((second, third));
        assert_eq!(budget.under_way.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[test]
    fn threads_share_one_budget_a_destination() {
        let budgets = Budgets::new(floor(150));
        let withdraw = || {
            let budget = budgets.destination(destination(1), floor(100));
            let other = budgets.destination(destination(2), floor(100));
            let taken = |_: &u32| budget.begin_retry(None).is_some() && budget.withdraw(START).is_ok();
            ((0..100).filter(taken).count(), (0..100).filter(|_| other.withdraw(START).is_ok()).count())
        };
        let counts: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(withdraw)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let [one, other] = counts.iter().fold([0, 0], |sum, count| [sum[0] + count.0, sum[1] + count.1]);
        assert!(one <= 100 && other <= 100);
        assert_eq!(one + other, 150, "the node's");
        assert_eq!(
            budgets
                .destination(destination(1), floor(100))
                .under_way
                .load(std::sync::atomic::Ordering::Relaxed),
            0
        );
    }
}
