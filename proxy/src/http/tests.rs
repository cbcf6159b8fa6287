//! The engine as a whole, over connections in memory and in paused time. The tests play the client and the upstreams, and
//! look at raw bytes.

mod bodies;
mod connections;
mod hedging;
mod held;
mod limits;
mod malformed;
mod matrix;
mod messages;
mod pool;
mod property;
mod rig;
mod routes;
mod stream;
mod timeouts;
