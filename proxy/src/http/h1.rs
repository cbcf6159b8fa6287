//! HTTP/1.

pub mod body;
pub mod head;
mod hops;
mod room;
pub mod serve;
pub mod upstream;

pub use serve::serve;
