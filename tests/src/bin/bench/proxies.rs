//! The explicit proxies that redial is measured beside: how each is started. Their clients connect to them, at an address
//! of their own loopback.
//!
//! Those that speak HTTP have the same retries as redial's policy, as far as they can, as many threads, and no log.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redial_tests::envoy;
use redial_tests::world::{SERVER_V4, World};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{PORT, PORT_H2};
use crate::server::PORTS;

const PATIENCE: Duration = Duration::from_secs(30);

/// What redial retries with, where it is measured beside these.
pub const POLICY: &str = "\
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata:
  name: bench
spec:
  http:
    numRetries: 3
    retryOn: [5xx, reset, connect-failure, refused-stream]
    perTryTimeout: 2s
    timeout: 15s
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In TCP mode, with an option.
    HaProxyTcp(&'static str),
    /// Nothing but hyper: no retries, no timeouts.
    Hyper,
    Envoy,
    HaProxy,
    Nginx,
}

/// A proxy that runs.
#[derive(Debug)]
pub struct Proxy {
    pub process: Process,
    pub front: Ipv4Addr,
    _files: TempDir,
}

/// Ended when dropped.
#[derive(Debug)]
pub struct Process(pub Child);

impl Kind {
    /// Starts it in the pod's namespace and waits until it listens.
    pub fn start(self, world: &World, front: Ipv4Addr) -> Result<Proxy> {
        let files = TempDir::new()?;
        let threads = available_parallelism()?.get();
        let write = |name: &str, text: &str| {
            let file = files.path().join(name);
            fs::write(&file, text).map(|()| file)
        };
        let (mut command, port) = match self {
            Self::HaProxyTcp(option) => {
                let mut command = Command::new(program("haproxy"));
                command.args(["-db", "-f"]).arg(write("haproxy.cfg", &haproxy_tcp(front, option))?);
                (command, PORTS[0])
            }
            Self::HaProxy => {
                let mut command = Command::new(program("haproxy"));
                command.args(["-db", "-f"]).arg(write("haproxy.cfg", &haproxy(front, threads))?);
                (command, PORT)
            }
            Self::Hyper => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["hyper", &front.to_string(), &SERVER_V4.to_string(), &threads.to_string()]);
                (command, PORT)
            }
            Self::Envoy => {
                let mut command = Command::new(envoy::binary()?);
                let config = serde_json::to_string_pretty(&envoy(front))?;
                command.arg("--config-path").arg(write("envoy.json", &config)?);
                command.args(["--disable-hot-restart", "--log-level", "warn"]);
                command.args(["--concurrency", &threads.to_string()]);
                (command, PORT)
            }
            Self::Nginx => {
                let mut command = Command::new(program("nginx"));
                command.arg("-p").arg(files.path()).arg("-c");
                command.arg(write("nginx.conf", &nginx(front, threads))?).args(["-e", "stderr"]);
                (command, PORT)
            }
        };
        let log = File::create(files.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process =
            Process(world.pod.spawn(&mut command).context("`cargo xtask setup` installs the proxies")?);
        let deadline = Instant::now() + PATIENCE;
        while world.pod.run(|| Ok(TcpStream::connect(SocketAddr::from((front, port)))?)).is_err() {
            let ended = process.0.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                bail!("{self:?} does not listen: {}", fs::read_to_string(files.path().join("log"))?);
            }
            sleep(Duration::from_millis(10));
        }
        Ok(Proxy { process, front, _files: files })
    }
}

/// Daemons are in a folder that is not on everybody's PATH.
fn program(name: &str) -> String {
    let path = format!("/usr/sbin/{name}");
    if fs::exists(&path).is_ok_and(|is_there| is_there) { path } else { name.to_owned() }
}

fn haproxy_tcp(front: Ipv4Addr, option: &str) -> String {
    let [first, .., last] = PORTS;
    // A server without a port is connected to at the port that the client chose.
    format!(
        "global\n  maxconn 1000\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
         listen bench\n  bind {front}:{first}-{last}\n  {option}\n  server upstream {SERVER_V4}\n"
    )
}

fn haproxy(front: Ipv4Addr, threads: usize) -> String {
    format!(
        "global\n  maxconn 8000\n  nbthread {threads}\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 1m\n  timeout server 2s\n  \
         timeout http-keep-alive 1m\n  retries 3\n  retry-on all-retryable-errors\n\
         listen h1\n  bind {front}:{PORT} backlog 8192\n  server upstream {SERVER_V4}:{PORT}\n\
         listen h2\n  bind {front}:{PORT_H2} proto h2\n  server upstream {SERVER_V4}:{PORT_H2} proto h2\n"
    )
}

/// It speaks HTTP/1 to its upstream for HTTP/2, too.
fn nginx(front: Ipv4Addr, threads: usize) -> String {
    format!(
        "user root;\ndaemon off;\npid nginx.pid;\nworker_processes {threads};\n\
         events {{ worker_connections 8000; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 10m;\n  \
         upstream server {{ server {SERVER_V4}:{PORT}; server {SERVER_V4}:{PORT}; keepalive 1024; \
         keepalive_requests 1000000000; }}\n  \
         server {{\n    listen {front}:{PORT} reuseport backlog=8192;\n    \
         listen {front}:{PORT_H2} http2 reuseport;\n    \
         location / {{\n      proxy_pass http://server;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n      \
         proxy_next_upstream error timeout http_500 http_502 http_503 http_504 non_idempotent;\n      \
         proxy_next_upstream_tries 4;\n      proxy_read_timeout 2s;\n    }}\n  }}\n}}\n"
    )
}

fn envoy(front: Ipv4Addr) -> Value {
    let address = |host: Ipv4Addr, port: u16| json!({ "socket_address": { "address": host.to_string(), "port_value": port } });
    let retry = json!({
        "retry_on": "5xx,reset,connect-failure,refused-stream",
        "num_retries": 3,
        "per_try_timeout": "2s",
    });
    let listener = |port: u16, cluster: &str, codec: &str| {
        json!({
            "name": cluster,
            "address": address(front, port),
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
                              HttpConnectionManager",
                    "stat_prefix": cluster,
                    "codec_type": codec,
                    "route_config": { "virtual_hosts": [{
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{
                            "match": { "prefix": "/" },
                            "route": { "cluster": cluster, "timeout": "15s", "retry_policy": retry },
                        }],
                    }] },
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                        },
                    }],
                },
            }] }],
        })
    };
    let most = json!({ "thresholds": [{
        "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000,
    }] });
    let cluster = |name: &str, port: u16, protocol: &str| {
        json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "2s",
            "circuit_breakers": most,
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [
                { "endpoint": { "address": address(SERVER_V4, port) } },
            ] }] },
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { protocol: {} },
            } },
        })
    };
    json!({ "static_resources": {
        "listeners": [listener(PORT, "h1", "HTTP1"), listener(PORT_H2, "h2", "HTTP2")],
        "clusters": [
            cluster("h1", PORT, "http_protocol_options"),
            cluster("h2", PORT_H2, "http2_protocol_options"),
        ],
    } })
}

impl Drop for Process {
    fn drop(&mut self) {
        // By SIGTERM, for nginx has processes of its own to end.
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
