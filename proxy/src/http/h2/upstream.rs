//! The upstream connections of one client: one for each endpoint that its requests go to, made when it is needed and
//! shared by all of them. One that is lost, or that wants no more streams (GOAWAY), is replaced at the next request;
//! the streams that it still has go on to their end.

use std::cell::RefCell;
use std::future::ready;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::limits;
use crate::http::session::{Connected, Dialling, Session};
use crate::http::wire::Wire;
use crate::reason::AttemptOutcome;

/// How many connections wait for the next request. Only retries make more than one.
const KEPT: usize = 4;
/// How long the last frames to an upstream may take.
const LINGER: Duration = Duration::from_secs(1);

/// The upstream connections of one client.
pub struct Upstreams<S> {
    session: Rc<Session<S>>,
    /// The one used last is the last.
    links: RefCell<Vec<Rc<Link>>>,
    drivers: RefCell<JoinSet<()>>,
}

/// One upstream connection.
#[derive(Debug)]
pub struct Link {
    endpoint: SocketAddr,
    state: RefCell<State>,
}

#[derive(Debug)]
enum State {
    /// With those who wait for it.
    Opening(Vec<Waker>),
    Open(SendRequest<Bytes>),
    Closed(NotOpen),
}

/// Why a connection takes no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpen {
    /// It was never made.
    Failed(AttemptOutcome),
    /// It was made, and is lost or wants no more streams.
    Closed,
}

impl<S: Wire> Upstreams<S> {
    pub fn new(session: Rc<Session<S>>, connected: Option<Connected<S>>) -> Self {
        let upstreams = Self { session, links: RefCell::default(), drivers: RefCell::default() };
        if let Some(Connected { stream, endpoint }) = connected {
            // At once: what the upstream says of itself is known before the first request then.
            upstreams.open(endpoint, Box::pin(ready(Ok(stream))));
        }
        upstreams
    }

    pub fn session(&self) -> &Session<S> {
        &self.session
    }

    /// The connection to an endpoint, and whether it is only being made because of this call.
    pub fn to(&self, endpoint: SocketAddr) -> (Rc<Link>, bool) {
        let mut links = self.links.borrow_mut();
        links.retain(|link| link.is_usable());
        if let Some(index) = links.iter().position(|link| link.endpoint == endpoint) {
            let link = links.remove(index);
            links.push(Rc::clone(&link));
            return (link, false);
        }
        drop(links);
        (self.open(endpoint, (self.session.dial)(endpoint)), true)
    }

    /// The client is gone: no more requests come. Ready when the upstreams have been told.
    pub async fn close(self) {
        self.links.take();
        let mut drivers = self.drivers.into_inner();
        let all = async { while drivers.join_next().await.is_some() {} };
        // An upstream that does not even read that is not waited for.
        let _ = timeout(LINGER, all).await;
    }

    fn open(&self, endpoint: SocketAddr, dialling: Dialling<S>) -> Rc<Link> {
        let link = Rc::new(Link { endpoint, state: RefCell::new(State::Opening(Vec::new())) });
        let mut drivers = self.drivers.borrow_mut();
        while drivers.try_join_next().is_some() {}
        drivers.spawn_local(drive(Rc::downgrade(&link), dialling));
        let mut links = self.links.borrow_mut();
        if links.len() >= KEPT {
            links.remove(0);
        }
        links.push(Rc::clone(&link));
        link
    }
}

/// Makes a connection and moves its frames, for as long as anybody has use for it: h2 closes it in order when nobody
/// holds a handle any more.
async fn drive<S: Wire>(link: Weak<Link>, dialling: Dialling<S>) {
    let opened = match dialling.await {
        Ok(stream) => limits::client().handshake::<S, Bytes>(stream).await.map_err(|error| {
            tracing::debug!(%error, "the upstream's connection broke off at once");
            NotOpen::Closed
        }),
        Err(outcome) => Err(NotOpen::Failed(outcome)),
    };
    let (sender, connection) = match opened {
        Ok(opened) => opened,
        Err(why) => {
            if let Some(link) = link.upgrade() {
                link.change(State::Closed(why));
            }
            return;
        }
    };
    let Some(opened) = link.upgrade() else { return };
    opened.change(State::Open(sender));
    drop(opened);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "the upstream's connection broke off");
    }
    if let Some(link) = link.upgrade() {
        link.change(State::Closed(NotOpen::Closed));
    }
}

impl Link {
    /// Ready with a handle that takes a request now.
    pub fn poll_open(&self, cx: &mut Context<'_>) -> Poll<Result<SendRequest<Bytes>, NotOpen>> {
        match &mut *self.state.borrow_mut() {
            State::Opening(waiting) => {
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
            State::Open(sender) => {
                let mut sender = sender.clone();
                sender.poll_ready(cx).map_ok(|()| sender).map_err(|_| NotOpen::Closed)
            }
            State::Closed(why) => Poll::Ready(Err(*why)),
        }
    }

    fn is_usable(&self) -> bool {
        match &mut *self.state.borrow_mut() {
            State::Opening(_) => true,
            State::Open(sender) => {
                let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
                !matches!(ready, Poll::Ready(Err(_)))
            }
            State::Closed(_) => false,
        }
    }

    fn change(&self, state: State) {
        if let State::Opening(waiting) = self.state.replace(state) {
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}
