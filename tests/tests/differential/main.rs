//! redial against the real Envoy: the same policy, the same requests, the same misbehaving upstream, and what the
//! upstream and the client see must be the same.
//!
//! # To add a scenario
//!
//! Append an entry to one of `tests/scenarios/*.yaml`; every entry is run with HTTP/1 and HTTP/2 unless `protocols` says
//! otherwise. [`scenario::Scenario`] has the fields, all kebab-case:
//!
//! ```yaml
//! - name: a 503 is retried                       # unique in its file
//!   policy: {retryOn: [5xx], numRetries: 2}      # as in a native document's spec.http; Envoy is told the same
//!   client: {requests: [{method: POST, body: hello}]}      # exchange::Client
//!   upstream:                                    # http_upstream::Step for the first attempt, the second, ...
//!     - respond: {status: 503}
//!     - [{wait: 50}, {respond: {status: 200, body: ok}}]
//!   envoy: {attempts: 2, status: 200}            # what must be so with Envoy, or the scenario tests nothing
//! ```
//!
//! What differs on purpose says so. Its name is an entry of "Differences from Envoy" in docs/semantics.md, and each place
//! that differs is listed with what redial has there; anything else that differs fails, and so does a difference that
//! is not there:
//!
//! ```yaml
//!   differs: {name: grpc-trailers, redial: {attempts/1: {path: /}, client/0/responses/0/status: 200}}
//! ```
//!
//! # Policies of other systems
//!
//! In place of `policy` a scenario may have `import`: a document of another system, as it stands, and the part of Envoy's
//! configuration that this system's control plane makes of it, by its own code. [`import::Import`] has the fields and the
//! placeholders:
//!
//! ```yaml
//!   import:
//!     documents: |
//!       {type: MeshRetry, name: {name}, mesh: default, spec: {...}}
//!     routes: [{match: {prefix: /}, route: {timeout: 0s, retry_policy: {retry_on: gateway-error, num_retries: 1}}}]
//! ```
//!
//! Such a run has a host name and an address of its own, and its requests name that host.
//!
//! # To run them
//!
//! Nothing about Envoy is recorded: it runs beside redial every time. `SCENARIO=word` runs those whose titles have the
//! word in them (`timeouts:`, `(H1)`) and prints what was seen.

mod envoy;
mod import;
mod observation;
mod policy;
mod scenario;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use redial_tests::agent::{Agent, Options};
use redial_tests::dns::Dns;
use redial_tests::envoy::Envoy;
use redial_tests::exchange::{Answer, Protocol, Seen, Task};
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::http_upstream::{HttpUpstream, Port, Reaction};
use redial_tests::world::{SERVER_V4, World};
use serde_json::Value;
use tempfile::TempDir;

use crate::import::{Import, Place};
use crate::observation::{Observation, differences, surprises};
use crate::scenario::{Network, Scenario};

/// One scenario over one protocol.
#[derive(Clone, Copy)]
struct Run<'a> {
    scenario: &'a Scenario,
    protocol: Protocol,
    index: u16,
}

/// Which of the two systems, and what goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Envoy,
    Redial,
}

/// How often a run that differs is made again. What differs for the sake of a busy machine does not differ each time: the
/// scenarios have to do with time, and so has the Envoy that they are compared with.
const MORE_RUNS: usize = 2;

/// How long an upstream's script may go on when its client has its answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[test]
fn redial_does_what_envoy_does() -> Result<()> {
    let filter = std::env::var("SCENARIO").unwrap_or_default();
    let scenarios = Scenario::all()?;
    let all = runs(&scenarios, &filter)?;
    let mut differences = compare(&all)?;
    if !filter.is_empty() {
        differences.seen.iter().for_each(|report| println!("{report}"));
    }
    for _ in 0..MORE_RUNS {
        if differences.reports.is_empty() {
            return Ok(());
        }
        println!("{} of {} runs differ and are made again:", differences.reports.len(), all.len());
        differences.runs.iter().for_each(|run| println!("  {}", title(run.scenario, run.protocol)));
        differences = compare(&differences.runs)?;
    }
    ensure!(
        differences.reports.is_empty(),
        "{}\n{} of {} runs differ each time; redial's log:\n{}",
        differences.reports.join("\n"),
        differences.reports.len(),
        all.len(),
        differences.log
    );
    Ok(())
}

