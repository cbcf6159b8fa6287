//! The client of HTTP/1: one thread that goes round its connections, each of which has one request under way.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Exchange, PORT, head};

const CHUNK: usize = 64 * 1024;

/// One connection and the request on it.
struct Connection {
    stream: TcpStream,
    begun: Instant,
    sent: usize,
    /// The response's beginning, until its head is whole.
    head: Vec<u8>,
    /// How much of the body is to come, once the head is there.
    body: Option<usize>,
}

/// Asks over and over on so many connections, or on a new one for each request. Returns how long each took.
pub fn ask(
    host: Ipv4Addr,
    time: Duration,
    connections: usize,
    exchange: Exchange,
    is_new_each: bool,
) -> Result<Vec<Duration>> {
    let address = SocketAddr::from((host, PORT));
    let request = exchange.request();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut took = Vec::new();
    let mut open = Vec::new();
    for index in 0..connections {
        open.push(Connection::open(address)?);
        let events = EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(index)?);
        epoll.add(&open[index].stream, events)?;
    }
    let end = Instant::now() + time;
    for (index, connection) in open.iter_mut().enumerate() {
        connection.begin(&epoll, index, &request)?;
    }
    let mut left = connections;
    let mut chunk = vec![0; CHUNK];
    let mut events = [EpollEvent::empty(); 256];
    while left > 0 {
        let ready = epoll.wait(&mut events, EpollTimeout::from(10_000_u16))?;
        ensure!(ready > 0, "{left} requests have no answer");
        for event in &events[..ready] {
            let index = usize::try_from(event.data())?;
            let connection = &mut open[index];
            if connection.sent < request.len() {
                connection.send(&epoll, index, &request)?;
                continue;
            }
            if !connection.receive(&mut chunk, exchange)? {
                continue;
            }
            let now = Instant::now();
            took.push(now - connection.begun);
            if now >= end {
                left -= 1;
                continue;
            }
            if is_new_each {
                *connection = Connection::open(address)?;
                let events = EpollEvent::new(EpollFlags::EPOLLIN, event.data());
                epoll.add(&connection.stream, events)?;
                // The time of a new connection begins before it is there.
                let begun = now;
                connection.begin(&epoll, index, &request)?;
                connection.begun = begun;
            } else {
                connection.begin(&epoll, index, &request)?;
            }
        }
    }
    Ok(took)
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, begun: Instant::now(), sent: 0, head: Vec::new(), body: None })
    }

    fn begin(&mut self, epoll: &Epoll, index: usize, request: &[u8]) -> Result<()> {
        (self.begun, self.sent, self.body) = (Instant::now(), 0, None);
        self.send(epoll, index, request)
    }

    fn send(&mut self, epoll: &Epoll, index: usize, request: &[u8]) -> Result<()> {
        let was_waiting = self.sent > 0;
        match self.stream.write(&request[self.sent..]) {
            Ok(count) => self.sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("sending a request"),
        }
        let is_waiting = self.sent < request.len();
        if was_waiting || is_waiting {
            let flags = if is_waiting { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            epoll.modify(&self.stream, &mut EpollEvent::new(flags, u64::try_from(index)?))?;
        }
        Ok(())
    }

    /// Reads once. Says whether the response is whole.
    fn receive(&mut self, chunk: &mut [u8], exchange: Exchange) -> Result<bool> {
        let count = match self.stream.read(chunk) {
            Ok(0) => bail!("the connection ended before the response"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("waiting for a response"),
        };
        let left = if let Some(left) = self.body {
            left.checked_sub(count)
        } else {
            self.head.extend_from_slice(&chunk[..count]);
            let Some(end) = head::end(&self.head) else { return Ok(false) };
            let head = &self.head[..end];
            ensure!(
                head.starts_with(b"HTTP/1.1 200 ") && head::content_length(head)? == exchange.answered(),
                "answered with {}",
                String::from_utf8_lossy(head)
            );
            let left = (end + exchange.answered()).checked_sub(self.head.len());
            self.head.clear();
            left
        };
        self.body = Some(left.context("more than the response")?);
        Ok(left == Some(0))
    }
}
