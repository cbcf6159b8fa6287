//! HTTP/1.

pub mod body;
pub mod head;
