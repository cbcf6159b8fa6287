//! What is kept of a request's body, so that it can be sent again.
//!
//! The body is streamed: what the client has sent goes to the attempt in flight at once, and stays here as well for as
//! long as it is within the bounds. Past a bound one of two things happens. If no attempt has taken any of the body yet,
//! nothing more is read from the client until one does; else the beginning is let go, and the request can no longer be
//! sent again. Memory is bounded either way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use bytes::Bytes;
use http::HeaderMap;

use super::widened;
use crate::observe::BodyBound;

/// How much is read ahead of an upstream that does not take it, whatever the policy keeps.
const READ_AHEAD: usize = 64 * 1024;
/// The same where the agent keeps all that it may.
const LITTLE: usize = 4 * 1024;

/// What keeping a piece costs beside its bytes. It counts for the agent's bound, so that a body of many small pieces is no
/// way around it.
const PIECE: usize = size_of::<Kept>();

/// A part of a request's body, in order.
#[derive(Debug, Default)]
pub struct Piece {
    pub data: Bytes,
    /// HTTP/2's. In HTTP/1 the trailers are part of the last data.
    pub trailers: Option<HeaderMap>,
    /// Nothing follows.
    pub end: bool,
}

/// The body of one request.
#[derive(Debug)]
pub struct Replay {
    pieces: VecDeque<Kept>,
    /// How much of the body came before the first piece that is kept.
    start: u64,
    /// How much of the body has come.
    end: u64,
    complete: bool,
    trailers: Option<HeaderMap>,
    limit: usize,
    lost: bool,
    reserved: Reserved,
}

#[derive(Debug)]
struct Kept {
    /// How much of the body came before it.
    start: u64,
    data: Bytes,
}

/// The bytes that requests keep together, and their bound: those of a whole agent, or those of one network namespace, which
/// count for the agent as well, up to that bound: what a namespace has beyond its own is not to cost others theirs.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    used: AtomicUsize,
    /// Of an agent's bytes those that count for its bound. Who gives back may be seen before who took.
    counted: AtomicIsize,
    limit: usize,
    agent: Option<Buffers>,
}

#[derive(Debug)]
struct Reserved {
    buffers: Buffers,
    bytes: usize,
    pieces: usize,
}

