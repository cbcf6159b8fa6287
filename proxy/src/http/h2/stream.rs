//! One request of a client: a stream of its connection.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};

use super::attempt::{Next, Sending, cause, poll_room};
use super::fields::{RequestFields, is_grpc};
use super::upstream::Upstreams;
use crate::http::added;
use crate::http::answer::Answer;
use crate::http::exchange::{self, Added, AddedToResponse, Delivered, Gone};
use crate::http::replay::Piece;
use crate::http::widened;
use crate::http::wire::Wire;
use crate::policy::{HttpPolicy, REQUEST_HEADERS};
use crate::retry::request::{Cause, RequestFacts};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The word in metrics for what breaks the rules of HTTP/2. What the rule is is in the log.
pub const MALFORMED: &str = "http2";

/// One request, and the way back to its client.
pub struct Asked<S> {
    upstreams: Rc<Upstreams<S>>,
    /// As it goes to the upstream.
    head: Request<()>,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    /// Once the head of the response is sent.
    out: Option<SendStream<Bytes>>,
    /// Of the response, and waits for room at the client.
    unsent: Bytes,
    is_grpc: bool,
    looks_ahead: bool,
    /// The client has all of a response, or knows that it gets no more of one.
    is_over: bool,
    reset_by_client: Rc<Cell<Option<Reason>>>,
    /// How much of a response's body the client was given.
    delivered: u64,
    /// How much of the request's body has come.
    received: u64,
}

impl<S: Wire> Asked<S> {
    pub fn new(
        upstreams: Rc<Upstreams<S>>,
        policy: &HttpPolicy,
        request: Request<()>,
        body: RecvStream,
        respond: SendResponse<Bytes>,
    ) -> Self {
        let mut head = request;
        if policy.honour_request_headers {
            for name in REQUEST_HEADERS {
                head.headers_mut().remove(*name);
            }
        }
        if head.uri().authority().is_none() {
            // To h2 this says that the request may go without one.
            *head.version_mut() = Version::HTTP_11;
        }
        let is_grpc = is_grpc(head.headers());
        let mut conditions = policy.retry.retry_on.iter();
        // What would not be tried again, whatever its status, is not held up for it.
        let may_be_retried = policy.retry.num_retries > 0 && {
            let facts = RequestFacts::of(&policy.retry, &RequestFields(&head));
            facts.repeatable && facts.retriable
        };
        let looks_ahead = is_grpc && may_be_retried && conditions.any(|one| one.grpc_status().is_some());
        Self {
            upstreams,
            head,
            body,
            respond,
            out: None,
            unsent: Bytes::new(),
            is_grpc,
            looks_ahead,
            is_over: false,
            reset_by_client: Rc::default(),
            delivered: 0,
            received: 0,
        }
    }

    /// As it goes to the upstream.
    pub fn head(&self) -> &Request<()> {
        &self.head
    }

    pub fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// How much of a response's body the client was given.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// How much of the request's body has come.
    pub fn received(&self) -> u64 {
        self.received
    }

    fn gone(&self, error: &h2::Error) -> Gone {
        if error.is_library() {
            self.upstreams.session().observer.metrics().request_malformed(MALFORMED);
            return Gone::Invalid(StatusCode::BAD_REQUEST.as_u16());
        }
        if error.is_reset() {
            self.reset_by_client.set(error.reason());
        }
        Gone::Gone
    }

    fn reset(&mut self, code: Reason) {
        if !std::mem::replace(&mut self.is_over, true) {
            match &mut self.out {
                Some(out) => out.send_reset(code),
                None => self.respond.send_reset(code),
            }
        }
    }

    /// Sends the head of a response.
    fn start(
        &mut self,
        mut head: Response<()>,
        added: AddedToResponse,
        is_end: bool,
    ) -> Result<(), h2::Error> {
        if let Some((name, value)) = added::to_response(added) {
            insert(head.headers_mut(), name, value);
        }
        self.out = Some(self.respond.send_response(head, is_end)?);
        self.is_over = is_end;
        Ok(())
    }

    /// Passes on what comes next of a response. Ready with how it ended, once it has.
    fn pass_on(&mut self, next: Next) -> Option<Delivered> {
        let out = self.out.as_mut()?;
        let ended = match next {
            Next::Data(data) => {
                self.unsent = data;
                return None;
            }
            Next::Trailers(trailers) => out.send_trailers(trailers),
            Next::End => out.send_data(Bytes::new(), true),
            Next::Lost(error) => {
                let code = if error.is_reset() && error.is_remote() { error.reason() } else { None };
                self.reset(code.unwrap_or(Reason::INTERNAL_ERROR));
                return Some(Delivered::UpstreamLost(cause(&error)));
            }
        };
        self.is_over = true;
        Some(if ended.is_ok() { Delivered::Whole } else { Delivered::ClientGone })
    }
}

impl<S: Wire> exchange::Request for Asked<S> {
    type Attempt = Sending<S>;

