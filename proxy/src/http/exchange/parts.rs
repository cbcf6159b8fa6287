//! What the attempt loop needs of an HTTP version, and what it is told and tells.

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::endpoint::Choice;
use crate::http::answer::Answer;
use crate::http::replay::{Buffers, Piece, Replay};
use crate::observe::Metrics;
use crate::policy::HttpPolicy;
use crate::reason::{AttemptOutcome, Reason};
use crate::retry::budgets::DestinationBudget;
use crate::retry::request::{Cause, Progress, RequestFacts, ResponseFacts};
use crate::retry::{RequestRetry, Scope};

/// One request, and the way back to its client.
pub trait Request {
    type Attempt: Attempt;

    /// Begins to send the request to an endpoint.
    fn begin(&mut self, endpoint: SocketAddr, added: &Added) -> Self::Attempt;

    /// The next part of the body. Not called after the last one.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Gone>>;

    /// Whether the client has gone. Called once all of the body has come, or while no more of it is wanted.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone>;

    /// Whether the client has reset its connection, where nothing that was asked of it would tell.
    fn is_gone(&self) -> bool;

    /// Passes an interim response on.
    fn inform(&mut self, interim: <Self::Attempt as Attempt>::Interim);

    /// Moves the response of an attempt to the client, from its head on.
    fn poll_deliver(
        &mut self,
        cx: &mut Context<'_>,
        attempt: &mut Self::Attempt,
        added: AddedToResponse,
    ) -> Poll<Delivered>;

    /// Answers in the upstream's place.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        answer: &Answer,
        added: AddedToResponse,
    ) -> Poll<Delivered>;

    /// Breaks off a response of which a part has been delivered.
    fn break_off(&mut self);
}

/// One attempt at a request. Dropping it cancels it.
pub trait Attempt {
    type Interim;

    /// Sends what has come of the request, until the head of a response is there or the attempt has failed.
    fn poll(&mut self, cx: &mut Context<'_>, body: &Replay) -> Poll<Event<Self::Interim>>;

    /// Goes on sending while the response is delivered. What cannot be sent any more is not sent: the response tells.
    fn poll_send(&mut self, cx: &mut Context<'_>, body: &Replay);

    /// Whether it has an upstream connection.
    fn is_connected(&self) -> bool;

    /// The local address of its connection.
    fn source(&self) -> Option<SocketAddr>;

    /// How much of the body it has sent.
    fn sent(&self) -> u64;

    /// How many bytes have moved either way, of head and body.
    fn moved(&self) -> u64;

    /// Whether more of the body may be sent: the upstream has not broken off.
    fn can_send(&self) -> bool;

    /// What the head of the response says, once it is there.
    fn response(&self) -> Option<Said>;

    /// The same for the decision.
    fn facts(&self, retry: &RequestRetry) -> ResponseFacts;

    /// The client will send nothing more.
    fn half_close(&mut self);

    /// The response is not wanted: what can be used again is put back.
    fn retire(self);
}

/// What an attempt has come to.
#[derive(Debug)]
pub enum Event<I> {
    /// An interim response. 100 Continue is told apart: it says nothing but what the client asked for.
    Interim {
        interim: I,
        is_continue: bool,
    },
    /// The head of the response.
    Head,
    Failed {
        progress: Progress,
        cause: Cause,
    },
}

/// What is recorded of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub status: u16,
    pub grpc_status: Option<u32>,
}

/// The client will not send anything more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It closed its sending side, and may or may not still read.
    HalfClosed,
    /// It reads nothing any more.
    Gone,
    /// What it sent is no HTTP, and is answered with this status.
    Invalid(u16),
}

/// How a response to a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    Whole,
    ClientGone,
    /// The upstream broke off, and so did we.
    UpstreamLost(Cause),
}

/// What redial adds to the head of an attempt, by [`crate::policy::AddedHeaders::Envoy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// None of these where the policy adds nothing.
    pub is_on: bool,
    pub attempt_count: u32,
    pub expected_timeout: Option<Duration>,
    /// Of a retry: whether a timeout made it one.
    pub is_timeout_retry: Option<bool>,
    /// The bits of an id for a request that has none.
    pub request_id: Option<u128>,
}

/// What redial adds to the head of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddedToResponse {
    pub attempt_count: Option<u32>,
}

/// What a request is tried with.
pub struct Plan<'a> {
    /// As it is for this request.
    pub policy: &'a HttpPolicy,
    pub facts: RequestFacts,
    pub endpoints: Choice,
    pub budget: &'a DestinationBudget,
    /// Where the budgets' clock starts.
    pub epoch: Instant,
    pub buffers: &'a Buffers,
    pub metrics: &'a Metrics,
    /// What was tried before the request was there: the connection's own attempts to connect.
    pub prior: Prior,
}

/// What a connection's own attempts to connect came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prior {
    /// How many failed.
    pub failed: u32,
    /// The last one's outcome, where none made a connection.
    pub gave_up: Option<AttemptOutcome>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// As the client got it.
    pub status: Option<u16>,
    pub reason: Reason,
    /// The local address of the last attempt's connection.
    pub source: Option<SocketAddr>,
    /// The answer was redial's own.
    pub is_own: bool,
    /// Which budget was empty, where one was.
    pub refused: Option<Scope>,
    /// The request was read to its end and the response delivered whole: the client's connection may be used again.
    pub is_whole: bool,
    /// Of the response that the client got, or of the last one that came.
    pub grpc_status: Option<u32>,
    pub duration: Duration,
    /// Until the response's head was there.
    pub first_byte: Option<Duration>,
}

impl Ended {
    /// The end of a request that was no request.
    #[must_use]
    pub fn refused(status: u16, reason: Reason) -> Self {
        Self {
            status: Some(status),
            reason,
            source: None,
            is_own: true,
            refused: None,
            is_whole: false,
            grpc_status: None,
            duration: Duration::ZERO,
            first_byte: None,
        }
    }
}
