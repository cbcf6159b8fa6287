//! The ways from a client to the server, and what stands on them.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use redial_tests::agent::{Agent, Options};
use redial_tests::cgroup::Cgroup;
use redial_tests::world::{SERVER_V4, World};
use tempfile::TempDir;

use crate::server::PORTS;
use crate::work::{Case, Measured};

const PATIENCE: Duration = Duration::from_secs(30);
/// A proxy that spends less than a tick in this time is idle.
const QUIET: Duration = Duration::from_millis(50);
const SETTLING: Duration = Duration::from_secs(3);

/// A column of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub name: &'static str,
    via: Via,
}

#[derive(Clone, Copy, Debug)]
enum Via {
    Nothing,
    Redial {
        handshake: &'static str,
    },
    /// An explicit proxy: its clients connect to it, at an address of their own loopback.
    HaProxy {
        front: Ipv4Addr,
        options: &'static str,
    },
}

/// The first is the one that all others are compared with.
pub const PATHS: &[Path] = &[
    Path { name: "direct", via: Via::Nothing },
    Path { name: "redial eager", via: Via::Redial { handshake: "eager" } },
    Path { name: "redial held", via: Via::Redial { handshake: "held" } },
    Path { name: "haproxy", via: Via::HaProxy { front: Ipv4Addr::LOCALHOST, options: "" } },
    Path {
        name: "haproxy splice",
        via: Via::HaProxy { front: Ipv4Addr::new(127, 0, 0, 2), options: "option splice-auto" },
    },
];

/// A path with everything on it running.
#[derive(Debug)]
pub struct Open {
    pub path: Path,
    proxy: Running,
}

#[derive(Debug)]
enum Running {
    Nothing,
    Redial { agent: Agent, cgroup: Cgroup },
    HaProxy { process: Process, front: Ipv4Addr, _files: TempDir },
}

/// Killed when dropped.
#[derive(Debug)]
pub struct Process(Child);

/// Starts the server that all paths lead to.
pub fn start_server(world: &World) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["server", &SERVER_V4.to_string()]).stdout(Stdio::piped());
    let mut process = Process(world.server.spawn(&mut command)?);
    let output = process.0.stdout.take().context("no stdout")?;
    let line = BufReader::new(output).lines().next().context("the server did not start")??;
    ensure!(line == "listening", "the server said: {line}");
    Ok(process)
}

impl Path {
    /// Starts what stands on this path. The server is there already.
    pub fn open(self, world: &World) -> Result<Open> {
        let proxy = match self.via {
            Via::Nothing => Running::Nothing,
            Via::Redial { handshake } => {
                let cgroup = Cgroup::new(&format!("bench-{handshake}"))?;
                world.pause(&cgroup)?;
                let options = Options { arguments: &["--handshake", handshake], ..Options::default() };
                Running::Redial { agent: Agent::start_with(&[&cgroup], &options)?, cgroup }
            }
            Via::HaProxy { front, options } => start_haproxy(world, front, options)?,
        };
        Ok(Open { path: self, proxy })
    }
}

fn start_haproxy(world: &World, front: Ipv4Addr, options: &str) -> Result<Running> {
    let [first, .., last] = PORTS;
    // A server without a port is connected to at the port that the client chose.
    let config = format!(
        "global\n  maxconn 1000\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
         listen bench\n  bind {front}:{first}-{last}\n  {options}\n  server upstream {SERVER_V4}\n"
    );
    let files = TempDir::new()?;
    let file = files.path().join("haproxy.cfg");
    fs::write(&file, config)?;
    let log = File::create(files.path().join("log"))?;
    let program = if fs::exists("/usr/sbin/haproxy")? { "/usr/sbin/haproxy" } else { "haproxy" };
    let mut command = Command::new(program);
    command.args(["-db", "-f"]).arg(file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut process = Process(world.pod.spawn(&mut command).context("`cargo xtask setup` installs haproxy")?);
    let deadline = Instant::now() + PATIENCE;
    while world.pod.run(|| Ok(TcpStream::connect(SocketAddr::from((front, first)))?)).is_err() {
        let ended = process.0.try_wait()?.is_some();
        if ended || Instant::now() > deadline {
            anyhow::bail!("haproxy does not listen: {}", fs::read_to_string(files.path().join("log"))?);
        }
        sleep(Duration::from_millis(10));
    }
    Ok(Running::HaProxy { process, front, _files: files })
}

impl Open {
    /// Runs a client of a case on this path, and adds what its proxy spent.
    pub fn measure(&self, world: &World, case: &Case, time: Duration) -> Result<Measured> {
        let program = std::env::current_exe()?;
        let (mut command, host) = match &self.proxy {
            Running::Nothing => (Command::new(program), SERVER_V4),
            Running::Redial { cgroup, .. } => (cgroup.command(program), SERVER_V4),
            Running::HaProxy { front, .. } => (Command::new(program), *front),
        };
        command.args(["client", case.name, &host.to_string(), &time.as_secs_f64().to_string()]);
        let before = self.cpu_seconds()?;
        let client = world.pod.spawn(command.stdout(Stdio::piped()).stderr(Stdio::inherit()))?;
        let output = client.wait_with_output()?;
        let after = self.settled_cpu_seconds()?;
        ensure!(output.status.success(), "the client failed: {}", output.status);
        let mut measured: Measured = serde_json::from_slice(&output.stdout).context("the client's result")?;
        if let Some((before, after)) = before.zip(after) {
            measured.values.extend(measured.cpu(case.work, after - before));
        }
        Ok(measured)
    }

    /// Fails if redial did not make as many connections as the clients did: then the numbers are those of something
    /// else, for redial lets a client through where it cannot help it.
    pub fn check(&self, connections: f64) -> Result<()> {
        let Running::Redial { agent, .. } = &self.proxy else { return Ok(()) };
        let made = agent.metrics()?.sum("redial_connection_attempts_total", &[("outcome", "connected")]);
        ensure!(
            made >= connections,
            "{}: of {connections} connections of its clients, {made} were made to the server",
            self.path.name
        );
        Ok(())
    }

    /// What the proxy has spent when it has nothing left to do. A client may be ahead of it, and neither its own
    /// measurement nor the next one's should lack that time or have it.
    fn settled_cpu_seconds(&self) -> Result<Option<f64>> {
        let deadline = Instant::now() + SETTLING;
        let mut spent = self.cpu_seconds()?;
        while spent.is_some() && Instant::now() < deadline {
            sleep(QUIET);
            let now = self.cpu_seconds()?;
            if now == spent {
                break;
            }
            spent = now;
        }
        Ok(spent)
    }

    /// What the proxy has spent so far, in user and kernel.
    fn cpu_seconds(&self) -> Result<Option<f64>> {
        let pid = match &self.proxy {
            Running::Nothing => return Ok(None),
            Running::Redial { agent, .. } => agent.pid(),
            Running::HaProxy { process, .. } => process.0.id(),
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the proxy has ended")?;
        // The name, in brackets, may have blanks in it; utime and stime are the 14th and 15th field.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
        let ticks: Vec<u32> =
            fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        // USER_HZ is 100 on every architecture that Rust's standard library runs on.
        Ok(Some(f64::from(ticks.iter().sum::<u32>()) / 100.0))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
