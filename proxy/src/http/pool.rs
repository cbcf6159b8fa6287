//! The upstream connections that the clients of a relay thread share, where their policy says so.
//!
//! What holds here:
//! - a connection is used again only by those it could have been made for: the same cgroup, in the same network namespace,
//!   with the same mark and traffic class;
//! - on a connection of HTTP/1 there is one request at a time, and it comes back only after a whole exchange;
//! - there are never more connections than the bounds below say, and none that has waited longer than [`PATIENCE`].

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::h1::upstream::Idle;
use super::h2::upstream::{self, Link};
use super::session::{Connected, Dialling};
use super::wire::Wire;

/// How many connections of HTTP/1 wait at once for those of one kind to one endpoint, and for all of a thread.
const MAX_WAITING: usize = 64;
const MAX_WAITING_IN_ALL: usize = 1024;
/// How many connections of HTTP/2 those of one kind share to one endpoint.
const MAX_LINKS: usize = 8;
/// How long a connection waits for its next request.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often is looked which connections were closed meanwhile, or have waited too long.
const SWEEP: Duration = Duration::from_secs(1);

/// The connections of one thread. A clone is the same pool. With the last one they are closed.
pub struct Pool<S>(Rc<Inner<S>>);

/// Whose connections are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    pub cgroup_id: u64,
    /// The network namespace's cookie.
    pub namespace: u64,
    pub mark: u32,
    pub traffic_class: u8,
}

/// The connections of a pool that are of one kind.
pub struct Share<S> {
    pool: Pool<S>,
    kind: Kind,
}

type Key = (Kind, SocketAddr);

struct Inner<S> {
    /// Of HTTP/1, none without a request to come. The one used last is the last.
    waiting: RefCell<HashMap<Key, Vec<Waiting<S>>>>,
    /// How many these are.
    count: Cell<usize>,
    /// Of HTTP/2.
    links: RefCell<HashMap<Key, Vec<Shared>>>,
    tasks: RefCell<JoinSet<()>>,
    is_sweeping: Cell<bool>,
}

struct Waiting<S> {
    connection: Idle<S>,
    since: Instant,
}

struct Shared {
    link: Rc<Link>,
    /// Since when a sweep has found no stream on it.
    idle_since: Option<Instant>,
}

impl<S: Wire> Pool<S> {
    #[must_use]
    pub fn share(&self, kind: Kind) -> Share<S> {
        Share { pool: self.clone(), kind }
    }

    /// Looks after the connections for as long as there are any.
    fn tend(&self) {
        if self.0.is_sweeping.replace(true) {
            return;
        }
        let pool = Rc::downgrade(&self.0);
        self.0.tasks.borrow_mut().spawn_local(async move {
            loop {
                sleep(SWEEP).await;
                let Some(pool) = Weak::upgrade(&pool) else { return };
                if pool.sweep(Instant::now()) {
                    return pool.is_sweeping.set(false);
                }
            }
        });
    }
}

impl<S: Wire> Share<S> {
    /// The connection that has waited the least. It may have been closed meanwhile.
    #[must_use]
    pub fn take(&self, endpoint: SocketAddr) -> Option<Idle<S>> {
        let mut waiting = self.pool.0.waiting.borrow_mut();
        let connections = waiting.get_mut(&(self.kind, endpoint))?;
        let taken = connections.pop()?;
        self.pool.0.count.update(|count| count.saturating_sub(1));
        if connections.is_empty() {
            waiting.remove(&(self.kind, endpoint));
        }
        Some(taken.connection)
    }

    /// Keeps a connection for the next request, if there is room for one.
    pub fn put(&self, connection: Idle<S>) {
        let mut waiting = self.pool.0.waiting.borrow_mut();
        if self.pool.0.count.get() >= MAX_WAITING_IN_ALL {
            return;
        }
        let connections = waiting.entry((self.kind, connection.endpoint())).or_default();
        if connections.len() >= MAX_WAITING {
            connections.remove(0);
        } else {
            self.pool.0.count.update(|count| count + 1);
        }
        connections.push(Waiting { connection, since: Instant::now() });
        drop(waiting);
        self.pool.tend();
    }

    /// A connection of HTTP/2 with room for one more stream, and whether it is only being made because of this call. It
    /// counts as used for as long as the caller holds it.
    pub fn link(&self, endpoint: SocketAddr, dial: impl FnOnce() -> Dialling<S>) -> (Rc<Link>, bool) {
        let mut links = self.pool.0.links.borrow_mut();
        let links = links.entry((self.kind, endpoint)).or_default();
        links.retain(|shared| shared.link.is_usable());
        let free = links.iter().position(|shared| shared.streams() < shared.link.capacity());
        let least = || (0..links.len()).min_by_key(|&index| links.get(index).map(Shared::streams));
        let found = free.or_else(|| least().filter(|_| links.len() >= MAX_LINKS));
        if let Some(shared) = found.and_then(|index| links.get_mut(index)) {
            shared.idle_since = None;
            return (Rc::clone(&shared.link), false);
        }
        let link = upstream::open(&mut self.pool.0.tasks.borrow_mut(), dial());
        links.push(Shared { link: Rc::clone(&link), idle_since: None });
        self.pool.tend();
        (link, true)
    }

    /// Shares a connection that was made for HTTP/2 already.
    pub fn put_link(&self, connected: Connected<S>) {
        let Connected { stream, endpoint } = connected;
        let dialling = Box::pin(std::future::ready(Ok(stream)));
        let link = upstream::open(&mut self.pool.0.tasks.borrow_mut(), dialling);
        let mut links = self.pool.0.links.borrow_mut();
        links.entry((self.kind, endpoint)).or_default().push(Shared { link, idle_since: None });
        self.pool.tend();
    }
}

impl<S: Wire> Inner<S> {
    /// Drops what is of no more use. Says whether nothing is left.
    fn sweep(&self, now: Instant) -> bool {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|_, connections| {
            connections
                .retain_mut(|one| !is_over(one.since) && one.connection.poll_stale(&mut cx).is_pending());
            !connections.is_empty()
        });
        self.count.set(waiting.values().map(Vec::len).sum());
        let mut links = self.links.borrow_mut();
        links.retain(|_, links| {
            links.retain_mut(|shared| {
                let is_idle = shared.streams() == 0;
                let since = is_idle.then(|| *shared.idle_since.get_or_insert(now));
                shared.idle_since = since;
                shared.link.is_usable() && !since.is_some_and(is_over)
            });
            !links.is_empty()
        });
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        waiting.is_empty() && links.is_empty()
    }
}

impl Shared {
    /// Whoever holds the connection beside the pool has a stream on it, or is about to.
    fn streams(&self) -> usize {
        Rc::strong_count(&self.link) - 1
    }
}

impl<S> Default for Pool<S> {
    fn default() -> Self {
        Self(Rc::new(Inner {
            waiting: RefCell::default(),
            count: Cell::default(),
            links: RefCell::default(),
            tasks: RefCell::default(),
            is_sweeping: Cell::default(),
        }))
    }
}

impl<S> Clone for Pool<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S> Clone for Share<S> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), kind: self.kind }
    }
}
