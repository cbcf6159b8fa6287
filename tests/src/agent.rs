//! The real `redial` binary as an agent: starting and ending it, and reading what it records.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::cgroup::Cgroup;
use crate::netns::Netns;

/// How long anything that only needs the processor may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// A running `redial run`. Drop kills it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    files: TempDir,
    metrics: SocketAddr,
}

/// What an agent is started with beside its cgroups.
#[derive(Debug, Default)]
pub struct Options<'a> {
    /// The text of its one configuration file; without one it gets none.
    pub config: Option<&'a str>,
    /// More arguments.
    pub arguments: &'a [&'a str],
    /// The namespace that the agent itself runs in, where that is not the machine's.
    pub netns: Option<&'a Netns>,
    /// Where it is to serve its metrics; without one, at an address of its own.
    pub metrics: Option<SocketAddr>,
    /// Where its files are to be; without one, where this machine has what is temporary.
    pub folder: Option<&'a Path>,
    /// What ends is not recorded: a benchmark does without.
    pub has_no_access_log: bool,
}

/// One line of the access log.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    pub time: String,
    pub kind: String,
    pub source: Option<SocketAddr>,
    pub original_destination: SocketAddr,
    pub endpoint: Option<SocketAddr>,
    pub policy: Option<String>,
    pub handshake: String,
    pub attempts: Vec<Attempt>,
    /// Those before the last that are too many to list.
    #[serde(default)]
    pub attempts_omitted: usize,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub duration_ms: f64,
    pub reason: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    pub endpoint: SocketAddr,
    pub outcome: String,
    pub duration_ms: f64,
    pub backoff_ms: f64,
}

/// A scrape of the metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Agent {
    /// Starts an agent with no configuration and waits until it has enrolled the cgroups.
    pub fn start(cgroups: &[&Cgroup]) -> Result<Self> {
        Self::start_with(cgroups, &Options::default())
    }

    /// Starts an agent and waits until it has enrolled the cgroups.
    pub fn start_with(cgroups: &[&Cgroup], options: &Options<'_>) -> Result<Self> {
        let files = match options.folder {
            Some(folder) => TempDir::new_in(folder)?,
            None => TempDir::new()?,
        };
        let metrics = match options.metrics {
            Some(address) => address,
            None => (Ipv4Addr::LOCALHOST, free_port()?).into(),
        };
        let mut command = Command::new(binary()?);
        command.arg("run");
        for cgroup in cgroups {
            command.arg("--cgroup").arg(cgroup.path());
        }
        if let Some(config) = options.config {
            fs::write(files.path().join("policy.yaml"), config)?;
            command.arg("--config").arg(files.path().join("policy.yaml"));
        }
        let access_log = files.path().join("access.log");
        command.arg("--access-log").arg(if options.has_no_access_log {
            Path::new("none")
        } else {
            &access_log
        });
        command.args(["--metrics", &metrics.to_string()]).args(options.arguments);
        let log = File::create(files.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = match options.netns {
            Some(netns) => netns.spawn(&mut command)?,
            None => command.spawn().context("starting redial")?,
        };
        let mut agent = Self { child, files, metrics };
        agent.wait_log("ready")?;
        Ok(agent)
    }

    /// What the agent has said so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.files.path().join("log"))?)
    }

    /// Waits until the agent says a word.
    pub fn wait_log(&mut self, word: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log()?;
            if log.contains(word) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("redial ended ({status}) before it said `{word}`:\n{log}");
            }
            ensure!(Instant::now() < deadline, "redial did not say `{word}`:\n{log}");
            sleep(POLL);
        }
    }

    /// Replaces the configuration file, in one step, as an editor or a `ConfigMap` does.
    pub fn write_config(&self, text: &str) -> Result<()> {
        let new = self.files.path().join(".policy.yaml.new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.files.path().join("policy.yaml"))?)
    }

    /// Every connection that has ended so far.
    pub fn records(&self) -> Result<Vec<Record>> {
        Self::records_in(&self.access_log())
    }

    /// Where the access log is.
    #[must_use]
    pub fn access_log(&self) -> PathBuf {
        self.files.path().join("access.log")
    }

    /// What is in an access log; nothing, where there is none.
    pub fn records_in(path: &Path) -> Result<Vec<Record>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        };
        of_kind(&text, "tcp")
    }

    /// The access log's lines about requests, as they are.
    pub fn requests(&self) -> Result<Vec<Value>> {
        of_kind(&fs::read_to_string(self.access_log())?, "http")
    }

    /// Waits for at least `count` lines about requests.
    pub fn wait_requests(&self, count: usize) -> Result<Vec<Value>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let requests = self.requests()?;
            if requests.len() >= count {
                return Ok(requests);
            }
            ensure!(
                Instant::now() < deadline,
                "{requests:?} and not {count} requests; the log:\n{}",
                self.log()?
            );
            sleep(POLL);
        }
    }

    /// Waits for the record of the (first) connection to a port.
    pub fn wait_record(&self, port: u16) -> Result<Record> {
        let mut records = self.wait_records(port, 1)?;
        Ok(records.swap_remove(0))
    }

    /// Waits for at least `count` records of connections to a port.
    pub fn wait_records(&self, port: u16, count: usize) -> Result<Vec<Record>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let records = self.records_of(port)?;
            if records.len() >= count {
                return Ok(records);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} of {count} records for port {port}; the agent's log:\n{}",
                    records.len(),
                    self.log()?
                );
            }
            sleep(POLL);
        }
    }

    pub fn records_of(&self, port: u16) -> Result<Vec<Record>> {
        let mut records = self.records()?;
        records.retain(|record| record.original_destination.port() == port);
        Ok(records)
    }

    /// Where its metrics are.
    #[must_use]
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    pub fn metrics(&self) -> Result<Metrics> {
        let mut stream = TcpStream::connect(self.metrics).context("connecting to the metrics")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: redial\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP response")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "the metrics answered {head}");
        Metrics::parse(body)
    }

    /// Its part of what `redial status` says of every agent of this machine.
    pub fn status(&self) -> Result<Value> {
        let output = Command::new(binary()?).args(["status", "--output", "json"]).output()?;
        ensure!(output.status.success(), "{output:?}");
        let agents: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let own = agents.into_iter().find(|status| status["pid"] == self.pid());
        own.context("the agent is not among those of this machine")
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What each of its descriptors is, in order: the last part of a path, or the kind of what has none.
    pub fn descriptors(&self) -> Result<Vec<String>> {
        let mut descriptors = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid()))? {
            // One may be closed just now.
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // `socket:[NUMBER]` and the like.
            descriptors.push(name.split(":[").next().unwrap_or_default().to_owned());
        }
        descriptors.sort();
        Ok(descriptors)
    }

    /// How many bytes of memory it has now.
    pub fn resident(&self) -> Result<usize> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, then waits for the end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_exit()
    }

    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "redial did not end:\n{}", self.log()?);
            sleep(POLL);
        }
    }

    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            // A test that fails says what the agent said.
            drop(writeln!(std::io::stderr(), "redial's log:\n{}", self.log().unwrap_or_default()));
        }
    }
}

