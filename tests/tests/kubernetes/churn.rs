//! Pods that come and go by the hundred, without a kubelet: what an agent keeps of them.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail, ensure};
use redial_tests::agent::binary;
use redial_tests::cgroup::Cgroup;
use redial_tests::cluster::{Cluster, Namespace, until};
use serde_json::{Value, json};

use crate::Test;

pub(crate) const TESTS: &[Test] =
    &[("churn::a_thousand_pods_leave_nothing_behind", a_thousand_pods_leave_nothing_behind)];

const ROUNDS: usize = 10;
const PODS: usize = 100;
/// The node that the pods are on. There is no kubelet of this name.
const NODE: &str = "churn";
/// What may be more at the end than after the first round: allocators keep what they had once.
const MORE_MEMORY: u64 = 16 << 20;

/// The agent, in the control plane's place.
struct Agent<'a> {
    child: Child,
    cluster: &'a Cluster,
}

/// What it has.
#[derive(Clone, Copy, Debug)]
struct Holds {
    descriptors: usize,
    memory: u64,
}

fn a_thousand_pods_leave_nothing_behind(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("churn")?;
    let kubepods = Cgroup::at(&cluster.cgroup().join("kubepods"))?;
    let burstable = kubepods.child("burstable")?;
    let mut command = cluster.run_here(binary()?);
    command.args([
        "run",
        "--kubernetes",
        "--node",
        NODE,
        "--access-log",
        "none",
        "--agent",
        NODE,
        "--kubeconfig",
    ]);
    command.arg(cluster.kubeconfig()).stdin(Stdio::null()).stderr(Stdio::null());
    let agent = Agent { child: command.spawn().context("starting redial")?, cluster };
    let mut holds = Vec::new();
    for round in 0..ROUNDS {
        let names: Vec<_> = (0..PODS).map(|number| format!("pod-{round}-{number}")).collect();
        create(&namespace, &names)?;
        let cgroups = cgroups(&namespace, &burstable)?;
        ensure!(cgroups.len() == PODS, "{} pods", cgroups.len());
        agent.has_enrolled(PODS)?;
        // Some are deleted before their cgroups are gone, others after.
        let mut cgroups = cgroups;
        let later = cgroups.split_off(PODS / 2);
        drop(cgroups);
        let all = format!("/api/v1/namespaces/{}/pods?gracePeriodSeconds=0", namespace.name());
        namespace.kubectl(&["delete", "--raw", &all])?;
        drop(later);
        agent.has_enrolled(0)?;
        holds.push(agent.holds()?);
    }
    let (first, last) = (holds[0], holds[ROUNDS - 1]);
    println!("after the first {PODS} pods {first:?}, after the last {last:?}");
    ensure!(last.descriptors <= first.descriptors, "{holds:?}");
    ensure!(last.memory <= first.memory + MORE_MEMORY, "{holds:?}");
    Ok(())
}

fn create(namespace: &Namespace<'_>, names: &[String]) -> Result<()> {
    let pod = |name: &String| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"redial.dev/enroll": "true", "app": name}},
            "spec": {"nodeName": NODE, "containers": [{"name": "none", "image": "none"}]},
        })
    };
    let list =
        json!({"apiVersion": "v1", "kind": "List", "items": names.iter().map(pod).collect::<Vec<_>>()});
    let mut create = namespace.command();
    let mut create =
        create.args(["create", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    create.stdin.take().context("no stdin")?.write_all(list.to_string().as_bytes())?;
    ensure!(create.wait()?.success(), "kubectl create");
    Ok(())
}

/// Makes the cgroup of each pod, as a kubelet would.
fn cgroups(namespace: &Namespace<'_>, parent: &Cgroup) -> Result<Vec<Cgroup>> {
    let pods = namespace.get(&["pods"])?;
    let pods = pods["items"].as_array().context("no pods")?;
    let cgroup = |pod: &Value| {
        let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
        parent.child(&format!("pod{uid}"))
    };
    pods.iter().map(cgroup).collect()
}

impl Agent<'_> {
    /// Waits until so many pods are enrolled.
    fn has_enrolled(&self, pods: usize) -> Result<()> {
        until(&format!("{pods} enrolled pods"), || {
            let status = self.status()?;
            let enrolled = status["workloads"].as_array().map_or(0, Vec::len);
            if enrolled == pods { Ok(Some(())) } else { bail!("{enrolled} are") }
        })
    }

    fn status(&self) -> Result<Value> {
        let output = self.cluster.run_here(binary()?).args(["status", "--output", "json"]).output()?;
        let agents: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
        Ok(agents[0].clone())
    }

    fn holds(&self) -> Result<Holds> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(process.join("status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|text| text.trim().strip_suffix(" kB")).context("no VmRSS")?;
        Ok(Holds {
            descriptors: fs::read_dir(process.join("fd"))?.count(),
            memory: memory.trim().parse::<u64>()? << 10,
        })
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
