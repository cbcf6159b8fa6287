//! nginx's configurations. It never tries a server twice for one request, so the one there is stands in them once for
//! each attempt.

use std::net::Ipv4Addr;

use redial_tests::world::SERVER_V4;

use crate::http::{GRPC_PATH, PORT, PORT_H2};
use crate::server::PORTS;

/// Debian and Ubuntu have this in a package of its own.
pub const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

const KEEPALIVE: &str = "keepalive 1024; keepalive_requests 1000000000;";

pub fn tcp(front: Ipv4Addr, threads: usize) -> String {
    let servers: Vec<String> = PORTS
        .iter()
        .map(|port| {
            format!(
                "  {}  server {{ listen {front}:{port} reuseport backlog=16384; proxy_pass port{port}; \
                 proxy_connect_timeout 5s; proxy_timeout 1m; proxy_half_close on; }}\n",
                upstream(&format!("port{port}"), *port, "")
            )
        })
        .collect();
    let servers = servers.concat();
    format!("load_module {STREAM_MODULE};\n{}stream {{\n{servers}}}\n", main(threads))
}

/// It speaks HTTP/1 to its upstream for HTTP/2, too, except for gRPC.
pub fn http(front: Ipv4Addr, threads: usize) -> String {
    let next = |what: &str| {
        format!(
            "{what}_next_upstream error timeout http_500 http_502 http_503 http_504 non_idempotent;\n      \
             {what}_next_upstream_tries 4;\n      {what}_read_timeout 10s;"
        )
    };
    format!(
        "{}http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 10m;\n  \
         {}  {}  server {{\n    listen {front}:{PORT} reuseport backlog=16384;\n    \
         listen {front}:{PORT_H2} http2 reuseport backlog=16384;\n    \
         location / {{\n      proxy_pass http://server;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n      {}\n    }}\n    \
         location {GRPC_PATH} {{\n      grpc_pass grpc://grpc;\n      {}\n    }}\n  }}\n}}\n",
        main(threads),
        upstream("server", PORT, KEEPALIVE),
        upstream("grpc", PORT_H2, KEEPALIVE),
        next("proxy"),
        next("grpc"),
    )
}

fn main(threads: usize) -> String {
    format!(
        "user root;\ndaemon off;\npid nginx.pid;\nworker_processes {threads};\n\
         events {{ worker_connections 16000; }}\n"
    )
}

fn upstream(name: &str, port: u16, more: &str) -> String {
    let server = format!("server {SERVER_V4}:{port} max_fails=0; ");
    format!("upstream {name} {{ {}{more} }}\n", server.repeat(4))
}
