//! A client that says what it saw.
//!
//! `pod ask HOST:PORT [count=1] [every=MILLISECONDS] [timeout=MILLISECONDS] [path=/] [method=GET] [type=TYPE]
//! [connect=true]`: makes so many requests, or with `count=0` without end, each on a connection of its own, with a
//! `content-type` where one is said; with `connect` it only connects.
//! It prints a line of JSON for each: `status` and `server` of an answer, or the `error`, with `peer`, `local` and `ms`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::Options;

/// No other request is made, and the one under way is ended.
pub(crate) static ENDS: AtomicBool = AtomicBool::new(false);

struct Client {
    to: String,
    timeout: Duration,
    method: String,
    path: String,
    /// None where it is empty.
    content_type: String,
    connects: bool,
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (to, rest) = arguments.split_first().context("usage: pod ask HOST:PORT [NAME=VALUE...]")?;
    let mut options = Options::read(rest)?;
    let count: u64 = options.take("count", 1)?;
    let every = Duration::from_millis(options.take("every", 0)?);
    let client = Client {
        to: to.clone(),
        timeout: Duration::from_millis(options.take("timeout", 10_000)?),
        method: options.take("method", "GET".to_owned())?,
        path: options.take("path", "/".to_owned())?,
        content_type: options.take("type", String::new())?,
        connects: options.take("connect", false)?,
    };
    options.end()?;
    let mut number = 0;
    while !ENDS.load(Ordering::Relaxed) && (count == 0 || number < count) {
        if number > 0 {
            thread::sleep(every);
        }
        println!("{}", client.once(number));
        number += 1;
    }
    Ok(())
}

impl Client {
    fn once(&self, number: u64) -> Value {
        let start = Instant::now();
        let mut seen = json!({"number": number});
        if let Err(error) = self.attempt(&mut seen) {
            seen["error"] = word(&error).into();
        }
        seen["ms"] = (start.elapsed().as_secs_f64() * 1000.0).into();
        seen
    }

    fn attempt(&self, seen: &mut Value) -> Result<()> {
        let address = self.to.to_socket_addrs()?.find(SocketAddr::is_ipv4).context("no address")?;
        let mut connection = TcpStream::connect_timeout(&address, self.timeout)?;
        connection.set_read_timeout(Some(self.timeout))?;
        seen["peer"] = connection.peer_addr()?.to_string().into();
        seen["local"] = connection.local_addr()?.to_string().into();
        if self.connects {
            return Ok(());
        }
        let (method, path, host) = (&self.method, &self.path, &self.to);
        let content = match &*self.content_type {
            "" => String::new(),
            content_type => format!("content-type: {content_type}\r\n"),
        };
        write!(connection, "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{content}connection: close\r\n\r\n")?;
        let answer = answer(&mut connection)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).context("no status")?;
        seen["status"] = status.parse::<u16>()?.into();
        if let Ok(body) = serde_json::from_str::<Value>(body) {
            seen["server"] = body["server"].clone();
        }
        Ok(())
    }
}

/// A head and as much of a body as it tells of.
fn answer(connection: &mut TcpStream) -> Result<String> {
    let mut answer = String::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some((head, body)) = answer.split_once("\r\n\r\n") {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            if length.is_some_and(|(_, length)| length.trim().parse() == Ok(body.len())) {
                return Ok(answer);
            }
        }
        let length = connection.read(&mut chunk)?;
        if length == 0 {
            return Ok(answer);
        }
        answer.push_str(&String::from_utf8_lossy(chunk.get(..length).unwrap_or_default()));
    }
}

/// `ECONNREFUSED` and the like where the kernel said it, else the error's own words.
fn word(error: &anyhow::Error) -> String {
    let io = error.downcast_ref::<std::io::Error>();
    match io.and_then(std::io::Error::raw_os_error) {
        Some(code) => format!("{:?}", Errno::from_raw(code)),
        None => io.map_or_else(|| format!("{error:#}"), |io| io.kind().to_string()),
    }
}
