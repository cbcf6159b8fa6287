//! A retry storm: many clients ask an upstream that fails for some time, with redial's budget and without one, and the
//! upstream counts what reaches it.

mod client;
mod picture;
mod server;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _, stderr, stdout};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use redial_tests::agent::{Agent, Options};
use redial_tests::cgroup::Cgroup;
use redial_tests::netns::Netns;
use redial_tests::world::{SERVER_V4, World};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::{READY, fitting};
use crate::proxies::for_many_connections;
pub use client::ask;
pub use server::serve;

/// Everything is counted for each tenth of a second.
const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: u32 = 10;

/// What clients and upstream do. Times are in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Plan {
    connections: usize,
    /// How many requests all clients make in a second, as long as they have an answer to the one before.
    rate: u32,
    /// When the upstream begins to fail, when it stops, and when everything ends.
    fails_from: f64,
    fails_to: f64,
    ends: f64,
    upstream: Upstream,
}

/// What the upstream is when it no longer fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Upstream {
    /// As good as before.
    Well,
    /// It can bear half as much again as the clients ask for; what is over that fails, and is work all the same.
    Weak,
}

/// Counts by [`TICK`].
type Counts = Vec<u32>;

/// What the clients saw.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Asked {
    begun: Counts,
    answered: Counts,
    failed: Counts,
}

/// What the upstream saw.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Arrived {
    arrived: Counts,
    served: Counts,
}

/// A plan, carried out.
#[derive(Debug, Serialize)]
struct Run {
    plan: Plan,
    has_budget: bool,
    #[serde(flatten)]
    asked: Asked,
    #[serde(flatten)]
    arrived: Arrived,
}

/// Without a section about it, a policy has the default budget.
fn policy(has_budget: bool) -> String {
    let budget = if has_budget { "" } else { "  budget: {percent: 100, minPerSecond: 1000000}\n" };
    format!(
        "apiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: storm}}\nspec:\n{budget}  \
         http: {{numRetries: 3, retryOn: [5xx]}}\n"
    )
}

/// Runs every upstream with the budget and without, and writes what was counted, and a picture of it.
pub fn run(connections: usize, rate: u32, seconds: f64, file: &Path) -> Result<()> {
    let mut runs = Vec::new();
    for upstream in [Upstream::Well, Upstream::Weak] {
        for has_budget in [true, false] {
            let plan = Plan {
                connections: fitting(connections)?,
                rate,
                fails_from: seconds * 0.2,
                fails_to: seconds * 0.6,
                ends: seconds,
                upstream,
            };
            writeln!(stderr(), "storm: {plan:?}, {}", if has_budget { "budget" } else { "no budget" })?;
            let run = carry_out(plan, has_budget)?;
            writeln!(stdout(), "{}", run.summary())?;
            runs.push(run);
        }
    }
    let text = serde_json::to_string(&runs)? + "\n";
    for (file, text) in [(file, text), (&file.with_extension("svg"), picture::of(&runs)?)] {
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    runs.iter().try_for_each(Run::check)
}

fn carry_out(plan: Plan, has_budget: bool) -> Result<Run> {
    let world = World::new("storm")?;
    for_many_connections(&world.pod)?;
    world.server.sysctl("net/core/somaxconn", "16384")?;
    let unlimited = ["--node-budget-percent", "100", "--node-budget-min-per-second", "1000000"];
    let arguments: &[&str] = if has_budget { &[] } else { &unlimited };
    let config = policy(has_budget);
    let options = Options { config: Some(&config), arguments, has_no_access_log: true, ..Options::default() };
    let mut server = Role::start("storm-server", plan, &world.server, None)?;
    let _agent = Agent::start_with(&[&world.cgroup], &options)?;
    let mut clients = Role::start("storm-client", plan, &world.pod, Some(&world.cgroup))?;
    writeln!(clients.input, "begin")?;
    let asked = clients.result()?;
    let arrived = server.result()?;
    Ok(Run { plan, has_budget, asked, arrived })
}

/// This program in another process, as the clients or the upstream.
struct Role {
    child: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Role {
    /// Returns when it is ready.
    fn start(role: &str, plan: Plan, netns: &Netns, cgroup: Option<&Cgroup>) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = cgroup.map_or_else(|| Command::new(&program), |cgroup| cgroup.command(&program));
        command.args([role, &SERVER_V4.to_string(), &serde_json::to_string(&plan)?]);
        let mut child = netns.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = child.stdin.take().context("no stdin")?;
        let mut output = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut said = String::new();
        output.read_line(&mut said)?;
        ensure!(said.trim_end() == READY, "{role} said: {said}");
        Ok(Self { child, input, output })
    }

    /// Lets it end.
    fn result<T: DeserializeOwned>(&mut self) -> Result<T> {
        writeln!(self.input, "end")?;
        let mut said = String::new();
        self.output.read_to_string(&mut said)?;
        ensure!(self.child.wait()?.success(), "it failed");
        Ok(serde_json::from_str(&said)?)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Run {
    fn name(&self) -> String {
        let upstream = match self.plan.upstream {
            Upstream::Well => "comes back well",
            Upstream::Weak => "comes back weak",
        };
        format!("{upstream}, {}", if self.has_budget { "with the budget" } else { "without a budget" })
    }

    fn summary(&self) -> String {
        let (begun, arrived) = (sum(&self.asked.begun), sum(&self.arrived.arrived));
        let last = |counts: &Counts| sum(&counts[counts.len().saturating_sub(20)..]);
        format!(
            "{:36} {begun} requests, {arrived} at the upstream ({:.2} each); of the last two seconds' {}, {} answered",
            self.name(),
            f64::from(arrived) / f64::from(begun),
            last(&self.asked.begun),
            last(&self.asked.answered),
        )
    }

    /// Fails if more reached the upstream than the default budget allows: a fifth of all connects and requests, and ten
    /// a second.
    fn check(&self) -> Result<()> {
        let (begun, arrived) = (sum(&self.asked.begun), sum(&self.arrived.arrived));
        let connects = u32::try_from(self.plan.connections)?;
        let most = f64::from(begun) + f64::from(begun + connects) * 0.2 + self.plan.ends * 10.0;
        ensure!(!self.has_budget || f64::from(arrived) <= most, "{}: {arrived} and not {most}", self.name());
        Ok(())
    }
}

fn sum(counts: &[u32]) -> u32 {
    counts.iter().sum()
}

/// One more at a time since the beginning.
fn count(counts: &mut Counts, time: Duration) -> Result<()> {
    let tick = usize::try_from(time.as_millis() / TICK.as_millis())?;
    if counts.len() <= tick {
        counts.resize(tick + 1, 0);
    }
    counts[tick] += 1;
    Ok(())
}
