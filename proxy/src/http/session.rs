//! What the requests of one client connection have in common.

use std::cell::{Cell, RefCell};
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
use crate::endpoint::{Addresses, Choice, Way};
use crate::observe::{Grpc, HttpProtocol, Observer, RequestAttempt, RequestEnd, RequestOrigin};
use crate::policy::{Headers, HttpPolicy, Policy, Router};
use crate::reason::{AttemptOutcome, Reason};
use crate::retry::Budgets;
use crate::retry::budgets::DestinationBudget;
use crate::retry::request::RequestFacts;

/// One client connection, as its requests see it.
pub struct Session<S> {
    pub router: Router,
    pub workload: Arc<str>,
    pub destination: SocketAddr,
    /// Where the attempts go of a request whose route has no targets, the connection's own endpoint first.
    pub way: Way,
    /// The addresses of the routes' targets.
    pub addresses: Addresses,
    pub dial: Dial<S>,
    pub budgets: Budgets,
    /// Where the budgets' clock starts.
    pub epoch: Instant,
    pub buffers: Buffers,
    /// What the connection's own attempts to connect came to; the first request takes it over.
    pub prior: Cell<Prior>,
    pub observer: Observer,
    /// The policies that its requests were under so far: mostly one.
    pub under: RefCell<Vec<Rc<Under>>>,
}

/// What the connection's requests under one policy have in common.
pub struct Under {
    policy: Arc<Policy>,
    budget: Arc<DestinationBudget>,
    pub origin: RequestOrigin,
}

/// What holds for a request.
pub struct Taken<'a> {
    pub under: Rc<Under>,
    pub http: &'a HttpPolicy,
    /// The name of its route; none where it goes through as it is.
    pub route: Option<&'a str>,
    endpoints: Choice,
    /// The connection's own attempts to connect were its first.
    goes_on: bool,
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
    /// What holds for a request.
    pub fn take(&self, request: &impl Headers) -> Taken<'_> {
        let routed = self.router.route(request);
        let under = self.under(routed.policy);
        let Some(route) = routed.route else {
            let (http, endpoints) = (HttpPolicy::passing(), self.way.endpoints(&self.addresses));
            return Taken { under, http, route: None, endpoints, goes_on: true };
        };
        let goes_on = !route.leads_elsewhere();
        let endpoints = if route.targets.is_empty() {
            self.way.endpoints(&self.addresses)
        } else {
            let resolved = self.addresses.of(&route.targets, self.destination);
            let mut draw = |below: u32| fastrand::u32(..below);
            // The connection that is there is of use to whoever is led there.
            Choice::weighted(resolved, &mut draw)
        };
        Taken { under, http: &route.http, route: Some(&route.name), endpoints, goes_on }
    }

    fn under(&self, policy: &Arc<Policy>) -> Rc<Under> {
        let mut known = self.under.borrow_mut();
        if let Some(under) = known.iter().find(|under| Arc::ptr_eq(&under.policy, policy)) {
            return Rc::clone(under);
        }
        let name = Arc::from(policy.name.to_string());
        let under = Rc::new(Under {
            budget: self.budgets.destination(self.destination, policy.budget),
            origin: self.observer.requests_of(Arc::clone(&self.workload), self.destination, name),
            policy: Arc::clone(policy),
        });
        known.push(Rc::clone(&under));
        under
    }

    /// What a request is tried with.
    pub fn plan<'a>(
        &'a self,
        taken: &'a Taken<'_>,
        policy: &'a HttpPolicy,
        request: &impl Headers,
    ) -> Plan<'a> {
        let prior = self.prior.take();
        Plan {
            policy,
            facts: RequestFacts::of(&policy.retry, request),
            endpoints: taken.endpoints.clone(),
            budget: &taken.under.budget,
            epoch: self.epoch,
            buffers: &self.buffers,
            metrics: self.observer.metrics(),
            prior: if taken.goes_on { prior } else { Prior::default() },
        }
    }

    /// A request has ended. What `asked` says of it is asked for only where it is recorded.
    pub fn request_ended<'a>(
        &'a self,
        taken: &'a Taken<'_>,
        ended: &Ended,
        attempts: &'a [RequestAttempt],
        asked: impl FnOnce() -> Asked<'a>,
        sizes: Sizes,
    ) {
        let is_kept = self.observer.keeps(ended.reason);
        let asked = if is_kept { asked() } else { Asked::default() };
        self.observer.request_ended(&RequestEnd {
            origin: &taken.under.origin,
            route: taken.route,
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
        // What can't be read is under the policy of a request that says nothing.
        self.request_ended(&self.take(&Nothing), &ended, &[], Asked::default, sizes);
    }
}

/// The headers of what is no request.
struct Nothing;

impl Headers for Nothing {
    fn visit<'a>(&'a self, _: &str, _: &mut dyn FnMut(&'a [u8]) -> bool) {}
}
