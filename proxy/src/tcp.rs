//! TCP: connecting with retries, and relaying bytes between two connections.

pub mod connect;
pub mod relay;
pub mod socket;
mod workers;

pub use connect::{Dialer, Failed};
pub use workers::{Job, Signals, Workers};
