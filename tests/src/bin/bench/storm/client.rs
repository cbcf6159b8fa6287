//! The clients: one thread that goes round all connections at an even pace, whatever becomes of their requests.

use std::io::{ErrorKind, Read as _, Write as _, stdin, stdout};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Asked, Plan, count};
use crate::client::ready;
use crate::http::{Exchange, PORT, head};

struct Connection {
    stream: TcpStream,
    is_waiting: bool,
}

/// Asks until the plan ends, and says what came of it.
pub fn ask(host: Ipv4Addr, plan: Plan) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut open = Vec::new();
    for index in 0..plan.connections {
        let address = SocketAddr::from((host, PORT));
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(index)?))?;
        open.push(Connection { stream, is_waiting: false });
    }
    ready()?;
    let request = Exchange::Small.request("");
    let mut asked = Asked::default();
    let mut chunk = [0; 4096];
    let mut events = [EpollEvent::empty(); 256];
    let began = Instant::now();
    let mut turn: u32 = 0;
    loop {
        let now = began.elapsed();
        if now.as_secs_f64() >= plan.ends {
            break;
        }
        while due(turn, plan.rate) <= now {
            let connection = &mut open[usize::try_from(turn)? % plan.connections];
            // Who still waits for an answer asks for nothing else.
            if !connection.is_waiting {
                connection.stream.write_all(&request)?;
                connection.is_waiting = true;
                count(&mut asked.begun, now)?;
            }
            turn += 1;
        }
        // Rounded up: the next turn is then due.
        let pause = u16::try_from(due(turn, plan.rate).saturating_sub(now).as_millis() + 1)?;
        let ready = epoll.wait(&mut events, EpollTimeout::from(pause))?;
        for event in &events[..ready] {
            let connection = &mut open[usize::try_from(event.data())?];
            let good = connection.receive(&mut chunk)?;
            count(if good { &mut asked.answered } else { &mut asked.failed }, began.elapsed())?;
        }
    }
    writeln!(stdout(), "{}", serde_json::to_string(&asked)?)?;
    // Everything stays open until all is counted.
    stdin().read_exact(&mut [0])?;
    Ok(())
}

fn due(turn: u32, rate: u32) -> Duration {
    Duration::from_secs_f64(f64::from(turn) / f64::from(rate))
}

impl Connection {
    /// Reads a response, which is short enough to come at once, and says whether it is a good one.
    fn receive(&mut self, chunk: &mut [u8]) -> Result<bool> {
        let count = match self.stream.read(chunk) {
            Ok(0) => bail!("the connection ended"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("woken for nothing"),
            Err(error) => return Err(error).context("waiting for a response"),
        };
        let end = head::end(&chunk[..count]).context("half a response")?;
        let length = head::content_length(&chunk[..end])?;
        if count != end + length || !self.is_waiting {
            bail!("not one response: {}", String::from_utf8_lossy(&chunk[..count]));
        }
        self.is_waiting = false;
        Ok(chunk.starts_with(b"HTTP/1.1 200 "))
    }
}
