//! The engine between a client and upstreams that the test plays itself.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, timeout};

use super::stream::{Size, Stream, pair};
use crate::endpoint::{Addresses, Choice};
use crate::http::exchange::Prior;
use crate::http::h1;
use crate::http::replay::Buffers;
use crate::http::session::{Connected, Session, Supply};
use crate::observe::{Metrics, Observer};
use crate::policy::{HttpPolicy, Policy, Route, Router};
use crate::reason::{AttemptOutcome, Reason};
use crate::retry::{BudgetPolicy, Budgets};
use crate::tcp::relay::Moved;

/// Long enough for everything that is still to happen.
const FOREVER: Duration = Duration::from_hours(24);

/// Runs a test in paused time. One in which nothing more can happen fails.
pub fn paused(test: impl Future<Output = ()>) {
    fastrand::seed(7);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(FOREVER * 300, test).await.expect("nothing more can happen");
    });
}

/// What the engine is made with.
pub struct Setup {
    pub policy: HttpPolicy,
    /// Before what the policy says of all requests.
    pub routes: Vec<Route>,
    pub node: BudgetPolicy,
    pub budget: BudgetPolicy,
    pub buffers: Buffers,
    pub prior: Prior,
    pub others: Vec<std::net::IpAddr>,
    pub size: Size,
    pub budgets: Option<Budgets>,
}

/// One client connection through the engine.
pub struct Rig {
    pub client: Peer,
    pub dials: Dials,
    pub buffers: Buffers,
    pub observer: Observer,
    /// Tells the engine that everything is to end at once.
    pub stop: watch::Sender<bool>,
    /// Tells the engine that connections are to end when they can.
    engine: JoinHandle<Reason>,
}

/// What the engine wants to connect to.
pub struct Dials {
    asked: mpsc::UnboundedReceiver<Dial>,
}

pub struct Dial {
    pub endpoint: SocketAddr,
    size: Size,
    answer: oneshot::Sender<Result<Stream, AttemptOutcome>>,
}

/// The client, or an upstream: whoever the engine talks to.
pub struct Peer {
    pub stream: Stream,
    read: BytesMut,
}

pub fn address() -> SocketAddr {
    ([10, 0, 0, 1], 80).into()
}

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a native document that says nothing gets, but for this.
pub fn policy(change: impl FnOnce(&mut HttpPolicy)) -> HttpPolicy {
    let mut policy = HttpPolicy::default();
    change(&mut policy);
    policy
}

pub const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
pub const BAD: &str = "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno";

impl Setup {
    /// Budgets that nothing exhausts.
    pub fn new(policy: HttpPolicy) -> Self {
        let plenty = BudgetPolicy::try_new(100, 1_000, Duration::from_secs(10)).unwrap();
        Self {
            policy,
            routes: Vec::new(),
            node: plenty,
            budget: plenty,
            buffers: Buffers::new(1 << 24),
            prior: Prior::default(),
            others: Vec::new(),
            size: Size::default(),
            budgets: None,
        }
    }

    /// Starts the engine without an upstream connection.
    pub fn start(self) -> Rig {
        self.start_with(Supply::Own(None))
    }

    /// Starts the engine with the upstream connection that the client's own connect() led to.
    pub fn start_connected(self) -> (Rig, Peer) {
        let (near, far) = pair(self.size);
        let connected = Connected { stream: near, endpoint: address() };
        (self.start_with(Supply::Own(Some(connected))), Peer::new(far))
    }

    pub fn start_with(self, upstream: Supply<Stream>) -> Rig {
        let size = self.size;
        let (ask, asked) = mpsc::unbounded_channel();
        let budgets = self.budgets.unwrap_or_else(|| Budgets::new(self.node));
        let observer = Observer::new(Metrics::new(Default::default), None);
        let mut document = Policy { budget: self.budget, ..Policy::for_requests(self.policy) };
        document.routes.splice(0..0, self.routes);
        let session = Session {
            router: Router::of(document),
            workload: "test".into(),
            destination: address(),
            addresses: Addresses::default(),
            way: Choice::new(address(), self.others).into(),
            dial: Rc::new(move |endpoint| {
                let (answer, answered) = oneshot::channel();
                let _ = ask.send(Dial { endpoint, size, answer });
                // Nobody answers: the test lets it wait.
                Box::pin(async move {
                    match answered.await {
                        Ok(answer) => answer,
                        Err(_) => std::future::pending().await,
                    }
                })
            }),
            budgets,
            epoch: Instant::now(),
            buffers: self.buffers.clone(),
            prior: Cell::new(self.prior),
            observer: observer.clone(),
            under: RefCell::default(),
        };
        let (near, far) = pair(size);
        let (stop, stopped) = watch::channel(false);
        let engine = spawn_local(async move {
            let moved = Moved::default();
            h1::serve(near, BytesMut::new(), upstream, Rc::new(session), stopped, &moved).await
        });
        let dials = Dials { asked };
        Rig { client: Peer::new(far), dials, buffers: self.buffers, observer, stop, engine }
    }
}

impl Rig {
    /// The next connection that the engine makes, made.
    pub async fn accept(&mut self) -> Peer {
        self.dials.next().await.accept()
    }

    /// Nothing is connected to any more, whatever time passes.
    pub async fn no_dial(&mut self) {
        assert!(self.dials.asked.is_empty(), "another connection was made");
        let more = timeout(FOREVER, self.dials.asked.recv()).await;
        assert!(!matches!(more, Ok(Some(_))), "another connection was made");
    }

    /// The engine has ended.
    pub async fn ended(self) -> Reason {
        self.engine.await.unwrap()
    }

