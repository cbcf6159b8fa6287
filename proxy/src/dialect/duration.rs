//! Durations as Go writes them, which is how Kubernetes writes them: `30ms`, `1h30m`, `1m30.5s`.
//!
//! The arithmetic is on whole nanoseconds. As in Go, what is finer than a nanosecond is cut off.

use std::time::Duration;

use thiserror::Error;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    #[error("it is empty")]
    Empty,
    #[error("it is negative")]
    Negative,
    #[error("a number is missing before `{0}`")]
    NoNumber(String),
    #[error("the unit is missing after {0}; the units are ns, us, ms, s, m and h")]
    NoUnit(String),
    #[error("there is no unit `{0}`; the units are ns, us, ms, s, m and h")]
    UnknownUnit(String),
    #[error("it is longer than Go's longest duration, some 292 years")]
    TooLong,
}

/// The longest duration that Go can hold.
const MAX_NANOS: u64 = i64::MAX.cast_unsigned();

/// Reads a duration of zero or more: numbers with units, such as `1h30m`, or a bare `0`.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (Err(DurationError::Negative), rest),
        None => (Ok(()), text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut nanos = 0u64;
    while !rest.is_empty() {
        let (term, after) = term(rest)?;
        nanos = nanos.checked_add(term).filter(|&sum| sum <= MAX_NANOS).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    // Minus nothing is nothing; of the rest the sign is complained about last, since it may be a slip among others.
    if nanos == 0 { Ok(Duration::ZERO) } else { sign.map(|()| Duration::from_nanos(nanos)) }
}

/// Writes a duration in Go's form with the fewest terms that are exact: `1h30m`, `1.5s`, `250ms`.
#[must_use]
pub fn format(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos().into());
    match (seconds, nanos) {
        (0, 0) => "0s".to_owned(),
        (0, 1..1_000) => format!("{nanos}ns"),
        (0, 1_000..1_000_000) => decimal(nanos, 1_000, "us"),
        (0, _) => decimal(nanos, 1_000_000, "ms"),
        _ => {
            let hours = Some(seconds / 3_600).filter(|&hours| hours != 0).map(|hours| format!("{hours}h"));
            let minutes =
                Some(seconds / 60 % 60).filter(|&minutes| minutes != 0).map(|minutes| format!("{minutes}m"));
            let rest = Some(seconds % 60 * NANOS_PER_SECOND + nanos)
                .filter(|&rest| rest != 0)
                .map(|rest| decimal(rest, NANOS_PER_SECOND, "s"));
            [hours, minutes, rest].into_iter().flatten().collect()
        }
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// One number with its unit, in nanoseconds, and what follows.
fn term(text: &str) -> Result<(u64, &str), DurationError> {
    let (whole, rest) = split(text, |c| c.is_ascii_digit());
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split(rest, |c| c.is_ascii_digit()),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::NoNumber(start_of(text)));
    }
    let (unit, rest) = split(rest, |c| c != '.' && !c.is_ascii_digit());
    let unit = match unit {
        "ns" => 1,
        // The micro sign, and the Greek letter that looks the same.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3_600 * NANOS_PER_SECOND,
        "" => return Err(DurationError::NoUnit(start_of(text))),
        unknown => return Err(DurationError::UnknownUnit(start_of(unknown))),
    };
    let whole = match whole {
        "" => 0,
        digits => digits.parse::<u64>().map_err(|_| DurationError::TooLong)?,
    };
    let nanos = whole.checked_mul(unit).and_then(|nanos| nanos.checked_add(part(fraction, unit)));
    Ok((nanos.ok_or(DurationError::TooLong)?, rest))
}

/// The nanoseconds of `0.<digits>` units. A digit beyond the 18th is less than a nanosecond of the longest unit.
fn part(digits: &str, unit: u64) -> u64 {
    let digits = &digits[..digits.len().min(18)];
    let (number, scale) = digits
        .bytes()
        .fold((0u128, 1u128), |(number, scale), digit| (number * 10 + u128::from(digit - b'0'), scale * 10));
    // Less than one unit, so it fits.
    u64::try_from(number * u128::from(unit) / scale).unwrap_or(unit)
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn decimal(value: u64, one: u64, unit: &str) -> String {
    let (whole, mut rest, mut step) = (value / one, value % one, one);
    let mut text = whole.to_string();
    if rest != 0 {
        text.push('.');
    }
    while rest != 0 {
        step /= 10;
        text += &(rest / step).to_string();
        rest %= step;
    }
    text + unit
}

/// What an error shows of a text: little, and on one line.
fn start_of(text: &str) -> String {
    text.chars().take(16).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{DurationError, MAX_NANOS, format, parse};

    #[test]
    fn every_form_that_go_reads() {
        for (text, nanos) in [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("0s", 0),
            ("-0h", 0),
            ("30000000ns", 30_000_000),
            ("30ms", 30_000_000),
            ("0.03s", 30_000_000),
            ("0.0005m", 30_000_000),
            ("+5s", 5_000_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1m30.5s", 90_500_000_000),
            ("3s1h", 3_603_000_000_000),
            ("12us", 12_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("0.9ns", 0),
            ("1.0000000009s", 1_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
            ("0000000000000000000000001s", 1_000_000_000),
            ("9223372036854775807ns", MAX_NANOS),
            ("2562047h47m16.854775807s", MAX_NANOS),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn every_way_to_go_wrong() {
        let no_number = |text: &str| DurationError::NoNumber(text.to_owned());
        let no_unit = |text: &str| DurationError::NoUnit(text.to_owned());
        let unknown = |text: &str| DurationError::UnknownUnit(text.to_owned());
        for (text, error) in [
            ("", DurationError::Empty),
            ("-", DurationError::Empty),
            ("-1s", DurationError::Negative),
            ("-0.5h", DurationError::Negative),
            ("5", no_unit("5")),
            ("00", no_unit("00")),
            ("1m30", no_unit("30")),
            ("s", no_number("s")),
            (".s", no_number(".s")),
            ("--1s", no_number("-1s")),
            (" 1s", no_number(" 1s")),
            ("forever", no_number("forever")),
            ("1d", unknown("d")),
            ("1 s", unknown(" s")),
            ("1s ", unknown("s ")),
            ("1e3s", unknown("e")),
            ("1S", unknown("S")),
            ("1,5s", unknown(",")),
            ("1s-1s", unknown("s-")),
            ("9223372036854775808ns", DurationError::TooLong),
            ("99999999999999999999999s", DurationError::TooLong),
            ("2562048h", DurationError::TooLong),
            ("2562047h2562047h", DurationError::TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_duration_is_written_briefly() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5us"),
            (25_000_000, "25ms"),
            (1_000_000_001, "1.000000001s"),
            (10_000_000_000, "10s"),
            (60_000_000_000, "1m"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h"),
            (3_601_000_000_000, "1h1s"),
        ] {
            assert_eq!(format(Duration::from_nanos(nanos)), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos in 0..=MAX_NANOS) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn a_small_one_is_read_back(nanos in 0..10_000_000_000u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_is_too_much(text in "\\PC{0,60}|[-+0-9.nuµmsh]{0,60}") {
            let _ = parse(&text);
        }
    }
}
