//! HTTP/1 from the client: its requests one after the other, and their answers.
//!
//! What goes through goes through as it came, byte for byte, unless the policy adds or takes out headers. The client's
//! connection stays open when the upstream closes its own between two requests: the next request makes another.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::body::Body;
use super::head::{self, Fields, Framing, HeadError, Method, RequestHead, Search, Upgrade, Version};
use super::hops;
use super::room;
use super::upstream::{Sending, Slot};
use crate::http::added;
use crate::http::answer::Answer;
use crate::http::exchange::{self, Added, AddedToResponse, Delivered, Gone, Request, Timer};
use crate::http::replay::Piece;
use crate::http::session::{self, Session, Sizes, Supply};
use crate::http::widened;
use crate::http::wire::Wire;
use crate::observe::HttpProtocol;
use crate::policy::{Headers as _, HttpPolicy, REQUEST_HEADERS};
use crate::reason::Reason;
use crate::retry::request::Cause;
use crate::tcp::relay::{Moved, Stopped, told};

/// How much is read ahead of the requests that come after the one being answered.
const READ_AHEAD: usize = 64 * 1024;
/// What is less than this of a body is kept without the room that it was read into.
const LITTLE: usize = 16 * 1024;
/// How long a client that is told off may take to read that.
const LINGER: Duration = Duration::from_secs(1);

/// The client's side of a connection.
struct Client<'m, S> {
    stream: S,
    read: BytesMut,
    /// Said, and not written yet.
    out: BytesMut,
    has_ended: bool,
    moved: &'m Moved,
}

/// One request of a client.
struct Asked<'a, 'm, S> {
    client: &'a mut Client<'m, S>,
    session: &'a Session<S>,
    slot: &'a Slot<S>,
    head: &'a RequestHead,
    /// The bytes of the head, without what the policy takes out.
    bytes: Bytes,
    body: Body,
    is_answered: bool,
    /// Both sides mean to go on after this request.
    is_persistent: bool,
    is_upstream_closed: bool,
    /// Of the bodies, without what frames them.
    received: u64,
    delivered: u64,
    end: Option<End<S>>,
}

/// What becomes of the connection after a request, where it is not the next request.
enum End<S> {
    /// The upstream broke off, and the client is to see that.
    Reset,
    Tunnel(S, BytesMut),
}

/// What came of waiting for a request.
enum Next {
    Request(RequestHead),
    End,
    Reset,
    Refused(HeadError),
}

/// How the requests of a client ended.
enum Over<S> {
    Ended(Reason),
    /// Another protocol follows, and the upstream has said this already.
    Tunnel(S, BytesMut),
}

/// Serves the requests of one client until either side has had enough. Draining ends nothing here: a request may be on its
/// way to a connection that has just been closed, and in HTTP/1 nothing can be said before that.
/// Whoever is cut off sees a reset: the end of a connection may be the end of a message. `read` is what has come of the
/// client already.
pub async fn serve<S: Wire>(
    client: S,
    read: BytesMut,
    supply: Supply<S>,
    session: Rc<Session<S>>,
    mut stopped: Stopped,
    moved: &Moved,
) -> Reason {
    let slot = Slot::new(supply);
    let mut client = Client { stream: client, read, out: BytesMut::new(), has_ended: false, moved };
    moved.count_sent(client.read.len());
    let over = tokio::select! {
        over = requests(&mut client, &slot, &session) => over,
        () = told(&mut stopped) => {
            client.stream.reset();
            return Reason::Drained;
        }
    };
    let (mut upstream, read) = match over {
        Over::Ended(reason) => return reason,
        Over::Tunnel(upstream, read) => (upstream, read),
    };
    tokio::select! {
        reason = client.tunnel(&mut upstream, &read) => reason,
        () = told(&mut stopped) => {
            client.stream.reset();
            upstream.reset();
            Reason::Drained
        }
    }
}

