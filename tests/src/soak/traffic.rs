//! The clients of a soak: each goes on until it is told to stop, and tells of each thing that it did.
//!
//! What one does follows from its seed. A client never asks for an id twice, so what the server saw of an id more than
//! once was somebody else's doing.

use std::error::Error as _;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn};
use tokio::time::{sleep, timeout};

use super::{Done, Failure, Kind, Service};
use crate::load::now;
use crate::pattern;
use crate::script::errno_name;

/// The header that has a request's id, and so has its answer.
pub const ID: &str = "x-soak-id";
/// The header that says how many bytes the answer is to have.
pub const ANSWER: &str = "x-soak-answer";

/// How long a client waits for anything at all: longer than every timeout of the policies.
const PATIENCE: Duration = Duration::from_secs(100);
const CHUNK: usize = 16 * 1024;
/// How many requests are on one connection of HTTP/2 at a time.
const STREAMS: u32 = 4;

/// What the program `traffic` is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Traffic {
    /// The server's addresses.
    pub hosts: Vec<IpAddr>,
    pub seed: u64,
    /// How many clients each service has.
    pub clients: usize,
    /// The first of the ids.
    pub first_id: u64,
}

impl Traffic {
    /// Goes on until it is to stop; ends when all that had begun has ended.
    pub async fn run(self, stop: Arc<AtomicBool>, tell: impl Fn(&Done) + Clone + Send + 'static) {
        let ids = Arc::new(AtomicU64::new(self.first_id));
        let mut random = Rng::with_seed(self.seed);
        let mut clients = JoinSet::new();
        for service in Service::ALL {
            for _ in 0..self.clients {
                let client = Client {
                    service,
                    hosts: self.hosts.clone(),
                    random: random.fork(),
                    ids: Arc::clone(&ids),
                    stop: Arc::clone(&stop),
                    tell: tell.clone(),
                };
                clients.spawn(client.run());
            }
        }
        while clients.join_next().await.is_some() {}
    }
}

/// What a stream's first bytes say.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub id: u64,
    /// How many bytes the client sends.
    pub up: u64,
    /// How many it gets.
    pub down: u64,
    /// How many milliseconds lie between two pieces.
    rest_ms: u64,
}

impl Plan {
    /// One way or both, some at once and some over seconds.
    fn draw(id: u64, random: &mut Rng) -> Self {
        let rest_ms = if random.u8(..) < 96 { random.u64(5..40) } else { 0 };
        let most = if rest_ms == 0 { 21 } else { 11 };
        let mut size = || {
            let most = 1 << random.u32(0..=most);
            if random.u8(..) < 80 { 0 } else { random.u64(0..=most) }
        };
        Self { id, up: size(), down: size(), rest_ms }
    }

    pub async fn receive(stream: &mut TcpStream) -> io::Result<Self> {
        let mut numbers = [0; 4];
        for number in &mut numbers {
            *number = stream.read_u64().await?;
        }
        let [id, up, down, rest_ms] = numbers;
        Ok(Self { id, up, down, rest_ms })
    }