    /// The reasons of the failed requests, latest first.
    pub fn failures(&self) -> Vec<String> {
        self.observer.give_ups().into_iter().map(|failure| failure.reason.into_owned()).collect()
    }
}

impl Dials {
    pub async fn next(&mut self) -> Dial {
        self.next_or_end().await.expect("the engine has ended")
    }

    /// None once the engine has ended.
    pub async fn next_or_end(&mut self) -> Option<Dial> {
        self.asked.recv().await
    }
}

impl Dial {
    pub fn accept(self) -> Peer {
        let (near, far) = pair(self.size);
        assert!(self.answer.send(Ok(near)).is_ok(), "the attempt was given up");
        Peer::new(far)
    }

    /// Makes the connection, and breaks it before anything can be written.
    pub fn accept_gone(self) {
        let (near, far) = pair(self.size);
        far.close();
        assert!(self.answer.send(Ok(near)).is_ok(), "the attempt was given up");
    }

    pub fn fail(self, outcome: AttemptOutcome) {
        assert!(self.answer.send(Err(outcome)).is_ok(), "the attempt was given up");
    }

    /// Waits until the engine does not want it any more.
    pub async fn given_up(mut self) {
        self.answer.closed().await;
    }
}

/// Somebody who writes on and on, beside the test.
pub struct Writing(Rc<Cell<usize>>);

impl Writing {
    /// Waits until no more is taken.
    pub async fn stalls(&mut self) {
        let mut written = usize::MAX;
        while written != self.0.get() {
            written = self.0.get();
            tokio::time::sleep(ms(1)).await;
        }
    }
}

impl Peer {
    /// Writes all of this beside the test, as fast as it is taken.
    pub fn writes(&mut self, bytes: Vec<u8>) -> Writing {
        let (written, mut half) = (Rc::new(Cell::new(0)), self.stream.sending());
        let count = Rc::clone(&written);
        spawn_local(async move {
            for piece in bytes.chunks(1024) {
                half.write_all(piece).await.unwrap();
                count.set(count.get() + piece.len());
            }
        });
        Writing(written)
    }

    fn new(stream: Stream) -> Self {
        Self { stream, read: BytesMut::new() }
    }

    pub async fn says(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    /// Reads just this.
    #[track_caller]
    pub fn hears<'a>(&'a mut self, text: impl AsRef<[u8]> + 'a) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let text = text.as_ref();
            let mut end = None;
            while self.read.len() < text.len() && end.is_none() && text.starts_with(&self.read) {
                end = match timeout(FOREVER, self.stream.read_buf(&mut self.read)).await {
                    Ok(Ok(1..)) => None,
                    other => Some(format!("{other:?}")),
                };
            }
            let got = self.read.get(..text.len()).unwrap_or(&self.read);
            assert_eq!(lossy(got), lossy(text), "at {caller}, end: {end:?}");
            let _ = self.read.split_to(text.len());
        }
    }

    /// The same, where the engine may break off.
    pub fn writes_or_fails(&mut self, bytes: Vec<u8>) {
        let mut half = self.stream.sending();
        spawn_local(async move { half.write_all(&bytes).await });
    }

    pub async fn tries_to_say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads so much, or less where it ends.
    pub async fn reads(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length {
            match self.stream.read_buf(&mut self.read).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        self.read.split_to(length.min(self.read.len())).to_vec()
    }

    /// What was read and not asked for.
    pub fn heard(&mut self) -> Vec<u8> {
        self.read.split().to_vec()
    }

    /// Reads a head.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.read.windows(4).position(|at| at == b"\r\n\r\n") {
                return lossy(&self.read.split_to(end + 4));
            }
            let read = self.stream.read_buf(&mut self.read).await.unwrap();
            assert!(read > 0, "an end instead of a head after {:?}", lossy(&self.read));
        }
    }

    /// Reads a head, or sees the end.
    pub async fn next_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|at| at == b"\r\n\r\n") {
                return Some(lossy(&self.read.split_to(end + 4)));
            }
            if self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Reads what comes until the end. Says how it ended, too.
    pub async fn rest(&mut self) -> (String, Ended) {
        let (rest, ended) = self.rest_bytes().await;
        (lossy(&rest), ended)
    }

    pub async fn rest_bytes(&mut self) -> (Vec<u8>, Ended) {
        let ended = loop {
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) => break Ended::Closed,
                Ok(_) => {}
                Err(_) => break Ended::Reset,
            }
        };
        (self.heard(), ended)
    }

    /// Nothing comes, whatever time passes.
    #[track_caller]
    pub fn hears_nothing(&mut self) -> impl Future<Output = ()> + '_ {
        self.hears_nothing_for(FOREVER)
    }

    #[track_caller]
    pub fn hears_nothing_for(&mut self, time: Duration) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            let read = timeout(time, self.stream.read_buf(&mut self.read)).await;
            assert!(read.is_err() && self.read.is_empty(), "at {caller}: {read:?} {:?}", lossy(&self.read));
        }
    }

    /// Whatever comes, it ends in order.
    pub async fn sees_end_after_head(&mut self) {
        assert_eq!(self.rest().await.1, Ended::Closed);
    }

    #[track_caller]
    pub fn sees_end(&mut self) -> impl Future<Output = ()> + '_ {
        self.sees(Ended::Closed)
    }

    #[track_caller]
    pub fn sees_reset(&mut self) -> impl Future<Output = ()> + '_ {
        self.sees(Ended::Reset)
    }

    #[track_caller]
    fn sees(&mut self, end: Ended) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            let rest = timeout(FOREVER, self.rest()).await.expect("no end");
            assert_eq!(rest, (String::new(), end), "at {caller}");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Closed,
    Reset,
}

pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
