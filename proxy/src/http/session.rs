//! What the requests of one client connection have in common.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::exchange::{Ended, Plan, Prior};
use super::pool::Share;
use super::replay::Buffers;
use super::wire::Wire;
use crate::endpoint::Choice;
use crate::observe::{Grpc, HttpProtocol, Observer, RequestAttempt, RequestEnd, RequestOrigin};
use crate::policy::{Headers, HttpPolicy};
use crate::reason::{AttemptOutcome, Reason};
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
    pub observer: Observer,
    pub origin: RequestOrigin,
}

/// What a request asked for, for the record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    pub method: Option<&'a str>,
    pub authority: Option<&'a str>,
    pub path: Option<&'a str>,
}

/// What is counted of every request.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub protocol: HttpProtocol,
    pub is_grpc: bool,
    /// Of the bodies, without what frames them.
    pub request: u64,
    pub response: u64,
}

/// Connects to an endpoint, within the time that one attempt has.
pub type Dial<S> = Rc<dyn Fn(SocketAddr) -> Dialling<S>>;
pub type Dialling<S> = Pin<Box<dyn Future<Output = Result<S, AttemptOutcome>>>>;

/// The upstream connection that is there before the first request.
pub struct Connected<S> {
    pub stream: S,
    pub endpoint: SocketAddr,
}

/// Where a client's requests find their upstream connections.
pub enum Supply<S> {
    /// They are the client's own, and the first may be there.
    Own(Option<Connected<S>>),
    /// They are shared. One may have been made for this client, whose next request takes it.
    Pool(Share<S>, Option<Connected<S>>),
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
            metrics: self.observer.metrics(),
            prior: self.prior.take(),
        }
    }

    /// A request has ended. What `asked` says of it is asked for only where it is recorded.
    pub fn request_ended<'a>(
        &'a self,
        ended: &Ended,
        attempts: &'a [RequestAttempt],
        asked: impl FnOnce() -> Asked<'a>,
        sizes: Sizes,
    ) {
        let is_kept = self.observer.keeps(ended.reason);
        let asked = if is_kept { asked() } else { Asked::default() };
        self.observer.request_ended(&RequestEnd {
            origin: &self.origin,
            source: ended.source,
            protocol: sizes.protocol,
            method: asked.method,
            authority: asked.authority,
            path: asked.path,
            grpc: sizes.is_grpc.then_some(Grpc { status: ended.grpc_status }),
            // gRPC is answered in its own words, with a status of its own.
            status: if ended.is_own && sizes.is_grpc { ended.status.and(Some(200)) } else { ended.status },
            attempts,
            request_bytes: sizes.request,
            response_bytes: sizes.response,
            first_byte: ended.first_byte,
            duration: ended.duration,
            refused: ended.refused,
            reason: ended.reason,
        });
    }

    /// A request was refused before anything was tried.
    pub fn refused(&self, protocol: HttpProtocol, status: u16, word: &'static str) {
        tracing::debug!(word, "what a client sent is refused");
        self.observer.metrics().request_malformed(word);
        let reason = if status == 431 { Reason::HeadTooLarge } else { Reason::BadRequest };
        let ended = Ended::refused(status, reason);
        let sizes = Sizes { protocol, is_grpc: false, request: 0, response: 0 };
        self.request_ended(&ended, &[], Asked::default, sizes);
    }
}
