//! What redial promises, on a real kernel: see the crate's own page for the rigs.

mod abuse;
mod addresses;
mod clients;
mod containers;
mod exec;
mod http;
mod imports;
mod matrix;
mod observe;
mod old_kernel;
mod policy;
mod pool;
mod relay;
mod robustness;
mod soak;
mod transparency;
mod workloads;
