//! One attempt at a request: a stream of an upstream connection.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode, response};
use tokio::time::{Sleep, sleep};

use super::fields::{ResponseFields, TrailerFields};
use super::upstream::{Link, NotOpen, Upstreams};
use crate::http::exchange::{Attempt, Event, Said};
use crate::http::replay::Replay;
use crate::http::widened;
use crate::http::wire::Wire;
use crate::retry::RequestRetry;
use crate::retry::request::{Cause, Progress, ResponseFacts, grpc_status};

/// How long the head of a gRPC response is held back for what comes after it.
const HOLD: Duration = Duration::from_secs(1);

/// One attempt.
pub struct Sending<S> {
    upstreams: Rc<Upstreams<S>>,
    endpoint: SocketAddr,
    /// The local address of its connection.
    source: Option<SocketAddr>,
    /// Until it is sent.
    head: Option<Request<()>>,
    /// Whether gRPC trailers may decide about a retry.
    looks_ahead: bool,
    /// The code with which the client has reset its stream.
    reset_by_client: Rc<Cell<Option<Reason>>>,
    state: State,
}

enum State {
    /// For a connection, which is only being made because of this attempt or was there before.
    Waiting {
        link: Rc<Link>,
        is_fresh: bool,
    },
    Open(Box<Stream>),
    Failed,
}

struct Stream {
    /// Held, so that the connection counts as used.
    _link: Rc<Link>,
    /// Until the upstream's limit of streams lets the request go.
    queued: Option<SendRequest<Bytes>>,
    response: ResponseFuture,
    out: SendStream<Bytes>,
    sent: u64,
    received: u64,
    is_all_sent: bool,
    /// The upstream wants no more of the request.
    is_refused: bool,
    incoming: Option<Incoming>,
}

struct Incoming {
    status: StatusCode,
    grpc_status: Option<u32>,
    /// Until it is delivered.
    headers: HeaderMap,
    body: RecvStream,
    /// What was read ahead of the head's delivery.
    ahead: Option<Next>,
    hold: Hold,
}

enum Hold {
    /// What follows the head is still to be looked at.
    Looking,
    Until(Pin<Box<Sleep>>),
    Over,
}

/// What comes next of a response, after its head.
pub enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    Lost(h2::Error),
}

impl<S: Wire> Sending<S> {
    pub fn begin(
        upstreams: Rc<Upstreams<S>>,
        endpoint: SocketAddr,
        head: Request<()>,
        looks_ahead: bool,
        reset_by_client: Rc<Cell<Option<Reason>>>,
    ) -> Self {
        let (link, is_fresh) = upstreams.to(endpoint);
        let state = State::Waiting { link, is_fresh };
        Self { upstreams, endpoint, source: None, head: Some(head), looks_ahead, reset_by_client, state }
    }

    /// The head of the response, once.
    pub fn take_head(&mut self) -> Option<Response<()>> {
        let incoming = self.incoming_mut()?;
        let mut head = Response::new(());
        *head.status_mut() = incoming.status;
        *head.headers_mut() = std::mem::take(&mut incoming.headers);
        Some(head)
    }

    /// Whether nothing comes after what was taken out.
    pub fn has_ended(&self) -> bool {
        self.incoming().is_some_and(|incoming| match incoming.ahead {
            None | Some(Next::End) => incoming.body.is_end_stream(),
            Some(Next::Data(_) | Next::Trailers(_) | Next::Lost(_)) => false,
        })
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let State::Open(stream) = &mut self.state else { return Poll::Ready(Next::End) };
        let Some(incoming) = &mut stream.incoming else { return Poll::Ready(Next::End) };
        let next = match incoming.ahead.take() {
            Some(next) => next,
            None => ready!(incoming.poll_next(cx)),
        };
        stream.received += next.size();
        Poll::Ready(next)
    }

    /// The client's side has taken this much of the response: the upstream may send as much again.
    pub fn release(&mut self, bytes: usize) {
        if let Some(incoming) = self.incoming_mut() {
            let released = incoming.body.flow_control().release_capacity(bytes);
            debug_assert!(released.is_ok(), "no more is released than came");
        }
    }

    fn incoming(&self) -> Option<&Incoming> {
        match &self.state {
            State::Open(stream) => stream.incoming.as_ref(),
            State::Waiting { .. } | State::Failed => None,
        }
    }

    fn incoming_mut(&mut self) -> Option<&mut Incoming> {
        match &mut self.state {
            State::Open(stream) => stream.incoming.as_mut(),
            State::Waiting { .. } | State::Failed => None,
        }
    }

    fn failed<I>(&mut self, progress: Progress, cause: Cause) -> Poll<Event<I>> {
        self.state = State::Failed;
        Poll::Ready(Event::Failed { progress, cause })
    }

