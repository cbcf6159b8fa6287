//! The HTTP server: one thread for HTTP/1, one for HTTP/2, and ready answers.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::{Exchange, PORT, PORT_H2, head};

const CHUNK: usize = 64 * 1024;
/// The kernel's own bound may be less. Thousands connect at once where memory is measured.
const BACKLOG: i32 = 8192;

struct Connection {
    stream: TcpStream,
    /// What came of a head, and no more than that: bodies are only counted.
    read: Vec<u8>,
    /// How much of the body is still to come.
    body: usize,
    answer: usize,
    unsent: Vec<u8>,
}

/// Serves in threads of its own.
pub fn start(host: Ipv4Addr) -> Result<()> {
    let (h1, h2) = (listen((host, PORT).into())?, listen((host, PORT_H2).into())?);
    thread::spawn(move || report(serve(&h1)));
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

fn serve(listener: &TcpListener) -> Result<()> {
    let answers = Exchange::ALL.map(Exchange::response);
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
            let goes_on = connection.turn(&epoll, &mut chunk, &answers, event.data());
            if !matches!(goes_on, Ok(true)) {
                connections.remove(&event.data());
            }
        }
    }
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new(), body: 0, answer: 0, unsent: Vec::new() }
    }

    /// Reads what there is and answers it. Says whether the connection goes on.
    fn turn(&mut self, epoll: &Epoll, chunk: &mut [u8], answers: &[Vec<u8>], id: u64) -> Result<bool> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.answer(&unsent)?;
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
            let asked = Exchange::ALL.iter().position(|exchange| exchange.path().as_bytes() == path);
            let Some(asked) = asked else { bail!("asked for something else") };
            self.answer = asked;
            let length = head::content_length(&read[..end])?;
            self.body = (end + length).checked_sub(read.len()).context("pipelining")?;
            self.read = Vec::new();
            if self.body > 0 {
                return Ok(true);
            }
        }
        self.answer(&answers[self.answer])?;
        if !self.unsent.is_empty() {
            epoll.modify(&self.stream, &mut EpollEvent::new(EpollFlags::EPOLLOUT, id))?;
        }
        Ok(true)
    }

    fn answer(&mut self, bytes: &[u8]) -> Result<()> {
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
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                let body = Bytes::from(vec![b'.'; Exchange::Small.answered()]);
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if let Ok(mut sending) = respond.send_response(http::Response::new(()), false) {
                        drop(sending.send_data(body.clone(), true));
                    }
                }
            });
        }
    })
}
