//! HTTP/1 to the upstream: one attempt at a request, on a connection that may serve others after it.

use std::cell::RefCell;
use std::future::Future;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;

use super::body::Body;
use super::head::{Framing, MAX_HEAD, Method, RequestHead, ResponseHead, Search};
use super::hops;
use super::room;
use crate::http::exchange::{Attempt, Event, Said};
use crate::http::pool::Share;
use crate::http::replay::Replay;
use crate::http::session::{Connected, Dial, Dialling, Session, Supply};
use crate::http::widened;
use crate::http::wire::Wire;
use crate::retry::RequestRetry;
use crate::retry::request::{Cause, Progress, ResponseFacts};

/// How many parts of a request are written at once.
const PARTS: usize = 16;

/// How many upstream connections a client keeps at a time, each to another endpoint.
const MAX_OWN: usize = 8;

/// An upstream connection that no request is on.
pub struct Idle<S> {
    stream: S,
    endpoint: SocketAddr,
    source: Option<SocketAddr>,
}

/// The places for the connections that the next request may go out on.
pub enum Slot<S> {
    /// One for each endpoint that the client's requests went to, as their routes and retries had it.
    Own(Rc<RefCell<Vec<Idle<S>>>>),
    /// Among those of others.
    Pool(Share<S>),
}

/// A request on its way to an endpoint.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and all combinations can be")]
pub struct Sending<S> {
    state: State<S>,
    slot: Slot<S>,
    endpoint: SocketAddr,
    /// The local address of the connection.
    source: Option<SocketAddr>,
    head: Bytes,
    method: Method,
    head_sent: usize,
    body_sent: u64,
    received: u64,
    /// How many bytes of interim responses have come. They wait for the client, so they are bounded as a head is.
    interim: usize,
    is_write_broken: bool,
    is_half_closing: bool,
    /// Another request may follow this one on its connection.
    is_persistent: bool,
    /// All of the request has been sent.
    is_whole: bool,
    search: Search,
    pub(super) response: Option<Response>,
}

/// A response whose head is at the front of what was read.
pub(super) struct Response {
    pub(super) head: ResponseHead,
    pub(super) body: Body,
    /// How much of what was read is the response's and goes to the client as it is.
    pub(super) ready: usize,
    pub(super) is_delivered: bool,
}

enum State<S> {
    Dialling(Dialling<S>),
    /// Made before this request: it may have been closed since.
    Kept(Open<S>, Dial<S>),
    Open(Open<S>),
    Proving(Pin<Box<dyn Future<Output = bool>>>),
    Failed,
}

pub(super) struct Open<S> {
    pub(super) stream: S,
    pub(super) read: BytesMut,
}

impl<S: Wire> Idle<S> {
    pub fn new(connected: Connected<S>) -> Self {
        let source = connected.stream.local();
        Self { stream: connected.stream, endpoint: connected.endpoint, source }
    }

    pub fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }

    /// Ready where the upstream has closed the connection, or said something that nobody asked for.
    pub fn poll_stale(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0; 1];
        pin!(self.stream.read(&mut byte)).poll(cx).map(|_| ())
    }
}

impl<S: Wire> Slot<S> {
    pub fn new(upstream: Supply<S>) -> Self {
        match upstream {
            Supply::Own(connected) => {
                Self::Own(Rc::new(RefCell::new(connected.map(Idle::new).into_iter().collect())))
            }
            Supply::Pool(share, connected) => {
                if let Some(connected) = connected {
                    share.put(Idle::new(connected));
                }
                Self::Pool(share)
            }
        }
    }

    /// Whether the connections are not only the client's.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Pool(_) => true,
        }
    }

    /// The connection that leads there, if there is one.
    fn take(&self, endpoint: SocketAddr) -> Option<Idle<S>> {
        match self {
            Self::Own(slot) => {
                let mut slot = slot.borrow_mut();
                let index = slot.iter().position(|idle| idle.endpoint == endpoint)?;
                Some(slot.swap_remove(index))
            }
            Self::Pool(share) => share.take(endpoint),
        }
    }

    fn put(&self, idle: Idle<S>) {
        match self {
            Self::Own(slot) => {
                let mut slot = slot.borrow_mut();
                slot.retain(|other| other.endpoint != idle.endpoint);
                if slot.len() >= MAX_OWN {
                    slot.remove(0);
                }
                slot.push(idle);
            }
            Self::Pool(share) => share.put(idle),
        }
    }

    /// Lets go of the client's own connection.
    pub fn clear(&self) {
        match self {
            Self::Own(slot) => slot.borrow_mut().clear(),
            Self::Pool(_) => {}
        }
    }

    /// Lets go of a connection that the upstream has let go of. The pool does that for its own.
    pub fn poll_stale(&self, cx: &mut Context<'_>) {
        if let Self::Own(slot) = self {
            slot.borrow_mut().retain_mut(|idle| idle.poll_stale(cx).is_pending());
        }
    }
}

