//! How long a connection and a request may take at worst.

use std::time::Duration;

use crate::dialect::duration::format;
use crate::policy::HttpPolicy;
use crate::reason::AttemptOutcome;
use crate::retry::{Backoff, ConnectRetry};

/// The attempts that are shown one by one.
const SHOWN: u32 = 8;

/// Attempts that each take as long as they may, with the longest pauses between them.
#[derive(Debug)]
pub(super) struct Timeline {
    /// When each begins and how long it may take.
    pub(super) lines: Vec<String>,
    pub(super) total: String,
}

impl Timeline {
    pub(super) fn of_connects(connect: &ConnectRetry) -> Self {
        let retries = connect.retry_on().contains(AttemptOutcome::Timeout);
        let attempts = if retries { connect.max_connect_attempts().get() } else { 1 };
        let limit = |made, elapsed| connect.attempt_limit(made, elapsed);
        Self::new("connect", attempts, limit, connect.backoff(), connect.timeout())
    }

    pub(super) fn of_request(http: &HttpPolicy) -> Self {
        // A try's own timeout is ignored where it is not less than that of all of them.
        let (per_try, timeout) = (http.retry.per_try_timeout, http.timeout);
        let per_try = per_try.filter(|per_try| timeout.is_none_or(|timeout| *per_try < timeout));
        let attempts = http.retry.num_retries.saturating_add(1);
        Self::new("attempt", attempts, |_, _| per_try, http.retry.backoff, timeout)
    }

    fn new(
        what: &str,
        attempts: u32,
        limit: impl Fn(u32, Duration) -> Option<Duration>,
        backoff: Backoff,
        timeout: Option<Duration>,
    ) -> Self {
        let (mut at, mut lines, mut pause) = (Duration::ZERO, Vec::new(), backoff.base());
        let cut = timeout.map(|timeout| format!("{}, when the timeout ends it", format(timeout)));
        for made in 0..attempts {
            if timeout.is_some_and(|timeout| at >= timeout) {
                return Self { lines, total: cut.unwrap_or_default() };
            }
            if made == SHOWN {
                lines.push(format!("... up to {attempts} in all"));
                let total = cut.unwrap_or_else(|| "not shown for so many attempts".to_owned());
                return Self { lines, total };
            }
            let number = made + 1;
            let Some(limit) = limit(made, at) else {
                lines.push(format!("at {}: {what} {number}, without a limit of its own", format(at)));
                let total = cut.unwrap_or_else(|| "as long as the peer and the client wait".to_owned());
                return Self { lines, total };
            };
            lines.push(format!("at {}: {what} {number}, up to {}", format(at), format(limit)));
            at = at.saturating_add(limit);
            if number < attempts && timeout.is_none_or(|timeout| at < timeout) {
                lines.push(format!("at {}: a pause of up to {}", format(at), format(pause)));
                at = at.saturating_add(pause);
                pause = pause.saturating_mul(2).min(backoff.max());
            }
        }
        match cut.filter(|_| timeout.is_some_and(|timeout| at >= timeout)) {
            Some(total) => Self { lines, total },
            None => Self { lines, total: format(at) },
        }
    }
}
