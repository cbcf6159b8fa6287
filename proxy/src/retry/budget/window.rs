//! How many events there were lately. To count one takes no lock and waits for nobody.
//!
//! `tests/window.rs` compiles this file by itself and tries every order that the threads' steps can come in.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::atomic::AtomicU64;

/// The steps that a window is long.
const STEPS: u64 = 10;
/// One more than a window's steps, which lets it be counted both ways.
const SLOTS: usize = 11;

/// Counts events over a sliding window, in steps of a tenth of it.
#[derive(Debug)]
pub struct Window {
    step_nanos: u64,
    /// The number of the newest step since time's start.
    newest: AtomicU64,
    slots: [AtomicU64; SLOTS],
}

/// The events of one step, as a slot holds it: the step's number above, the count below. A slot of an earlier step is
/// empty for whoever looks for a later one, so that nobody has to clear it.
#[derive(Clone, Copy)]
struct Slot(u64);

impl Slot {
    const BITS: u32 = 32;
    const MASK: u64 = (1 << Self::BITS) - 1;

    fn step(self) -> u64 {
        self.0 >> Self::BITS
    }

    fn count(self) -> u64 {
        self.0 & Self::MASK
    }

    fn first_of(step: u64) -> Self {
        Self((step << Self::BITS) | 1)
    }
}

impl Window {
    /// A length of a second or more: a step is never zero.
    pub fn new(length: Duration) -> Self {
        let step_nanos = u64::try_from(length.as_nanos() / u128::from(STEPS)).unwrap_or(u64::MAX);
        Self {
            step_nanos,
            newest: AtomicU64::default(),
            slots: std::array::from_fn(|_| AtomicU64::default()),
        }
    }

    pub fn add(&self, now: Duration) {
        let step = self.advance(now);
        let slot = &self.slots[usize::try_from(step).unwrap_or(usize::MAX) % SLOTS];
        let mut seen = Slot(slot.load(Ordering::Relaxed));
        // A slot is of a later step where this thread was held up since it looked at the time.
        while seen.step() < step {
            let fresh = Slot::first_of(step).0;
            match slot.compare_exchange_weak(seen.0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = Slot(now),
            }
        }
        // At half of what fits: other threads may add between the look and the addition.
        if seen.count() < Slot::MASK / 2 {
            slot.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The events of the window and of up to one step before it: nothing within it is forgotten.
    pub fn at_least(&self, now: Duration) -> u64 {
        self.total(now, STEPS + 1)
    }

    /// The events of the window without up to one step at its start: nothing before it is counted.
    pub fn at_most(&self, now: Duration) -> u64 {
        self.total(now, STEPS)
    }

    /// The events of so many steps, the newest being the last.
    fn total(&self, now: Duration, steps: u64) -> u64 {
        let newest = self.advance(now);
        let slots = self.slots.iter().map(|slot| Slot(slot.load(Ordering::Relaxed)));
        slots.filter(|slot| slot.step() + steps > newest).map(Slot::count).sum()
    }

    /// The newest step, which may be that of now. Time stands still after 2^32 steps: 13 years of the shortest.
    fn advance(&self, now: Duration) -> u64 {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let step = (nanos / self.step_nanos).min(Slot::MASK);
        let newest = self.newest.load(Ordering::Relaxed);
        if step > newest { self.newest.fetch_max(step, Ordering::Relaxed).max(step) } else { newest }
    }
}
