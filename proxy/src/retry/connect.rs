//! Whether a failed connect is tried again.
//!
//! Nothing has reached the destination's application before a connection stands, so a failed connect may always be
//! repeated; how often, how long and after which failures is the policy's word. The budget is not asked here: the caller
//! asks it once the verdict is to retry, so that no retry is paid for which is not made.

use std::num::NonZeroU32;
use std::time::Duration;

use thiserror::Error;

use super::{Attempts, Backoff, Jitter, Verdict};
use crate::reason::{AttemptOutcome, Reason};

/// How connects to a destination are retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRetry {
    max_connect_attempts: NonZeroU32,
    connect_timeout: Option<Duration>,
    timeout: Option<Duration>,
    backoff: Backoff,
    retry_on: RetryOn,
}

/// After this time an attempt that may be followed by another is given up, where the policy names no connect timeout.
/// Envoy's default.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why values are no [`ConnectRetry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConnectRetryError {
    #[error("the connect timeout must be more than 0")]
    ZeroConnectTimeout,
    #[error("the timeout must be more than 0")]
    ZeroTimeout,
}

/// A set of [`Failure`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOn(u8);

/// A kind of failure that a policy can choose to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Refused,
    Timeout,
    Unreachable,
    Reset,
}

/// Says what to do after a connect failed.
#[must_use]
pub fn decide(
    policy: &ConnectRetry,
    attempts: &Attempts,
    failure: AttemptOutcome,
    jitter: Jitter,
) -> Verdict {
    let retriable = match failure {
        AttemptOutcome::Cancelled => return Verdict::GiveUp { why: Reason::ClientGone },
        // A connection that stands is never made a second time.
        AttemptOutcome::Connected => false,
        // Nothing left this host, and a port or a descriptor may be free again in a moment.
        AttemptOutcome::Local => true,
        AttemptOutcome::Refused
        | AttemptOutcome::Timeout
        | AttemptOutcome::HostUnreachable
        | AttemptOutcome::NetworkUnreachable
        | AttemptOutcome::Reset => policy.retry_on.contains(failure),
    };
    if !retriable {
        return Verdict::GiveUp { why: Reason::NotRetriable };
    }
    // Before the count: the last attempt is cut short by the overall timeout too, and then that is why it ended.
    if policy.timeout.is_some_and(|timeout| attempts.elapsed >= timeout) {
        return Verdict::GiveUp { why: Reason::TimedOut };
    }
    if attempts.made >= policy.max_connect_attempts.get() {
        return Verdict::GiveUp { why: Reason::AttemptsExhausted };
    }
    let after = policy.backoff.delay(attempts.made, jitter);
    // A pause that outlasts the timeout can only end in failure: better at once.
    if policy.timeout.is_some_and(|timeout| attempts.elapsed.saturating_add(after) >= timeout) {
        return Verdict::GiveUp { why: Reason::TimedOut };
    }
    Verdict::Retry { after }
}

impl ConnectRetry {
    /// Without `connect_timeout` see [`ConnectRetry::attempt_limit`]. Without `timeout` only the client's own patience
    /// limits the attempts together.
    pub fn try_new(
        max_connect_attempts: NonZeroU32,
        connect_timeout: Option<Duration>,
        timeout: Option<Duration>,
        backoff: Backoff,
        retry_on: RetryOn,
    ) -> Result<Self, ConnectRetryError> {
        if connect_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ConnectRetryError::ZeroConnectTimeout);
        }
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ConnectRetryError::ZeroTimeout);
        }
        Ok(Self { max_connect_attempts, connect_timeout, timeout, backoff, retry_on })
    }

    #[must_use]
    pub fn max_connect_attempts(&self) -> NonZeroU32 {
        self.max_connect_attempts
    }

    #[must_use]
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    #[must_use]
    pub fn backoff(&self) -> Backoff {
        self.backoff
    }

    #[must_use]
    pub fn retry_on(&self) -> RetryOn {
        self.retry_on
    }

    /// All of it, for who shows it.
    #[must_use]
    pub fn parts(&self) -> (NonZeroU32, Option<Duration>, Option<Duration>, Backoff, RetryOn) {
        let Self { max_connect_attempts, connect_timeout, timeout, backoff, retry_on } = self;
        (*max_connect_attempts, *connect_timeout, *timeout, *backoff, *retry_on)
    }

    /// How long the connect of an attempt at a request may take.
    #[must_use]
    pub fn request_limit(&self) -> Duration {
        self.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT)
    }

    /// How long the next attempt may take, after `made` others and this much time since the first began. Zero when the
    /// overall timeout has run out; `None` when only the network or the client ends it.
    ///
    /// A policy that names no connect timeout still moves on from an attempt that hangs, but never gives a connection
    /// up that would have been made without redial: the last attempt has all the time that the client has.
    #[must_use]
    pub fn attempt_limit(&self, made: u32, elapsed: Duration) -> Option<Duration> {
        let is_last = made.saturating_add(1) >= self.max_connect_attempts.get()
            || !self.retry_on.contains(AttemptOutcome::Timeout);
        let own = self.connect_timeout.or((!is_last).then_some(DEFAULT_CONNECT_TIMEOUT));
        let left = self.timeout.map(|timeout| timeout.saturating_sub(elapsed));
        [own, left].into_iter().flatten().min()
    }
}

