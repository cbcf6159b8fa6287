//! The HTTP server for scrapes and probes: `/metrics`, `/healthz`, `/readyz`.
//!
//! It answers one request a connection and gives each connection a bounded time, so that no client can hold one of
//! the few there are. It reads nothing but the request's head.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::metrics::{self, Metrics};

const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// From accept to the last byte of the response.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait where accept fails for want of file descriptors or memory: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static(metrics::CONTENT_TYPE);

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for metrics: {source}")]
pub struct BindError {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Whether the agent takes connections: what `/readyz` answers. Not ready at first; a clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub fn set_ready(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Listens on the address that the operator gave.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// Serves until `shutdown` is ready; connections that are still open then are closed.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    shutdown: impl Future<Output = ()>,
) {
    tokio::select! {
        () = accept(listener, metrics, readiness) => {}
        () = shutdown => {}
    }
}

async fn accept(listener: TcpListener, metrics: Metrics, readiness: Readiness) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() == MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = serve_connection(stream, metrics.clone(), readiness.clone());
                connections.spawn(timeout(CONNECTION_TIMEOUT, connection));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(stream: TcpStream, metrics: Metrics, readiness: Readiness) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &metrics, &readiness);
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for metrics ended early");
    }
}

fn respond(method: &Method, path: &str, metrics: &Metrics, readiness: &Readiness) -> Response<Full<Bytes>> {
    let (status, content_type, body) = match path {
        "/metrics" | "/healthz" | "/readyz" if method != Method::GET => {
            let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is served here\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        "/metrics" => match metrics.encode() {
            Ok(text) => return response(StatusCode::OK, METRICS, text),
            Err(error) => {
                tracing::error!(%error, "cannot encode the metrics");
                (StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the metrics could not be encoded\n")
            }
        },
        "/healthz" => (StatusCode::OK, TEXT, "ok\n"),
        "/readyz" if readiness.is_ready() => (StatusCode::OK, TEXT, "ready\n"),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n"),
        _ => (StatusCode::NOT_FOUND, TEXT, "there are /metrics, /healthz and /readyz\n"),
    };
    response(status, content_type, body)
}

fn response(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::{MAX_CONNECTIONS, Readiness, bind, serve};
    use crate::observe::metrics::tests::metrics;

    struct Server {
        address: SocketAddr,
        readiness: Readiness,
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
    }

    async fn server() -> Server {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::default();
        let (stop, stopped) = oneshot::channel();
        let stopped = async { stopped.await.unwrap_or_default() };
        let task = tokio::spawn(serve(listener, metrics(), readiness.clone(), stopped));
        Server { address, readiness, stop, task }
    }

    /// The response, which ends with the connection.
    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: redial\r\n\r\n")).await
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_text() {
        let server = server().await;
        let response = get(server.address, "/metrics").await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(
            response.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
            "{response}"
        );
        assert!(response.contains("\nredial_connections_active 0\n"), "{response}");
        assert!(response.ends_with("# EOF\n"), "{response}");
    }

    #[tokio::test]
    async fn probes() {
        let server = server().await;
        assert!(get(server.address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        assert!(get(server.address, "/readyz").await.starts_with("HTTP/1.1 503 "));
        server.readiness.set_ready(true);
        assert!(get(server.address, "/readyz").await.starts_with("HTTP/1.1 200 "));
        server.readiness.set_ready(false);
        assert!(get(server.address, "/readyz").await.starts_with("HTTP/1.1 503 "));
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let server = server().await;
        assert!(get(server.address, "/").await.starts_with("HTTP/1.1 404 "));
        let post = "POST /metrics HTTP/1.1\r\nhost: redial\r\ncontent-length: 2\r\n\r\n{}";
        let response = exchange(server.address, post).await;
        assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
        assert!(response.contains("allow: GET\r\n"), "{response}");
        assert!(exchange(server.address, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }

    #[tokio::test]
    async fn silent_clients_make_room_after_a_time() {
        let server = server().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(server.address).await.unwrap());
        }
        // Answered only when the silent ones have been sent away.
        assert!(get(server.address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        for mut stream in silent {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
        }
    }

    #[tokio::test]
    async fn shutdown_closes_the_listener() {
        let server = server().await;
        server.stop.send(()).unwrap();
        server.task.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let server = server().await;
        let error = bind(server.address).await.unwrap_err();
        assert!(error.to_string().contains(&server.address.to_string()), "{error}");
    }
}