/// The runs that differ, and how.
struct Differences<'a> {
    runs: Vec<Run<'a>>,
    reports: Vec<String>,
    /// The reports of all runs, those that do not differ included.
    seen: Vec<String>,
    log: String,
}

/// Makes all these runs, in a world of their own.
fn compare<'a>(runs: &[Run<'a>]) -> Result<Differences<'a>> {
    let world = World::new("envoy")?;
    let firewall = Firewall::new(&world.server)?;
    world.lead_to_server(import::NETWORK)?;
    let _dns = dns(&world, runs)?;
    let ports = runs.iter().flat_map(|run| [System::Envoy, System::Redial].map(|system| run.ports(system)));
    let upstream = HttpUpstream::start(&world.server, ports.flatten().collect())?;
    for run in runs {
        run.set_fate(&firewall)?;
    }
    let mut envoy = Envoy::start(&world.server, &bootstrap(runs)?)?;
    let files = documents(runs)?;
    let path = |name: &str| files.path().join(name).display().to_string();
    let (config, resolv_conf) = (path("documents"), path("resolv.conf"));
    let arguments = [
        "--node-budget-percent",
        "100",
        "--node-budget-min-per-second",
        "100000",
        "--config",
        &config,
        "--resolv-conf",
        &resolv_conf,
    ];
    // Where the name server can be reached.
    let options = Options { netns: Some(&world.pod), arguments: &arguments, ..Options::default() };
    let agent = Agent::start_with(&[&world.cgroup], &options)?;
    ensure!(!agent.log()?.contains("cannot resolve"), "redial does not find every host:\n{}", agent.log()?);

    let world = &world;
    let (with_envoy, with_redial) = thread::scope(|scope| {
        let with_envoy = scope.spawn(move || exchange(world, runs, System::Envoy));
        let with_redial = scope.spawn(move || exchange(world, runs, System::Redial));
        (with_envoy.join(), with_redial.join())
    });
    let panicked = |_| anyhow!("a thread that runs clients panicked");
    let (with_envoy, with_redial) = (with_envoy.map_err(panicked)??, with_redial.map_err(panicked)??);
    ensure!(envoy.is_running()?, "Envoy crashed:\n{}", envoy.log()?);

    let mut differences =
        Differences { runs: Vec::new(), reports: Vec::new(), seen: Vec::new(), log: agent.log()? };
    for run in runs {
        let envoy = run.observe(System::Envoy, &with_envoy, &upstream, &firewall)?;
        let redial = run.observe(System::Redial, &with_redial, &upstream, &firewall)?;
        let (differs, report) = run.judge(&envoy, &redial);
        if differs {
            differences.runs.push(*run);
            differences.reports.push(report.clone());
        }
        differences.seen.push(report);
    }
    Ok(differences)
}

#[test]
fn every_intended_difference_is_documented() -> Result<()> {
    let scenarios = Scenario::all()?;
    ensure!(scenarios.len() >= 500, "only {} scenarios", scenarios.len());
    let mut names = BTreeSet::new();
    for scenario in &scenarios {
        ensure!(names.insert(&scenario.name), "{} is there twice", scenario.name);
    }
    let declared: BTreeSet<_> = scenarios
        .iter()
        .flat_map(|scenario| &scenario.differs)
        .map(|differs| differs.name.as_str())
        .collect();
    let documented = documented_differences()?;
    for name in &declared {
        let words =
            documented.get(*name).with_context(|| format!("docs/semantics.md does not name {name}"))?;
        ensure!(words.split_whitespace().count() >= 8, "docs/semantics.md does not describe {name}: {words}");
    }
    Ok(())
}

/// The entries (`- **name**: words`) under "Differences from Envoy".
fn documented_differences() -> Result<BTreeMap<String, String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/semantics.md");
    let text = std::fs::read_to_string(path)?;
    let (_, section) = text
        .split_once("\n## Differences from Envoy\n")
        .context("docs/semantics.md has no section `Differences from Envoy`")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let entries = section.split("\n- **").skip(1);
    Ok(entries
        .filter_map(|entry| entry.split_once("**"))
        .map(|(name, words)| (name.to_owned(), words.to_owned()))
        .collect())
}