async fn requests<S: Wire>(client: &mut Client<'_, S>, slot: &Slot<S>, session: &Session<S>) -> Over<S> {
    let (mut timer, mut tried, mut search) = (Timer::default(), Vec::new(), Search::default());
    loop {
        let head = match poll_fn(|cx| client.poll_head(cx, slot, &mut search)).await {
            Next::Request(head) => head,
            Next::End => return Over::Ended(Reason::Closed),
            Next::Reset => return Over::Ended(Reason::ClientReset),
            Next::Refused(error) => {
                session.refused(HttpProtocol::Http11, error.status(), error.word());
                client.tell_off(&Answer::refused(error.status())).await;
                return Over::Ended(Reason::BadRequest);
            }
        };
        // A copy, so that the room that it was read into is free while the request is under way.
        let bytes = Bytes::copy_from_slice(client.read.get(..head.length).unwrap_or_default());
        client.read.advance(head.length);
        let fields = head.fields(&bytes);
        let taken = session.take(&fields);
        let policy = taken.http.for_request(&fields);
        let plan = session.plan(&taken, &policy, &fields);
        let _active = taken.under.origin.metrics.begin();
        let mut asked = Asked {
            bytes: without_hops(slot, &policy, &head, without_policy(taken.http, &bytes)),
            body: Body::new(head.body),
            client: &mut *client,
            session,
            slot,
            head: &head,
            is_answered: false,
            is_persistent: head.persistent,
            is_upstream_closed: false,
            received: 0,
            delivered: 0,
            end: None,
        };
        let ended = exchange::run(&mut asked, plan, &mut timer, &mut tried).await;
        let (is_persistent, end) = (asked.is_persistent, asked.end.take());
        let sizes = Sizes {
            protocol: head.version.into(),
            is_grpc: head.grpc,
            request: asked.received,
            response: asked.delivered,
        };
        session.request_ended(&taken, &ended, &tried, || said(&head, &fields), sizes);
        match end {
            Some(End::Tunnel(upstream, read)) => return Over::Tunnel(upstream, read),
            Some(End::Reset) => {
                client.stream.reset();
                return Over::Ended(Reason::UpstreamReset);
            }
            None => {}
        }
        if !ended.is_whole || !is_persistent {
            // The upstream is not kept waiting for the client.
            slot.clear();
            if !ended.is_whole || !client.read.is_empty() {
                client.close().await;
            }
            return Over::Ended(Reason::Closed);
        }
    }
}

fn said<'a>(head: &'a RequestHead, fields: &'a Fields<'a>) -> session::Asked<'a> {
    let text = |name| fields.get(name).and_then(|value| str::from_utf8(value).ok());
    session::Asked { method: Some(head.method.as_str()), authority: text(":authority"), path: text(":path") }
}

impl From<Version> for HttpProtocol {
    fn from(version: Version) -> Self {
        match version {
            Version::Http10 => Self::Http10,
            Version::Http11 => Self::Http11,
        }
    }
}

/// The head without the headers that were for us.
fn without_policy(policy: &HttpPolicy, head: &Bytes) -> Bytes {
    if policy.honour_request_headers { head::rewrite(head, REQUEST_HEADERS, &[]) } else { head.clone() }
}

/// The head without what was for us because of the connection that it came on.
fn without_hops<S: Wire>(slot: &Slot<S>, policy: &HttpPolicy, head: &RequestHead, bytes: Bytes) -> Bytes {
    if slot.is_shared() {
        return hops::request(head, &bytes);
    }
    match head.upgrade {
        Some(Upgrade::H2c) if policy.retry.num_retries > 0 => hops::without_h2c(head, &bytes),
        Some(Upgrade::H2c | Upgrade::Other) | None => bytes,
    }
}

