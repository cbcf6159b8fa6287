//! Rigs for the tests on a real kernel: network namespaces joined by veth stand for pods and servers, cgroups for
//! workloads, and the real `redial` binary for the agent.
//!
//! Everything made here is named after this process, undone on drop (so also when a test panics), and independent of
//! what other tests make, so that tests run in parallel. A missing privilege or tool is an error, never a skip.

pub mod agent;
pub mod capture;
pub mod cgroup;
pub mod crowd;
pub mod dial;
pub mod dns;
pub mod envoy;
pub mod exchange;
pub mod firewall;
pub mod http1;
pub mod http_upstream;
pub mod load;
pub mod netns;
pub mod raw_server;
pub mod router;
pub mod script;
pub mod slow_link;
pub mod upstream;
pub mod world;

use std::sync::atomic::{AtomicUsize, Ordering};

/// A name that no other test on this machine uses.
pub(crate) fn unique(role: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("rdl{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
