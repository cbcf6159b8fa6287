//! The client of HTTP/2: several connections, each with several requests under way.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Exchange, PORT_H2};

/// Asks over and over in so many streams of so many connections. Returns how long each request took.
pub fn ask(host: Ipv4Addr, time: Duration, connections: usize, streams: usize) -> Result<Vec<Duration>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut asking = JoinSet::new();
        let mut ready = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(SocketAddr::from((host, PORT_H2))).await?;
            stream.set_nodelay(true)?;
            let (sending, connection) = h2::client::handshake(stream).await?;
            tokio::spawn(connection);
            ready.push(sending.ready().await?);
        }
        let end = Instant::now() + time;
        for sending in ready {
            for _ in 0..streams {
                asking.spawn(ask_on(sending.clone(), end));
            }
        }
        let mut took = Vec::new();
        while let Some(asked) = asking.join_next().await {
            took.extend(asked.context("a stream's task")??);
        }
        Ok(took)
    })
}

async fn ask_on(sending: SendRequest<bytes::Bytes>, end: Instant) -> Result<Vec<Duration>> {
    let request = http::Request::get(format!("http://bench.example{}", Exchange::Small.path()))
        .header("user-agent", "bench/1.0")
        .header("accept", "*/*")
        .body(())?;
    let mut took = Vec::new();
    let mut begun = Instant::now();
    while begun < end {
        let mut ready = sending.clone().ready().await?;
        let (response, _) = ready.send_request(request.clone(), true)?;
        let response = response.await?;
        ensure!(response.status() == 200, "answered with {}", response.status());
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            length += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        ensure!(length == Exchange::Small.answered(), "the body has {length} bytes");
        let now = Instant::now();
        took.push(now - begun);
        begun = now;
    }
    Ok(took)
}