impl Record {
    /// The outcome of each attempt.
    #[must_use]
    pub fn outcomes(&self) -> Vec<&str> {
        self.attempts.iter().map(|attempt| attempt.outcome.as_str()).collect()
    }
}

impl Metrics {
    fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines
            .map(|line| Sample::parse(line).with_context(|| format!("a metrics line: {line}")))
            .collect::<Result<_>>()?;
        Ok(Self { samples })
    }

    /// The sum of the samples of a name that have all these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| {
                labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|has| has == value))
            })
            .map(|sample| sample.value)
            .sum()
    }

    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            None => (series, ""),
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
        };
        // No label value of ours has a comma or a quote in it.
        let labels = labels
            .split(',')
            .filter(|label| !label.is_empty())
            .map(|label| {
                let (key, quoted) = label.split_once('=')?;
                Some((key.to_owned(), quoted.trim_matches('"').to_owned()))
            })
            .collect::<Option<_>>()?;
        Some(Self { name: name.to_owned(), labels, value: value.parse().ok()? })
    }
}

/// Where the agent of a cgroup can be asked: the name has the cgroup's id in it, which is the number of its inode.
pub fn admin_socket(cgroup: &Cgroup) -> Result<PathBuf> {
    let id = fs::metadata(cgroup.path())?.ino();
    Ok(PathBuf::from(format!("/run/redial/cgroup-{id}.sock")))
}

/// The `redial` to test: `REDIAL_BIN`, or what cargo built last in this workspace.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("REDIAL_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "REDIAL_BIN names {}, which is not a file", path.display());
        return Ok(path);
    }
    let test = std::env::current_exe()?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests have no workspace")?;
    // The test is target/PROFILE/deps/NAME.
    let targets = [test.ancestors().nth(3).map(Path::to_owned), Some(workspace.join("target"))];
    targets
        .into_iter()
        .flatten()
        .flat_map(|target| [target.join("release/redial"), target.join("debug/redial")])
        .find(|path| path.is_file())
        .context(
            "there is no redial binary; run `cargo xtask build-ebpf` and `cargo build --release -p redial`, \
             or name one in REDIAL_BIN",
        )
}

/// The access log's lines of one kind.
fn of_kind<T: DeserializeOwned>(log: &str, kind: &str) -> Result<Vec<T>> {
    // The last line may be half written.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let mut lines = Vec::new();
    for line in whole.lines() {
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("an access log line: {line}"))?;
        if value["kind"] == kind {
            lines.push(serde_json::from_value(value).with_context(|| format!("an access log line: {line}"))?);
        }
    }
    Ok(lines)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
