//! A bare hyper proxy: what HTTP costs where nothing is done about it. It passes on requests and responses, over one
//! upstream connection for each client connection, in as many threads as it is told, each with a runtime of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::thread;

use anyhow::{Result, anyhow};
use http::Request;
use hyper::body::Incoming;
use hyper::client::conn;
use hyper::server::conn as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{LocalSet, spawn_local};

use super::server::listen;
use super::{PORT, PORT_H2};

/// Serves until it is killed.
pub fn serve(front: Ipv4Addr, upstream: Ipv4Addr, threads: usize) -> Result<()> {
    let running: Vec<_> =
        (0..threads).map(|_| thread::spawn(move || serve_one_thread(front, upstream))).collect();
    running.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
}

fn serve_one_thread(front: Ipv4Addr, upstream: Ipv4Addr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::from_std(listen((front, PORT).into())?)?;
        let listener_h2 = TcpListener::from_std(listen((front, PORT_H2).into())?)?;
        loop {
            tokio::select! {
                accepted = listener.accept() => drop(spawn_local(h1(accepted?.0, (upstream, PORT).into()))),
                accepted = listener_h2.accept() => drop(spawn_local(h2(accepted?.0, (upstream, PORT_H2).into()))),
            }
        }
    })
}

/// How a connection ends is its ends' business.
async fn h1(client: TcpStream, upstream: SocketAddr) {
    drop(try_h1(client, upstream).await);
}

async fn h2(client: TcpStream, upstream: SocketAddr) {
    drop(try_h2(client, upstream).await);
}

async fn try_h1(client: TcpStream, upstream: SocketAddr) -> Result<()> {
    client.set_nodelay(true)?;
    let upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    let (sending, connection) = conn::http1::handshake(TokioIo::new(upstream)).await?;
    spawn_local(connection);
    // Its requests come one after the other, so nobody ever waits for this.
    let sending = Rc::new(Mutex::new(sending));
    let service = service_fn(|request: Request<Incoming>| {
        let sending = Rc::clone(&sending);
        async move {
            let mut sending = sending.lock().await;
            sending.ready().await?;
            sending.send_request(request).await
        }
    });
    Ok(server::http1::Builder::new().serve_connection(TokioIo::new(client), service).await?)
}

async fn try_h2(client: TcpStream, upstream: SocketAddr) -> Result<()> {
    client.set_nodelay(true)?;
    let upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    let (sending, connection) = conn::http2::handshake(LocalExecutor, TokioIo::new(upstream)).await?;
    spawn_local(connection);
    let service = service_fn(|request: Request<Incoming>| {
        let mut sending = sending.clone();
        async move { sending.send_request(request).await }
    });
    Ok(server::http2::Builder::new(LocalExecutor).serve_connection(TokioIo::new(client), service).await?)
}

#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        drop(spawn_local(task));
    }
}
