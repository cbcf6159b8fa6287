//! The pause before a retry that the response itself asks for.
//!
//! The rules are Envoy's, plus a date where seconds are: the first header that can be read, and whose time is not over the
//! maximum, is taken; then a millisecond or less is no wish at all.

use std::str;
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::policy::{HeaderName, Headers, headers};
use crate::retry::Jitter;

/// Where a response says how long to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitedBackoff {
    reset_headers: Vec<ResetHeader>,
    max: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetHeader {
    pub name: HeaderName,
    pub format: ResetFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetFormat {
    /// Whole seconds from now, or, as `Retry-After` may have it, a date.
    Seconds,
    /// A point in time, in seconds since 1970.
    UnixTimestamp,
}

/// Why values are no [`RateLimitedBackoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RateLimitedBackoffError {
    #[error("at least one header must be named")]
    NoHeader,
    #[error("the maximum interval must be more than 0")]
    ZeroMax,
}

impl RateLimitedBackoff {
    /// Envoy's.
    pub const DEFAULT_MAX: Duration = Duration::from_mins(5);

    pub fn try_new(reset_headers: Vec<ResetHeader>, max: Duration) -> Result<Self, RateLimitedBackoffError> {
        if reset_headers.is_empty() {
            return Err(RateLimitedBackoffError::NoHeader);
        }
        if max.is_zero() {
            return Err(RateLimitedBackoffError::ZeroMax);
        }
        Ok(Self { reset_headers, max })
    }

    #[must_use]
    pub fn reset_headers(&self) -> &[ResetHeader] {
        &self.reset_headers
    }

    #[must_use]
    pub fn max(&self) -> Duration {
        self.max
    }

    /// How long this response asks to wait.
    #[must_use]
    pub fn interval(&self, response: &(impl Headers + ?Sized), now: SystemTime) -> Option<Duration> {
        let interval = |header: &ResetHeader| {
            let value = response.get(header.name.as_str())?;
            header.format.interval(value, now).filter(|&interval| interval <= self.max)
        };
        let first = self.reset_headers.iter().find_map(interval)?;
        Some(first).filter(|&interval| interval > Duration::from_millis(1))
    }

    /// The pause for this wish: drawn from the wish to half as much again, so that clients do not come back together.
    #[must_use]
    pub fn delay(interval: Duration, jitter: Jitter) -> Duration {
        interval.saturating_add(jitter.of(interval / 2))
    }
}

impl ResetFormat {
    pub const ALL: [Self; 2] = [Self::Seconds, Self::UnixTimestamp];

    /// The word that policies use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "Seconds",
            Self::UnixTimestamp => "UnixTimestamp",
        }
    }

    /// The time from now that a value says; none where it says no time, or one that is over. Points in time are told to the
    /// second, and so is now.
    fn interval(self, value: &[u8], now: SystemTime) -> Option<Duration> {
        let until = |point: u64| point.checked_sub(since_epoch(now)?).map(Duration::from_secs);
        let number = headers::number::<u64>(value);
        match self {
            Self::Seconds => number.map(Duration::from_secs).or_else(|| {
                until(since_epoch(httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()?)?)
            }),
            Self::UnixTimestamp => until(number?),
        }
    }
}

