//! The client of HTTP/1: one thread that goes round its connections, each of which has one request under way.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::faults::{self, Faults};
use super::{Answers, Exchange, PORT, head};
use crate::client::ready;

const CHUNK: usize = 64 * 1024;

/// What to ask for, and how.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    pub connections: usize,
    pub exchange: Exchange,
    /// Each request has a connection of its own.
    pub is_new_each: bool,
    pub faults: Faults,
}

/// The bytes of requests, one after the other.
struct Requests {
    bytes: Vec<u8>,
    /// Where the name of a request that fails is, if there are any.
    name_at: Option<usize>,
    faults: Faults,
}

/// One connection and the request on it.
struct Connection {
    stream: TcpStream,
    begun: Instant,
    /// Which request of all this is.
    number: u64,
    sent: usize,
    /// The response's beginning, until its head is whole.
    head: Vec<u8>,
    /// How much of the body is to come, once the head is there.
    body: Option<usize>,
    has_failed: bool,
}

/// Asks over and over.
pub fn ask(host: Ipv4Addr, time: Duration, asking: Asking) -> Result<Answers> {
    let Asking { connections, exchange, is_new_each, faults } = asking;
    let address = SocketAddr::from((host, PORT));
    let mut requests = Requests::new(exchange, faults);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut answers = Answers::default();
    let mut open = Vec::new();
    for index in 0..connections {
        open.push(Connection::open(address, &epoll, index)?);
    }
    ready()?;
    let mut numbers = 0..;
    let end = Instant::now() + time;
    for (index, connection) in open.iter_mut().enumerate() {
        connection.begin(&epoll, index, &mut requests, &mut numbers)?;
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
            if connection.sent < requests.bytes.len() {
                connection.send(&epoll, index, &mut requests)?;
                continue;
            }
            if !connection.receive(&mut chunk, exchange, faults)? {
                continue;
            }
            let now = Instant::now();
            answers.add(now - connection.begun, connection.has_failed);
            if now >= end {
                left -= 1;
                continue;
            }
            if is_new_each {
                *connection = Connection::open(address, &epoll, index)?;
            }
            connection.begin(&epoll, index, &mut requests, &mut numbers)?;
            // The time of a new connection begins before it is there.
            connection.begun = now;
        }
    }
    Ok(answers)
}

impl Requests {
    fn new(exchange: Exchange, faults: Faults) -> Self {
        if faults.are_none() {
            return Self { bytes: exchange.request(""), name_at: None, faults };
        }
        let header = format!("{}: {}\r\n", faults::HEADER, faults::NONE);
        let bytes = exchange.request(&header);
        let at = bytes.windows(header.len()).position(|window| window == header.as_bytes());
        Self { bytes, name_at: at.map(|at| at + faults::HEADER.len() + 2), faults }
    }

    fn of(&mut self, number: u64) -> &[u8] {
        if let Some(at) = self.name_at {
            let value = self.faults.value(number);
            self.bytes[at..at + value.len()].copy_from_slice(value.as_bytes());
        }
        &self.bytes
    }
}

impl Connection {
    fn open(address: SocketAddr, epoll: &Epoll, index: usize) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(index)?))?;
        let begun = Instant::now();
        Ok(Self { stream, begun, number: 0, sent: 0, head: Vec::new(), body: None, has_failed: false })
    }

    fn begin(
        &mut self,
        epoll: &Epoll,
        index: usize,
        requests: &mut Requests,
        numbers: &mut impl Iterator<Item = u64>,
    ) -> Result<()> {
        self.number = numbers.next().context("no more numbers")?;
        (self.begun, self.sent, self.body) = (Instant::now(), 0, None);
        self.send(epoll, index, requests)
    }

    fn send(&mut self, epoll: &Epoll, index: usize, requests: &mut Requests) -> Result<()> {
        let was_waiting = self.sent > 0;
        let request = requests.of(self.number);
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
    fn receive(&mut self, chunk: &mut [u8], exchange: Exchange, faults: Faults) -> Result<bool> {
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
            let length = head::content_length(head)?;
            self.has_failed = !faults.are_none() && head.starts_with(b"HTTP/1.1 503 ");
            ensure!(
                self.has_failed || head.starts_with(b"HTTP/1.1 200 ") && length == exchange.answered(),
                "answered with {}",
                String::from_utf8_lossy(head)
            );
            let left = (end + length).checked_sub(self.head.len());
            self.head.clear();
            left
        };
        self.body = Some(left.context("more than the response")?);
        Ok(left == Some(0))
    }
}
