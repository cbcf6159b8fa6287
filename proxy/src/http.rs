//! Connections that speak HTTP: every request is tried until its policy is satisfied, or spent.
//!
//! [`exchange`] is the attempt loop; [`h1`] and `h2` are what it needs of an HTTP version. A client's HTTP/1 goes to the
//! upstream as HTTP/1, and its HTTP/2 as HTTP/2.

pub mod added;
pub mod answer;
pub mod connection;
pub mod exchange;
pub mod h1;
pub mod h2;
pub mod pool;
pub mod replay;
pub mod session;
pub mod wire;

#[cfg(test)]
mod tests;

/// A length in memory, as the lengths of bodies are counted.
fn widened(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
