//! The demo's server: after some time it begins to listen, and answers every request. It ends with its standard input.

use anyhow::{Context as _, Result};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process;
use std::thread;
use std::time::Duration;

/// The longest that a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(5);
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\nConnection: close\r\n\r\nhello from the server\n";

/// Arguments of `cargo xtask demo server`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    address: SocketAddr,
    /// For how many milliseconds nobody listens.
    down_for: u64,
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
    for client in listener.incoming().flatten() {
        // A client that goes away halfway is its own affair.
        thread::spawn(move || answer(&client));
    }
    Ok(())
}

fn answer(mut client: &TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let head = BufReader::new(client.take(8192)).lines();
    for line in head {
        if line?.is_empty() {
            break;
        }
    }
    client.write_all(ANSWER)
}