impl<S: Wire> Client<'_, S> {
    /// Waits for the head of the next request, and lets go of the upstream's connection if the upstream does.
    fn poll_head(&mut self, cx: &mut Context<'_>, slot: &Slot<S>, search: &mut Search) -> Poll<Next> {
        loop {
            if !self.read.is_empty() {
                match search.request(&self.read) {
                    Ok(Some(head)) => return Poll::Ready(Next::Request(head)),
                    Ok(None) => {}
                    Err(error) => return Poll::Ready(Next::Refused(error)),
                }
            }
            if self.has_ended {
                return Poll::Ready(Next::End);
            }
            let Poll::Ready(read) = self.poll_read(cx) else { break };
            match read {
                Ok(0) => self.has_ended = true,
                Ok(_) => {}
                Err(_) => return Poll::Ready(Next::Reset),
            }
        }
        slot.poll_stale(cx);
        Poll::Pending
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = ready!(room::poll_read(cx, &mut self.stream, &mut self.read));
        self.moved.count_sent(read.as_ref().copied().unwrap_or_default());
        Poll::Ready(read)
    }

    /// Takes out what was read. What is little is copied, so that it does not keep the room that it came in.
    fn take(&mut self, bytes: usize) -> Bytes {
        if bytes >= LITTLE {
            return self.read.split_to(bytes).freeze();
        }
        let taken = Bytes::copy_from_slice(self.read.get(..bytes).unwrap_or_default());
        self.read.advance(taken.len());
        taken
    }

    /// Writes what was said, and `more` after it. Ready with how much of `more` was written, once that is anything, or
    /// when all was written.
    fn poll_write(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        while !self.out.is_empty() {
            let parts = [IoSlice::new(&self.out), IoSlice::new(more)];
            let written = if more.is_empty() {
                ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?
            } else {
                ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &parts))?
            };
            let said = written.min(self.out.len());
            self.out.advance(said);
            self.moved.count_received(written);
            if written > said {
                return Poll::Ready(Ok(written - said));
            }
        }
        if more.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, more))?;
        self.moved.count_received(written);
        Poll::Ready(Ok(written))
    }

    /// Answers what was no request, and closes.
    async fn tell_off(&mut self, answer: &Answer) {
        self.out.extend_from_slice(&answer.http1(None, false, false, false));
        let _ = poll_fn(|cx| self.poll_write(cx, &[])).await;
        self.close().await;
    }

    /// Closes so that what was said last is not lost on the way: a client that still sends would be answered with a
    /// reset, which overtakes it.
    async fn close(&mut self) {
        let _ = timeout(LINGER, async {
            self.stream.shutdown().await?;
            let mut rest = [0; 4096];
            while !self.has_ended && self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
    }

    /// The connection is another protocol's from here on.
    async fn tunnel(&mut self, upstream: &mut S, read: &[u8]) -> Reason {
        self.out.extend_from_slice(read);
        let written = poll_fn(|cx| self.poll_write(cx, &[])).await;
        if written.is_err() || upstream.write_all(&self.read).await.is_err() {
            self.stream.reset();
            upstream.reset();
            return Reason::ClientReset;
        }
        self.stream.relay(upstream, self.moved).await
    }
}

impl<S: Wire> Request for Asked<'_, '_, S> {
    type Attempt = Sending<S>;

    fn begin(&mut self, endpoint: SocketAddr, added: &Added) -> Sending<S> {
        let head = if added.is_on {
            let headers = added::to_request(added, &self.head.fields(&self.bytes));
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
            head::rewrite(&self.bytes, &names, &headers)
        } else {
            self.bytes.clone()
        };
        Sending::begin(self.session, self.slot, endpoint, head, self.head)
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Gone>> {
        // Interim responses may be what the client waits for.
        let _ = self.client.poll_write(cx, &[]);
        if !self.body.ended() && self.client.read.is_empty() {
            match ready!(self.client.poll_read(cx)) {
                Ok(0) => {
                    self.client.has_ended = true;
                    return Poll::Ready(Err(Gone::Gone));
                }
                Ok(_) => {}
                Err(_) => return Poll::Ready(Err(Gone::Gone)),
            }
        }
        match self.body.scan(&self.client.read) {
            Ok(scanned) => {
                self.received += widened(scanned.payload);
                let data = self.client.take(scanned.taken);
                Poll::Ready(Ok(Piece { data, trailers: None, end: self.body.ended() }))
            }
            Err(error) => {
                self.session.observer.metrics().request_malformed(error.word());
                Poll::Ready(Err(Gone::Invalid(400)))
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Gone> {
        let _ = self.client.poll_write(cx, &[]);
        while self.body.ended() && self.client.read.len() < READ_AHEAD {
            match ready!(self.client.poll_read(cx)) {
                Ok(0) => {
                    self.client.has_ended = true;
                    // What has come after this request is still to be passed on.
                    let is_last = self.client.read.is_empty();
                    return if is_last { Poll::Ready(Gone::HalfClosed) } else { Poll::Pending };
                }
                Ok(_) => {}
                Err(_) => return Poll::Ready(Gone::Gone),
            }
        }
        Poll::Pending
    }

    fn is_gone(&self) -> bool {
        self.client.stream.is_hung_up()
    }

    fn inform(&mut self, interim: Bytes) {
        self.client.out.extend_from_slice(&interim);
    }

    fn poll_deliver(
        &mut self,
        cx: &mut Context<'_>,
        attempt: &mut Sending<S>,
        added: AddedToResponse,
    ) -> Poll<Delivered> {
        self.start(attempt, added);
        loop {
            let Some((open, response)) = attempt.open() else {
                return Poll::Ready(Delivered::UpstreamLost(Cause::ConnectionLost));
            };
            if response.ready == 0 && !response.body.ended() && !open.read.is_empty() {
                match response.body.scan(&open.read) {
                    Ok(scanned) => {
                        self.delivered += widened(scanned.payload);
                        response.ready = scanned.taken;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the upstream's response is broken off");
                        return Poll::Ready(Delivered::UpstreamLost(Cause::Protocol));
                    }
                }
            }
            if response.ready > 0 || !self.client.out.is_empty() {
                let bytes = open.read.get(..response.ready).unwrap_or_default();
                let Ok(written) = ready!(self.client.poll_write(cx, bytes)) else {
                    return Poll::Ready(Delivered::ClientGone);
                };
                open.read.advance(written);
                response.ready -= written;
                continue;
            }
            if response.head.body == Framing::Tunnel {
                // The rest of the request goes before what comes through the tunnel.
                if !attempt.has_sent_all() {
                    return Poll::Pending;
                }
                self.end = attempt.take_stream().map(|(stream, read)| End::Tunnel(stream, read));
                return Poll::Ready(Delivered::Whole);
            }
            if response.body.ended() {
                return Poll::Ready(Delivered::Whole);
            }
            match ready!(open.poll_read(cx)) {
                Ok(0) if response.body.whole_at_close() => return Poll::Ready(Delivered::Whole),
                Ok(0) => {
                    self.is_upstream_closed = true;
                    return Poll::Ready(Delivered::UpstreamLost(Cause::ConnectionLost));
                }
                Ok(count) => attempt.count_received(count),
                Err(_) => return Poll::Ready(Delivered::UpstreamLost(Cause::ConnectionLost)),
            }
        }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        answer: &Answer,
        added: AddedToResponse,
    ) -> Poll<Delivered> {
        if !std::mem::replace(&mut self.is_answered, true) {
            self.is_persistent &= self.body.ended();
            let is_head = self.head.method == Method::Head;
            let added = added::to_response(added);
            let bytes = answer.http1(added.as_ref(), is_head, self.head.grpc, self.is_persistent);
            self.client.out.extend_from_slice(&bytes);
        }
        match ready!(self.client.poll_write(cx, &[])) {
            Ok(_) => Poll::Ready(Delivered::Whole),
            Err(_) => Poll::Ready(Delivered::ClientGone),
        }
    }

    fn break_off(&mut self) {
        // Where the upstream has closed in order, so do we.
        if !self.is_upstream_closed && self.end.is_none() {
            self.end = Some(End::Reset);
        }
    }
}

impl<S: Wire> Asked<'_, '_, S> {
    /// Gets the head of a response ready to be written.
    fn start(&mut self, attempt: &mut Sending<S>, added: AddedToResponse) {
        let Some((open, response)) = attempt.open() else { return };
        if std::mem::replace(&mut response.is_delivered, true) {
            return;
        }
        let is_shared = self.slot.is_shared();
        // A shared connection's end is not the client's, unless it stops the request halfway.
        self.is_persistent &= response.head.persistent
            || is_shared && self.body.ended() && response.head.body != Framing::UntilClose;
        let added = added::to_response(added);
        if is_shared || added.is_some() {
            let mut head = open.read.split_to(response.head.length).freeze();
            if is_shared {
                head = hops::response(&response.head, &head, self.head.version, self.is_persistent);
            }
            if let Some((name, value)) = added {
                head = head::rewrite(&head, &[name], &[(name, &value)]);
            }
            self.client.out.extend_from_slice(&head);
            return;
        }
        // The head goes out together with what has come of the body. What is wrong with that is told when it is its turn.
        let body = open.read.get(response.head.length..).unwrap_or_default();
        if let Ok(scanned) = response.body.scan(body) {
            self.delivered += widened(scanned.payload);
            response.ready = response.head.length + scanned.taken;
        } else {
            response.ready = response.head.length;
        }
    }
}
