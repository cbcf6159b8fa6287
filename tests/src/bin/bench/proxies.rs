//! The proxies that redial is measured beside: how each is started. Clients connect to the explicit ones, at an address of
//! their own loopback; Envoy stands in a pod's way as well, by a redirect.
//!
//! Those that speak HTTP have the same retries as redial's policy, as far as they can, as many threads, and no log.

mod envoy;
mod haproxy;
mod nginx;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redial_tests::netns::Netns;
use redial_tests::world::{SERVER_V4, World};
use tempfile::TempDir;

use crate::http::PORT;
use crate::server::PORTS;

const PATIENCE: Duration = Duration::from_secs(30);

/// What redial retries with, where it is measured beside these. The others have no budget, and two of them no pauses.
pub const POLICY: &str = "\
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata:
  name: bench
spec:
  budget: {percent: 100, minPerSecond: 100000}
  http:
    numRetries: 3
    retryOn: [5xx, reset, connect-failure, refused-stream]
    methods: any
    perTryTimeout: 10s
    timeout: 30s
    backOff: {baseInterval: 1ms, maxInterval: 10ms}
";

/// That policy, with upstream connections that the clients' share.
pub fn pooled() -> String {
    format!("{POLICY}    upstream: pool\n")
}

/// That policy, among others that are about other destinations.
pub fn policies(count: usize) -> String {
    let others = (1..count).map(|index| {
        format!(
            "apiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: other-{index}}}\n\
             spec: {{to: [{{cidrs: [172.16.{}.{}/32], ports: [{PORT}]}}], http: {{}}}}\n---\n",
            index / 256,
            index % 256
        )
    });
    others.chain([POLICY.to_owned()]).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In TCP mode, with an option.
    HaProxyTcp(&'static str),
    NginxTcp,
    /// Nothing but hyper: no retries, no timeouts.
    Hyper,
    /// In a namespace of its own with the workload, whose connections are redirected to it.
    EnvoyTransparent,
    Envoy,
    HaProxy,
    Nginx,
}

/// A proxy that runs.
#[derive(Debug)]
pub struct Proxy {
    pub process: Process,
    /// Where its clients are, if that is not the world's pod.
    pub netns: Option<Netns>,
    /// What they connect to.
    pub host: Ipv4Addr,
    _files: TempDir,
}

/// Ended when dropped.
#[derive(Debug)]
pub struct Process(pub Child);

impl Kind {
    /// Starts it beside its clients and waits until it listens.
    pub fn start(self, world: &World, front: Ipv4Addr) -> Result<Proxy> {
        let files = TempDir::new()?;
        let netns = (self == Self::EnvoyTransparent).then(|| mesh(world)).transpose()?;
        let host = if netns.is_some() { SERVER_V4 } else { front };
        let inside = netns.as_ref().unwrap_or(&world.pod);
        let mut command = self.command(front, &files)?;
        let log = File::create(files.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process =
            Process(inside.spawn(&mut command).context("`cargo xtask setup` installs the proxies")?);
        let address = SocketAddr::from((host, self.port()));
        let deadline = Instant::now() + PATIENCE;
        while inside.run(|| Ok(TcpStream::connect(address)?)).is_err() {
            let ended = process.0.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                bail!("{self:?} does not listen: {}", fs::read_to_string(files.path().join("log"))?);
            }
            sleep(Duration::from_millis(10));
        }
        Ok(Proxy { process, netns, host, _files: files })
    }

    fn command(self, front: Ipv4Addr, files: &TempDir) -> Result<Command> {
        let threads = available_parallelism()?.get();
        let write = |name: &str, text: &str| {
            let file = files.path().join(name);
            fs::write(&file, text).map(|()| file)
        };
        let haproxy = |config: &str| {
            let mut command = Command::new(program("haproxy"));
            command.args(["-db", "-f"]).arg(write("haproxy.cfg", config)?);
            anyhow::Ok(command)
        };
        let nginx = |config: &str| {
            let mut command = Command::new(program("nginx"));
            command.arg("-p").arg(files.path()).arg("-c").arg(write("nginx.conf", config)?);
            command.args(["-e", "stderr"]);
            anyhow::Ok(command)
        };
        let envoy = |config| {
            let mut command = Command::new(redial_tests::envoy::binary()?);
            command.arg("--config-path").arg(write("envoy.json", &serde_json::to_string_pretty(&config)?)?);
            command.args(["--disable-hot-restart", "--log-level", "warn"]);
            command.args(["--concurrency", &threads.to_string()]).gid(envoy::GROUP);
            anyhow::Ok(command)
        };
        match self {
            Self::HaProxyTcp(option) => haproxy(&haproxy::tcp(front, threads, option)),
            Self::HaProxy => haproxy(&haproxy::http(front, threads)),
            Self::NginxTcp => nginx(&nginx::tcp(front, threads)),
            Self::Nginx => nginx(&nginx::http(front, threads)),
            Self::EnvoyTransparent => envoy(envoy::transparent()),
            Self::Envoy => envoy(envoy::explicit(front)),
            Self::Hyper => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["hyper", &front.to_string(), &SERVER_V4.to_string(), &threads.to_string()]);
                Ok(command)
            }
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::HaProxyTcp(_) | Self::NginxTcp | Self::EnvoyTransparent => PORTS[0],
            Self::Hyper | Self::Envoy | Self::HaProxy | Self::Nginx => PORT,
        }
    }
}

/// Another pod of the same server, so that nobody else's connections pass the redirect and the tracking it needs.
fn mesh(world: &World) -> Result<Netns> {
    let mesh = Netns::new("bench-mesh")?;
    Netns::connect((&world.server, "mesh"), (&mesh, "eth0"))?;
    for (netns, device, address) in [(&world.server, "mesh", "10.2.0.2/24"), (&mesh, "eth0", "10.2.0.1/24")] {
        netns.ip(&["address", "add", address, "dev", device])?;
        netns.ip(&["link", "set", device, "up"])?;
    }
    mesh.ip(&["route", "add", &SERVER_V4.to_string(), "via", "10.2.0.2"])?;
    for_many_connections(&mesh)?;
    envoy::redirect(&mesh)?;
    Ok(mesh)
}

/// The ports of closed connections are lent again after a second. That and more of them to begin with let a busy client
/// go on; redial's own listener is above them. And thousands connect at once where memory is measured.
pub fn for_many_connections(netns: &Netns) -> Result<()> {
    netns.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    netns.sysctl("net/ipv4/ip_local_port_range", "10000 60999")?;
    netns.sysctl("net/core/somaxconn", "16384")
}

/// Daemons are in a folder that is not on everybody's PATH.
fn program(name: &str) -> String {
    let path = format!("/usr/sbin/{name}");
    if fs::exists(&path).is_ok_and(|is_there| is_there) { path } else { name.to_owned() }
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
