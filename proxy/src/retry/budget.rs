//! How many retries a destination, or the whole node, can stand: a share of its recent requests, and a floor.
//!
//! A retry is paid from the floor first: up to `min_per_second` in any one second. Beyond the floor it is paid from the
//! share: at any withdrawal, the retries paid from the share during the last interval are at most `percent` of the
//! requests begun in it. The floor is counted over one second, not over the interval, so that ten retries a second
//! never become a hundred at once after a quiet ten seconds: the moment at which a service comes back.
//!
//! A request here is whatever the owner retries: a connection to make, or an HTTP request.
//!
//! All threads use one budget at a time. To count a request takes no lock and waits for nobody; only who wants to retry
//! takes one. What is spent is exact whatever the threads do: two retries never get the same place. The requests that
//! others are counting at that very moment may be seen or not, and a thread that is held up for a whole interval in the
//! middle of counting counts its request late: either way each request is counted once, and the share is off by no more
//! than the requests that were under way, as if they had begun a moment before or after.

mod window;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;

use window::Window;

/// What [`window`] counts with; the model of it in `tests/window.rs` has another.
mod atomic {
    pub use std::sync::atomic::AtomicU64;
}

/// How big a [`Budget`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BudgetPolicy {
    percent: u32,
    min_per_second: u32,
    interval: Duration,
}

/// Why three numbers are no [`BudgetPolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BudgetError {
    #[error("the percentage must be from 0 to 100, not {0}")]
    Percent(u32),
    #[error("the interval must be from 1s to 1h, not {0:?}")]
    Interval(Duration),
}

/// What was spent of a [`BudgetPolicy`]. Its size is constant and no call allocates.
///
/// Time is the duration since any fixed moment. A time before one already seen counts as the latest one seen.
#[derive(Debug)]
pub struct Budget {
    policy: BudgetPolicy,
    requests: Window,
    spent: Mutex<Spent>,
}

/// A retry that a budget can pay for. Nobody else is offered one before it is taken or dropped.
#[derive(Debug)]
#[must_use = "an offer that is dropped is not spent"]
pub struct Offer<'a> {
    spent: MutexGuard<'a, Spent>,
    source: Source,
    now: Duration,
}

/// The retries that were paid for.
#[derive(Debug)]
struct Spent {
    from_share: Window,
    from_floor: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Floor,
    Share,
}

impl BudgetPolicy {
    pub const MAX_PERCENT: u32 = 100;
    pub const MIN_INTERVAL: Duration = Duration::from_secs(1);
    pub const MAX_INTERVAL: Duration = Duration::from_hours(1);

    pub fn try_new(percent: u32, min_per_second: u32, interval: Duration) -> Result<Self, BudgetError> {
        if percent > Self::MAX_PERCENT {
            return Err(BudgetError::Percent(percent));
        }
        if !(Self::MIN_INTERVAL..=Self::MAX_INTERVAL).contains(&interval) {
            return Err(BudgetError::Interval(interval));
        }
        Ok(Self { percent, min_per_second, interval })
    }

    /// All of it, for who shows it.
    #[must_use]
    pub fn parts(&self) -> (u32, u32, Duration) {
        let Self { percent, min_per_second, interval } = self;
        (*percent, *min_per_second, *interval)
    }

    #[must_use]
    pub fn percent(&self) -> u32 {
        self.percent
    }

    #[must_use]
    pub fn min_per_second(&self) -> u32 {
        self.min_per_second
    }

    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }
}

impl BudgetPolicy {
    /// What all destinations of a node have together: 20 % of the requests of the last 10 s, and 100 a second. One
    /// destination that is down cannot spend it alone.
    pub const NODE: Self = Self { percent: 20, min_per_second: 100, interval: Duration::from_secs(10) };
}

/// 20 % of the requests of the last 10 s, and 10 a second.
impl Default for BudgetPolicy {
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10, interval: Duration::from_secs(10) }
    }
}

impl Budget {
    #[must_use]
    pub fn new(policy: BudgetPolicy) -> Self {
        Self {
            policy,
            requests: Window::new(policy.interval),
            spent: Mutex::new(Spent {
                from_share: Window::new(policy.interval),
                from_floor: Window::new(Duration::from_secs(1)),
            }),
        }
    }

    /// Counts a request. Its retries are not requests.
    pub fn deposit(&self, now: Duration) {
        self.requests.add(now);
    }

