//! HAProxy's configurations.

use std::net::Ipv4Addr;

use redial_tests::world::SERVER_V4;

use crate::http::{PORT, PORT_H2};
use crate::server::PORTS;

/// In TCP mode, with an option.
pub fn tcp(front: Ipv4Addr, threads: usize, option: &str) -> String {
    let [first, .., last] = PORTS;
    // A server without a port is connected to at the port that the client chose.
    format!(
        "global\n  nbthread {threads}\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
         listen bench\n  bind {front}:{first}-{last}\n  {option}\n  server upstream {SERVER_V4}\n"
    )
}

/// A request that it may send again has to fit into one of its buffers, which are of 16 KiB otherwise.
pub fn http(front: Ipv4Addr, threads: usize) -> String {
    format!(
        "global\n  nbthread {threads}\n  tune.bufsize 32768\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 1m\n  timeout server 10s\n  \
         timeout http-keep-alive 1m\n  retries 3\n  retry-on all-retryable-errors\n\
         listen h1\n  bind {front}:{PORT} backlog 16384\n  server upstream {SERVER_V4}:{PORT}\n\
         listen h2\n  bind {front}:{PORT_H2} proto h2\n  server upstream {SERVER_V4}:{PORT_H2} proto h2\n"
    )
}
