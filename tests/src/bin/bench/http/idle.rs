//! Connections that wait: each has had one answer, and is kept.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};

use super::{Exchange, PORT, head};

/// Makes the connections.
pub fn open(host: Ipv4Addr, connections: usize) -> Result<Vec<TcpStream>> {
    let request = Exchange::Small.request("");
    let mut kept = Vec::new();
    for _ in 0..connections {
        let address = SocketAddr::from((host, PORT));
        let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.write_all(&request)?;
        let mut read = vec![0; 4096];
        let mut length = 0;
        loop {
            let count = stream.read(&mut read[length..])?;
            ensure!(count > 0, "the connection ended before the response");
            length += count;
            let end = head::end(&read[..length]);
            if end.is_some_and(|end| length >= end + Exchange::Small.answered()) {
                break;
            }
        }
        kept.push(stream);
    }
    Ok(kept)
}