/// Three attempts, 25 ms base backoff, after any failure.
impl Default for ConnectRetry {
    fn default() -> Self {
        Self {
            max_connect_attempts: const { NonZeroU32::new(3).unwrap() },
            connect_timeout: None,
            timeout: None,
            backoff: Backoff::default(),
            retry_on: RetryOn::ALL,
        }
    }
}

impl RetryOn {
    pub const ALL: Self = Self(0b1111);

    /// Whether this outcome is a failure of the set.
    #[must_use]
    pub fn contains(self, outcome: AttemptOutcome) -> bool {
        Failure::of(outcome).is_some_and(|failure| self.0 & failure.bit() != 0)
    }

    /// The members, in [`Failure::ALL`]'s order.
    pub fn iter(self) -> impl Iterator<Item = Failure> {
        Failure::ALL.into_iter().filter(move |failure| self.0 & failure.bit() != 0)
    }
}

impl FromIterator<Failure> for RetryOn {
    fn from_iter<T: IntoIterator<Item = Failure>>(failures: T) -> Self {
        Self(failures.into_iter().fold(0, |set, failure| set | failure.bit()))
    }
}

impl Failure {
    pub const ALL: [Self; 4] = [Self::Refused, Self::Timeout, Self::Unreachable, Self::Reset];

