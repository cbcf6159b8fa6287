//! What the requests of one client connection have in common.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::exchange::{Ended, Plan, Prior, Tried};
use super::replay::Buffers;
use super::wire::Wire;
use crate::endpoint::Choice;
use crate::policy::{Headers, HttpPolicy};
use crate::reason::AttemptOutcome;
use crate::retry::budgets::DestinationBudget;
use crate::retry::request::RequestFacts;

/// One client connection, as its requests see it.
pub struct Session<S> {
    pub policy: Arc<HttpPolicy>,
    /// Where each request's attempts go, the connection's own endpoint first.
    pub endpoints: Choice,
    pub dial: Dial<S>,
    pub budget: Arc<DestinationBudget>,
    /// Where the budgets' clock starts.
    pub epoch: Instant,
    pub buffers: Buffers,
    /// What the connection's own attempts to connect came to; the first request takes it over.
    pub prior: Cell<Prior>,
}

/// Connects to an endpoint, within the time that one attempt has.
pub type Dial<S> = Rc<dyn Fn(SocketAddr) -> Dialling<S>>;
pub type Dialling<S> = Pin<Box<dyn Future<Output = Result<S, AttemptOutcome>>>>;

/// The upstream connection that is there before the first request.
pub struct Connected<S> {
    pub stream: S,
    pub endpoint: SocketAddr,
}

impl<S: Wire> Session<S> {
    /// What a request is tried with.
    pub fn plan<'a>(&'a self, policy: &'a HttpPolicy, request: &impl Headers) -> Plan<'a> {
        Plan {
            policy,
            facts: RequestFacts::of(&policy.retry, request),
            endpoints: self.endpoints.clone(),
            budget: &self.budget,
            epoch: self.epoch,
            buffers: &self.buffers,
            prior: self.prior.take(),
        }
    }

    /// A request has ended.
    pub fn request_ended(
        &self,
        _policy: &HttpPolicy,
        _request: &impl Headers,
        _ended: &Ended,
        _tried: &[Tried],
    ) {
    }

    /// What a client sent was refused.
    pub fn refused(&self, word: &'static str) {
        tracing::debug!(word, "what a client sent is refused");
    }
}