impl<S> Clone for Slot<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Own(slot) => Self::Own(Rc::clone(slot)),
            Self::Pool(share) => Self::Pool(share.clone()),
        }
    }
}

impl<S: Wire> Sending<S> {
    /// Takes the connection in the slot if it leads there, else makes one.
    pub(super) fn begin(
        session: &Session<S>,
        slot: &Slot<S>,
        endpoint: SocketAddr,
        bytes: Bytes,
        head: &RequestHead,
    ) -> Self {
        let is_alone = slot.is_shared() && hops::takes_over(head);
        let kept = if is_alone { None } else { slot.take(endpoint) };
        let source = kept.as_ref().and_then(|idle| idle.source);
        let state = match kept {
            Some(idle) => {
                let open = Open { stream: idle.stream, read: BytesMut::new() };
                State::Kept(open, Rc::clone(&session.dial))
            }
            None => State::Dialling((session.dial)(endpoint)),
        };
        Self {
            state,
            slot: slot.clone(),
            endpoint,
            source,
            head: bytes,
            method: head.method.clone(),
            head_sent: 0,
            body_sent: 0,
            received: 0,
            interim: 0,
            is_write_broken: false,
            is_half_closing: false,
            is_persistent: if slot.is_shared() { !is_alone } else { head.persistent },
            is_whole: false,
            search: Search::default(),
            response: None,
        }
    }

    pub(super) fn open(&mut self) -> Option<(&mut Open<S>, &mut Response)> {
        match (&mut self.state, &mut self.response) {
            (State::Open(open), Some(response)) => Some((open, response)),
            _ => None,
        }
    }

    /// Whether no more of the request goes out.
    pub(super) fn has_sent_all(&self) -> bool {
        self.is_whole || self.is_write_broken
    }

