//! An HTTP/1 server that says exactly the bytes that it is told to, and knows exactly which bytes it got.
//!
//! It answers one request after the other on each connection, on plain threads and blocking sockets: what it does to a
//! connection, and when, is what the kernel sees.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{Shutdown, shutdown};
use socket2::{SockRef, Socket};

use crate::netns::Netns;
use crate::upstream::listen;

/// A request, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which connection it came on, from zero in the order of their arrival.
    pub connection: usize,
    /// How many came before it on that connection.
    pub position: usize,
    pub head: String,
    /// With its framing.
    pub body: Vec<u8>,
}

/// What the server does about a request.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Sent when the head is there, before the body is read.
    pub at_head: Vec<u8>,
    /// Sent when all of the request is there: piece by piece, with some time between pieces.
    pub pieces: Vec<Vec<u8>>,
    /// How long it then waits.
    pub rest: Duration,
    pub then: Then,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    #[default]
    Go,
    Close,
    /// Closes with RST.
    Reset,
    /// Says that it will say no more, and goes on taking requests.
    HalfClose,
    /// Says nothing until the client has gone.
    Hang,
}

/// The server. Drop closes its port; connections end with their clients.
#[derive(Debug)]
pub struct RawServer {
    listener: Arc<Socket>,
    log: Arc<Mutex<Vec<Request>>>,
    accepting: Option<JoinHandle<()>>,
}

impl RawServer {
    /// Listens in a namespace and does with every request what `answer` says.
    pub fn start(
        netns: &Netns,
        address: SocketAddr,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = Arc::new(listen(netns, address, 1024)?);
        let log = Arc::default();
        let (theirs, logged, answer) = (Arc::clone(&listener), Arc::clone(&log), Arc::new(answer));
        let accepting = Some(thread::spawn(move || {
            for connection in 0.. {
                let Ok((socket, _)) = theirs.accept() else { break };
                let (log, answer) = (Arc::clone(&logged), Arc::clone(&answer));
                // A client that breaks off is its own affair.
                thread::spawn(move || serve(&socket.into(), connection, &log, answer.as_ref()));
            }
        }));
        Ok(Self { listener, log, accepting })
    }

    /// Every whole request so far, in the order of their arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.log).clone()
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        // Wakes accept(), which a close would not.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

impl Request {
    #[must_use]
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    #[must_use]
    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The first value of a header, named in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl Answer {
    /// These bytes.
    #[must_use]
    pub fn bytes(answer: impl Into<Vec<u8>>) -> Self {
        Self { pieces: vec![answer.into()], ..Self::default() }
    }

    /// A whole response with this status and this text for a body.
    #[must_use]
    pub fn status(status: u16, text: &str) -> Self {
        Self::bytes(format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n\r\n{text}", text.len()))
    }

    /// Waits after the answer.
    #[must_use]
    pub fn rest(mut self, rest: Duration) -> Self {
        self.rest = rest;
        self
    }

    #[must_use]
    pub fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

fn serve(
    mut stream: &TcpStream,
    connection: usize,
    log: &Mutex<Vec<Request>>,
    answer: &(impl Fn(&Request) -> Answer + ?Sized),
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::new();
    for position in 0.. {
        let head = until(stream, &mut read, b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut request = Request { connection, position, head, body: Vec::new() };
        let answer = answer(&request);
        stream.write_all(&answer.at_head)?;
        request.body = body(stream, &mut read, &request)?;
        lock(log).push(request);
        for (index, piece) in answer.pieces.iter().enumerate() {
            if index > 0 {
                // Lets the piece before travel by itself.
                thread::sleep(Duration::from_millis(10));
            }
            stream.write_all(piece)?;
        }
        thread::sleep(answer.rest);
        match answer.then {
            Then::Go => {}
            Then::Close => return Ok(()),
            Then::Reset => return SockRef::from(stream).set_linger(Some(Duration::ZERO)),
            Then::HalfClose => stream.shutdown(std::net::Shutdown::Write)?,
            Then::Hang => return io::copy(&mut stream, &mut io::sink()).map(|_| ()),
        }
    }
    Ok(())
}

/// The body as it came, framing included.
fn body(stream: &TcpStream, read: &mut Vec<u8>, request: &Request) -> io::Result<Vec<u8>> {
    if let Some(length) = request.header("content-length") {
        let length = length.parse().map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
        while read.len() < length {
            fill(stream, read)?;
        }
        return Ok(read.drain(..length).collect());
    }
    let mut body = Vec::new();
    if request.header("transfer-encoding").is_none() {
        return Ok(body);
    }
    loop {
        let line = until(stream, read, b"\r\n")?;
        let size = String::from_utf8_lossy(&line);
        let size = size.split([';', '\r']).next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
        body.extend(line);
        while read.len() < size {
            fill(stream, read)?;
        }
        body.extend(read.drain(..size));
        // A chunk's end, or in place of the last one's data the trailers.
        if size == 0 {
            loop {
                let line = until(stream, read, b"\r\n")?;
                body.extend(&line);
                if line == b"\r\n" {
                    return Ok(body);
                }
            }
        }
        body.extend(until(stream, read, b"\r\n")?);
    }
}

/// Takes what is there up to and with this ending.
fn until(stream: &TcpStream, read: &mut Vec<u8>, ending: &[u8]) -> io::Result<Vec<u8>> {
    loop {
        if let Some(at) = read.windows(ending.len()).position(|window| window == ending) {
            return Ok(read.drain(..at + ending.len()).collect());
        }
        fill(stream, read)?;
    }
}

fn fill(mut stream: &TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let length = stream.read(&mut buffer)?;
    if length == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    read.extend_from_slice(buffer.get(..length).unwrap_or_default());
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
