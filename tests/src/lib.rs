//! Rigs for the tests on a real kernel: network namespaces joined by veth stand for pods and servers, cgroups for
//! workloads, and the real `redial` binary for the agent.
//!
//! Everything made here is named after this process, undone on drop (so also when a test panics), and independent of
//! what other tests make, so that tests run in parallel. A missing privilege or tool is an error, never a skip.

pub mod agent;
pub mod bpf;
pub mod capture;
pub mod cgroup;
pub mod cluster;
pub mod container;
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
pub mod pattern;
pub mod raw_server;
pub mod router;
pub mod script;
pub mod slow_link;
pub mod soak;
pub mod upstream;
pub mod world;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use nix::sys::utsname::uname;

/// A name that no other test on this machine uses.
pub(crate) fn unique(role: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("rdl{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The first two numbers of this machine's kernel, by which what it can is told.
pub fn kernel() -> Result<(u32, u32)> {
    let uname = uname()?;
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    let mut next =
        || numbers.next().and_then(Result::ok).with_context(|| format!("the kernel's release {release}"));
    Ok((next()?, next()?))
}

/// Where `cargo xtask setup` puts what it does not install for everybody.
pub(crate) fn tools() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = match set("XDG_CACHE_HOME") {
        Some(cache) => cache,
        None => set("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?.join(".cache"),
    };
    Ok(cache.join("redial/tools"))
}
