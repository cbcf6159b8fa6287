//! How many retries a destination, or the whole node, can stand: a share of its recent requests, and a floor.
//!
//! A retry is paid from the floor first: up to `min_per_second` in any one second. Beyond the floor it is paid from the
//! share: at any withdrawal, the retries paid from the share during the last interval are at most `percent` of the
//! requests begun in it. The floor is counted over one second, not over the interval, so that ten retries a second
//! never become a hundred at once after a quiet ten seconds: the moment at which a service comes back.
//!
//! A request here is whatever the owner retries: a connection to make, later an HTTP request.

use std::time::Duration;

use thiserror::Error;

/// How big a [`Budget`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug)]
pub struct Budget {
    policy: BudgetPolicy,
    requests: Window,
    /// The retries that the share paid for.
    from_share: Window,
    /// The retries that the floor paid for.
    from_floor: Window,
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
            from_share: Window::new(policy.interval),
            from_floor: Window::new(Duration::from_secs(1)),
        }
    }

    /// Counts a request. Its retries are not requests.
    pub fn deposit(&mut self, now: Duration) {
        self.requests.add(now);
    }

    /// Takes one retry out, or says that there is none.
    #[must_use]
    pub fn withdraw(&mut self, now: Duration) -> bool {
        if self.from_floor.at_least(now) < u64::from(self.policy.min_per_second) {
            self.from_floor.add(now);
            return true;
        }
        let share = self.requests.at_most(now) * u64::from(self.policy.percent) / 100;
        if self.from_share.at_least(now) < share {
            self.from_share.add(now);
            return true;
        }
        false
    }
}

/// How many slots a window has: ten make the window, and one more lets it be counted both ways.
const SLOTS: usize = 11;

/// Counts events over a sliding window, in steps of a tenth of it.
#[derive(Clone, Debug)]
struct Window {
    step: Duration,
    /// The number of the newest step since time's start.
    newest: u128,
    /// The events of each step, the newest first.
    slots: [u32; SLOTS],
}

impl Window {
    /// A length of a second or more: a step is never zero.
    fn new(length: Duration) -> Self {
        Self { step: length / 10, newest: 0, slots: [0; SLOTS] }
    }

    fn add(&mut self, now: Duration) {
        self.advance(now);
        self.slots[0] = self.slots[0].saturating_add(1);
    }

    /// The events of the window and of up to one step before it: nothing within it is forgotten.
    fn at_least(&mut self, now: Duration) -> u64 {
        self.advance(now);
        total(&self.slots)
    }

    /// The events of the window without up to one step at its start: nothing before it is counted.
    fn at_most(&mut self, now: Duration) -> u64 {
        self.advance(now);
        total(&self.slots[..SLOTS - 1])
    }

    fn advance(&mut self, now: Duration) {
        let step = now.as_nanos() / self.step.as_nanos();
        let begun = usize::try_from(step.saturating_sub(self.newest)).unwrap_or(SLOTS).min(SLOTS);
        self.slots.rotate_right(begun);
        self.slots[..begun].fill(0);
        self.newest = self.newest.max(step);
    }
}

fn total(slots: &[u32]) -> u64 {
    slots.iter().copied().map(u64::from).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::{Budget, BudgetError, BudgetPolicy};

    const SECOND: Duration = Duration::from_secs(1);

    fn budget(percent: u32, min_per_second: u32, interval: Duration) -> Budget {
        Budget::new(BudgetPolicy::try_new(percent, min_per_second, interval).unwrap())
    }

    fn withdrawn(budget: &mut Budget, now: Duration, asked: u32) -> usize {
        (0..asked).filter(|_| budget.withdraw(now)).count()
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
        let mut budget = budget(20, 10, 10 * SECOND);
        assert_eq!(withdrawn(&mut budget, Duration::ZERO, 50), 10);
        assert_eq!(withdrawn(&mut budget, Duration::from_millis(999), 50), 0);
        assert_eq!(withdrawn(&mut budget, Duration::from_millis(1_100), 50), 10);
    }

    #[test]
    fn a_quiet_interval_does_not_save_the_floor_up() {
        let mut budget = budget(20, 10, 10 * SECOND);
        assert_eq!(withdrawn(&mut budget, 1_000 * SECOND, 500), 10);
    }

    #[test]
    fn the_share_comes_on_top_of_the_floor_and_leaves_with_its_requests() {
        let mut budget = budget(20, 10, 10 * SECOND);
        for _ in 0..100 {
            budget.deposit(Duration::ZERO);
        }
        assert_eq!(withdrawn(&mut budget, Duration::ZERO, 500), 10 + 20);
        assert_eq!(withdrawn(&mut budget, 5 * SECOND, 500), 10);
        assert_eq!(withdrawn(&mut budget, 20 * SECOND, 500), 10);
    }

    #[test]
    fn nothing_is_allowed_where_nothing_is_granted() {
        let mut budget = budget(0, 0, SECOND);
        budget.deposit(Duration::ZERO);
        assert!(!budget.withdraw(Duration::ZERO));
    }

    #[test]
    fn a_hundred_percent_is_one_retry_a_request() {
        let mut budget = budget(100, 0, SECOND);
        for _ in 0..7 {
            budget.deposit(SECOND);
        }
        assert_eq!(withdrawn(&mut budget, SECOND, 500), 7);
    }

    #[test]
    fn time_may_stand_still_run_back_and_jump_to_its_end() {
        let mut budget = budget(50, 1, SECOND);
        for now in [10 * SECOND, Duration::ZERO, 10 * SECOND] {
            budget.deposit(now);
        }
        // The floor's one and the share's 50 % of three, all at ten seconds.
        assert_eq!(withdrawn(&mut budget, 3 * SECOND, 500), 1 + 1);
        assert_eq!(withdrawn(&mut budget, Duration::MAX, 500), 1);
        assert_eq!(withdrawn(&mut budget, Duration::ZERO, 500), 0);
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
            let mut budget = budget(percent, min_per_second, Duration::from_secs(seconds));
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
                        let before = budget.from_share.at_least(Duration::from_millis(now));
                        if !budget.withdraw(Duration::from_millis(now)) {
                            prop_assert!(within(&from_floor, now, 1_100) >= floor, "the floor had room");
                            let share = within(&requests, now, interval * 9 / 10) * percent / 100;
                            let spent = within(&from_share, now, interval * 11 / 10);
                            prop_assert!(spent >= share, "the share had room");
                        } else if budget.from_share.at_least(Duration::from_millis(now)) > before {
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
