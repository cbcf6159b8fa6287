//! How long to wait before a retry: exponential, fully jittered.
//!
//! The arithmetic is Envoy's: before the n-th retry, uniform in `[0, min(2^(n-1) * base, max))`. Full jitter spreads
//! clients that failed at the same moment over the whole range instead of letting them come back together.

use std::time::Duration;

use thiserror::Error;

/// The range that the pause before a retry is drawn from: doubling from `base` with each retry, never over `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

/// Why two durations are no [`Backoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BackoffError {
    #[error("the base interval must be more than 0")]
    ZeroBase,
    #[error("the maximum interval {max:?} must be at least the base interval {base:?}")]
    MaxBelowBase { base: Duration, max: Duration },
}

/// A fraction in `[0, 1)`, drawn by the caller, that picks a point in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jitter(u64);

impl Backoff {
    /// Without `max` it is ten times `base`.
    pub fn try_new(base: Duration, max: Option<Duration>) -> Result<Self, BackoffError> {
        if base.is_zero() {
            return Err(BackoffError::ZeroBase);
        }
        let max = max.unwrap_or(base.saturating_mul(10));
        if max < base {
            return Err(BackoffError::MaxBelowBase { base, max });
        }
        Ok(Self { base, max })
    }

    #[must_use]
    pub fn base(&self) -> Duration {
        self.base
    }

    #[must_use]
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The pause before the `retry`-th retry, where the first is 1.
    #[must_use]
    pub fn delay(&self, retry: u32, jitter: Jitter) -> Duration {
        // Beyond 64 doublings even one nanosecond is past every maximum.
        let doublings = retry.saturating_sub(1).min(64);
        let ceiling = (u128::from(nanos(self.base)) << doublings).min(u128::from(nanos(self.max)));
        jitter.of(Duration::from_nanos(u64::try_from(ceiling).unwrap_or(u64::MAX)))
    }
}

/// 25 ms, at most 250 ms.
impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

impl Jitter {
    /// The fraction `bits / 2^64`: uniformly random bits make a uniformly random fraction.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The fraction of this range, which is always less than the whole.
    #[must_use]
    pub fn of(self, range: Duration) -> Duration {
        // A point of [0, 2^64) is a fraction of [0, 1), so the product is below the range and fits.
        let point = (u128::from(nanos(range)) * u128::from(self.0)) >> 64;
        Duration::from_nanos(u64::try_from(point).unwrap_or(u64::MAX))
    }
}

/// Durations are cut at 2^64 ns, some 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Backoff, BackoffError, Jitter};

    const LOWEST: Jitter = Jitter::from_bits(0);
    const HALF: Jitter = Jitter::from_bits(1 << 63);
    const HIGHEST: Jitter = Jitter::from_bits(u64::MAX);

    fn backoff(base: u64, max: u64) -> Backoff {
        Backoff::try_new(Duration::from_millis(base), Some(Duration::from_millis(max))).unwrap()
    }

    #[test]
    fn the_range_doubles_up_to_its_maximum() {
        let backoff = backoff(25, 250);
        let halves: Vec<_> = (1..=7).map(|retry| backoff.delay(retry, HALF)).collect();
        let expected =
            [12_500, 25_000, 50_000, 100_000, 125_000, 125_000, 125_000].map(Duration::from_micros);
        assert_eq!(halves, expected);
    }

    #[test]
    fn the_range_includes_zero_and_excludes_its_end() {
        assert_eq!(backoff(25, 250).delay(1, LOWEST), Duration::ZERO);
        assert_eq!(backoff(25, 250).delay(1, HIGHEST), Duration::from_nanos(24_999_999));
    }

    #[test]
    fn a_tiny_base_still_reaches_a_long_maximum() {
        let backoff = Backoff::try_new(Duration::from_nanos(1), Some(Duration::from_hours(1))).unwrap();
        assert_eq!(backoff.delay(u32::MAX, HALF), Duration::from_mins(30));
    }

    #[test]
    fn a_maximum_left_out_is_ten_times_the_base() {
        let backoff = Backoff::try_new(Duration::from_millis(7), None).unwrap();
        assert_eq!(backoff.max(), Duration::from_millis(70));
        let longest = Backoff::try_new(Duration::MAX, None).unwrap();
        assert_eq!(longest.max(), Duration::MAX);
    }

    #[test]
    fn an_impossible_range_is_refused() {
        assert_eq!(Backoff::try_new(Duration::ZERO, None), Err(BackoffError::ZeroBase));
        let (base, max) = (Duration::from_millis(2), Duration::from_millis(1));
        assert_eq!(Backoff::try_new(base, Some(max)), Err(BackoffError::MaxBelowBase { base, max }));
    }

    #[test]
    fn the_mean_is_the_middle_of_the_range() {
        let backoff = backoff(25, 250);
        let draws = 1 << 12;
        let total: Duration = (0..draws).map(|n: u64| backoff.delay(3, Jitter::from_bits(n << 52))).sum();
        let mean = total / u32::try_from(draws).unwrap();
        // Evenly spaced draws from [0, 100 ms): the mean is half a step below 50 ms.
        assert!(mean.abs_diff(Duration::from_millis(50)) < Duration::from_micros(20), "{mean:?}");
    }

    prop_compose! {
        fn any_backoff()(base in 1u64.., more in any::<u64>()) -> Backoff {
            let base = Duration::from_nanos(base);
            Backoff::try_new(base, Some(base.saturating_add(Duration::from_nanos(more)))).unwrap()
        }
    }

    proptest! {
        #[test]
        fn a_delay_is_always_below_its_ceiling(backoff in any_backoff(), retry: u32, bits: u64) {
            let exponent = retry.saturating_sub(1);
            let ceiling = 2u128
                .checked_pow(exponent)
                .and_then(|factor| backoff.base().as_nanos().checked_mul(factor))
                .unwrap_or(u128::MAX)
                .min(backoff.max().as_nanos());
            prop_assert!(backoff.delay(retry, Jitter::from_bits(bits)).as_nanos() < ceiling);
        }

        #[test]
        fn a_later_retry_never_waits_less_for_the_same_draw(backoff in any_backoff(), retry in 1u32..200, bits: u64) {
            let jitter = Jitter::from_bits(bits);
            prop_assert!(backoff.delay(retry, jitter) <= backoff.delay(retry + 1, jitter));
        }
    }
}
