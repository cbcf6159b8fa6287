//! The client of HTTP/2: several connections, each with several requests under way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::faults::{self, Faults};
use super::{Answers, Exchange, GRPC_MESSAGE, GRPC_PATH, PORT_H2};
use crate::client::ready;

/// What to ask for, and how.
#[derive(Clone, Copy, Debug)]
pub struct Streaming {
    pub connections: usize,
    /// On each connection at once.
    pub streams: usize,
    pub call: Call,
    pub faults: Faults,
}

/// What one stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A small answer is asked for.
    Get,
    /// A unary call of gRPC, with a small message both ways.
    Grpc,
}

/// Asks over and over.
pub fn ask(host: Ipv4Addr, time: Duration, streaming: Streaming) -> Result<Answers> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut open = Vec::new();
        for _ in 0..streaming.connections {
            let stream = TcpStream::connect(SocketAddr::from((host, PORT_H2))).await?;
            stream.set_nodelay(true)?;
            let (sending, connection) = h2::client::handshake(stream).await?;
            tokio::spawn(connection);
            open.push(sending.ready().await?);
        }
        ready()?;
        let numbers = Arc::new(AtomicU64::new(0));
        let end = Instant::now() + time;
        let mut asking = JoinSet::new();
        for sending in open {
            for _ in 0..streaming.streams {
                asking.spawn(ask_on(sending.clone(), end, streaming, Arc::clone(&numbers)));
            }
        }
        let mut answers = Answers::default();
        while let Some(asked) = asking.join_next().await {
            answers.extend(asked.context("a stream's task")??);
        }
        Ok(answers)
    })
}

async fn ask_on(
    sending: SendRequest<Bytes>,
    end: Instant,
    streaming: Streaming,
    numbers: Arc<AtomicU64>,
) -> Result<Answers> {
    let Streaming { call, faults, .. } = streaming;
    let request = call.request()?;
    let mut answers = Answers::default();
    let mut begun = Instant::now();
    while begun < end {
        let mut request = request.clone();
        if !faults.are_none() {
            let value = faults.value(numbers.fetch_add(1, Ordering::Relaxed));
            request.headers_mut().insert(faults::HEADER, value.parse()?);
        }
        let has_failed = call.make(sending.clone().ready().await?, request).await?;
        ensure!(!has_failed || !faults.are_none(), "answered with 503");
        let now = Instant::now();
        answers.add(now - begun, has_failed);
        begun = now;
    }
    Ok(answers)
}

impl Call {
    fn request(self) -> Result<http::Request<()>> {
        let request = http::Request::builder().header("user-agent", "bench/1.0");
        let request = match self {
            Self::Get => {
                request.uri(format!("http://bench.example{}", Exchange::Small.path())).header("accept", "*/*")
            }
            Self::Grpc => request
                .method("POST")
                .uri(format!("http://bench.example{GRPC_PATH}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers"),
        };
        Ok(request.body(())?)
    }

    /// Says whether it was answered with 503. All else but the right answer is an error.
    async fn make(self, mut sending: SendRequest<Bytes>, request: http::Request<()>) -> Result<bool> {
        let (response, mut body) = sending.send_request(request, self == Self::Get)?;
        if self == Self::Grpc {
            body.send_data(Bytes::from_static(GRPC_MESSAGE), true)?;
        }
        let response = response.await?;
        let has_failed = response.status() == 503;
        ensure!(has_failed || response.status() == 200, "answered with {}", response.status());
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            length += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        if has_failed {
            return Ok(true);
        }
        let expected = match self {
            Self::Get => Exchange::Small.answered(),
            Self::Grpc => GRPC_MESSAGE.len(),
        };
        ensure!(length == expected, "the body has {length} bytes");
        if self == Self::Grpc {
            let trailers = body.trailers().await?.context("no trailers")?;
            ensure!(
                trailers.get("grpc-status").is_some_and(|status| status == "0"),
                "trailers: {trailers:?}"
            );
        }
        Ok(false)
    }
}