fn since_epoch(time: SystemTime) -> Option<u64> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::{RateLimitedBackoff, RateLimitedBackoffError, ResetFormat, ResetHeader};
    use crate::retry::Jitter;

    /// Sun, 06 Nov 1994 08:49:37 GMT, and a bit.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_900)
    }

    fn header(name: &str, format: ResetFormat) -> ResetHeader {
        ResetHeader { name: name.parse().unwrap(), format }
    }

    fn backoff(max: u64) -> RateLimitedBackoff {
        let headers = vec![
            header("retry-after", ResetFormat::Seconds),
            header("x-ratelimit-reset", ResetFormat::UnixTimestamp),
        ];
        RateLimitedBackoff::try_new(headers, Duration::from_secs(max)).unwrap()
    }

    #[test]
    fn what_a_value_says() {
        use ResetFormat::{Seconds, UnixTimestamp};
        for (format, value, seconds) in [
            (Seconds, "0", Some(0)),
            (Seconds, "120", Some(120)),
            (Seconds, " 120 ", Some(120)),
            (Seconds, "+120", Some(120)),
            (Seconds, "-1", None),
            (Seconds, "1.5", None),
            (Seconds, "120s", None),
            (Seconds, "", None),
            (Seconds, "18446744073709551615", Some(u64::MAX)),
            (Seconds, "18446744073709551616", None),
            (Seconds, "Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            (Seconds, "Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            (Seconds, "Sun Nov  6 09:49:37 1994", Some(3_600)),
            (Seconds, "Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            (Seconds, "Sun, 06 Nov 1994 08:49:36 GMT", None),
            (Seconds, "Sun, 06 Nov 1994 08:49:47 CET", None),
            (Seconds, "Sun, 31 Feb 1995 08:49:47 GMT", None),
            (Seconds, "soon", None),
            (UnixTimestamp, "784111877", Some(100)),
            (UnixTimestamp, "784111777", Some(0)),
            (UnixTimestamp, "784111776", None),
            (UnixTimestamp, "Sun, 06 Nov 1994 08:49:47 GMT", None),
            (UnixTimestamp, "-1", None),
        ] {
            let said = format.interval(value.as_bytes(), now());
            assert_eq!(said, seconds.map(Duration::from_secs), "{format:?} {value:?}");
        }
        let before_the_epoch = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(UnixTimestamp.interval(b"10", before_the_epoch), None);
        assert_eq!(Seconds.interval(b"10", before_the_epoch), Some(Duration::from_secs(10)));
    }

    #[test]
    fn the_first_that_can_be_read_and_is_short_enough_wins() {
        let response = |after: &'static str, reset: &'static str| {
            [("retry-after", after), ("x-ratelimit-reset", reset), ("retry-after", "7")]
        };
        for (after, reset, seconds) in [
            ("10", "784111797", Some(10)),
            ("300", "784111797", Some(300)),
            ("301", "784111797", Some(20)),
            ("soon", "784111797", Some(20)),
            // It is read and taken, and then it is no wish: the other header is not asked.
            ("0", "784111797", None),
            ("soon", "784111776", None),
            ("301", "784112078", None),
        ] {
            let interval = backoff(300).interval(&response(after, reset)[..], now());
            assert_eq!(interval, seconds.map(Duration::from_secs), "{after} {reset}");
        }
        assert_eq!(backoff(300).interval(&[("x", "10")][..], now()), None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(
            RateLimitedBackoff::try_new(Vec::new(), Duration::from_secs(1)),
            Err(RateLimitedBackoffError::NoHeader)
        );
        let headers = vec![header("a", ResetFormat::Seconds)];
        assert_eq!(
            RateLimitedBackoff::try_new(headers, Duration::ZERO),
            Err(RateLimitedBackoffError::ZeroMax)
        );
    }

    proptest! {
        #[test]
        fn the_pause_is_the_wish_and_up_to_half_of_it(nanos in 2..=u64::MAX, bits: u64) {
            let interval = Duration::from_nanos(nanos);
            let delay = RateLimitedBackoff::delay(interval, Jitter::from_bits(bits));
            prop_assert!(delay >= interval && delay < interval + interval / 2);
        }

        #[test]
        fn no_value_is_too_much(value: Vec<u8>, seconds: u32, format in proptest::sample::select(&ResetFormat::ALL)) {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
            let _ = format.interval(&value, now);
        }

        #[test]
        fn no_text_is_too_much(value in "[A-Za-z]{3,9},? [0-9]{1,2}[ -][A-Za-z]{3}[ -][0-9]{2,4} [0-9:]{8}( GMT)?|\\PC{0,30}") {
            for format in ResetFormat::ALL {
                let _ = format.interval(value.as_bytes(), now());
            }
        }
    }
}
