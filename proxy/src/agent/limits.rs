//! The agent's bound of connections.

use nix::sys::resource::{Resource, getrlimit};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::Notify;

/// A relayed connection has two sockets.
const DESCRIPTORS_PER_CONNECTION: u64 = 2;
/// For everything else: listeners, namespaces, maps, logs.
const RESERVED_DESCRIPTORS: u64 = 512;
const MOST: u64 = 262_144;
/// Connections that were redirected before the bound was reached still come in.
const MOST_LATE: usize = 1024;

/// What happens to new connections at the bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AtLimit {
    /// They go direct, without redial.
    #[default]
    Direct,
    /// They are refused.
    Refuse,
}

/// Counts the connections that are held or relayed.
#[derive(Debug)]
pub struct Limits {
    active: Arc<Active>,
    most: usize,
    at_limit: AtLimit,
}

#[derive(Debug, Default)]
struct Active {
    count: AtomicUsize,
    changed: Notify,
}

/// A connection, for as long as it lives.
#[derive(Debug)]
pub struct Slot(Arc<Active>);

impl Limits {
    /// Without `most`, as many as the process may have descriptors for.
    pub fn new(most: Option<usize>, at_limit: AtLimit) -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let fitting = descriptors.saturating_sub(RESERVED_DESCRIPTORS) / DESCRIPTORS_PER_CONNECTION;
        let fitting = usize::try_from(fitting.clamp(64, MOST)).unwrap_or(usize::MAX);
        Self { active: Arc::default(), most: most.unwrap_or(fitting), at_limit }
    }

    pub fn active(&self) -> usize {
        self.active.count.load(Ordering::Relaxed)
    }

    /// Takes a slot, or says that there is none.
    pub fn take(&self) -> Option<Slot> {
        let late = match self.at_limit {
            AtLimit::Direct => (self.most / 16).min(MOST_LATE),
            AtLimit::Refuse => 0,
        };
        if self.active() >= self.most.saturating_add(late) {
            return None;
        }
        self.active.count.fetch_add(1, Ordering::Relaxed);
        Some(Slot(Arc::clone(&self.active)))
    }

    /// Whether new connections are to go past the agent. Once full, it stays so until there is some room again.
    pub fn sends_direct(&self, was_full: bool) -> bool {
        let threshold = if was_full { self.most - self.most / 16 } else { self.most };
        self.at_limit == AtLimit::Direct && self.active() >= threshold
    }

    /// Waits until there is no connection.
    pub async fn idle(&self) {
        loop {
            let changed = self.active.changed.notified();
            if self.active() == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}
