//! Connections made one after the other by several threads at once, as a busy workload makes them: the arguments and
//! the result of the `load` program.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::script::{Step, errno_name};

/// Each exchange is: connect, send this line, receive it back, wait for the server to close.
const LINE: &str = "sixteen letters\n";

/// What the server of a load plays. It closes first, so that the port that has to rest is on its side.
#[must_use]
pub fn server() -> [Step; 2] {
    [Step::ReceiveUntil("\n".to_owned()), Step::Send(LINE.to_owned())]
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Load {
    pub to: SocketAddr,
    pub threads: usize,
    /// How long each thread rests between exchanges.
    pub rest_ms: u64,
    /// Resets each connection as soon as it is made, instead of the exchange.
    pub reset: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub exchanges: Vec<Exchange>,
}

/// One exchange; times are [`now`]s.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    pub started_us: i64,
    /// When `connect()` returned.
    pub connected_us: i64,
    pub ended_us: i64,
    pub failed: Option<String>,
}

impl Load {
    /// Runs until `stop`.
    #[must_use]
    pub fn run(&self, stop: &AtomicBool) -> Report {
        let exchanges = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads).map(|_| scope.spawn(|| self.work(stop))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
        });
        Report { exchanges }
    }

    fn work(&self, stop: &AtomicBool) -> Vec<Exchange> {
        let mut exchanges = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let started_us = now();
            let connected = TcpStream::connect(self.to);
            let connected_us = now();
            let failed = connected
                .and_then(|stream| if self.reset { reset(&stream) } else { exchange(stream) })
                .err()
                .map(|error| errno_name(&error));
            exchanges.push(Exchange { started_us, connected_us, ended_us: now(), failed });
            thread::sleep(Duration::from_millis(self.rest_ms));
        }
        exchanges
    }
}

impl Report {
    #[must_use]
    pub fn failures(&self) -> Vec<&Exchange> {
        self.exchanges.iter().filter(|exchange| exchange.failed.is_some()).collect()
    }
}

fn exchange(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(LINE.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer == LINE.as_bytes() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not what was sent"))
    }
}

/// The RST goes out when the stream is dropped.
fn reset(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Microseconds of the machine's monotonic clock, which all processes share.
#[must_use]
pub fn now() -> i64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() * 1_000_000 + time.tv_nsec() / 1_000)
}
