//! Bulk data: one fixed pattern, repeated without end, whose length is prime. Data that is lost, doubled, swapped or
//! altered differs from the pattern at its position.

use std::sync::OnceLock;

/// A prime, so that no power-of-two buffer size hides behind the repetition.
const LENGTH: usize = 1_000_003;

/// The pattern from a position in the endless stream to the pattern's next end.
#[must_use]
pub fn rest_of_pattern(position: u64) -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        (0..LENGTH)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    });
    let length = u64::try_from(LENGTH).unwrap_or(u64::MAX);
    let offset = usize::try_from(position % length).unwrap_or(0);
    &pattern[offset..]
}

/// So many of the bytes, or all where there are less.
#[must_use]
pub fn up_to(bytes: &[u8], length: u64) -> &[u8] {
    &bytes[..bytes.len().min(usize::try_from(length).unwrap_or(usize::MAX))]
}

/// So many bytes of the pattern from a position on.
#[must_use]
pub fn from(position: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = length;
    while left > 0 {
        let part = up_to(rest_of_pattern(position.wrapping_add(length - left)), left);
        bytes.extend_from_slice(part);
        left -= u64::try_from(part.len()).unwrap_or(u64::MAX);
    }
    bytes
}
