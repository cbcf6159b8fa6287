//! The upstream connections of one client: one for each endpoint that its requests go to, made when it is needed and
//! shared by all of them. One that is lost, or that wants no more streams (GOAWAY), is replaced at the next request;
//! the streams that it still has go on to their end.

use std::cell::{Cell, RefCell};
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
use crate::http::pool::Share;
use crate::http::session::{Connected, Dialling, Session, Supply};
use crate::http::wire::Wire;
use crate::reason::AttemptOutcome;

/// How many connections wait for the next request. Only retries make more than one.
const KEPT: usize = 4;
/// How long the last frames to an upstream may take.
const LINGER: Duration = Duration::from_secs(1);

/// The upstream connections of one client, or those that it shares with others.
pub struct Upstreams<S> {
    session: Rc<Session<S>>,
    shared: Option<Share<S>>,
    /// The one used last is the last.
    links: RefCell<Vec<(SocketAddr, Rc<Link>)>>,
    drivers: RefCell<JoinSet<()>>,
}

/// One upstream connection.
#[derive(Debug)]
pub struct Link {
    state: RefCell<State>,
    source: Cell<Option<SocketAddr>>,
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
    pub fn new(session: Rc<Session<S>>, upstream: Supply<S>) -> Self {
        let (shared, connected) = match upstream {
            Supply::Own(connected) => (None, connected),
            Supply::Pool(share, connected) => (Some(share), connected),
        };
        let upstreams = Self { session, shared, links: RefCell::default(), drivers: RefCell::default() };
        // At once: what the upstream says of itself is known before the first request then.
        match (&upstreams.shared, connected) {
            (Some(share), Some(connected)) => share.put_link(connected),
            (None, Some(Connected { stream, endpoint })) => {
                upstreams.open(endpoint, Box::pin(ready(Ok(stream))));
            }
            (Some(_) | None, None) => {}
        }
        upstreams
    }

    pub fn session(&self) -> &Session<S> {
        &self.session
    }

    /// The connection to an endpoint, and whether it is only being made because of this call.
    pub fn to(&self, endpoint: SocketAddr) -> (Rc<Link>, bool) {
        if let Some(share) = &self.shared {
            return share.link(endpoint, || (self.session.dial)(endpoint));
        }
        let mut links = self.links.borrow_mut();
        links.retain(|(_, link)| link.is_usable());
        if let Some(index) = links.iter().position(|(to, _)| *to == endpoint) {
            let (_, link) = links.remove(index);
            links.push((endpoint, Rc::clone(&link)));
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
        let mut drivers = self.drivers.borrow_mut();
        while drivers.try_join_next().is_some() {}
        let link = open(&mut drivers, dialling);
        let mut links = self.links.borrow_mut();
        if links.len() >= KEPT {
            links.remove(0);
        }
        links.push((endpoint, Rc::clone(&link)));
        link
    }
}

/// Begins to make a connection, which one of the tasks looks after from here on.
pub fn open<S: Wire>(tasks: &mut JoinSet<()>, dialling: Dialling<S>) -> Rc<Link> {
    let link = Rc::new(Link { state: RefCell::new(State::Opening(Vec::new())), source: Cell::default() });
    tasks.spawn_local(drive(Rc::downgrade(&link), dialling));
    link
}

/// Makes a connection and moves its frames, for as long as anybody has use for it: h2 closes it in order when nobody
/// holds a handle any more.
async fn drive<S: Wire>(link: Weak<Link>, dialling: Dialling<S>) {
    let opened = match dialling.await {
        Ok(stream) => {
            if let Some(link) = link.upgrade() {
                link.source.set(stream.local());
            }
            limits::client().handshake::<S, Bytes>(stream).await.map_err(|error| {
                tracing::debug!(%error, "the upstream's connection broke off at once");
                NotOpen::Closed
            })
        }
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

    /// Its local address, once it is made.
    pub fn source(&self) -> Option<SocketAddr> {
        self.source.get()
    }

    /// How many streams it may have at a time: no more than the upstream allows, as far as that is known, and than fit
    /// into the connection's window when their clients read nothing.
    pub fn capacity(&self) -> usize {
        match &*self.state.borrow() {
            State::Opening(_) => limits::STREAMS_BEFORE_SETTINGS,
            State::Open(sender) => sender.current_max_send_streams().min(limits::STREAMS_BEFORE_SETTINGS),
            State::Closed(_) => 0,
        }
    }

    /// Whether it takes requests, or will.
    pub fn is_usable(&self) -> bool {
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
