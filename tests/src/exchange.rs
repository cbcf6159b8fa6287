//! HTTP requests as a client makes them on one connection, and everything that it sees of the answers.
//!
//! What a client does is data and so is what it saw: the program `exchange` runs in a workload, reads the one and
//! prints the other.

mod h1;
pub(crate) mod h2;

use std::hash::{DefaultHasher, Hasher};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http1::Fields;

/// How long a client waits for anything at all.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a connection stays under watch after its last response.
const AFTERWARDS: Duration = Duration::from_millis(250);

/// HTTP/1 of any minor version, or HTTP/2 with prior knowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    H1,
    H2,
}

/// Bytes of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Body {
    /// So many bytes of a fixed pattern.
    Size(usize),
    Text(String),
}

/// One connection's requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Client {
    pub requests: Vec<Request>,
    /// Sends a request before the response to the one before has come.
    pub pipeline: bool,
    /// Milliseconds between a response and the next request.
    pub gap: u64,
    /// Milliseconds after which the client drops the connection (HTTP/1) or cancels its stream (HTTP/2).
    pub give_up: Option<u64>,
    /// Sends exactly this instead of requests; reads one response.
    pub raw: Option<String>,
    /// Says after the last request that no more will come.
    pub half_close: bool,
    /// Sends this once the connection is a tunnel, and then its end of stream.
    pub tunnel: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// `1.1` or `1.0`.
    pub version: String,
    /// `Name: value`, in order. A host is added where there is none.
    pub headers: Vec<String>,
    pub body: Option<Body>,
    /// HTTP/1: chunks instead of a content-length.
    pub chunked: bool,
    pub trailers: Vec<String>,
    pub pause: Option<Pause>,
    /// Sends the body only after `100 Continue`.
    pub wait_for_continue: bool,
}

/// A body that stops.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pause {
    /// After so many bytes.
    pub after: usize,
    /// For so many milliseconds, or for ever.
    pub ms: Option<u64>,
}

/// What a client saw of one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub responses: Vec<Response>,
    /// `open`, `closed` or `reset`, a moment after the last response; or why there is no connection.
    pub end: String,
    /// How long all of it took, without that moment.
    pub ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    pub interim: Vec<Interim>,
    /// 0 where there was no response.
    pub status: u16,
    pub headers: Fields,
    /// The text, or the length and a hash.
    pub body: String,
    pub trailers: Fields,
    /// `complete`, or what came instead of the end.
    pub end: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interim {
    pub status: u16,
    pub headers: Fields,
}

/// What the program `exchange` is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub name: String,
    pub protocol: Protocol,
    pub to: SocketAddr,
    pub client: Client,
    /// How many do this at once. Each adds its number to the path: `/path/0`, `/path/1`...
    pub copies: Option<usize>,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub name: String,
    pub seen: Vec<Seen>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            requests: vec![Request::default()],
            pipeline: false,
            gap: 0,
            give_up: None,
            raw: None,
            half_close: false,
            tunnel: None,
        }
    }
}

impl Default for Request {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            version: "1.1".to_owned(),
            headers: Vec::new(),
            body: None,
            chunked: false,
            trailers: Vec::new(),
            pause: None,
            wait_for_continue: false,
        }
    }
}

impl Client {
    /// Opens the connection, does it all and says what it saw.
    pub async fn run(&self, protocol: Protocol, to: SocketAddr) -> Seen {
        let start = Instant::now();
        let mut seen = match protocol {
            Protocol::H1 => h1::run(self, to, start).await,
            Protocol::H2 => h2::run(self, to, start).await,
        };
        seen.responses.iter_mut().for_each(Response::sort);
        seen
    }
}

impl Client {
    /// How long it waits from now on.
    fn patience(&self, start: Instant) -> Duration {
        self.give_up.map_or(PATIENCE, Duration::from_millis).saturating_sub(start.elapsed())
    }
}

impl Response {
    /// What is there when nothing came.
    fn none(end: &str) -> Self {
        Self { end: end.to_owned(), ..Self::default() }
    }

    fn sort(&mut self) {
        self.headers.values_mut().for_each(|values| values.sort());
    }
}

impl Body {
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Size(size) => {
                // A prime, so that no buffer's size hides behind the period.
                let period: Vec<u8> =
                    (0..1009).map(|at| b"0123456789abcdef"[(at ^ (at / 16)) & 15]).collect();
                let mut bytes = period.repeat(size / period.len() + 1);
                bytes.truncate(*size);
                bytes
            }
            Self::Text(text) => text.clone().into_bytes(),
        }
    }
}

/// Bytes as an observation shows them: the text where it is short, else length and hash.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= 300 => text.to_owned(),
        _ => {
            // The same for the same bytes, in every process.
            let mut hasher = DefaultHasher::new();
            hasher.write(bytes);
            format!("<{} bytes, {:016x}>", bytes.len(), hasher.finish())
        }
    }
}

async fn connect(client: &Client, to: SocketAddr, start: Instant) -> Result<TcpStream, Seen> {
    match timeout(client.patience(start), TcpStream::connect(to)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unconnected(&format!("no connection: {:?}", error.kind()), start)),
        // A server that does not answer, or a proxy that does not answer for it: the same to the application.
        Err(_) if client.give_up.is_some() => Err(unconnected("given up", start)),
        Err(_) => Err(unconnected("no connection: timeout", start)),
    }
}

fn unconnected(end: &str, start: Instant) -> Seen {
    Seen { responses: vec![Response::none("nothing")], end: end.to_owned(), ms: milliseconds(start) }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
