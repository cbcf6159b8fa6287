//! The decision core: what failed, how often and for how long already, and so what to do next.
//!
//! Everything here is a value or a function of its arguments. The caller measures the time and draws the jitter;
//! nothing in here sleeps, logs, counts metrics or knows what a socket is. The budgets are the one thing that threads
//! share.

pub mod backoff;
pub mod budget;
pub mod budgets;
pub mod connect;
pub mod request;

use std::time::Duration;

pub use backoff::{Backoff, Jitter};
pub use budget::{Budget, BudgetPolicy};
pub use budgets::{Budgets, DestinationBudget, RetryUnderWay, Scope};
pub use connect::ConnectRetry;
pub use request::RequestRetry;

use crate::reason::Reason;

/// How much was tried before the question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// The attempts made, the one that has just failed included.
    pub made: u32,
    /// The time since the first of them began.
    pub elapsed: Duration,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after this pause, if the budget allows.
    Retry { after: Duration },
    /// Pass the failure on.
    GiveUp { why: Reason },
}
