//! Sets of status codes.

use std::ops::RangeInclusive;

use thiserror::Error;

/// A set of status codes from 100 to 599.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusCodes([u64; 8]);

/// A number that is no status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} is no status code; they go from 100 to 599")]
pub struct NoStatusCode(pub u16);

impl StatusCodes {
    pub const RANGE: RangeInclusive<u16> = 100..=599;

    pub fn try_new(codes: impl IntoIterator<Item = u16>) -> Result<Self, NoStatusCode> {
        codes.into_iter().try_fold(Self::default(), Self::with)
    }

    /// The set with this code.
    pub fn with(mut self, code: u16) -> Result<Self, NoStatusCode> {
        let (word, bit) = place(code).ok_or(NoStatusCode(code))?;
        let word = self.0.get_mut(word).ok_or(NoStatusCode(code))?;
        *word |= bit;
        Ok(self)
    }

    /// Whether the code is in the set; what is no status code never is.
    #[must_use]
    pub fn contains(&self, code: u16) -> bool {
        place(code).is_some_and(|(word, bit)| self.0.get(word).is_some_and(|word| word & bit != 0))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 8]
    }

    /// The codes, in their order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        Self::RANGE.filter(|&code| self.contains(code))
    }
}

/// The word that a code is in, and its bit there.
fn place(code: u16) -> Option<(usize, u64)> {
    let index = StatusCodes::RANGE.contains(&code).then(|| code - StatusCodes::RANGE.start())?;
    Some((usize::from(index / 64), 1 << (index % 64)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{NoStatusCode, StatusCodes};

    #[test]
    fn only_status_codes_are_taken() {
        for code in [0, 99, 600, 999, u16::MAX] {
            assert_eq!(StatusCodes::try_new([200, code]), Err(NoStatusCode(code)));
            assert!(!StatusCodes::default().contains(code));
        }
        assert!(StatusCodes::try_new([]).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn a_set_is_what_it_was_made_of(codes in proptest::collection::btree_set(100..=599u16, 0..40), other: u16) {
            let set = StatusCodes::try_new(codes.iter().copied()).unwrap();
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), codes.clone());
            prop_assert_eq!(set.contains(other), codes.contains(&other));
            prop_assert_eq!(set.is_empty(), codes.is_empty());
        }
    }
}
