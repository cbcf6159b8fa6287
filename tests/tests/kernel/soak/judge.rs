//! Whether what clients and server saw is what may be.

use std::collections::{BTreeMap, HashMap};

use redial_tests::soak::ledger::Entry;
use redial_tests::soak::{Done, Failure};

use super::faults::{Fault, Span};

/// What a round was.
#[derive(Debug, Default)]
pub struct Round {
    /// What was done by those clients that only ever see what their fault's rule allows.
    pub done: Vec<Done>,
    /// What was done by clients whose own ground was taken away. Theirs is only never to be wrong.
    pub guests: Vec<Done>,
    /// When the fault was in force.
    pub spans: Vec<Span>,
    pub ledger: HashMap<u64, Entry>,
    /// What the server saw that nobody can have sent.
    pub wrong: Vec<String>,
}

impl Round {
    /// All that may not be.
    pub fn violations(&self, fault: &Fault) -> Vec<String> {
        let mut violations = self.wrong.clone();
        for done in &self.done {
            let Some(failure) = &done.failed else { continue };
            let is_meanwhile = self.spans.iter().any(|span| span.meets(done.connection_us, done.ended_us));
            if !(is_meanwhile && (fault.may)(done, failure)) {
                violations.push(format!("not allowed: {done:?}; the fault: {:?}", self.spans));
            }
        }
        let is_wrong = |done: &&Done| matches!(done.failed, Some(Failure::Wrong(_)));
        violations.extend(self.guests.iter().filter(is_wrong).map(|done| format!("{done:?}")));
        for done in self.done.iter().chain(&self.guests).filter(|done| done.failed.is_none()) {
            let executions = self.ledger.get(&done.id).map_or(0, |entry| entry.executions);
            if executions == 0 {
                violations.push(format!("answered, and never executed: {done:?}"));
            }
        }
        for (id, entry) in &self.ledger {
            if entry.executions > entry.service.most_executions(entry.kind) {
                violations.push(format!("executed too often: {id}, {entry:?}"));
            }
        }
        violations
    }

    /// In a few words.
    pub fn summary(&self) -> String {
        let mut failures = BTreeMap::<_, usize>::new();
        for failure in self.done.iter().filter_map(|done| done.failed.as_ref()) {
            *failures.entry(format!("{failure:?}")).or_default() += 1;
        }
        let again = self.ledger.values().filter(|entry| entry.attempts > 1).count();
        let twice = self.ledger.values().filter(|entry| entry.executions > 1).count();
        format!(
            "{} done, {} of them by guests, {again} asked and {twice} executed more than once, failed: {failures:?}",
            self.done.len() + self.guests.len(),
            self.guests.len(),
        )
    }
}
