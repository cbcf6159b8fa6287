//! The ways from a client to the server, and what stands on them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use redial_tests::agent::{Agent, Options};
use redial_tests::cgroup::Cgroup;
use redial_tests::world::{SERVER_V4, World};

use crate::proxies::{Kind, POLICY, Process, Proxy};
use crate::work::{Case, Done, Measured, Metric, Work};

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
    /// As above, with a policy for requests. The other proxies write no log of them.
    RedialHttp {
        handshake: &'static str,
        is_logged: bool,
    },
    Proxy {
        kind: Kind,
        front: Ipv4Addr,
    },
}

pub const TCP_PATHS: &[Path] = &[
    Path { name: "direct", via: Via::Nothing },
    Path { name: "redial eager", via: Via::Redial { handshake: "eager" } },
    Path { name: "redial held", via: Via::Redial { handshake: "held" } },
    proxy("haproxy", Kind::HaProxyTcp(""), 1),
    proxy("haproxy splice", Kind::HaProxyTcp("option splice-auto"), 2),
];

pub const HTTP_PATHS: &[Path] = &[
    Path { name: "direct", via: Via::Nothing },
    Path { name: "redial eager", via: Via::RedialHttp { handshake: "eager", is_logged: false } },
    Path { name: "redial held", via: Via::RedialHttp { handshake: "held", is_logged: false } },
    Path { name: "redial logged", via: Via::RedialHttp { handshake: "held", is_logged: true } },
    proxy("bare hyper", Kind::Hyper, 3),
    proxy("envoy", Kind::Envoy, 4),
    proxy("haproxy", Kind::HaProxy, 5),
    proxy("nginx", Kind::Nginx, 6),
];

const fn proxy(name: &'static str, kind: Kind, last: u8) -> Path {
    Path { name, via: Via::Proxy { kind, front: Ipv4Addr::new(127, 0, 0, last) } }
}

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
    Proxy(Proxy),
}

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
            Via::Redial { handshake } => Running::redial(world, handshake, &Options::default())?,
            Via::RedialHttp { handshake, is_logged } => {
                let options =
                    Options { config: Some(POLICY), has_no_access_log: !is_logged, ..Options::default() };
                Running::redial(world, handshake, &options)?
            }
            Via::Proxy { kind, front } => Running::Proxy(kind.start(world, front)?),
        };
        Ok(Open { path: self, proxy })
    }
}

impl Running {
    fn redial(world: &World, handshake: &str, options: &Options<'_>) -> Result<Self> {
        let cgroup = Cgroup::new(&format!("bench-{handshake}"))?;
        world.pause(&cgroup)?;
        let options = Options { arguments: &["--handshake", handshake], ..*options };
        Ok(Self::Redial { agent: Agent::start_with(&[&cgroup], &options)?, cgroup })
    }

    fn pid(&self) -> Option<u32> {
        match self {
            Self::Nothing => None,
            Self::Redial { agent, .. } => Some(agent.pid()),
            Self::Proxy(proxy) => Some(proxy.process.0.id()),
        }
    }
}

impl Open {
    /// Runs a client of a case on this path, and adds what its proxy spent.
    pub fn measure(&self, world: &World, case: &Case, time: Duration) -> Result<Measured> {
        let program = std::env::current_exe()?;
        let (mut command, host) = match &self.proxy {
            Running::Nothing => (Command::new(program), SERVER_V4),
            Running::Redial { cgroup, .. } => (cgroup.command(program), SERVER_V4),
            Running::Proxy(proxy) => (Command::new(program), proxy.front),
        };
        command.args(["client", case.name, &host.to_string(), &time.as_secs_f64().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let before = self.cpu_seconds()?;
        let machine_before = machine_seconds()?;
        let memory_before = self.memory_kib()?;
        let mut client = world.pod.spawn(&mut command)?;
        let mut grown = None;
        if matches!(case.work, Work::Idle { .. }) {
            let mut line = String::new();
            BufReader::new(client.stdout.as_mut().context("no stdout")?).read_line(&mut line)?;
            ensure!(line == "kept\n", "the client said: {line}");
            grown = self.memory_kib()?.zip(memory_before).map(|(now, before)| now - before);
        }
        let output = client.wait_with_output()?;
        let machine = machine_seconds()? - machine_before;
        let after = self.settled_cpu_seconds()?;
        ensure!(output.status.success(), "the client failed: {}", output.status);
        let mut measured: Measured = serde_json::from_slice(&output.stdout).context("the client's result")?;
        if let Some((before, after)) = before.zip(after) {
            measured.values.extend(measured.cpu(case.work, after - before));
        }
        if matches!(case.work, Work::Requests { .. } | Work::Streams { .. }) {
            measured.values.push((Metric::MachineMicrosecondsPerRequest, machine * 1e6 / measured.requests));
        }
        if let Some(grown) = grown {
            measured.values.push((Metric::KibibytesPerConnection, grown / measured.connections));
        }
        Ok(measured)
    }

    /// Fails if redial did not make as many connections as the clients did, or did not see as many requests: then the
    /// numbers are those of something else, for redial lets through what it cannot help.
    pub fn check(&self, done: Done) -> Result<()> {
        let Running::Redial { agent, .. } = &self.proxy else { return Ok(()) };
        let metrics = agent.metrics()?;
        let made = metrics.sum("redial_connection_attempts_total", &[("outcome", "connected")]);
        let seen = metrics.sum("redial_requests_total", &[("status", "2xx")]);
        let Done { connections, requests } = done;
        ensure!(
            made >= connections && seen >= requests,
            "{}: of {connections} connections of its clients, {made} were made to the server, and of {requests} \
             requests, {seen} were seen",
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

    /// What the proxy has spent so far, in user and kernel, and the processes that it has started.
    fn cpu_seconds(&self) -> Result<Option<f64>> {
        let Some(pid) = self.proxy.pid() else { return Ok(None) };
        processes(pid)?.into_iter().map(cpu_seconds).sum::<Result<f64>>().map(Some)
    }

    /// What of them is in memory and theirs alone.
    fn memory_kib(&self) -> Result<Option<f64>> {
        let Some(pid) = self.proxy.pid() else { return Ok(None) };
        processes(pid)?.into_iter().map(memory_kib).sum::<Result<f64>>().map(Some)
    }
}

fn processes(pid: u32) -> Result<Vec<u32>> {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).context("the proxy has ended")?;
    let children = children.split_whitespace().map(|child| Ok(child.parse()?));
    std::iter::once(Ok(pid)).chain(children).collect()
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the proxy has ended")?;
    // The name, in brackets, may have blanks in it; utime and stime are the 14th and 15th field.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    seconds(fields.split_whitespace().skip(11).take(2))
}

/// What all processors have spent so far on anything.
fn machine_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().context("/proc/stat")?;
    // user, nice, system, idle, iowait, irq, softirq
    let fields = all.split_whitespace().skip(1).take(7).enumerate();
    seconds(fields.filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, ticks)| ticks))
}

/// USER_HZ is 100 on every architecture that Rust's standard library runs on.
fn seconds<'a>(ticks: impl Iterator<Item = &'a str>) -> Result<f64> {
    ticks.map(|ticks| Ok(ticks.parse::<f64>()? / 100.0)).sum()
}

fn memory_kib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the proxy has ended")?;
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(anonymous.trim().trim_end_matches(" kB").parse()?)
}