fn runs<'a>(scenarios: &'a [Scenario], word: &str) -> Result<Vec<Run<'a>>> {
    let all = scenarios
        .iter()
        .flat_map(|scenario| scenario.protocols.iter().map(move |protocol| (scenario, *protocol)));
    let wanted = all.filter(|(scenario, protocol)| title(scenario, *protocol).contains(word));
    let runs: Vec<_> = wanted
        .enumerate()
        .map(|(index, (scenario, protocol))| {
            Ok(Run { scenario, protocol, index: u16::try_from(index).context("too many scenarios")? })
        })
        .collect::<Result<_>>()?;
    ensure!(!runs.is_empty() && runs.len() < 2000, "{} runs", runs.len());
    Ok(runs)
}

fn title(scenario: &Scenario, protocol: Protocol) -> String {
    format!("{} ({protocol:?})", scenario.name)
}

fn bootstrap(runs: &[Run<'_>]) -> Result<Value> {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for run in runs {
        let from = run.dialled(System::Envoy);
        if let Some(import) = &run.scenario.import {
            let (listener, all) = import.envoy(run.protocol, run.place(System::Envoy), from)?;
            listeners.push(listener);
            clusters.extend(all);
        } else {
            let to = run.upstream(System::Envoy);
            let (listener, cluster) = policy::envoy(run.scenario, run.protocol, &run.name(), from, to)?;
            listeners.push(listener);
            clusters.push(cluster);
        }
    }
    Ok(envoy::bootstrap(&listeners, &clusters))
}

