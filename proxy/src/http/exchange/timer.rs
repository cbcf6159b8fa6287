//! One timer for everything that a request waits for.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is kept from request to request. It is armed for the earliest moment asked for, and not armed anew for
/// a later one: it wakes its task once too often instead.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Ready with the present once `at` is not in the future.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<Instant> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if at < sleep.deadline() {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if at <= now {
                return Poll::Ready(now);
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }
}

/// Whether a moment has come.
pub fn is_over(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}

/// The earlier of two moments that may never come.
pub fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