impl Buffers {
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self::with(limit, None)
    }

    /// Of these, what the requests of one network namespace may keep.
    #[must_use]
    pub fn of_namespace(&self, limit: usize) -> Self {
        if limit >= self.0.limit {
            return self.clone();
        }
        Self::with(limit, Some(self.clone()))
    }

    fn with(limit: usize, agent: Option<Self>) -> Self {
        let (used, counted) = (AtomicUsize::new(0), AtomicIsize::new(0));
        Self(Arc::new(Shared { used, counted, limit, agent }))
    }

    /// How many bytes are kept now, with what keeping them costs.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Replay {
    /// Keeps up to `limit` bytes, and none for good where the request is never sent again.
    #[must_use]
    pub fn new(limit: usize, buffers: &Buffers) -> Self {
        Self {
            pieces: VecDeque::new(),
            start: 0,
            end: 0,
            complete: false,
            trailers: None,
            limit,
            lost: false,
            reserved: Reserved { buffers: buffers.clone(), bytes: 0, pieces: 0 },
        }
    }

    /// Whether all of the body has come.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the body can no longer be sent from its beginning.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// How much of the body has come.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.end
    }

    /// Whether more of the body is to be read, after an attempt has sent this much of it.
    #[must_use]
    pub fn wants_more(&self, sent: u64) -> bool {
        if self.complete {
            return false;
        }
        let unsent = self.end.saturating_sub(sent);
        let room = if self.reserved.buffers.over().is_some() {
            LITTLE
        } else if self.lost || sent > 0 {
            READ_AHEAD
        } else {
            self.limit.max(READ_AHEAD)
        };
        unsent < widened(room)
    }

    pub fn push(&mut self, piece: Piece) {
        if !piece.data.is_empty() {
            let kept = Kept { start: self.end, data: piece.data };
            self.end = kept.end();
            self.reserved.take(kept.data.len());
            self.pieces.push_back(kept);
        }
        self.complete |= piece.end;
        if piece.trailers.is_some() {
            self.trailers = piece.trailers;
        }
    }

    /// The attempt that sends has sent this much. Returns the bound that the body has just been lost at.
    pub fn sent(&mut self, sent: u64) -> Option<BodyBound> {
        if sent == self.start {
            return None;
        }
        let is_over = self.reserved.bytes > self.limit;
        let bound = if is_over { Some(BodyBound::Request) } else { self.reserved.buffers.over() };
        let lost_at = bound.filter(|_| !self.lost);
        self.lost |= bound.is_some();
        if self.lost {
            self.let_go(sent);
        }
        lost_at
    }

    /// The request is never sent again.
    pub fn give_up(&mut self, sent: u64) {
        self.lost = true;
        self.let_go(sent);
    }

    /// What is kept of the body after its first `offset` bytes, in order.
    pub fn after(&self, offset: u64) -> impl Iterator<Item = Bytes> + '_ {
        self.kept_after(offset).map(move |kept| kept.data.slice(kept.skipped(offset)..))
    }

    /// As [`Replay::after`], without taking part in the ownership.
    pub fn slices_after(&self, offset: u64) -> impl Iterator<Item = &[u8]> {
        self.kept_after(offset).filter_map(move |kept| kept.data.get(kept.skipped(offset)..))
    }

    /// A body may have come in very many very small pieces.
    fn kept_after(&self, offset: u64) -> impl Iterator<Item = &Kept> {
        let first = self.pieces.partition_point(|kept| kept.end() <= offset);
        self.pieces.range(first..)
    }

    #[must_use]
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    fn let_go(&mut self, sent: u64) {
        while let Some(first) = self.pieces.pop_front_if(|first| first.end() <= sent) {
            self.start = first.end();
            self.reserved.give(first.data.len());
        }
    }
}

impl Kept {
    fn end(&self) -> u64 {
        self.start + widened(self.data.len())
    }

    /// How much of it is before this offset of the body.
    fn skipped(&self, offset: u64) -> usize {
        usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.data.len())
    }
}

impl Buffers {
    /// The bound that is exceeded now.
    fn over(&self) -> Option<BodyBound> {
        match &self.0.agent {
            None => {
                let counted = usize::try_from(self.0.counted.load(Ordering::Relaxed));
                (counted.unwrap_or(0) > self.0.limit).then_some(BodyBound::Agent)
            }
            Some(_) if self.used() > self.0.limit => Some(BodyBound::Namespace),
            Some(agent) => agent.over(),
        }
    }

    fn take(&self, bytes: usize) {
        let before = self.0.used.fetch_add(bytes, Ordering::Relaxed);
        let counting = match &self.0.agent {
            None => bytes,
            Some(agent) => {
                agent.0.used.fetch_add(bytes, Ordering::Relaxed);
                self.within(before.saturating_add(bytes)) - self.within(before)
            }
        };
        self.agent().counted.fetch_add(signed(counting), Ordering::Relaxed);
    }

    fn give(&self, bytes: usize) {
        let before = self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        let counting = match &self.0.agent {
            None => bytes,
            Some(agent) => {
                agent.0.used.fetch_sub(bytes, Ordering::Relaxed);
                self.within(before) - self.within(before.saturating_sub(bytes))
            }
        };
        self.agent().counted.fetch_sub(signed(counting), Ordering::Relaxed);
    }

    fn within(&self, bytes: usize) -> usize {
        bytes.min(self.0.limit)
    }

    fn agent(&self) -> &Shared {
        self.0.agent.as_ref().map_or(&*self.0, |agent| &*agent.0)
    }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

impl Reserved {
    fn take(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.pieces += 1;
        self.buffers.take(bytes + PIECE);
    }

    fn give(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.pieces -= 1;
        self.buffers.give(bytes + PIECE);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let left = self.bytes + self.pieces * PIECE;
        if left > 0 {
            self.buffers.give(left);
        }
    }
}
