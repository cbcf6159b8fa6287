//! A scripted HTTP server inside a namespace: many ports on one thread, a script for every port.
//!
//! A script says what happens to the first request that comes, to the second, and so on, whatever connection they come
//! on; its last entry is for all that follow. Everything about each request is kept as it came.

mod h1;
mod h2;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use socket2::{Domain, Protocol as Transport, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::exchange::{Body, Protocol};
use crate::http1::Fields;
use crate::netns::Netns;

/// How long a server hangs when it is told to.
const HANG: Duration = Duration::from_secs(20);

/// What a server does to one request. Unless the first step is `early` it reads the whole request before.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Does not read the request's body, until it is told to.
    Early,
    /// Reads the rest of the request.
    Read,
    /// A whole response.
    Respond(Respond),
    /// The head of a response. HTTP/1: these headers and no others.
    Head(Respond),
    /// Bytes of the response that a head began; in chunks where that said so.
    Data(Body),
    /// The end of that response.
    End {
        #[serde(default)]
        trailers: Vec<String>,
    },
    /// A response of 1xx.
    Interim(Respond),
    /// So many milliseconds, or until the request is cancelled, which ends the script.
    Wait(u64),
    /// Until the request is cancelled, and then the script ends.
    Hang,
    /// FIN, then reads what still comes.
    Close,
    /// HTTP/1: RST. HTTP/2: the same, for the whole connection.
    Abort,
    /// HTTP/1: RST. HTTP/2: RST_STREAM with this code.
    Reset(String),
    /// HTTP/2: GOAWAY that says which stream was the last to be looked at.
    Goaway(u32),
    /// These bytes, on the connection itself.
    Raw(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Respond {
    pub status: u16,
    /// `Name: value`. `{now+2}` in a value is the Unix time in two seconds.
    #[serde(default)]
    pub headers: Vec<String>,
    pub body: Option<Body>,
    /// HTTP/1: in chunks instead of with a content-length.
    #[serde(default)]
    pub chunked: bool,
    #[serde(default)]
    pub trailers: Vec<String>,
}

/// What a server does to one request. Written as one step or as a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub struct Reaction(Vec<Step>);

/// What a server does to a connection before anything is read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Welcome {
    Accept,
    Close,
    Abort,
}

/// One port of the server.
#[derive(Clone, Debug)]
pub struct Port {
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub script: Vec<Reaction>,
    /// For the first connection, the second, and so on; the last is for all that follow.
    pub connections: Vec<Welcome>,
    /// Whether the script begins anew for every path.
    pub by_path: bool,
}

impl Port {
    /// Accepts every connection, and plays one script for all paths.
    #[must_use]
    pub fn new(address: SocketAddr, protocol: Protocol, script: Vec<Reaction>) -> Self {
        Self { address, protocol, script, connections: Vec::new(), by_path: false }
    }
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub headers: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Whether the end of the request came.
    pub complete: bool,
    /// Whether the other side gave it up before the script had ended.
    pub cancelled: bool,
    /// Whether the script has ended.
    pub ended: bool,
}

/// A running server. Drop ends it.
#[derive(Debug)]
pub struct HttpUpstream {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    attempts: Mutex<HashMap<SocketAddr, Vec<Attempt>>>,
    connections: Mutex<HashMap<SocketAddr, usize>>,
}

/// Where the attempts at one port are noted.
#[derive(Clone, Debug)]
struct Log {
    port: Arc<Port>,
    shared: Arc<Shared>,
}

/// One attempt's place in the log.
#[derive(Debug)]
struct Entry {
    log: Log,
    index: usize,
}

impl Respond {
    /// The headers as they are sent now.
    fn headers(&self) -> Vec<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let dated = |line: &String| {
            let (before, rest) = line.split_once("{now+")?;
            let (seconds, after) = rest.split_once('}')?;
            Some(format!("{before}{}{after}", now + seconds.parse::<u64>().ok()?))
        };
        self.headers.iter().map(|line| dated(line).unwrap_or_else(|| line.clone())).collect()
    }
}

