//! The demo's server: after some time it begins to listen, and answers every request, or fails some on purpose. It ends with
//! its standard input.

use anyhow::{Context as _, Result};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process;
use std::thread;
use std::time::Duration;

/// The longest that a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(5);
const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\nConnection: close\r\n\r\nhello from the server\n";

/// Arguments of `cargo xtask demo server`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    address: SocketAddr,
    /// For how many milliseconds nobody listens.
    down_for: u64,
    /// How many of a hundred requests are answered with 503 or a reset, by turns.
    fails: u64,
}

/// Prints a line once it listens.
pub(super) fn run(args: &Args) -> Result<()> {
    thread::spawn(|| {
        // Whatever comes, this ends only when whoever started us has gone.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    thread::sleep(Duration::from_millis(args.down_for));
    let listener =
        TcpListener::bind(args.address).with_context(|| format!("cannot listen on {}", args.address))?;
    println!("listening");
    let mut chance = Chance(88_172_645_463_325_252);
    let mut failures = 0;
    for client in listener.incoming().flatten() {
        let fate = if chance.percent() >= args.fails {
            Fate::Answer
        } else {
            failures += 1;
            if failures % 2 == 0 { Fate::Reset } else { Fate::Unavailable }
        };
        // A client that goes away halfway is its own affair.
        thread::spawn(move || answer(&client, fate));
    }
    Ok(())
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answer,
    Unavailable,
    Reset,
}

/// Numbers that look random and are the same in every run (Marsaglia's xorshift).
struct Chance(u64);

impl Chance {
    /// From 0 to 99.
    fn percent(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % 100
    }
}

fn answer(mut client: &TcpStream, fate: Fate) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let answer = match fate {
        Fate::Answer => ANSWER,
        Fate::Unavailable => UNAVAILABLE,
        // The kernel resets a connection that is closed before all that came was read.
        Fate::Reset => return client.read_exact(&mut [0]),
    };
    let head = BufReader::new(client.take(8192)).lines();
    for line in head {
        if line?.is_empty() {
            break;
        }
    }
    client.write_all(answer)
}