    /// The word that policies use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
        }
    }

    /// The kind of this outcome, or none where no policy has a say.
    #[must_use]
    pub const fn of(outcome: AttemptOutcome) -> Option<Self> {
        match outcome {
            AttemptOutcome::Refused => Some(Self::Refused),
            AttemptOutcome::Timeout => Some(Self::Timeout),
            AttemptOutcome::HostUnreachable | AttemptOutcome::NetworkUnreachable => Some(Self::Unreachable),
            AttemptOutcome::Reset => Some(Self::Reset),
            AttemptOutcome::Connected | AttemptOutcome::Local | AttemptOutcome::Cancelled => None,
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Refused => 1,
            Self::Timeout => 1 << 1,
            Self::Unreachable => 1 << 2,
            Self::Reset => 1 << 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{ConnectRetry, ConnectRetryError, DEFAULT_CONNECT_TIMEOUT, Failure, RetryOn, decide};
    use crate::reason::{AttemptOutcome, Reason};
    use crate::retry::{Attempts, Backoff, Jitter, Verdict};

    /// Half of every range.
    const HALF: Jitter = Jitter::from_bits(1 << 63);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn policy(attempts: u32, timeout: Option<Duration>, retry_on: RetryOn) -> ConnectRetry {
        let attempts = NonZeroU32::new(attempts).unwrap();
        ConnectRetry::try_new(attempts, Some(ms(1_000)), timeout, Backoff::default(), retry_on).unwrap()
    }

    fn verdict(policy: &ConnectRetry, made: u32, elapsed: Duration, failure: AttemptOutcome) -> Verdict {
        decide(policy, &Attempts { made, elapsed }, failure, HALF)
    }

    const fn give_up(why: Reason) -> Verdict {
        Verdict::GiveUp { why }
    }

    const fn retry(micros: u64) -> Verdict {
        Verdict::Retry { after: Duration::from_micros(micros) }
    }

    #[test]
    fn every_outcome_under_every_set() {
        use AttemptOutcome as Outcome;
        let no = give_up(Reason::NotRetriable);
        let again = retry(12_500);
        // With the outcome's own failure alone in the set, with every other one in it, with an empty set.
        let table = [
            (Outcome::Connected, None, no, no),
            (Outcome::Refused, Some(Failure::Refused), no, no),
            (Outcome::Timeout, Some(Failure::Timeout), no, no),
            (Outcome::HostUnreachable, Some(Failure::Unreachable), no, no),
            (Outcome::NetworkUnreachable, Some(Failure::Unreachable), no, no),
            (Outcome::Reset, Some(Failure::Reset), no, no),
            (Outcome::Local, None, again, again),
            (Outcome::Cancelled, None, give_up(Reason::ClientGone), give_up(Reason::ClientGone)),
        ];
        assert_eq!(table.map(|row| row.0), Outcome::ALL);
        for (outcome, own, with_others, with_none) in table {
            let ask = |set: RetryOn| verdict(&policy(3, None, set), 1, Duration::ZERO, outcome);
            if let Some(own) = own {
                assert_eq!(ask([own].into_iter().collect()), again, "{outcome:?}");
                assert_eq!(ask(RetryOn::ALL), again, "{outcome:?}");
            }
            let others = Failure::ALL.into_iter().filter(|&failure| Some(failure) != own).collect();
            assert_eq!(ask(others), with_others, "{outcome:?}");
            assert_eq!(ask(RetryOn::from_iter([])), with_none, "{outcome:?}");
        }
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        for outcome in [AttemptOutcome::Refused, AttemptOutcome::Local] {
            let ask = |attempts, made| verdict(&policy(attempts, None, RetryOn::ALL), made, ms(1), outcome);
            assert_eq!(ask(1, 1), give_up(Reason::AttemptsExhausted));
            assert_eq!(ask(3, 2), retry(25_000));
            assert_eq!(ask(3, 3), give_up(Reason::AttemptsExhausted));
            assert_eq!(ask(u32::MAX, u32::MAX), give_up(Reason::AttemptsExhausted));
        }
    }

    #[test]
    fn no_pause_reaches_the_overall_timeout() {
        let policy = policy(3, Some(ms(100)), RetryOn::ALL);
        let ask = |made, elapsed| verdict(&policy, made, elapsed, AttemptOutcome::Timeout);
        assert_eq!(ask(1, ms(87)), retry(12_500));
        assert_eq!(ask(1, Duration::from_micros(87_500)), give_up(Reason::TimedOut));
        assert_eq!(ask(1, Duration::MAX), give_up(Reason::TimedOut));
    }

    #[test]
    fn the_reason_is_the_first_that_holds() {
        let reset_only = policy(3, Some(ms(100)), [Failure::Reset].into_iter().collect());
        assert_eq!(
            verdict(&reset_only, 3, ms(100), AttemptOutcome::Cancelled),
            give_up(Reason::ClientGone),
            "the client's leaving is before all"
        );
        assert_eq!(verdict(&reset_only, 3, ms(100), AttemptOutcome::Refused), give_up(Reason::NotRetriable));
        assert_eq!(verdict(&reset_only, 3, ms(100), AttemptOutcome::Reset), give_up(Reason::TimedOut));
        assert_eq!(
            verdict(&reset_only, 3, ms(99), AttemptOutcome::Reset),
            give_up(Reason::AttemptsExhausted)
        );
    }

    #[test]
    fn an_attempt_ends_with_the_overall_timeout() {
        let limited = policy(3, Some(ms(2_500)), RetryOn::ALL);
        assert_eq!(limited.attempt_limit(0, Duration::ZERO), Some(ms(1_000)));
        assert_eq!(limited.attempt_limit(1, ms(2_400)), Some(ms(100)));
        assert_eq!(limited.attempt_limit(1, Duration::MAX), Some(Duration::ZERO));
        assert_eq!(policy(3, None, RetryOn::ALL).attempt_limit(2, Duration::MAX), Some(ms(1_000)));
    }

    #[test]
    fn without_a_connect_timeout_the_last_attempt_has_the_clients_time() {
        let attempts = NonZeroU32::new(3).unwrap();
        let policy = |timeout, retry_on| {
            ConnectRetry::try_new(attempts, None, timeout, Backoff::default(), retry_on).unwrap()
        };
        let patient = policy(None, RetryOn::ALL);
        assert_eq!(patient.attempt_limit(0, Duration::ZERO), Some(DEFAULT_CONNECT_TIMEOUT));
        assert_eq!(patient.attempt_limit(1, Duration::MAX), Some(DEFAULT_CONNECT_TIMEOUT));
        assert_eq!(patient.attempt_limit(2, Duration::ZERO), None);
        let refused_only = policy(None, [Failure::Refused].into_iter().collect());
        assert_eq!(refused_only.attempt_limit(0, Duration::ZERO), None, "no attempt would follow");
        let limited = policy(Some(ms(7_000)), RetryOn::ALL);
        assert_eq!(limited.attempt_limit(2, ms(6_000)), Some(ms(1_000)));
    }

    #[test]
    fn a_timeout_of_zero_is_refused() {
        let try_new = |connect_timeout, timeout| {
            ConnectRetry::try_new(NonZeroU32::MIN, connect_timeout, timeout, Backoff::default(), RetryOn::ALL)
        };
        assert_eq!(try_new(Some(Duration::ZERO), None), Err(ConnectRetryError::ZeroConnectTimeout));
        assert_eq!(try_new(Some(ms(1)), Some(Duration::ZERO)), Err(ConnectRetryError::ZeroTimeout));
    }

    #[test]
    fn a_set_keeps_what_it_was_made_of() {
        let set: RetryOn = [Failure::Reset, Failure::Refused, Failure::Reset].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [Failure::Refused, Failure::Reset]);
        assert_eq!(RetryOn::ALL.iter().collect::<Vec<_>>(), Failure::ALL);
    }

    proptest! {
        #[test]
        fn a_retry_is_within_every_bound(
            max in 1u32..,
            made: u32,
            elapsed: Duration,
            timeout: Option<Duration>,
            failure in proptest::sample::select(&AttemptOutcome::ALL[..]),
            bits: u64,
        ) {
            let timeout = timeout.filter(|timeout| !timeout.is_zero());
            let policy = policy(max, timeout, RetryOn::ALL);
            if let Verdict::Retry { after } = decide(&policy, &Attempts { made, elapsed }, failure, Jitter::from_bits(bits)) {
                prop_assert!(made < max);
                prop_assert!(after < policy.backoff().max());
                prop_assert!(timeout.is_none_or(|timeout| elapsed.saturating_add(after) < timeout));
            }
        }
    }
}