impl TryFrom<Value> for Reaction {
    type Error = serde_json::Error;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let list = if value.is_array() { value } else { Value::Array(vec![value]) };
        serde_json::from_value(list).map(Self)
    }
}

impl HttpUpstream {
    pub fn start(netns: &Netns, ports: Vec<Port>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = netns.run(move || {
            Ok(thread::spawn(move || {
                let result = serve(&theirs, ports, stopped, &ready);
                if let Err(error) = result {
                    drop(ready.send(Err(error)));
                }
            }))
        })?;
        is_ready.recv().map_err(|_| anyhow!("the scripted server ended"))??;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// All attempts at a port so far, in the order of their heads.
    #[must_use]
    pub fn attempts(&self, port: SocketAddr) -> Vec<Attempt> {
        lock(&self.shared.attempts).get(&port).cloned().unwrap_or_default()
    }

    /// The attempts at a port once all their scripts have ended, or after some patience.
    #[must_use]
    pub fn settled(&self, port: SocketAddr, patience: Duration) -> Vec<Attempt> {
        let deadline = Instant::now() + patience;
        loop {
            let attempts = self.attempts(port);
            if attempts.iter().all(|attempt| attempt.ended) || Instant::now() > deadline {
                return attempts;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// How many connections a port has accepted.
    #[must_use]
    pub fn connections(&self, port: SocketAddr) -> usize {
        lock(&self.shared.connections).get(&port).copied().unwrap_or_default()
    }
}

impl Drop for HttpUpstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(
    shared: &Arc<Shared>,
    ports: Vec<Port>,
    stopped: oneshot::Receiver<()>,
    ready: &std::sync::mpsc::Sender<Result<()>>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for port in ports {
            let listener = listen(port.address)?;
            let log = Log { port: Arc::new(port), shared: Arc::clone(shared) };
            tokio::spawn(accept(listener, log));
        }
        drop(ready.send(Ok(())));
        let _ = stopped.await;
        Ok(())
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Transport::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address)).with_context(|| format!("binding {address}"))?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn accept(listener: TcpListener, log: Log) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let log = log.clone();
        tokio::spawn(async move {
            let index = {
                let mut connections = lock(&log.shared.connections);
                let count = connections.entry(log.port.address).or_default();
                *count += 1;
                *count - 1
            };
            let welcomes = &log.port.connections;
            match welcomes.get(index).or(welcomes.last()).unwrap_or(&Welcome::Accept) {
                Welcome::Accept => match log.port.protocol {
                    Protocol::H1 => h1::serve(stream, &log).await,
                    Protocol::H2 => h2::serve(stream, &log).await,
                },
                Welcome::Close => {}
                Welcome::Abort => abort(&stream),
            }
        });
    }
}

/// Makes the close of a socket a RST.
fn abort(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

impl Log {
    /// Notes a request that begins, and says what is to happen to it.
    fn begin(&self, method: &str, path: &str, headers: Fields) -> (Entry, Vec<Step>) {
        let mut all = lock(&self.shared.attempts);
        let attempts = all.entry(self.port.address).or_default();
        let earlier = attempts.iter().filter(|attempt| !self.port.by_path || attempt.path == path).count();
        let index = attempts.len();
        attempts.push(Attempt {
            at: Instant::now(),
            method: method.to_owned(),
            path: path.to_owned(),
            headers,
            body: Vec::new(),
            trailers: Fields::new(),
            complete: false,
            cancelled: false,
            ended: false,
        });
        let script = &self.port.script;
        let steps = match script.get(earlier).or(script.last()) {
            None => vec![Step::Hang],
            Some(Reaction(steps)) => steps.clone(),
        };
        (Entry { log: self.clone(), index }, steps)
    }
}

impl Entry {
    fn note(&self, change: impl FnOnce(&mut Attempt)) {
        let mut all = lock(&self.log.shared.attempts);
        let attempts = all.entry(self.log.port.address).or_default();
        if let Some(attempt) = attempts.get_mut(self.index) {
            change(attempt);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.note(|attempt| attempt.ended = true);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
