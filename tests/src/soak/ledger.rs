//! What the server did, by the id that each thing asked for has.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Kind, Service};

#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<HashMap<u64, Entry>>,
    wrong: Mutex<Vec<String>>,
    is_mischievous: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub service: Service,
    pub kind: Kind,
    /// How often it came whole.
    pub attempts: u32,
    /// How often it was executed.
    pub executions: u32,
}

/// What a server that is at fault does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    None,
    /// 503, and it is not executed.
    Unavailable,
    /// A reset instead of an answer, and it is not executed.
    Forgets,
    /// It is executed, and a reset takes the place of the answer.
    LosesAnswer,
    /// It is executed, and a reset ends the answer in its middle.
    CutsAnswer,
}

/// How many attempts at one id may be met by mischief: one more is always left.
const MOST_MISCHIEF: u32 = super::RETRIES - 1;

impl Ledger {
    /// From now on some requests are not served as they should be, or all are.
    pub fn set_mischievous(&self, is_mischievous: bool) {
        self.is_mischievous.store(is_mischievous, Ordering::Relaxed);
    }

    /// Notes something that has come whole, and says what is to happen to it.
    pub fn begin(&self, id: u64, service: Service, kind: Kind) -> Mischief {
        let mut entries = lock(&self.entries);
        let entry = entries.entry(id).or_insert(Entry { service, kind, attempts: 0, executions: 0 });
        entry.attempts += 1;
        if (entry.service, entry.kind) != (service, kind) {
            self.wrong(format!("{id} came as {kind:?} to {service:?} and was {entry:?}"));
        }
        if !self.is_mischievous.load(Ordering::Relaxed) || entry.attempts > MOST_MISCHIEF {
            return Mischief::None;
        }
        // The same in every run of a seed, whatever came before.
        let mut random = fastrand::Rng::with_seed(id << 8 | u64::from(entry.attempts));
        match random.u8(0..40) {
            0..4 => Mischief::Unavailable,
            4..8 => Mischief::Forgets,
            8..12 => Mischief::LosesAnswer,
            12 => Mischief::CutsAnswer,
            _ => Mischief::None,
        }
    }

    pub fn executed(&self, id: u64) {
        if let Some(entry) = lock(&self.entries).get_mut(&id) {
            entry.executions += 1;
        }
    }

    /// Notes what no client can have sent.
    pub fn wrong(&self, what: String) {
        lock(&self.wrong).push(what);
    }

    /// All of it, and begins anew.
    pub fn take(&self) -> (HashMap<u64, Entry>, Vec<String>) {
        (std::mem::take(&mut *lock(&self.entries)), std::mem::take(&mut *lock(&self.wrong)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
