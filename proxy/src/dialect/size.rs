//! Sizes in bytes: whole bytes, or whole KiB, MiB or GiB, such as `64KiB`.

use thiserror::Error;

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a number of bytes such as 65536, 64KiB or 1MiB")]
pub struct NoSize;

const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

pub fn parse(text: &str) -> Result<u64, NoSize> {
    let with_unit = UNITS.into_iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
    let (digits, unit) = with_unit.unwrap_or((text, 1));
    // `parse` would take a sign.
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(NoSize);
    }
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or(NoSize)
}

/// Writes a size with the largest unit of which it is a whole number.
#[must_use]
pub fn format(bytes: u64) -> String {
    let unit = UNITS.into_iter().rev().find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{NoSize, format, parse};

    #[test]
    fn every_form() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("0KiB", 0),
            ("64KiB", 65_536),
            ("1MiB", 1 << 20),
            ("1GiB", 1 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "KiB",
            "+1",
            "-1",
            "1.5MiB",
            "1 MiB",
            "1kib",
            "1KB",
            "1k",
            "1Mi",
            "1TiB",
            "0x10",
            "1_000",
            "18446744073709551616",
            "17179869184GiB",
        ] {
            assert_eq!(parse(text), Err(NoSize), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number: u32, shift in 0..32u32) {
            let bytes = u64::from(number) << shift;
            prop_assert_eq!(parse(&format(bytes)), Ok(bytes));
        }
    }
}