    fn bytes(self) -> Vec<u8> {
        [self.id, self.up, self.down, self.rest_ms].iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    #[must_use]
    pub fn rest(self) -> Duration {
        Duration::from_millis(self.rest_ms)
    }
}

/// Sends so many bytes of the pattern from a position on.
pub async fn push(
    to: &mut (impl AsyncWrite + Unpin),
    position: u64,
    length: u64,
    rest: Duration,
) -> io::Result<()> {
    // With pauses the pieces are small, and many.
    let most = if rest.is_zero() { CHUNK } else { CHUNK / 256 };
    let mut sent = 0;
    while sent < length {
        let part = pattern::up_to(pattern::rest_of_pattern(position.wrapping_add(sent)), length - sent);
        let part = &part[..part.len().min(most)];
        to.write_all(part).await?;
        sent += u64::try_from(part.len()).unwrap_or(u64::MAX);
        if !rest.is_zero() {
            sleep(rest).await;
        }
    }
    Ok(())
}

/// Receives so many bytes, and checks that they are those.
pub async fn pull(from: &mut (impl AsyncRead + Unpin), position: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    while received < length {
        let expected =
            pattern::up_to(pattern::rest_of_pattern(position.wrapping_add(received)), length - received);
        let room = buffer.len().min(expected.len());
        let read = from.read(&mut buffer[..room]).await?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if buffer[..read] != expected[..read] {
            let what = format!("wrong data within {read} bytes after {received} of {length}");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        received += u64::try_from(read).unwrap_or(u64::MAX);
    }
    Ok(())
}

/// One client, which does one thing after the other.
struct Client<T> {
    service: Service,
    hosts: Vec<IpAddr>,
    random: Rng,
    ids: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tell: T,
}

/// A request, and what it takes to say what came of it.
#[derive(Clone, Copy, Debug)]
struct Ask {
    done_of: (u64, Service, Kind),
    connection_us: i64,
    body: u64,
    answer: u64,
}

impl<T: Fn(&Done) + Clone + Send + 'static> Client<T> {
    async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.service {
                Service::Stream => self.stream().await,
                Service::H2 => self.requests_h2().await,
                Service::Safe | Service::Any | Service::Pool => self.requests().await,
            }
            sleep(Duration::from_millis(self.random.u64(0..30))).await;
        }
    }

    fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    async fn connect(&mut self) -> Result<TcpStream, Failure> {
        let Some(host) = self.random.choice(&self.hosts) else { return Err(Failure::Hung) };
        match timeout(PATIENCE, TcpStream::connect(SocketAddr::from((*host, self.service.port())))).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                Ok(stream)
            }
            Ok(Err(error)) => Err(Failure::Connect(errno_name(&error))),
            Err(_) => Err(Failure::Hung),
        }
    }

    async fn stream(&mut self) {
        let plan = Plan::draw(self.id(), &mut self.random);
        let started_us = now();
        let failed = match self.connect().await {
            Err(failure) => Some(failure),
            Ok(stream) => match timeout(PATIENCE, exchange(stream, plan)).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => {
                    Some(Failure::Wrong(format!("{plan:?}: {error}")))
                }
                Ok(Err(error)) => Some(Failure::Broken(errno_name(&error))),
                Err(_) => Some(Failure::Hung),
            },
        };
        (self.tell)(&Done {
            id: plan.id,
            service: self.service,
            kind: Kind::Stream,
            connection_us: started_us,
            started_us,
            ended_us: now(),
            failed,
        });
    }

    fn draw(&mut self, connection_us: i64) -> Ask {
        let done_of = (self.id(), self.service, self.kind());
        let mut size = || {
            let most = if self.random.u8(..) < 8 { 1 << 18 } else { 1 << 12 };
            self.random.u64(0..most)
        };
        let body = if done_of.2 == Kind::Get { 0 } else { size() };
        Ask { done_of, connection_us, body, answer: size() }
    }

    fn kind(&mut self) -> Kind {
        [Kind::Get, Kind::Get, Kind::Put, Kind::Post][self.random.usize(0..4)]
    }

    /// A connection that could not be had, or went away while nothing was asked of it.
    fn unasked(&mut self, connection_us: i64, failure: Failure) {
        let ask = self.draw(connection_us);
        (self.tell)(&ask.done(now(), Some(failure)));
    }

    /// Some requests, one after the other, on a connection of HTTP/1.
    async fn requests(&mut self) {
        let connection_us = now();
        let stream = match self.connect().await {
            Ok(stream) => stream,
            Err(failure) => return self.unasked(connection_us, failure),
        };
        let Ok((mut sending, connection)) = http1::handshake(TokioIo::new(stream)).await else { return };
        spawn(connection);
        for _ in 0..self.random.u8(1..40) {
            if let Err(error) = sending.ready().await {
                return self.unasked(connection_us, Failure::Closed(said(&error)));
            }
            let (ask, started_us) = (self.draw(connection_us), now());
            let failed = answered(ask, sending.send_request(ask.request())).await;
            (self.tell)(&ask.done(started_us, failed.clone()));
            if failed.is_some() || self.stop.load(Ordering::Relaxed) {
                return;
            }
            sleep(Duration::from_millis(self.random.u64(0..20))).await;
        }
    }

    /// Some requests, several at a time, on a connection of HTTP/2.
    async fn requests_h2(&mut self) {
        let connection_us = now();
        let stream = match self.connect().await {
            Ok(stream) => stream,
            Err(failure) => return self.unasked(connection_us, failure),
        };
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sending, connection) = match handshake {
            Ok(pair) => pair,
            Err(error) => return self.unasked(connection_us, Failure::Closed(said(&error))),
        };
        spawn(connection);
        for _ in 0..self.random.u8(1..15) {
            if let Err(error) = sending.ready().await {
                return self.unasked(connection_us, Failure::Closed(said(&error)));
            }
            let mut running = JoinSet::new();
            for _ in 0..STREAMS {
                let (ask, mut sending, tell) = (self.draw(connection_us), sending.clone(), self.tell.clone());
                running.spawn(async move {
                    let started_us = now();
                    let failed = answered(ask, sending.send_request(ask.request())).await;
                    tell(&ask.done(started_us, failed.clone()));
                    failed.is_some()
                });
            }
            let failed = running.join_all().await;
            if failed.contains(&true) || self.stop.load(Ordering::Relaxed) {
                return;
            }
            sleep(Duration::from_millis(self.random.u64(0..40))).await;
        }
    }
}

