//! The demo's client: a plain program that knows nothing of redial. It makes requests at a steady pace, each on a
//! connection of its own, and says for each how long `connect()` and all of it took and what came of it.

use super::table::Request;
use anyhow::{Result, anyhow};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// The first line, printed before the first request.
pub(super) const BEGINS: &str = "begins";

/// The longest that a server may take for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `cargo xtask demo client`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    to: SocketAddr,
    requests: u32,
    /// Milliseconds from the start of one request to that of the next.
    every: u64,
    /// The milliseconds after which it gives up connecting.
    patience: u64,
}

/// Prints a line for each request.
pub(super) fn run(args: &Args) -> Result<()> {
    let (to, patience) = (args.to, Duration::from_millis(args.patience));
    println!("{BEGINS}");
    let start = Instant::now();
    let mut requests = Vec::new();
    for number in 0..args.requests {
        let due = start + Duration::from_millis(args.every) * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        requests.push(thread::spawn(move || request(to, patience)));
    }
    for request in requests {
        println!("{}", request.join().map_err(|_| anyhow!("a request panicked"))?);
    }
    Ok(())
}

fn request(to: SocketAddr, patience: Duration) -> Request {
    let start = Instant::now();
    let connected = TcpStream::connect_timeout(&to, patience);
    let connect = start.elapsed();
    let error = connected.and_then(exchange).err().map(|error| name(&error));
    Request { connect, whole: start.elapsed(), error }
}

fn exchange(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.get(..12) {
        Some("HTTP/1.1 200") => Ok(()),
        Some(line) => Err(io::Error::other(line.replace("HTTP/1.1", "HTTP"))),
        None => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// The error's name in errno.h. The time-outs that this program sets have none, for they are not the network's.
fn name(error: &io::Error) -> String {
    let Some(errno) = error.raw_os_error() else { return error.to_string() };
    let name = match error.kind() {
        ErrorKind::ConnectionRefused => "ECONNREFUSED",
        ErrorKind::ConnectionReset => "ECONNRESET",
        ErrorKind::HostUnreachable => "EHOSTUNREACH",
        ErrorKind::NetworkUnreachable => "ENETUNREACH",
        ErrorKind::TimedOut => "ETIMEDOUT",
        _ => return format!("errno {errno}"),
    };
    name.to_owned()
}