    fn begin(&mut self, endpoint: SocketAddr, added: &Added) -> Sending<S> {
        let mut head = self.head.clone();
        for (name, value) in added::to_request(added, &RequestFields(&self.head)) {
            insert(head.headers_mut(), name, value);
        }
        let upstreams = Rc::clone(&self.upstreams);
        let reset_by_client = Rc::clone(&self.reset_by_client);
        Sending::begin(upstreams, endpoint, head, self.looks_ahead, reset_by_client)
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Gone>> {
        match ready!(self.body.poll_data(cx)) {
            Some(Ok(data)) => {
                self.received += widened(data.len());
                // From here on it is the replay's to bound.
                let released = self.body.flow_control().release_capacity(data.len());
                debug_assert!(released.is_ok(), "no more is released than came");
                return Poll::Ready(Ok(Piece { data, trailers: None, end: self.body.is_end_stream() }));
            }
            Some(Err(error)) => return Poll::Ready(Err(self.gone(&error))),
            None => {}
        }
        Poll::Ready(match ready!(self.body.poll_trailers(cx)) {
            Ok(trailers) => Ok(Piece { data: Bytes::new(), trailers, end: true }),
            Err(error) => Err(self.gone(&error)),
        })
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        let reset = match &mut self.out {
            Some(out) => ready!(out.poll_reset(cx)),
            None => ready!(self.respond.poll_reset(cx)),
        };
        Poll::Ready(match reset {
            Ok(code) => {
                self.reset_by_client.set(Some(code));
                Gone::Gone
            }
            Err(_) => Gone::Gone,
        })
    }

    /// A reset is told wherever the stream is polled.
    fn is_gone(&self) -> bool {
        false
    }

    fn inform(&mut self, interim: Response<()>) {
        if let Err(error) = self.respond.send_informational(interim) {
            tracing::debug!(%error, "an interim response is not passed on");
        }
    }

    fn poll_deliver(
        &mut self,
        cx: &mut Context<'_>,
        attempt: &mut Sending<S>,
        added: AddedToResponse,
    ) -> Poll<Delivered> {
        if self.out.is_none() {
            let Some(head) = attempt.take_head() else {
                return Poll::Ready(Delivered::UpstreamLost(Cause::ConnectionLost));
            };
            let is_end = attempt.has_ended();
            if self.start(head, added, is_end).is_err() {
                return Poll::Ready(Delivered::ClientGone);
            }
            if is_end {
                return Poll::Ready(Delivered::Whole);
            }
        }
        loop {
            if self.unsent.is_empty() {
                let next = ready!(attempt.poll_next(cx));
                if let Some(end) = self.pass_on(next) {
                    return Poll::Ready(end);
                }
                continue;
            }
            let Some(out) = &mut self.out else { return Poll::Ready(Delivered::ClientGone) };
            let Some(room) = ready!(poll_room(out, cx, self.unsent.len())) else {
                return Poll::Ready(Delivered::ClientGone);
            };
            let data = self.unsent.split_to(room);
            let is_end = self.unsent.is_empty() && attempt.has_ended();
            if out.send_data(data, is_end).is_err() {
                return Poll::Ready(Delivered::ClientGone);
            }
            attempt.release(room);
            self.delivered += widened(room);
            if is_end {
                self.is_over = true;
                return Poll::Ready(Delivered::Whole);
            }
        }
    }

    fn poll_answer(
        &mut self,
        _cx: &mut Context<'_>,
        answer: &Answer,
        added: AddedToResponse,
    ) -> Poll<Delivered> {
        let head = if self.is_grpc { grpc(answer) } else { plain(answer) };
        let has_body = !self.is_grpc && !answer.body().is_empty() && *self.head.method() != Method::HEAD;
        let mut sent = self.start(head, added, !has_body);
        if let (Ok(()), true, Some(out)) = (&sent, has_body, &mut self.out) {
            sent = out.send_data(Bytes::copy_from_slice(answer.body().as_bytes()), true);
            self.is_over = true;
        }
        Poll::Ready(if sent.is_ok() { Delivered::Whole } else { Delivered::ClientGone })
    }

    /// Where the response is over h2 asks the client to stop (NO_ERROR), once all of it is sent.
    fn break_off(&mut self) {
        self.reset(Reason::INTERNAL_ERROR);
    }
}

fn plain(answer: &Answer) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    if head.status() != StatusCode::NO_CONTENT {
        head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(answer.body().len()));
    }
    if !answer.body().is_empty() {
        head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    head
}

/// Trailers, and nothing before them.
fn grpc(answer: &Answer) -> Response<()> {
    let mut head = Response::new(());
    let headers = head.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(answer.grpc_status()));
    if let Ok(message) = HeaderValue::from_str(&answer.grpc_message()) {
        headers.insert(GRPC_MESSAGE, message);
    }
    head
}

/// The names are ours, and the values numbers, ids and words.
fn insert(headers: &mut HeaderMap, name: &'static str, value: String) {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