/// What the client of a stream does once it is connected.
async fn exchange(mut stream: TcpStream, plan: Plan) -> io::Result<()> {
    let (mut receiving, mut sending) = stream.split();
    sending.write_all(&plan.bytes()).await?;
    tokio::try_join!(
        async {
            push(&mut sending, plan.id, plan.up, plan.rest()).await?;
            sending.shutdown().await
        },
        pull(&mut receiving, !plan.id, plan.down),
    )?;
    if receiving.read_u64().await? != plan.id {
        return Err(io::Error::new(ErrorKind::InvalidData, "the receipt is another's"));
    }
    match receiving.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "more than was sent")),
    }
}

impl Ask {
    fn request(&self) -> Request<Full<Bytes>> {
        let (id, service, kind) = self.done_of;
        let method = match kind {
            Kind::Put => http::Method::PUT,
            Kind::Post => http::Method::POST,
            Kind::Get | Kind::Stream => http::Method::GET,
        };
        let mut request = Request::new(Full::from(pattern::from(id, self.body)));
        *request.method_mut() = method;
        if service == Service::H2 {
            *request.uri_mut() = http::Uri::from_static("http://soak.test/");
        }
        let headers = request.headers_mut();
        headers.insert(http::header::HOST, HeaderValue::from_static("soak.test"));
        headers.insert(ID, id.into());
        headers.insert(ANSWER, self.answer.into());
        request
    }

    fn done(&self, started_us: i64, failed: Option<Failure>) -> Done {
        let ((id, service, kind), connection_us) = (self.done_of, self.connection_us);
        Done { id, service, kind, connection_us, started_us, ended_us: now(), failed }
    }
}

/// Waits for an answer, and checks it.
async fn answered(
    ask: Ask,
    answering: impl Future<Output = hyper::Result<Response<Incoming>>>,
) -> Option<Failure> {
    let checked = async {
        let answer = answering.await.map_err(|error| unanswered(&error))?;
        if answer.status() != 200 {
            return Err(Failure::Status(answer.status().as_u16()));
        }
        check(ask, answer).await
    };
    timeout(PATIENCE, checked).await.unwrap_or(Err(Failure::Hung)).err()
}

async fn check(ask: Ask, answer: Response<Incoming>) -> Result<(), Failure> {
    let (id, ..) = ask.done_of;
    if answer.headers().get(ID) != Some(&HeaderValue::from(id)) {
        return Err(Failure::Wrong(format!("{ask:?} was answered with {answer:?}")));
    }
    let mut body = pin!(answer.into_body());
    let mut received = 0;
    while let Some(frame) = poll_fn(|task| body.as_mut().poll_frame(task)).await {
        let frame = frame.map_err(|error| Failure::Cut(said(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if data != pattern::from((!id).wrapping_add(received), length) {
            return Err(Failure::Wrong(format!("{ask:?}: wrong data within {length} after {received}")));
        }
        received += length;
    }
    if received == ask.answer { Ok(()) } else { Err(Failure::Wrong(format!("{ask:?}: {received} bytes"))) }
}

/// A request whose connection is gone by the time that it is to be sent has not been asked.
fn unanswered(error: &hyper::Error) -> Failure {
    if error.is_closed() || error.is_canceled() {
        Failure::Closed(said(error))
    } else {
        Failure::Broken(said(error))
    }
}

/// The errno behind an error, or what it says.
fn said(error: &hyper::Error) -> String {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            return errno_name(error);
        }
        source = inner.source();
    }
    format!("{error:?}")
}
