//! A client, redial, and upstreams.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, timeout};

use crate::endpoint::{Addresses, Choice};
use crate::http::exchange::Prior;
use crate::http::h2::serve;
use crate::http::replay::Buffers;
use crate::http::session::{Session, Supply};
use crate::observe::{Metrics, Observer};
use crate::policy::{HttpPolicy, Policy, Router};
use crate::reason::{AttemptOutcome, Reason};
use crate::retry::budgets::Budgets;
use crate::retry::request::{Condition, Conditions, Methods};
use crate::retry::{BudgetPolicy, RequestRetry};
use crate::tcp::relay::Moved;

/// How much a connection holds that its reader does not read.
pub const WIRE: usize = 16 * 1024;

/// What the peers themselves put up with is not the question.
const SMALL_FRAMES: usize = 64 << 20;

pub struct Rig {
    pub client: SendRequest<Bytes>,
    /// The connections that redial makes to upstreams.
    pub dialled: mpsc::UnboundedReceiver<DuplexStream>,
    /// What connecting comes to.
    pub dials: Rc<Cell<Option<AttemptOutcome>>>,
    pub served: JoinHandle<Reason>,
    pub client_driver: JoinHandle<()>,
    pub drain: watch::Sender<bool>,
    pub observer: Observer,
    pub buffers: Buffers,
}

/// An upstream's connection.
pub struct Upstream {
    pub requests: mpsc::UnboundedReceiver<(Request<RecvStream>, SendResponse<Bytes>)>,
    /// To close it: in order, or at once.
    close: mpsc::UnboundedSender<Closing>,
    pub driver: JoinHandle<()>,
}

enum Closing {
    Gracefully,
    Abruptly,
}

/// Runs a test in paused time. One that waits for what never comes fails.
pub fn run<F: Future>(test: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let test =
        async { timeout(Duration::from_mins(5), test).await.expect("everything that is waited for comes") };
    LocalSet::new().block_on(&runtime, test)
}

pub fn policy(retry_on: &[Condition]) -> HttpPolicy {
    let retry_on: Conditions = retry_on.iter().copied().collect();
    HttpPolicy {
        retry: RequestRetry { retry_on, num_retries: 1, ..RequestRetry::default() },
        ..HttpPolicy::default()
    }
}

pub fn any_method(retry_on: &[Condition]) -> HttpPolicy {
    let mut policy = policy(retry_on);
    policy.retry.methods = Methods::Any;
    policy
}

impl Rig {
    /// With the client's connection made, and none to an upstream.
    pub async fn new(policy: HttpPolicy) -> Self {
        Self::with(policy, Supply::Own(None)).await
    }

    pub async fn with(policy: HttpPolicy, upstream: Supply<DuplexStream>) -> Self {
        let (stream, served_end) = duplex(WIRE);
        let (dialled_by, dialled) = mpsc::unbounded_channel();
        let (drain, draining) = watch::channel(false);
        let dials = Rc::new(Cell::new(None));
        let observer = Observer::new(Metrics::new(Default::default), None);
        let buffers = Buffers::new(64 << 20);
        let endpoint: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let failure = Rc::clone(&dials);
        let session = Rc::new(Session {
            router: Router::of(Policy { budget: BudgetPolicy::default(), ..Policy::for_requests(policy) }),
            workload: "test".into(),
            destination: endpoint,
            addresses: Addresses::default(),
            way: Choice::new(endpoint, []).into(),
            dial: Rc::new(move |_| {
                let outcome = failure.get().map_or(Ok(()), Err);
                let dialled_by = dialled_by.clone();
                Box::pin(async move {
                    outcome?;
                    let (stream, upstream) = duplex(WIRE);
                    let _ = dialled_by.send(upstream);
                    Ok(stream)
                })
            }),
            budgets: Budgets::new(BudgetPolicy::default()),
            epoch: Instant::now(),
            buffers: buffers.clone(),
            prior: Cell::new(Prior::default()),
            under: RefCell::default(),
            observer: observer.clone(),
        });
        let served = spawn_local(async move {
            let mut served_end = served_end;
            let mut read = BytesMut::new();
            // As after detection: some of what the client said was read already.
            served_end.read_buf(&mut read).await.unwrap();
            let moved = Moved::default();
            serve(served_end, read, upstream, session, draining, &moved).await
        });
        let mut builder = h2::client::Builder::new();
        // One stream that is not read does not stop the others.
        builder.initial_connection_window_size(1 << 20).data_frame_budget(SMALL_FRAMES);
        let (client, connection) = builder.handshake(stream).await.unwrap();
        let client_driver = spawn_local(async {
            let _ = connection.await;
        });
        Self { client, dialled, dials, served, client_driver, drain, observer, buffers }
    }

    /// The upstream's end of the next connection that redial makes.
    pub async fn upstream(&mut self) -> Upstream {
        self.upstream_with(h2::server::Builder::new().data_frame_budget(SMALL_FRAMES)).await
    }

    pub async fn upstream_with(&mut self, builder: &h2::server::Builder) -> Upstream {
        let stream = self.dialled.recv().await.unwrap();
        let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
        let (requests_to, requests) = mpsc::unbounded_channel();
        let (close, mut closing) = mpsc::unbounded_channel();
        let driver = spawn_local(async move {
            loop {
                tokio::select! {
                    accepted = connection.accept() => match accepted {
                        Some(Ok(request)) => {
                            let _ = requests_to.send(request);
                        }
                        Some(Err(_)) | None => return,
                    },
                    Some(how) = closing.recv() => match how {
                        Closing::Gracefully => connection.graceful_shutdown(),
                        Closing::Abruptly => return,
                    }
                }
            }
        });
        Upstream { requests, close, driver }
    }

    pub fn send(&mut self, request: Request<()>, is_end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.client.send_request(request, is_end).unwrap()
    }

    /// How many requests have ended for a reason.
    pub fn ended(&self) -> String {
        self.observer.metrics().encode().unwrap()
    }
}

impl Upstream {
    pub async fn next(&mut self) -> (Request<RecvStream>, SendResponse<Bytes>) {
        self.requests.recv().await.unwrap()
    }

    pub fn close_gracefully(&self) {
        self.close.send(Closing::Gracefully).unwrap();
    }

    pub fn close(&self) {
        self.close.send(Closing::Abruptly).unwrap();
    }
}

pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.test{path}")).body(()).unwrap()
}

pub fn post(path: &str) -> Request<()> {
    Request::post(format!("http://a.test{path}")).body(()).unwrap()
}

pub fn call() -> Request<()> {
    let request = Request::post("http://a.test/service/Method").header("content-type", "application/grpc");
    request.header("te", "trailers").body(()).unwrap()
}

pub fn status(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

/// Sends all of this, as fast as the peer takes it.
pub async fn send_all(out: &mut SendStream<Bytes>, mut data: Bytes, is_end: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        out.reserve_capacity(data.len());
        let room = match poll_fn(|cx| out.poll_capacity(cx)).await {
            Some(room) => room?,
            None => return Err(h2::Reason::STREAM_CLOSED.into()),
        };
        let part = data.split_to(room.min(data.len()));
        out.send_data(part, is_end && data.is_empty())?;
    }
    Ok(())
}

/// Reads all of a body.
pub async fn read_all(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        all.extend_from_slice(&data);
    }
    Ok((all, body.trailers().await?))
}

/// Bytes in which a mistake shows.
pub fn pattern(length: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(42);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// Lets everything happen that can happen now.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
