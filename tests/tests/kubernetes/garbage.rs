//! An API server that sends garbage: what an agent makes of it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redial_tests::cgroup::Cgroup;
use redial_tests::cluster::{Namespace, OwnCluster, until};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::agent::definition;
use crate::churn::{Agent, METRICS, NODE, cgroups, create};
use crate::definitions::Definitions;
use crate::shipped::policy;
use crate::{Run, Test};

pub(crate) const TESTS: &[Test] = &[("garbage::the_last_state_holds", Run::Own(the_last_state_holds))];

/// In the control plane's network: what the agent takes for the API server, and what stands behind it.
const LIAR: &str = "8099";
const HONEST: &str = "8098";
/// So many answers are garbage, of every kind that there is.
const LIES: usize = 22;

/// A program beside the control plane, which says a line when it is up. Drop ends it.
struct Beside(Child);

fn the_last_state_holds(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("garbage")?;
    // Pods of a node that nobody knows are deleted within a minute.
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}).to_string();
    cluster.apply(&node)?;
    let held = holds(cluster, &namespace);
    cluster.take_back(&node)?;
    held
}

fn holds(cluster: &OwnCluster, namespace: &Namespace<'_>) -> Result<()> {
    let burstable = Cgroup::at(&cluster.cgroup().join("kubepods"))?.child("burstable")?;
    let definition = definition("redial.dev", "v1alpha1", "RetryPolicy", "retrypolicies");
    let _definitions = Definitions::install(cluster, &definition.to_string())?;
    namespace.apply(&policy("holds", &json!({"http": {"numRetries": 4}})).to_string())?;

    let mut proxy = cluster.command();
    let (_proxy, _) = Beside::start(proxy.args(["proxy", "--port", HONEST]))?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/liar.py");
    let (liar, said) = Beside::start(cluster.run_here("python3").arg(script).args([LIAR, HONEST]))?;
    let lies = thread::spawn(move || {
        said.lines().map_while(Result::ok).filter(|line| line == "lied").take(LIES).count()
    });

    let mut kubeconfig = NamedTempFile::new()?;
    write!(
        kubeconfig,
        "{{apiVersion: v1, kind: Config, current-context: a, contexts: [{{name: a, context: {{cluster: a, user: a}}}}], \
         clusters: [{{name: a, cluster: {{server: 'http://127.0.0.1:{LIAR}'}}}}], users: [{{name: a, user: {{}}}}]}}"
    )?;
    let log = NamedTempFile::new()?;
    let agent = Agent::start(cluster, kubeconfig.path(), &log)?;
    let mut made = HashMap::new();
    create(namespace, &["first".to_owned()])?;
    let first = cgroups(namespace, &burstable, &mut made)?;
    agent.has_enrolled(1)?;
    until("the policy is in force", || Ok(has_policy(&agent)?.then_some(())))?;

    liar.signal(Signal::SIGUSR1)?;
    until("the agent says that it is lied to", || Ok((failing(cluster)? > 0).then_some(())))?;
    until("every kind of garbage", || Ok(lies.is_finished().then_some(())))?;
    for _ in 0..20 {
        agent.has_enrolled(1)?;
        ensure!(has_policy(&agent)?, "the policy is gone");
        sleep(Duration::from_millis(50));
    }

    liar.signal(Signal::SIGUSR1)?;
    drop(first);
    namespace.kubectl(&["delete", "pod", "first", "--force", "--grace-period=0"])?;
    agent.has_enrolled(0)?;
    create(namespace, &["second".to_owned()])?;
    let _second = cgroups(namespace, &burstable, &mut made)?;
    agent.has_enrolled(1)
}

fn has_policy(agent: &Agent<'_>) -> Result<bool> {
    let status = agent.status()?;
    let policies = status["policies"].as_array().with_context(|| status.to_string())?;
    Ok(policies.iter().any(|policy: &Value| policy["name"] == "garbage/holds"))
}

/// How many kinds of objects the agent cannot watch now.
fn failing(cluster: &OwnCluster) -> Result<u32> {
    let output = cluster.run_here("curl").args(["-sS", &format!("http://{METRICS}/metrics")]).output()?;
    let metrics = String::from_utf8_lossy(&output.stdout);
    let value = metrics.lines().find_map(|line| line.strip_prefix("redial_kubernetes_watches_failing "));
    Ok(value.with_context(|| format!("no such metric: {metrics}"))?.trim().parse()?)
}

impl Beside {
    fn start(command: &mut Command) -> Result<(Self, BufReader<ChildStdout>)> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting it")?;
        let mut output = BufReader::new(child.stdout.take().context("no stdout")?);
        let (beside, mut line) = (Self(child), String::new());
        output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "{command:?} ends before it is up");
        Ok((beside, output))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.0.id())?), signal)?)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.signal(Signal::SIGTERM));
        drop(self.0.wait());
    }
}
