//! A server of HTTP that can fail first.
//!
//! `pod serve PORT [reset=COUNT] [unavailable=COUNT] [refuse=MILLISECONDS] [hang=COUNT]`: refuses connections for so
//! long, then resets the first requests, then leaves some without an answer, then answers some with 503, then all with
//! 200 and a line of JSON, which it prints too. What is 503 has gRPC's word for it besides.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;
use serde_json::json;

use crate::Options;

struct Server {
    name: String,
    reset: u64,
    hang: u64,
    unavailable: u64,
    requests: AtomicU64,
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (port, rest) = arguments.split_first().context("usage: pod serve PORT [NAME=VALUE...]")?;
    let mut options = Options::read(rest)?;
    thread::sleep(Duration::from_millis(options.take("refuse", 0)?));
    let server = Server {
        name: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        reset: options.take("reset", 0)?,
        hang: options.take("hang", 0)?,
        unavailable: options.take("unavailable", 0)?,
        requests: AtomicU64::new(0),
    };
    options.end()?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.parse()?)).context("listening")?;
    thread::scope(|scope| {
        for connection in listener.incoming().flatten() {
            let server = &server;
            // A client that goes away is the client's affair.
            scope.spawn(move || drop(server.connection(&connection)));
        }
        Ok(())
    })
}

impl Server {
    fn connection(&self, connection: &TcpStream) -> Result<()> {
        let mut lines = BufReader::new(connection).lines();
        while let Some(first) = lines.next() {
            let first = first?;
            let mut length = 0;
            for header in lines.by_ref() {
                let header = header?.to_ascii_lowercase();
                if let Some(value) = header.strip_prefix("content-length:") {
                    length = value.trim().parse()?;
                }
                if header.is_empty() {
                    break;
                }
            }
            anyhow::ensure!(length == 0, "requests have no body here");
            self.answer(connection, &first)?;
        }
        Ok(())
    }

    fn answer(&self, mut connection: &TcpStream, request: &str) -> Result<()> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let hangs = self.reset + self.hang;
        let status = match number {
            _ if number < self.reset => "reset",
            _ if number < hangs => "none",
            _ if number < hangs + self.unavailable => "503 Service Unavailable",
            _ => "200 OK",
        };
        let peer = connection.peer_addr()?.to_string();
        let line = json!({
            "server": self.name, "number": number, "request": request, "peer": peer, "status": status,
        });
        println!("{line}");
        match status {
            "reset" => {
                setsockopt(&connection, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
                anyhow::bail!("reset");
            }
            "none" => {
                thread::sleep(Duration::from_hours(1));
                Ok(())
            }
            status => {
                let body = format!("{line}\n");
                let length = body.len();
                let grpc = if status.starts_with("503") { "grpc-status: 14\r\n" } else { "" };
                let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{grpc}");
                write!(connection, "{head}content-length: {length}\r\n\r\n{body}")?;
                Ok(())
            }
        }
    }
}
