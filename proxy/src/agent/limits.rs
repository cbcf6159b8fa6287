//! The bounds of connections: of the agent, and of one network namespace, so that a pod cannot have all for itself.

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
    most_of_namespace: usize,
    at_limit: AtLimit,
}

/// How many connections a network namespace has.
#[derive(Clone, Debug, Default)]
pub struct Share(Arc<AtomicUsize>);

#[derive(Debug, Default)]
struct Active {
    count: AtomicUsize,
    changed: Notify,
}

/// A connection, for as long as it lives.
#[derive(Debug)]
pub struct Slot {
    active: Arc<Active>,
    share: Share,
}

impl Limits {
    /// Without `most`, as many as the process may have descriptors for; without `most_of_namespace` one may have all, or, where
    /// the agent serves pods that are strangers to each other, a quarter.
    pub fn new(
        most: Option<usize>,
        most_of_namespace: Option<usize>,
        are_strangers: bool,
        at_limit: AtLimit,
    ) -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let fitting = descriptors.saturating_sub(RESERVED_DESCRIPTORS) / DESCRIPTORS_PER_CONNECTION;
        let fitting = usize::try_from(fitting.clamp(64, MOST)).unwrap_or(usize::MAX);
        let most = most.unwrap_or(fitting);
        let most_of_namespace =
            most_of_namespace.unwrap_or(if are_strangers { most.div_ceil(4) } else { most });
        Self { active: Arc::default(), most, most_of_namespace, at_limit }
    }

    pub fn active(&self) -> usize {
        self.active.count.load(Ordering::Relaxed)
    }

    /// Takes a slot, or says that there is none.
    pub fn take(&self, share: &Share) -> Option<Slot> {
        let late = |most: usize| match self.at_limit {
            AtLimit::Direct => most.saturating_add((most / 16).min(MOST_LATE)),
            AtLimit::Refuse => most,
        };
        if self.active() >= late(self.most) || share.active() >= late(self.most_of_namespace) {
            return None;
        }
        self.active.count.fetch_add(1, Ordering::Relaxed);
        share.0.fetch_add(1, Ordering::Relaxed);
        Some(Slot { active: Arc::clone(&self.active), share: share.clone() })
    }

    /// Whether all new connections are to go past the agent. Once full, it stays so until there is some room again.
    pub fn sends_direct(&self, was_full: bool) -> bool {
        self.is_at(self.most, self.active(), was_full)
    }

    /// The same for those of one namespace.
    pub fn sends_share_direct(&self, share: &Share, was_full: bool) -> bool {
        self.is_at(self.most_of_namespace, share.active(), was_full)
    }

    fn is_at(&self, most: usize, active: usize, was_full: bool) -> bool {
        let threshold = if was_full { most - most / 16 } else { most };
        self.at_limit == AtLimit::Direct && active >= threshold
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

impl Share {
    pub fn active(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.share.0.fetch_sub(1, Ordering::Relaxed);
        if self.active.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.active.changed.notify_waiters();
        }
    }
}
