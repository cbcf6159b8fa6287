//! The ways from a client to the server, and what stands on them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use redial_tests::agent::{Agent, Options};
use redial_tests::cgroup::Cgroup;
use redial_tests::netns::Netns;
use redial_tests::world::{SERVER_V4, World, pause};

use crate::client::READY;
use crate::http::streams::{Call, Streaming};
use crate::proxies::{Kind, POLICY, Process, Proxy, policies, pooled};
use crate::report::REDIAL;
use crate::server::{COUNT, PORTS};
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
        /// Its connections to the server are shared.
        is_pooled: bool,
    },
    /// For requests, with a number of policies, of which all but one are about other destinations.
    Policies(usize),
    /// For requests, with a number of pods enrolled.
    Pods(usize),
    /// Past an agent that other workloads of the same network namespace are enrolled with, or none. It runs only
    /// meanwhile, so nothing else is to be measured beside this.
    NotEnrolled {
        is_there_an_agent: bool,
    },
    Proxy {
        kind: Kind,
        front: Ipv4Addr,
    },
}

pub const TCP_PATHS: &[Path] = &[
    Path { name: "direct", via: Via::Nothing },
    Path { name: "redial eager", via: Via::Redial { handshake: "eager" } },
    Path { name: REDIAL, via: Via::Redial { handshake: "held" } },
    proxy("envoy", Kind::EnvoyTransparent, 1),
    proxy("haproxy", Kind::HaProxyTcp(""), 2),
    proxy("haproxy splice", Kind::HaProxyTcp("option splice-auto"), 3),
    proxy("nginx", Kind::NginxTcp, 4),
];

pub const HTTP_PATHS: &[Path] = &[
    Path { name: "direct", via: Via::Nothing },
    Path {
        name: "redial eager",
        via: Via::RedialHttp { handshake: "eager", is_logged: false, is_pooled: false },
    },
    Path { name: REDIAL, via: Via::RedialHttp { handshake: "held", is_logged: false, is_pooled: false } },
    Path {
        name: "redial logged",
        via: Via::RedialHttp { handshake: "held", is_logged: true, is_pooled: false },
    },
    Path {
        name: "redial pool",
        via: Via::RedialHttp { handshake: "held", is_logged: false, is_pooled: true },
    },
    proxy("bare hyper", Kind::Hyper, 1),
    proxy("envoy", Kind::EnvoyTransparent, 2),
    proxy("envoy explicit", Kind::Envoy, 3),
    proxy("haproxy", Kind::HaProxy, 4),
    proxy("nginx", Kind::Nginx, 5),
];

pub const CONNECTIONS_PATHS: &[Path] = &[
    Path { name: "direct", via: Via::Nothing },
    Path { name: REDIAL, via: Via::RedialHttp { handshake: "held", is_logged: false, is_pooled: false } },
    proxy("envoy", Kind::EnvoyTransparent, 1),
    proxy("haproxy", Kind::HaProxy, 2),
    proxy("nginx", Kind::Nginx, 3),
];

pub const POLICIES_PATHS: &[Path] = &[
    Path { name: "1 policy", via: Via::Policies(1) },
    Path { name: "10 policies", via: Via::Policies(10) },
    Path { name: "100 policies", via: Via::Policies(100) },
    Path { name: "1,000 policies", via: Via::Policies(1000) },
];

pub const PODS_PATHS: &[Path] = &[
    Path { name: "1 pod", via: Via::Pods(1) },
    Path { name: "25 pods", via: Via::Pods(25) },
    Path { name: "250 pods", via: Via::Pods(250) },
];

pub const NOT_ENROLLED_PATHS: &[Path] = &[
    Path { name: "no agent", via: Via::NotEnrolled { is_there_an_agent: false } },
    Path { name: "an agent", via: Via::NotEnrolled { is_there_an_agent: true } },
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
    /// The clients run in the first pod.
    Redial {
        agent: Agent,
        pods: Vec<Pod>,
    },
    NotEnrolled {
        is_there_an_agent: bool,
    },
    Proxy(Proxy),
}

/// A workload, in the world's pod or in a namespace of its own.
#[derive(Debug)]
struct Pod {
    cgroup: Cgroup,
    _netns: Option<Netns>,
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
        let for_requests =
            |config| Options { config: Some(config), has_no_access_log: true, ..Options::default() };
        let proxy = match self.via {
            Via::Nothing => Running::Nothing,
            Via::Redial { handshake } => Running::redial(world, handshake, 1, &Options::default())?,
            Via::RedialHttp { handshake, is_logged, is_pooled } => {
                let policy = if is_pooled { pooled() } else { POLICY.to_owned() };
                let options = Options { has_no_access_log: !is_logged, ..for_requests(&policy) };
                Running::redial(world, handshake, 1, &options)?
            }
            Via::Policies(count) => Running::redial(world, "held", 1, &for_requests(&policies(count)))?,
            Via::Pods(count) => Running::redial(world, "held", count, &for_requests(POLICY))?,
            Via::NotEnrolled { is_there_an_agent } => Running::NotEnrolled { is_there_an_agent },
            Via::Proxy { kind, front } => Running::Proxy(kind.start(world, front)?),
        };
        Ok(Open { path: self, proxy })
    }

    /// Whether it is another proxy.
    pub fn is_peer(self) -> bool {
        matches!(self.via, Via::Proxy { .. })
    }

    /// Whether it tries such work again. nginx does not keep what it sends to a gRPC server.
    fn retries(self, work: Work) -> bool {
        let is_grpc = matches!(work, Work::Streams(Streaming { call: Call::Grpc, .. }));
        match self.via {
            Via::Nothing | Via::Proxy { kind: Kind::Hyper, .. } => false,
            Via::Proxy { kind: Kind::Nginx, .. } => !is_grpc,
            _ => true,
        }
    }
}