    /// Offers one retry, or says that there is none.
    pub fn offer(&self, now: Duration) -> Option<Offer<'_>> {
        // A thread that panicked in here left whole numbers behind.
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.from_floor.at_least(now) < u64::from(self.policy.min_per_second) {
            return Some(Offer { spent, source: Source::Floor, now });
        }
        let share = self.requests.at_most(now) * u64::from(self.policy.percent) / 100;
        (spent.from_share.at_least(now) < share).then_some(Offer { spent, source: Source::Share, now })
    }
}

impl Offer<'_> {
    /// Spends it.
    pub fn take(self) {
        match self.source {
            Source::Floor => self.spent.from_floor.add(self.now),
            Source::Share => self.spent.from_share.add(self.now),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hint;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::{Budget, BudgetError, BudgetPolicy, Offer};

    const SECOND: Duration = Duration::from_secs(1);

    fn budget(percent: u32, min_per_second: u32, interval: Duration) -> Budget {
        Budget::new(BudgetPolicy::try_new(percent, min_per_second, interval).unwrap())
    }

    fn withdraw(budget: &Budget, now: Duration) -> bool {
        budget.offer(now).map(Offer::take).is_some()
    }

    fn withdrawn(budget: &Budget, now: Duration, asked: u32) -> usize {
        (0..asked).filter(|_| withdraw(budget, now)).count()
    }

    #[test]
    fn an_impossible_budget_is_refused() {
        assert_eq!(BudgetPolicy::try_new(101, 10, SECOND), Err(BudgetError::Percent(101)));
        for interval in [Duration::ZERO, Duration::from_millis(999), Duration::from_millis(3_600_001)] {
            assert_eq!(BudgetPolicy::try_new(20, 10, interval), Err(BudgetError::Interval(interval)));
        }
    }

    #[test]
    fn the_floor_is_there_without_any_request_and_again_after_a_second() {
        let budget = budget(20, 10, 10 * SECOND);
        assert_eq!(withdrawn(&budget, Duration::ZERO, 50), 10);
        assert_eq!(withdrawn(&budget, Duration::from_millis(999), 50), 0);
        assert_eq!(withdrawn(&budget, Duration::from_millis(1_100), 50), 10);
    }

    #[test]
    fn a_quiet_interval_does_not_save_the_floor_up() {
        let budget = budget(20, 10, 10 * SECOND);
        assert_eq!(withdrawn(&budget, 1_000 * SECOND, 500), 10);
    }

    #[test]
    fn the_share_comes_on_top_of_the_floor_and_leaves_with_its_requests() {
        let budget = budget(20, 10, 10 * SECOND);
        for _ in 0..100 {
            budget.deposit(Duration::ZERO);
        }
        assert_eq!(withdrawn(&budget, Duration::ZERO, 500), 10 + 20);
        assert_eq!(withdrawn(&budget, 5 * SECOND, 500), 10);
        assert_eq!(withdrawn(&budget, 20 * SECOND, 500), 10);
    }

    #[test]
    fn nothing_is_allowed_where_nothing_is_granted() {
        let budget = budget(0, 0, SECOND);
        budget.deposit(Duration::ZERO);
        assert!(!withdraw(&budget, Duration::ZERO));
    }

    #[test]
    fn a_hundred_percent_is_one_retry_a_request() {
        let budget = budget(100, 0, SECOND);
        for _ in 0..7 {
            budget.deposit(SECOND);
        }
        assert_eq!(withdrawn(&budget, SECOND, 500), 7);
    }

    #[test]
    fn time_may_stand_still_run_back_and_jump_to_its_end() {
        let budget = budget(50, 1, SECOND);
        for now in [10 * SECOND, Duration::ZERO, 10 * SECOND] {
            budget.deposit(now);
        }
        // The floor's one and the share's 50 % of three, all at ten seconds.
        assert_eq!(withdrawn(&budget, 3 * SECOND, 500), 1 + 1);
        assert_eq!(withdrawn(&budget, Duration::MAX, 500), 1);
        assert_eq!(withdrawn(&budget, Duration::ZERO, 500), 0);
    }

    #[test]
    fn an_offer_that_is_not_taken_costs_nothing() {
        let budget = budget(0, 1, SECOND);
        drop(budget.offer(SECOND).unwrap());
        assert_eq!(withdrawn(&budget, SECOND, 5), 1);
    }

    #[test]
    fn no_request_is_lost_where_threads_begin_a_step_together() {
        const ROUNDS: u64 = 2_000;
        const THREADS: u64 = 2;
        let budget = budget(100, 0, SECOND);
        let arrived = AtomicU64::new(0);
        let wrong = AtomicU64::new(0);
        // Threads that are woken one after the other do not race, so they spin, unless there is one core for them.
        let meet = |times: u64| {
            arrived.fetch_add(1, Ordering::SeqCst);
            let mut spins = 0;
            while arrived.load(Ordering::SeqCst) < times * THREADS {
                spins += 1;
                if spins % 4_096 == 0 { thread::yield_now() } else { hint::spin_loop() }
            }
        };
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for round in 0..ROUNDS {
                        let now = Duration::from_millis(100 * round);
                        meet(2 * round + 1);
                        budget.deposit(now);
                        meet(2 * round + 2);
                        let steps = (round + 1).min(10);
                        // A thread that panicked here would leave the other one waiting.
                        let is_wrong = budget.requests.at_most(now) != steps * THREADS;
                        wrong.fetch_add(is_wrong.into(), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(wrong.into_inner(), 0);
    }

    #[test]
    fn threads_whose_clocks_differ_count_every_request() {
        let budget = budget(100, 0, 10 * SECOND);
        thread::scope(|scope| {
            for thread in 0..4 {
                let at = move |request: u64| Duration::from_millis(request + thread * 450);
                let budget = &budget;
                // Less than ten steps of a second each: all of them are within the interval at its end.
                scope.spawn(move || (0..8_000).for_each(|request| budget.deposit(at(request))));
            }
        });
        assert_eq!(budget.requests.at_most(9 * SECOND), 4 * 8_000);
        assert_eq!(budget.requests.at_least(21 * SECOND), 0);
    }

    #[test]
    fn threads_that_race_for_retries_get_the_floor_and_the_share_and_no_more() {
        let budget = budget(20, 10, 10 * SECOND);
        (0..1_000).for_each(|_| budget.deposit(SECOND));
        let total: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| withdrawn(&budget, SECOND, 100))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 10 + 200);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Deposit,
        Withdraw,
        Wait(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![Just(Step::Deposit), Just(Step::Withdraw), (0u64..700).prop_map(Step::Wait)]
    }

    /// How many of these moments lie in the `length` that ends now.
    fn within(moments: &[u64], now: u64, length: u64) -> usize {
        moments.iter().filter(|&&moment| moment + length > now).count()
    }

    proptest! {
        /// The oracle keeps every moment; what an empty budget refuses and what a full one grants may differ from it by
        /// one step of the windows, to the safe side.
        #[test]
        fn no_sequence_gets_more_than_the_formula(
            steps in vec(any_step(), 1..400),
            percent in 0u32..=100,
            min_per_second in 0u32..5,
            seconds in 1u64..4,
        ) {
            let budget = budget(percent, min_per_second, Duration::from_secs(seconds));
            let (percent, floor) = (usize::try_from(percent).unwrap(), usize::try_from(min_per_second).unwrap());
            let interval = seconds * 1_000;
            let (mut now, mut requests, mut from_floor, mut from_share) = (0, vec![], vec![], vec![]);
            for step in steps {
                match step {
                    Step::Wait(millis) => now += millis,
                    Step::Deposit => {
                        budget.deposit(Duration::from_millis(now));
                        requests.push(now);
                    }
                    Step::Withdraw => {
                        let before = budget.spent.lock().unwrap().from_share.at_least(Duration::from_millis(now));
                        if !withdraw(&budget, Duration::from_millis(now)) {
                            prop_assert!(within(&from_floor, now, 1_100) >= floor, "the floor had room");
                            let share = within(&requests, now, interval * 9 / 10) * percent / 100;
                            let spent = within(&from_share, now, interval * 11 / 10);
                            prop_assert!(spent >= share, "the share had room");
                        } else if budget.spent.lock().unwrap().from_share.at_least(Duration::from_millis(now)) > before {
                            from_share.push(now);
                            let share = within(&requests, now, interval) * percent / 100;
                            prop_assert!(within(&from_share, now, interval) <= share);
                        } else {
                            from_floor.push(now);
                            prop_assert!(within(&from_floor, now, 1_000) <= floor);
                        }
                    }
                }
            }
        }
    }
}