    /// Sends the head. The connection has just said that it takes one.
    fn send_head(&mut self, link: Rc<Link>, mut sender: SendRequest<Bytes>, body: &Replay) -> Option<Cause> {
        let head = self.head.take()?;
        let is_all_sent = body.is_complete() && body.received() == 0 && body.trailers().is_none();
        match sender.send_request(head, is_all_sent) {
            Ok((response, out)) => {
                self.state = State::Open(Box::new(Stream {
                    _link: link,
                    queued: Some(sender),
                    response,
                    out,
                    sent: 0,
                    received: 0,
                    is_all_sent,
                    is_refused: false,
                    incoming: None,
                }));
                None
            }
            Err(error) => {
                tracing::debug!(%error, "the request cannot be sent");
                Some(cause(&error))
            }
        }
    }

    /// A connection that was closed meanwhile has taken nothing of this request: another is made, once.
    fn renew(&mut self, is_fresh: bool) -> Option<Cause> {
        if is_fresh {
            return Some(Cause::ConnectionLost);
        }
        let (link, is_fresh) = self.upstreams.to(self.endpoint);
        self.state = State::Waiting { link, is_fresh };
        None
    }
}

impl<S: Wire> Attempt for Sending<S> {
    type Interim = Response<()>;

    fn poll(&mut self, cx: &mut Context<'_>, body: &Replay) -> Poll<Event<Response<()>>> {
        loop {
            let failed = match &mut self.state {
                State::Waiting { link, is_fresh } => {
                    let is_fresh = *is_fresh;
                    let link = Rc::clone(link);
                    match ready!(link.poll_open(cx)) {
                        Ok(sender) => {
                            self.source = link.source();
                            self.send_head(link, sender, body)
                        }
                        Err(NotOpen::Closed) => self.renew(is_fresh),
                        Err(NotOpen::Failed(outcome)) => Some(Cause::Connect(outcome)),
                    }
                    .map(|cause| (Progress::NotSent, cause))
                }
                State::Open(stream) => {
                    stream.send(cx, body);
                    match ready!(stream.poll_head(cx, self.looks_ahead, body.is_complete())) {
                        Ok(event) => return Poll::Ready(event),
                        // Whether the frames had left us is h2's secret.
                        Err(error) => Some((Progress::Sent, cause(&error))),
                    }
                }
                State::Failed => return Poll::Pending,
            };
            if let Some((progress, cause)) = failed {
                return self.failed(progress, cause);
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, body: &Replay) {
        if let State::Open(stream) = &mut self.state {
            stream.send(cx, body);
        }
    }

    fn is_connected(&self) -> bool {
        matches!(&self.state, State::Open(stream) if stream.queued.is_none())
    }

    fn source(&self) -> Option<SocketAddr> {
        self.source
    }

    fn sent(&self) -> u64 {
        match &self.state {
            State::Open(stream) => stream.sent,
            State::Waiting { .. } | State::Failed => 0,
        }
    }

    fn moved(&self) -> u64 {
        match &self.state {
            // The head counts as one: how long it is on the wire is h2's business.
            State::Open(stream) => u64::from(stream.queued.is_none()) + stream.sent + stream.received,
            State::Waiting { .. } | State::Failed => 0,
        }
    }

    fn can_send(&self) -> bool {
        matches!(&self.state, State::Open(stream) if !stream.is_refused)
    }

    fn response(&self) -> Option<Said> {
        let incoming = self.incoming()?;
        Some(Said { status: incoming.status.as_u16(), grpc_status: incoming.grpc_status })
    }

    fn facts(&self, retry: &RequestRetry) -> ResponseFacts {
        let Some(incoming) = self.incoming() else { return ResponseFacts::default() };
        let head = ResponseFields { status: incoming.status, headers: &incoming.headers };
        let facts = ResponseFacts::of(retry, &head, SystemTime::now);
        match &incoming.ahead {
            Some(Next::Trailers(trailers)) => facts.with_trailers(&TrailerFields(trailers)),
            Some(Next::Data(_) | Next::End | Next::Lost(_)) | None => facts,
        }
    }

    /// In HTTP/2 a client that sends nothing more has said so on each stream.
    fn half_close(&mut self) {}

    /// A stream that is over is gone by itself, and another is reset when it is dropped.
    fn retire(self) {}
}

impl<S> Drop for Sending<S> {
    fn drop(&mut self) {
        if let (State::Open(stream), Some(code)) = (&mut self.state, self.reset_by_client.get()) {
            // Without this h2 says CANCEL.
            stream.out.send_reset(code);
        }
    }
}

impl Stream {
    /// Sends what there is of the body and what the upstream has room for.
    fn send(&mut self, cx: &mut Context<'_>, body: &Replay) {
        if let Some(queued) = &mut self.queued
            && queued.poll_ready(cx).is_ready()
        {
            self.queued = None;
        }
        while !self.is_all_sent && !self.is_refused {
            let Some(mut data) = body.after(self.sent).next() else {
                if body.is_complete() && body.received() == self.sent {
                    self.end(body.trailers());
                    break;
                }
                // Nothing to wait for but the client, and the upstream's refusal.
                self.is_refused = self.out.poll_reset(cx).is_ready();
                return;
            };
            let room = match poll_room(&mut self.out, cx, data.len()) {
                Poll::Ready(Some(room)) => room,
                Poll::Ready(None) => {
                    self.is_refused = true;
                    return;
                }
                Poll::Pending => return,
            };
            let data = data.split_to(room);
            self.sent += widened(room);
            let is_last = body.is_complete() && body.received() == self.sent && body.trailers().is_none();
            self.is_refused = self.out.send_data(data, is_last).is_err();
            self.is_all_sent = is_last;
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        let ended = match trailers {
            Some(trailers) => self.out.send_trailers(trailers.clone()),
            None => self.out.send_data(Bytes::new(), true),
        };
        self.is_refused = ended.is_err();
        self.is_all_sent = true;
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        looks_ahead: bool,
        is_request_complete: bool,
    ) -> Poll<Result<Event<Response<()>>, h2::Error>> {
        if self.incoming.is_none() {
            if let Some(interim) = ready!(self.response.poll_informational(cx)?) {
                self.received += 1;
                let is_continue = interim.status() == StatusCode::CONTINUE;
                return Poll::Ready(Ok(Event::Interim { interim, is_continue }));
            }
            let (head, body) = ready!(Pin::new(&mut self.response).poll(cx)?).into_parts();
            self.received += 1;
            self.incoming = Some(Incoming::new(head, body, looks_ahead));
        }
        if let Some(incoming) = &mut self.incoming {
            ready!(incoming.poll_look(cx, is_request_complete));
        }
        Poll::Ready(Ok(Event::Head))
    }
}

impl Incoming {
    fn new(head: response::Parts, body: RecvStream, looks_ahead: bool) -> Self {
        let (status, headers) = (head.status, head.headers);
        let grpc_status = grpc_status(&TrailerFields(&headers));
        let looks = looks_ahead && grpc_status.is_none() && status == StatusCode::OK;
        let hold = if looks { Hold::Looking } else { Hold::Over };
        Self { status, grpc_status, headers, body, ahead: None, hold }
    }

    /// Looks whether a gRPC response fails before its first message, once the client has nothing more to say: an
    /// upstream that waits for the client would be waited for in vain, and then only what is there is looked at.
    fn poll_look(&mut self, cx: &mut Context<'_>, waits: bool) -> Poll<()> {
        if matches!(self.hold, Hold::Over) {
            return Poll::Ready(());
        }
        match self.poll_next(cx) {
            Poll::Ready(next) => self.ahead = Some(next),
            Poll::Pending if waits => {
                if matches!(self.hold, Hold::Looking) {
                    self.hold = Hold::Until(Box::pin(sleep(HOLD)));
                }
                if let Hold::Until(until) = &mut self.hold {
                    ready!(until.as_mut().poll(cx));
                }
            }
            Poll::Pending => {}
        }
        self.hold = Hold::Over;
        Poll::Ready(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        match ready!(self.body.poll_data(cx)) {
            Some(Ok(data)) if data.is_empty() && self.body.is_end_stream() => return Poll::Ready(Next::End),
            Some(Ok(data)) => return Poll::Ready(Next::Data(data)),
            Some(Err(error)) => return Poll::Ready(Next::Lost(error)),
            None => {}
        }
        Poll::Ready(match ready!(self.body.poll_trailers(cx)) {
            Ok(Some(trailers)) => {
                self.grpc_status = self.grpc_status.or_else(|| grpc_status(&TrailerFields(&trailers)));
                Next::Trailers(trailers)
            }
            Ok(None) => Next::End,
            Err(error) => Next::Lost(error),
        })
    }
}

impl Next {
    /// As [`Attempt::moved`] counts it.
    fn size(&self) -> u64 {
        match self {
            Self::Data(data) => widened(data.len()),
            Self::Trailers(_) => 1,
            Self::End | Self::Lost(_) => 0,
        }
    }
}

/// Ready with how much of what is wanted a peer has room for, or with none once it takes nothing more.
pub fn poll_room(out: &mut SendStream<Bytes>, cx: &mut Context<'_>, wanted: usize) -> Poll<Option<usize>> {
    out.reserve_capacity(wanted);
    loop {
        let room = out.capacity().min(wanted);
        if room > 0 {
            return Poll::Ready(Some(room));
        }
        match ready!(out.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(None),
        }
    }
}

/// What an upstream's failure means.
pub fn cause(error: &h2::Error) -> Cause {
    if error.is_library() {
        Cause::Protocol
    } else if error.is_go_away() {
        // h2 tells this only those streams that the upstream has named as not taken, and the others that the connection
        // is lost, when it is.
        Cause::RefusedStream
    } else if error.is_reset() {
        match error.reason() {
            Some(Reason::REFUSED_STREAM) => Cause::RefusedStream,
            Some(Reason::PROTOCOL_ERROR) => Cause::Protocol,
            Some(_) | None => Cause::StreamReset,
        }
    } else {
        Cause::ConnectionLost
    }
}