/// How many requests the server has seen so far.
fn requests_at_server(world: &World) -> Result<f64> {
    let mut count = [0; 4];
    world.pod.run(|| {
        let mut stream = TcpStream::connect((SERVER_V4, PORTS[0]))?;
        stream.write_all(&[COUNT])?;
        Ok(stream.read_exact(&mut count)?)
    })?;
    Ok(f64::from(u32::from_be_bytes(count)))
}

impl Pod {
    fn new(world: &World, index: usize) -> Result<Self> {
        let cgroup = Cgroup::new("bench-workload")?;
        let netns = (index > 0).then(|| Netns::new("bench-workload")).transpose()?;
        pause(netns.as_ref().unwrap_or(&world.pod), &cgroup)?;
        Ok(Self { cgroup, _netns: netns })
    }
}

impl Running {
    fn redial(world: &World, handshake: &str, pods: usize, options: &Options<'_>) -> Result<Self> {
        let pods = (0..pods).map(|index| Pod::new(world, index)).collect::<Result<Vec<_>>>()?;
        // What the server fails is for the policy to retry, and not a storm.
        let budget = ["--node-budget-percent", "100", "--node-budget-min-per-second", "100000"];
        let arguments = [&["--handshake", handshake], budget.as_slice()].concat();
        let options = Options { arguments: &arguments, ..*options };
        let cgroups: Vec<_> = pods.iter().map(|pod| &pod.cgroup).collect();
        Ok(Self::Redial { agent: Agent::start_with(&cgroups, &options)?, pods })
    }

    fn pid(&self) -> Option<u32> {
        match self {
            Self::Nothing | Self::NotEnrolled { .. } => None,
            Self::Redial { agent, .. } => Some(agent.pid()),
            Self::Proxy(proxy) => Some(proxy.process.0.id()),
        }
    }
}

impl Open {
    /// Runs a client of a case on this path, and adds what its proxy spent.
    pub fn measure(&self, world: &World, case: &Case, time: Duration) -> Result<Measured> {
        let program = std::env::current_exe()?;
        let (mut command, netns, host) = match &self.proxy {
            Running::Nothing | Running::NotEnrolled { .. } => (Command::new(program), &world.pod, SERVER_V4),
            Running::Redial { pods, .. } => (pods[0].cgroup.command(program), &world.pod, SERVER_V4),
            Running::Proxy(proxy) => {
                (Command::new(program), proxy.netns.as_ref().unwrap_or(&world.pod), proxy.host)
            }
        };
        command.args(["client", case.name, &host.to_string(), &time.as_secs_f64().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let _agent = match self.proxy {
            Running::NotEnrolled { is_there_an_agent: true } => Some(Agent::start(&[&world.cgroup])?),
            _ => None,
        };
        let memory_before = self.memory_kib()?;
        let mut client = netns.spawn(&mut command)?;
        let mut input = client.stdin.take().context("no stdin")?;
        let mut output = BufReader::new(client.stdout.take().context("no stdout")?).lines();
        let mut line = || anyhow::Ok(output.next().context("the client ended")??);
        let said = line()?;
        ensure!(said == READY, "the client said: {said}");
        let grown = self.memory_kib()?.zip(memory_before).map(|(now, before)| now - before);
        let requests_before = requests_at_server(world)?;
        let before = self.cpu_seconds()?;
        let machine_before = machine_seconds()?;
        writeln!(input, "begin")?;
        let result = line()?;
        let machine = machine_seconds()? - machine_before;
        let after = self.settled_cpu_seconds()?;
        let requests = requests_at_server(world)? - requests_before;
        drop(input);
        ensure!(client.wait()?.success(), "the client failed");
        let mut measured: Measured = serde_json::from_str(&result).context("the client's result")?;
        let proxy = before.zip(after).map(|(before, after)| after - before);
        measured.values.extend(measured.cpu(case.work, proxy, machine));
        if case.work.has_faults() {
            measured.values.push((Metric::AttemptsPerRequest, requests / measured.requests));
            let failed = measured.values.iter().find(|(metric, _)| *metric == Metric::FailedPercent);
            ensure!(
                !self.path.retries(case.work) || failed.is_some_and(|(_, failed)| *failed == 0.0),
                "{failed:?}"
            );
        }
        match (case.work, memory_before, grown) {
            (Work::Rest, Some(memory), _) => {
                measured.values.push((Metric::Mebibytes, memory / 1024.0));
            }
            (Work::Idle { .. }, _, Some(grown)) => {
                measured.values.push((Metric::KibibytesPerConnection, grown / measured.connections));
            }
            _ => {}
        }
        Ok(measured)
    }

    /// Fails if redial did not make as many connections as the clients did, unless these are shared, or did not see as many
    /// requests: then the numbers are those of something else, for redial lets through what it cannot help.
    pub fn check(&self, done: Done) -> Result<()> {
        let Running::Redial { agent, .. } = &self.proxy else { return Ok(()) };
        let metrics = agent.metrics()?;
        let made = metrics.sum("redial_connection_attempts_total", &[("outcome", "connected")]);
        let seen = metrics.sum("redial_requests_total", &[("status", "2xx")]);
        let Done { connections, requests } = done;
        let are_shared = matches!(self.path.via, Via::RedialHttp { is_pooled: true, .. });
        ensure!(
            (are_shared || made >= connections) && seen >= requests,
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
