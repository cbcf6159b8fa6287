//! HTTP/1.

pub mod body;
pub mod head;
pub mod serve;
pub mod upstream;

pub use serve::serve;
