//! Clients and upstreams of the h2 crate's own, and upstreams that write their frames by hand, over streams in memory
//! and in paused time.

mod flow;
mod messages;
mod pool;
mod raw;
mod resets;
mod retries;
mod rig;
