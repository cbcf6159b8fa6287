//! redial's agent, as a library: everything but the process itself, so that tests and fuzz targets can reach it.
//!
//! The path of a connection is a straight line through these modules; ARCHITECTURE.md draws it.

pub mod agent;
pub mod cli;
pub mod detect;
pub mod dialect;
pub mod endpoint;
pub mod http;
pub mod intercept;
pub mod kubernetes;
pub mod observe;
pub mod policy;
pub mod reason;
pub mod retry;
pub mod tcp;
