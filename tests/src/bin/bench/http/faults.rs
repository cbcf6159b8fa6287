//! Requests that fail once: a header names the request, and the server answers the first attempt that has the name with
//! 503 and the second as it should. So every request has a right answer for whoever retries, and costs two attempts,
//! whichever connection each of them takes.

use std::collections::HashSet;

/// Has a name in it, or [`NONE`].
pub const HEADER: &str = "x-fault";

/// As long as a name.
pub const NONE: &str = "----------------";

/// The answer to an attempt that fails.
pub const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nServer: bench\r\nContent-Length: 0\r\n\r\n";

/// How many requests of a hundred fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults(pub u64);

impl Faults {
    pub fn are_none(self) -> bool {
        self.0 == 0
    }

    /// The header's value for the n-th request of this process. Those that fail are as far apart as can be.
    pub fn value(self, n: u64) -> String {
        let begun_before = |n: u64| n * self.0 / 100;
        if begun_before(n) == begun_before(n + 1) {
            return NONE.to_owned();
        }
        // No other client has this name.
        format!("{:08x}{n:08x}", std::process::id())
    }
}

/// The server's memory of what has failed.
#[derive(Debug, Default)]
pub struct Failed(HashSet<Vec<u8>>);

impl Failed {
    /// Whether an attempt with this value of the header fails.
    pub fn fails(&mut self, value: &[u8]) -> bool {
        value != NONE.as_bytes() && !self.0.remove(value) && self.0.insert(value.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::{Failed, Faults, NONE};

    #[test]
    fn a_share_of_the_requests_fails_and_each_of_them_once() {
        let values: Vec<_> = (0..1000).map(|n| Faults(30).value(n)).collect();
        let mut failed = Failed::default();
        let mut attempt = || values.iter().filter(|value| failed.fails(value.as_bytes())).count();
        assert_eq!([attempt(), attempt()], [300, 0]);
        assert!(values.iter().all(|value| value.len() == NONE.len()));
        assert!((0..1000).all(|n| Faults(0).value(n) == NONE));
    }
}
