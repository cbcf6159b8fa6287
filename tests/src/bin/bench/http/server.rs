//! The HTTP server: one thread for HTTP/1, one for HTTP/2, and ready answers.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::faults::{self, Failed};
use super::{Exchange, GRPC_MESSAGE, PORT, PORT_H2, head};

/// How many requests have come, over either version of HTTP.
pub static REQUESTS: AtomicU32 = AtomicU32::new(0);

const CHUNK: usize = 64 * 1024;
/// The kernel's own bound may be less. Thousands connect at once where memory is measured.
const BACKLOG: i32 = 16_384;

struct Connection {
    stream: TcpStream,
    /// What came of a head, and no more than that: bodies are only counted.
    read: Vec<u8>,
    /// How much of the body is still to come.
    body: usize,
    answer: Bytes,
    unsent: Vec<u8>,
}

/// Serves in threads of its own.
pub fn start(host: Ipv4Addr) -> Result<()> {
    let (h1, h2) = (listen((host, PORT).into())?, listen((host, PORT_H2).into())?);
    let answers =
        Exchange::ALL.map(|exchange| (exchange.path().as_bytes(), Bytes::from(exchange.response())));
    let mut failed = Failed::default();
    let answer = move |path: &[u8], head: &[u8]| {
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        if head::field(head, faults::HEADER).is_some_and(|value| failed.fails(value)) {
            return Some(Bytes::from_static(faults::REFUSAL));
        }
        answers.iter().find(|(known, _)| *known == path).map(|(_, answer)| answer.clone())
    };
    thread::spawn(move || report(serve(&h1, answer)));
    thread::spawn(move || report(serve_h2(h2)));
    Ok(())
}

/// With a backlog for everybody, and beside others that listen there.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into()).with_context(|| format!("listening on {address}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn report(result: Result<()>) {
    if let Err(error) = result {
        drop(writeln!(io::stderr(), "the HTTP server ended: {error:#}"));
    }
}

/// Serves, with what there is to say to a request with a path and a head.
pub fn serve(listener: &TcpListener, mut answer: impl FnMut(&[u8], &[u8]) -> Option<Bytes>) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let mut connections = HashMap::new();
    let mut chunk = vec![0; CHUNK];
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            if event.data() == 0 {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let id = u64::try_from(stream.as_raw_fd())?;
                    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, id))?;
                    connections.insert(id, Connection::new(stream));
                }
                continue;
            }
            let Some(connection) = connections.get_mut(&event.data()) else { continue };
            // How a connection ends is the client's business.
            let goes_on = connection.turn(&epoll, &mut chunk, &mut answer, event.data());
            if !matches!(goes_on, Ok(true)) {
                connections.remove(&event.data());
            }
        }
    }
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new(), body: 0, answer: Bytes::new(), unsent: Vec::new() }
    }

    /// Reads what there is and answers it. Says whether the connection goes on.
    fn turn(
        &mut self,
        epoll: &Epoll,
        chunk: &mut [u8],
        answer: &mut impl FnMut(&[u8], &[u8]) -> Option<Bytes>,
        id: u64,
    ) -> Result<bool> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.send(&unsent)?;
            if self.unsent.is_empty() {
                epoll.modify(&self.stream, &mut EpollEvent::new(EpollFlags::EPOLLIN, id))?;
            }
            return Ok(true);
        }
        let count = match self.stream.read(chunk) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        if self.body > 0 {
            self.body = self.body.checked_sub(count).context("pipelining")?;
            if self.body > 0 {
                return Ok(true);
            }
        } else {
            let begun = !self.read.is_empty();
            if begun {
                self.read.extend_from_slice(&chunk[..count]);
            }
            let read: &[u8] = if begun { &self.read } else { &chunk[..count] };
            let Some(end) = head::end(read) else {
                if !begun {
                    self.read.extend_from_slice(&chunk[..count]);
                }
                return Ok(true);
            };
            let path = read.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            let Some(answer) = answer(path, &read[..end]) else { bail!("asked for something else") };
            self.answer = answer;
            let length = head::content_length(&read[..end])?;
            self.body = (end + length).checked_sub(read.len()).context("pipelining")?;
            self.read = Vec::new();
            if self.body > 0 {
                return Ok(true);
            }
        }
        let answer = self.answer.clone();
        self.send(&answer)?;
        if !self.unsent.is_empty() {
            epoll.modify(&self.stream, &mut EpollEvent::new(EpollFlags::EPOLLOUT, id))?;
        }
        Ok(true)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self.stream.write(bytes) {
            Ok(count) => self.unsent.extend_from_slice(&bytes[count..]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.unsent.extend_from_slice(bytes),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn serve_h2(listener: TcpListener) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let failed = Arc::new(Mutex::new(Failed::default()));
        let body = Bytes::from(vec![b'.'; Exchange::Small.answered()]);
        loop {
            let (body, failed) = (body.clone(), Arc::clone(&failed));
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    REQUESTS.fetch_add(1, Ordering::Relaxed);
                    let named = request.headers().get(faults::HEADER);
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    let fails = named.is_some_and(|value| failed.fails(value.as_bytes()));
                    // How a stream ends is the client's business.
                    if request.headers().contains_key("content-type") {
                        tokio::spawn(async move { drop(answer_call(request, respond, fails).await) });
                    } else {
                        drop(answer(respond, fails, &body));
                    }
                }
            });
        }
    })
}

fn answer(mut respond: SendResponse<Bytes>, fails: bool, body: &Bytes) -> Result<()> {
    let status = if fails { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut sending = respond.send_response(response(status)?, fails)?;
    if !fails {
        sending.send_data(body.clone(), true)?;
    }
    Ok(())
}

async fn answer_call(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    fails: bool,
) -> Result<()> {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    if fails {
        return answer(respond, fails, &Bytes::new());
    }
    let mut response = response(StatusCode::OK)?;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut sending = respond.send_response(response, false)?;
    sending.send_data(Bytes::from_static(GRPC_MESSAGE), false)?;
    let status =
        HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    Ok(sending.send_trailers(status)?)
}

fn response(status: StatusCode) -> Result<http::Response<()>> {
    Ok(http::Response::builder().status(status).body(())?)
}