/// The folder `documents`, with a file for each run, and `resolv.conf`.
fn documents(runs: &[Run<'_>]) -> Result<TempDir> {
    let files = TempDir::new()?;
    let folder = files.path().join("documents");
    std::fs::create_dir(&folder)?;
    for run in runs {
        let place = run.place(System::Redial);
        let text = if let Some(import) = &run.scenario.import {
            import.document(place)
        } else {
            policy::document(run.scenario, &run.name(), place.port)?.to_string()
        };
        std::fs::write(folder.join(format!("{}.yaml", run.name())), text)?;
    }
    std::fs::write(files.path().join("resolv.conf"), format!("nameserver {SERVER_V4}\n"))?;
    Ok(files)
}

/// Has names for the destinations of the runs that need them.
fn dns(world: &World, runs: &[Run<'_>]) -> Result<Dns> {
    let upstreams = |import: &Import| import.upstreams.keys().cloned().collect();
    let named = runs.iter().filter_map(|run| Some((run.index, upstreams(run.scenario.import.as_ref()?))));
    let named: BTreeMap<u16, Vec<String>> = named.collect();
    Dns::answering(&world.server, (SERVER_V4, 53).into(), 60, move |name| {
        import::resolve(name, &named).map(|address| vec![address])
    })
}

/// Lets the clients of all runs go through one of the systems, many at once.
fn exchange(world: &World, runs: &[Run<'_>], system: System) -> Result<BTreeMap<String, Vec<Seen>>> {
    let tasks: Vec<_> = runs.iter().map(|run| run.task(system)).collect();
    let program = env!("CARGO_BIN_EXE_exchange");
    let mut command = match system {
        System::Envoy => Command::new(program),
        System::Redial => world.workload(program),
    };
    let mut client = world.pod.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut input = client.stdin.take().context("no stdin")?;
    input.write_all(&serde_json::to_vec(&tasks)?)?;
    drop(input);
    let output = client.wait_with_output()?;
    ensure!(output.status.success(), "the clients failed: {}", output.status);
    let answers: Vec<Answer> = serde_json::from_slice(&output.stdout)?;
    Ok(answers.into_iter().map(|answer| (answer.name, answer.seen)).collect())
}

impl Run<'_> {
    fn name(&self) -> String {
        format!("run-{}", self.index)
    }

    fn place(&self, system: System) -> Place {
        let base = match system {
            System::Envoy => 15_000,
            System::Redial => 20_000,
        };
        Place { index: self.index, port: base + self.index }
    }

    /// What the client dials.
    fn dialled(&self, system: System) -> SocketAddr {
        match system {
            System::Envoy => (SERVER_V4, 10_000 + self.index).into(),
            System::Redial => self.upstream(system),
        }
    }

    fn upstream(&self, system: System) -> SocketAddr {
        let place = self.place(system);
        match &self.scenario.import {
            Some(_) => place.address(0),
            None => (SERVER_V4, place.port).into(),
        }
    }

    /// The upstreams besides the scenario's own.
    fn others(&self, system: System) -> impl Iterator<Item = (&String, &Vec<Reaction>, SocketAddr)> {
        let all = self.scenario.import.iter().flat_map(|import| &import.upstreams);
        (1..).zip(all).map(move |(index, (name, script))| (name, script, self.place(system).address(index)))
    }

    fn ports(&self, system: System) -> Vec<Port> {
        let port = |address, script: &[Reaction]| Port {
            address,
            protocol: self.protocol,
            script: script.to_vec(),
            connections: self.scenario.connections.clone(),
            by_path: self.scenario.copies.is_some(),
        };
        let others = self.others(system).map(|(_, script, address)| port(address, script));
        [port(self.upstream(system), &self.scenario.upstream)].into_iter().chain(others).collect()
    }

    fn set_fate(&self, firewall: &Firewall<'_>) -> Result<()> {
        let fate = match self.scenario.network {
            None => return Ok(()),
            Some(Network::Refuse) => Fate::Refuse,
            Some(Network::RefuseFirst(count)) => Fate::RefuseFirst(count, 1_000_000),
            Some(Network::Drop) => Fate::Drop,
        };
        firewall.set(self.upstream(System::Envoy).port(), fate)?;
        firewall.set(self.upstream(System::Redial).port(), fate)
    }

    fn task(&self, system: System) -> Task {
        Task {
            name: self.name(),
            protocol: self.protocol,
            to: self.dialled(system),
            client: match &self.scenario.import {
                Some(_) => Import::client(&self.scenario.client, self.place(system)),
                None => self.scenario.client.clone(),
            },
            copies: self.scenario.copies,
        }
    }

    fn observe(
        &self,
        system: System,
        seen: &BTreeMap<String, Vec<Seen>>,
        upstream: &HttpUpstream,
        firewall: &Firewall<'_>,
    ) -> Result<Observation> {
        let at = self.upstream(system);
        let counted = self.scenario.envoy.connects.map(|_| firewall.attempts_to(at.port()));
        Ok(Observation {
            attempts: upstream.settled(at, PATIENCE),
            others: self
                .others(system)
                .map(|(name, _, at)| (name.clone(), upstream.settled(at, PATIENCE)))
                .collect(),
            connects: counted.transpose()?,
            seen: seen.get(&self.name()).cloned().unwrap_or_default(),
        })
    }

    /// Whether anything is wrong, and what there is to say.
    fn judge(&self, envoy: &Observation, redial: &Observation) -> (bool, String) {
        let scenario = self.scenario;
        let (envoys, redials) = (envoy.comparable(scenario), redial.comparable(scenario));
        let mut wrong = Vec::new();
        let of_envoy = envoy.contradictions(&scenario.envoy).into_iter();
        let of_envoy = of_envoy.chain(envoy.bad_intervals(&scenario.intervals));
        for word in of_envoy.chain(envoy.bad_shares(&scenario.shares)) {
            wrong.push(format!("Envoy itself: {word}"));
        }
        let found = differences(&envoys, &redials);
        wrong.extend(surprises(&scenario.differs, self.protocol, &found));
        wrong.extend(redial.bad_intervals(&scenario.intervals));
        wrong.extend(redial.bad_shares(&scenario.shares));
        let mut report = format!("\n=== {}\n", title(scenario, self.protocol));
        for word in &wrong {
            let _ = writeln!(report, "  {word}");
        }
        let _ = writeln!(report, "  Envoy ({} ms): {envoys}", envoy.ms());
        let _ = writeln!(report, "  redial ({} ms): {redials}", redial.ms());
        (!wrong.is_empty(), report)
    }
}
