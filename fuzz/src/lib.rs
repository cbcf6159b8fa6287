//! The engine between a client and upstreams that say whatever the fuzzer wants.
//!
//! Everything is in memory, and time is paused: where nothing more can happen, it passes. So a run ends, or the engine
//! goes round in circles and the fuzzer's own time-out tells.

#![expect(clippy::expect_used, clippy::missing_panics_doc, reason = "a panic is how a fuzz target tells")]

use std::cell::RefCell;
use std::future::{Future, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use redial::endpoint::{Addresses, Choice};
use redial::http::exchange::Prior;
use redial::http::replay::Buffers;
use redial::http::session::{Session, Supply};
use redial::http::wire::Wire;
use redial::observe::{Metrics, Observer};
use redial::policy::{HttpPolicy, Policy, Router};
use redial::reason::Reason;
use redial::retry::request::Methods;
use redial::retry::{BudgetPolicy, Budgets};
use redial::tcp::relay::Moved;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex, split,
};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

/// Longer than the engine waits for anything.
const LONG: Duration = Duration::from_mins(1);
/// How much of a body is kept, and four times that of all.
const BOUND: usize = 512;
/// Between what one and another side say.
const SEPARATOR: &[u8] = b"\n----\n";

/// What everybody says, and how.
#[derive(Debug)]
pub struct Talk<'a> {
    pub client: &'a [u8],
    /// On one connection each; the last is for all that follow.
    upstreams: Vec<&'a [u8]>,
    /// How much is said at once.
    piece: usize,
    /// How much a connection holds.
    room: usize,
    retries: u32,
    /// An upstream says nothing before something has come.
    waits: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Heard {
    pub client: Vec<u8>,
    /// By connection, in the order in which they were made.
    pub upstreams: Vec<Vec<u8>>,
}

/// One end of a connection.
pub struct Stream(DuplexStream);

type Shared<T> = Rc<RefCell<T>>;

impl<'a> Talk<'a> {
    /// Three bytes that say how, and then texts with lines of four dashes between them: the client's, and those of the
    /// upstreams.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&[piece, room, how], mut rest) = bytes.split_first_chunk()?;
        let mut texts = Vec::new();
        while let Some(at) = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
            texts.push(&rest[..at]);
            rest = &rest[at + SEPARATOR.len()..];
        }
        texts.push(rest);
        let client = texts.remove(0);
        let (piece, room) = (usize::from(piece) + 1, 8 * (usize::from(room) + 1));
        Some(Self { client, upstreams: texts, piece, room, retries: u32::from(how & 3), waits: how & 4 != 0 })
    }

    /// Runs the engine between them; `serve` is a version of HTTP.
    pub fn through<F: Future<Output = Reason> + 'static>(
        &self,
        serve: impl FnOnce(Stream, Supply<Stream>, Rc<Session<Stream>>) -> F,
    ) -> Heard {
        fastrand::seed(7);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        LocalSet::new().block_on(&runtime, self.heard(serve))
    }

    async fn heard<F: Future<Output = Reason> + 'static>(
        &self,
        serve: impl FnOnce(Stream, Supply<Stream>, Rc<Session<Stream>>) -> F,
    ) -> Heard {
        let (heard, dialled, buffers) = (Shared::default(), Shared::default(), Buffers::new(4 * BOUND));
        let session = Rc::new(self.session(Rc::clone(&dialled), buffers.clone()));
        let (near, far) = duplex(self.room);
        let served = spawn_local(serve(Stream(near), Supply::Own(None), session));
        let client = spawn_local(talks(far, self.client.to_vec(), self.piece, false, Rc::clone(&heard)));
        // The client is gone after long, and then nothing is left that the engine could wait for.
        let ended = timeout(10 * LONG, served).await.expect("the engine ends after its client");
        ended.expect("the engine does not panic");
        assert_eq!(buffers.used(), 0, "what is kept is of requests that have ended");
        client.abort();
        let upstreams = dialled.borrow().iter().map(|hears| hears.take()).collect();
        Heard { client: heard.take(), upstreams }
    }

    fn session(&self, dialled: Shared<Vec<Shared<Vec<u8>>>>, buffers: Buffers) -> Session<Stream> {
        let endpoint = SocketAddr::from(([192, 0, 2, 1], 80));
        let mut policy = HttpPolicy { max_buffered_body: BOUND, ..HttpPolicy::default() };
        policy.retry.num_retries = self.retries;
        policy.retry.methods = Methods::Any;
        let texts: Vec<Vec<u8>> = self.upstreams.iter().map(|says| says.to_vec()).collect();
        let (room, piece, waits) = (self.room, self.piece, self.waits);
        let observer = Observer::new(Metrics::new(Default::default), None);
        Session {
            router: Router::of(Policy::for_requests(policy)),
            workload: "test".into(),
            destination: endpoint,
            addresses: Addresses::default(),
            way: Choice::new(endpoint, []).into(),
            dial: Rc::new(move |_| {
                let (near, far) = duplex(room);
                let mut dialled = dialled.borrow_mut();
                let says = texts.get(dialled.len()).or(texts.last()).cloned().unwrap_or_default();
                let hears = Shared::default();
                dialled.push(Rc::clone(&hears));
                spawn_local(talks(far, says, piece, waits, hears));
                Box::pin(ready(Ok(Stream(near))))
            }),
            budgets: Budgets::new(BudgetPolicy::default()),
            epoch: Instant::now(),
            buffers,
            prior: Prior::default().into(),
            under: RefCell::default(),
            observer,
        }
    }
}

/// Says all of this, piece by piece, while it hears what the other side says; then goes, after long.
async fn talks(far: DuplexStream, says: Vec<u8>, piece: usize, waits: bool, heard: Shared<Vec<u8>>) {
    let (mut reading, mut writing) = split(far);
    let hearing = async {
        let mut bytes = [0; 512];
        while let Ok(count @ 1..) = reading.read(&mut bytes).await {
            heard.borrow_mut().extend_from_slice(&bytes[..count]);
        }
    };
    let saying = async {
        if waits {
            // By then everything has come that comes by itself.
            sleep(Duration::from_millis(1)).await;
        }
        for piece in says.chunks(piece) {
            writing.write_all(piece).await?;
            // Each piece is seen by itself.
            tokio::task::yield_now().await;
        }
        sleep(LONG).await;
        writing.shutdown().await
    };
    let _ = timeout(2 * LONG, async { tokio::join!(hearing, saying) }).await;
}

impl Wire for Stream {
    async fn untaken(self, _sent: usize) -> bool {
        false
    }

    fn local(&self) -> Option<SocketAddr> {
        None
    }

    fn is_hung_up(&self) -> bool {
        false
    }

    fn reset(&self) {}

    /// A tunnel's bytes are nobody's business.
    async fn relay(&self, _upstream: &Self, _moved: &Moved) -> Reason {
        Reason::Closed
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
