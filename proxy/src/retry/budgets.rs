//! All the retry budgets of an agent: one for each destination, and one for the node.
//!
//! A retry needs both. The number of destinations that are remembered is bounded; what is forgotten is what was used
//! longest ago, and a destination that comes back starts with a full floor.

use std::collections::HashMap;
use std::net::SocketAddr;
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

#[derive(Debug)]
pub struct Budgets {
    node: Budget,
    destinations: HashMap<SocketAddr, Entry>,
}

#[derive(Debug)]
struct Entry {
    policy: BudgetPolicy,
    budget: Budget,
    used: Duration,
}

impl Budgets {
    #[must_use]
    pub fn new(node: BudgetPolicy) -> Self {
        Self { node: Budget::new(node), destinations: HashMap::new() }
    }

    /// Counts a first attempt. Time is as in [`Budget`].
    pub fn deposit(&mut self, destination: SocketAddr, policy: BudgetPolicy, now: Duration) {
        self.node.deposit(now);
        self.destination(destination, policy, now).deposit(now);
    }

    /// Takes one retry out of both budgets, or says which of them is empty.
    pub fn withdraw(
        &mut self,
        destination: SocketAddr,
        policy: BudgetPolicy,
        now: Duration,
    ) -> Result<(), Scope> {
        let mut own = self.destination(destination, policy, now).clone();
        if !own.withdraw(now) {
            return Err(Scope::Destination);
        }
        if !self.node.withdraw(now) {
            return Err(Scope::Node);
        }
        // Only now: what the node refuses must not cost the destination anything.
        *self.destination(destination, policy, now) = own;
        Ok(())
    }

    /// The budget of a destination. A policy that has changed starts a new one.
    fn destination(&mut self, destination: SocketAddr, policy: BudgetPolicy, now: Duration) -> &mut Budget {
        if self.destinations.len() >= MAX_DESTINATIONS && !self.destinations.contains_key(&destination) {
            self.forget_oldest();
        }
        let fresh = || Entry { policy, budget: Budget::new(policy), used: now };
        let entry = self.destinations.entry(destination).or_insert_with(fresh);
        if entry.policy != policy {
            *entry = fresh();
        }
        entry.used = now;
        &mut entry.budget
    }

    /// Forgets the half that was used longest ago, so that the search for it is paid for once in so many times.
    fn forget_oldest(&mut self) {
        let mut used: Vec<Duration> = self.destinations.values().map(|entry| entry.used).collect();
        let middle = used.len() / 2;
        let (_, &mut median, _) = used.select_nth_unstable(middle);
        self.destinations.retain(|_, entry| entry.used > median);
    }
}

#[cfg(test)]
mod tests {
    use super::{Budgets, MAX_DESTINATIONS, Scope};
    use crate::retry::BudgetPolicy;
    use std::net::SocketAddr;
    use std::time::Duration;

    const START: Duration = Duration::ZERO;

    fn destination(index: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], u16::try_from(index).unwrap()))
    }

    fn floor(min_per_second: u32) -> BudgetPolicy {
        BudgetPolicy::try_new(0, min_per_second, Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn a_destination_that_is_down_does_not_spend_what_others_need() {
        let mut budgets = Budgets::new(floor(3));
        let policy = floor(2);
        let mut take = |index| budgets.withdraw(destination(index), policy, START);
        assert_eq!([take(1), take(1), take(1)], [Ok(()), Ok(()), Err(Scope::Destination)]);
        assert_eq!([take(2), take(2)], [Ok(()), Err(Scope::Node)]);
        let later = START + Duration::from_secs(2);
        let take = |_| budgets.withdraw(destination(2), policy, later);
        assert_eq!([1, 2].map(take), [Ok(()), Ok(())], "what the node refused cost the destination nothing");
    }

    #[test]
    fn a_changed_policy_starts_a_new_budget() {
        let mut budgets = Budgets::new(floor(100));
        assert!(budgets.withdraw(destination(1), floor(1), START).is_ok());
        assert!(budgets.withdraw(destination(1), floor(1), START).is_err());
        assert!(budgets.withdraw(destination(1), floor(2), START).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut budgets = Budgets::new(floor(100));
        for index in 0..MAX_DESTINATIONS * 3 {
            let now = Duration::from_micros(u64::try_from(index).unwrap());
            budgets.deposit(destination(index), floor(1), now);
            budgets.deposit(destination(0), floor(1), now);
            assert!(budgets.destinations.len() <= MAX_DESTINATIONS);
        }
        assert!(budgets.destinations.contains_key(&destination(0)));
    }
}
