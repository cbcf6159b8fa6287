//! Connections that speak HTTP.

pub mod h1;
