//! The server: the first byte of a connection says what it is to do.

use std::io::{ErrorKind, Read, Write, stdout};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::{io, thread};

use anyhow::Result;

use crate::http;

/// Everything goes round these ports, so that no path runs out of client ports before the kernel lends them again.
pub const PORTS: [u16; 4] = [7000, 7001, 7002, 7003];

/// Sends back whatever comes.
pub const ECHO: u8 = b'e';
/// Takes everything, and answers its end with the count of bytes, eight of them, big-endian.
pub const TAKE: u8 = b't';
/// Gives without end.
pub const GIVE: u8 = b'g';
/// Says how many requests have come so far, four bytes, big-endian.
pub const COUNT: u8 = b'c';

/// Of each read and write that moves bulk.
pub const CHUNK: usize = 128 * 1024;

/// As many connections are served at a time for each port. Threads that wait for connections cost less at each than
/// starting one would.
const THREADS: usize = 96;

/// Says that it listens, and serves until it is killed.
pub fn serve(host: Ipv4Addr) -> Result<()> {
    let listeners = PORTS
        .iter()
        .map(|port| TcpListener::bind(SocketAddr::from((host, *port))))
        .collect::<io::Result<Vec<_>>>()?;
    thread::scope(|scope| {
        for listener in &listeners {
            for _ in 0..THREADS {
                scope.spawn(|| accept(listener));
            }
        }
        http::server::start(host)?;
        Ok(writeln!(stdout(), "listening")?)
    })
}

fn accept(listener: &TcpListener) {
    let mut chunk = vec![0; CHUNK];
    while let Ok((stream, _)) = listener.accept() {
        // How a connection ends is the client's business: it resets those that it has seen enough of.
        drop(converse(stream, &mut chunk));
    }
}

fn converse(mut stream: TcpStream, chunk: &mut [u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wanted = [0];
    match stream.read_exact(&mut wanted) {
        // A client that only connects.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
        result => result?,
    }
    match wanted[0] {
        ECHO => loop {
            match stream.read(chunk)? {
                0 => return Ok(()),
                count => stream.write_all(&chunk[..count])?,
            }
        },
        TAKE => {
            let mut total = 0_u64;
            loop {
                match u64::try_from(stream.read(chunk)?).map_err(io::Error::other)? {
                    0 => return stream.write_all(&total.to_be_bytes()),
                    count => total += count,
                }
            }
        }
        GIVE => loop {
            stream.write_all(chunk)?;
        },
        COUNT => stream.write_all(&http::server::REQUESTS.load(Ordering::Relaxed).to_be_bytes()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}