    /// Takes the connection out, and what was read of it.
    pub(super) fn take_stream(&mut self) -> Option<(S, BytesMut)> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Open(open) => Some((open.stream, open.read)),
            State::Dialling(_) | State::Kept(..) | State::Proving(_) | State::Failed => None,
        }
    }

    pub(super) fn count_received(&mut self, bytes: usize) {
        self.received += widened(bytes);
    }

    fn has_sent(&self) -> bool {
        self.head_sent > 0
    }

    fn failed<I>(&mut self, progress: Progress, cause: Cause) -> Poll<Event<I>> {
        self.state = State::Failed;
        Poll::Ready(Event::Failed { progress, cause })
    }

    fn lost<I>(&mut self) -> Poll<Event<I>> {
        let progress = if self.has_sent() { Progress::Sent } else { Progress::NotSent };
        self.failed(progress, Cause::ConnectionLost)
    }

    /// The upstream has closed its side before the head of a response was there.
    fn ended<I>(&mut self) -> Option<Poll<Event<I>>> {
        if self.received > 0 || !self.has_sent() || self.is_half_closing {
            return Some(self.lost());
        }
        let sent = widened(self.head_sent).saturating_add(self.body_sent);
        let Ok(sent) = usize::try_from(sent) else { return Some(self.lost()) };
        let State::Open(open) = std::mem::replace(&mut self.state, State::Failed) else {
            return Some(self.lost());
        };
        self.state = State::Proving(Box::pin(open.stream.untaken(sent)));
        None
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event<Bytes>>> {
        let State::Open(open) = &mut self.state else { return Poll::Ready(None) };
        loop {
            if !open.read.is_empty() {
                match self.search.response(&open.read, &self.method) {
                    Ok(None) => {}
                    Ok(Some(head)) if head.interim() && self.interim + head.length > MAX_HEAD => {
                        tracing::debug!(endpoint = %self.endpoint, "the upstream's interim responses do not end");
                        return self.failed(Progress::Sent, Cause::Protocol).map(Some);
                    }
                    Ok(Some(head)) if head.interim() => {
                        self.interim += head.length;
                        let is_continue = head.status == 100;
                        let interim = open.read.split_to(head.length).freeze();
                        return Poll::Ready(Some(Event::Interim { interim, is_continue }));
                    }
                    Ok(Some(head)) => {
                        let body = Body::new(head.body);
                        self.response = Some(Response { head, body, ready: 0, is_delivered: false });
                        return Poll::Ready(Some(Event::Head));
                    }
                    Err(error) => {
                        tracing::debug!(endpoint = %self.endpoint, %error, "the upstream's response is refused");
                        return self.failed(Progress::Sent, Cause::Protocol).map(Some);
                    }
                }
            }
            match ready!(open.poll_read(cx)) {
                Ok(0) => return self.ended().map_or(Poll::Ready(None), |event| event.map(Some)),
                Ok(count) => self.received += widened(count),
                Err(_) => return self.lost().map(Some),
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, body: &Replay) {
        let State::Open(open) = &mut self.state else { return };
        while !self.is_write_broken {
            let mut parts = [IoSlice::new(&[]); PARTS];
            let head = self.head.get(self.head_sent..).filter(|rest| !rest.is_empty());
            let unsent = head.into_iter().chain(body.slices_after(self.body_sent));
            let count = parts.iter_mut().zip(unsent).map(|(part, bytes)| *part = IoSlice::new(bytes)).count();
            let written = match parts.get(..count).unwrap_or_default() {
                [] => {
                    self.is_whole = body.is_complete();
                    if self.is_half_closing && self.is_whole {
                        let _ = Pin::new(&mut open.stream).poll_shutdown(cx);
                    }
                    return;
                }
                [one] => Pin::new(&mut open.stream).poll_write(cx, one),
                many => Pin::new(&mut open.stream).poll_write_vectored(cx, many),
            };
            match written {
                Poll::Ready(Ok(count)) => {
                    let of_head = count.min(self.head.len() - self.head_sent);
                    self.head_sent += of_head;
                    self.body_sent += widened(count - of_head);
                }
                // What the upstream said before it broke off is still to be read.
                Poll::Ready(Err(_)) => self.is_write_broken = true,
                Poll::Pending => return,
            }
        }
    }
}

impl<S: Wire> Attempt for Sending<S> {
    type Interim = Bytes;

    fn poll(&mut self, cx: &mut Context<'_>, body: &Replay) -> Poll<Event<Bytes>> {
        loop {
            match &mut self.state {
                State::Dialling(dialling) => match ready!(dialling.as_mut().poll(cx)) {
                    Ok(stream) => {
                        self.source = stream.local();
                        self.state = State::Open(Open { stream, read: BytesMut::new() });
                    }
                    Err(outcome) => return self.failed(Progress::NotSent, Cause::Connect(outcome)),
                },
                State::Kept(..) => self.take_up(cx),
                State::Open(_) => {
                    self.write(cx, body);
                    if let Some(event) = ready!(self.poll_head(cx)) {
                        return Poll::Ready(event);
                    }
                }
                State::Proving(proof) => {
                    let is_untaken = ready!(proof.as_mut().poll(cx));
                    let progress = if is_untaken { Progress::NotTaken } else { Progress::Sent };
                    return self.failed(progress, Cause::ConnectionLost);
                }
                State::Failed => return Poll::Pending,
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, body: &Replay) {
        self.write(cx, body);
        // After its response an upstream that closes wants no more of the request.
        if let Some((open, response)) = self.open()
            && response.is_delivered
            && response.ready == 0
            && response.body.ended()
            && response.head.body != Framing::Tunnel
            && matches!(open.poll_read(cx), Poll::Ready(Ok(0) | Err(_)))
        {
            self.is_write_broken = true;
        }
    }

    fn is_connected(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    fn source(&self) -> Option<SocketAddr> {
        self.source
    }

    fn sent(&self) -> u64 {
        self.body_sent
    }

    fn moved(&self) -> u64 {
        widened(self.head_sent) + self.body_sent + self.received
    }

    fn can_send(&self) -> bool {
        !self.is_write_broken && self.response.as_ref().is_some_and(|response| response.head.persistent)
    }

    fn response(&self) -> Option<Said> {
        let response = self.response.as_ref()?;
        Some(Said { status: response.head.status, grpc_status: None })
    }

    fn facts(&self, retry: &RequestRetry) -> ResponseFacts {
        match (&self.state, &self.response) {
            (State::Open(open), Some(response)) => {
                let head = &response.head;
                ResponseFacts::of(retry, &head.fields(&open.read), SystemTime::now)
            }
            _ => ResponseFacts::default(),
        }
    }

    fn half_close(&mut self) {
        self.is_half_closing = true;
    }

    fn retire(mut self) {
        let is_free = self.is_persistent && self.is_whole && !self.is_write_broken && !self.is_half_closing;
        let (State::Open(mut open), Some(mut response)) = (self.state, self.response.take()) else { return };
        if !is_free || !response.head.persistent {
            return;
        }
        // A response that was not delivered still lies there: it is passed over if all of it has come.
        if !response.is_delivered {
            if open.read.len() < response.head.length {
                return;
            }
            open.read.advance(response.head.length);
            if !response.body.ended() {
                match response.body.scan(&open.read) {
                    Ok(scanned) if scanned.ended => open.read.advance(scanned.taken),
                    Ok(_) | Err(_) => return,
                }
            }
        }
        if open.read.is_empty() {
            room::give_back(&mut open.read);
            self.slot.put(Idle { stream: open.stream, endpoint: self.endpoint, source: self.source });
        }
    }
}

impl<S: Wire> Sending<S> {
    /// A connection that was closed meanwhile has taken nothing of this request: another is made in its place.
    fn take_up(&mut self, cx: &mut Context<'_>) {
        let State::Kept(mut open, dial) = std::mem::replace(&mut self.state, State::Failed) else { return };
        self.state = if open.poll_read(cx).is_ready() {
            State::Dialling(dial(self.endpoint))
        } else {
            State::Open(open)
        };
    }
}

impl<S: Wire> Open<S> {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        room::poll_read(cx, &mut self.stream, &mut self.read)
    }
}
