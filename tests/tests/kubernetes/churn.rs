//! Pods that come and go by the hundred, without a kubelet: what an agent keeps of them.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{SysconfVar, sysconf};
use redial_tests::agent::binary;
use redial_tests::cgroup::Cgroup;
use redial_tests::cluster::{Namespace, OwnCluster, until};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::{Run, Test};

pub(crate) const TESTS: &[Test] =
    &[("churn::a_thousand_pods_leave_nothing_behind", Run::Own(a_thousand_pods_leave_nothing_behind))];

const ROUNDS: usize = 10;
const PODS: usize = 100;
/// The node that the pods are on. There is no kubelet of this name.
pub(crate) const NODE: &str = "churn";
/// Where its agent serves metrics.
pub(crate) const METRICS: &str = "127.0.0.1:9464";
/// What may be more at the end than after the first round: allocators keep what they had once.
const MORE_MEMORY: u64 = 16 << 20;
/// The processor time of so many rounds is compared, at the beginning and at the end. What grew with every pod that there has
/// been would be thrice as much by then; what is not that is noise.
const COMPARED: usize = 3;
const NOISE: Duration = Duration::from_millis(200);

/// The agent, in the control plane's place.
pub(crate) struct Agent<'a> {
    child: Child,
    cluster: &'a OwnCluster,
}

/// What it has.
#[derive(Clone, Copy, Debug)]
struct Holds {
    descriptors: usize,
    memory: u64,
    /// Processor time from the start.
    cpu: Duration,
}

fn a_thousand_pods_leave_nothing_behind(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("churn")?;
    let kubepods = Cgroup::at(&cluster.cgroup().join("kubepods"))?;
    let burstable = kubepods.child("burstable")?;
    let log = NamedTempFile::new()?;
    let agent = Agent::start(cluster, cluster.kubeconfig(), &log)?;
    let (mut holds, mut made) = (Vec::new(), HashMap::new());
    for round in 0..ROUNDS {
        let names: Vec<_> = (0..PODS).map(|number| format!("pod-{round}-{number}")).collect();
        create(&namespace, &names)?;
        let cgroups = cgroups(&namespace, &burstable, &mut made)?;
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
    let cpu: Vec<_> = holds.windows(2).map(|two| two[1].cpu.saturating_sub(two[0].cpu)).collect();
    println!("processor time of each later round: {cpu:.1?}");
    let durations = enrolments(&fs::read_to_string(log.path())?, &made)?;
    ensure!(durations.len() == ROUNDS * PODS, "{} pods were logged as enrolled", durations.len());
    let percentile = |percent| durations[(durations.len() - 1) * percent / 100];
    println!(
        "from cgroup to enrolment, {PODS} pods at once: p50 {:.1?}, p99 {:.1?}, most {:.1?}",
        percentile(50),
        percentile(99),
        percentile(100)
    );
    // At any one moment there may be one more: of the last who asked for the status, or of a request to the API server.
    until("as few descriptors as after the first pods", || {
        let now = agent.holds()?.descriptors;
        if now <= first.descriptors { Ok(Some(())) } else { bail!("{now} are held, and earlier {holds:?}") }
    })?;
    ensure!(last.memory <= first.memory + MORE_MEMORY, "{holds:?}");
    let [early, late] =
        [&cpu[..COMPARED], &cpu[cpu.len() - COMPARED..]].map(|some| some.iter().sum::<Duration>());
    ensure!(late <= 2 * early + NOISE, "processor time grows with the pods that there have been: {cpu:.1?}");
    Ok(())
}

pub(crate) fn create(namespace: &Namespace<'_>, names: &[String]) -> Result<()> {
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

/// Makes the cgroup of each pod, as a kubelet would, and notes when.
pub(crate) fn cgroups(
    namespace: &Namespace<'_>,
    parent: &Cgroup,
    made: &mut HashMap<String, Duration>,
) -> Result<Vec<Cgroup>> {
    let pods = namespace.get(&["pods"])?;
    let pods = pods["items"].as_array().context("no pods")?;
    let cgroup = |pod: &Value| {
        let text = |name: &str| pod["metadata"][name].as_str().with_context(|| format!("no {name}"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        made.insert(format!("{}/{}", namespace.name(), text("name")?), now);
        parent.child(&format!("pod{}", text("uid")?))
    };
    pods.iter().map(cgroup).collect()
}

/// How long after its cgroup was made each pod was enrolled, by the agent's log, the shortest first.
fn enrolments(log: &str, made: &HashMap<String, Duration>) -> Result<Vec<Duration>> {
    const DAY: f64 = 86_400.0;
    let mut durations = Vec::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let Some(made) = line["pod"].as_str().and_then(|pod| made.get(pod)) else { continue };
        if line["message"] == "enrolled" {
            let time = line["timestamp"].as_str().and_then(|time| time.strip_suffix('Z')?.split_once('T'));
            let (_, time) = time.with_context(|| format!("no time: {line}"))?;
            let mut seconds = 0.0;
            for part in time.split(':') {
                seconds = seconds * 60.0 + part.parse::<f64>()?;
            }
            durations.push(Duration::from_secs_f64((seconds - made.as_secs_f64()).rem_euclid(DAY)));
        }
    }
    durations.sort_unstable();
    Ok(durations)
}

impl<'a> Agent<'a> {
    /// Has it log into the file.
    pub(crate) fn start(cluster: &'a OwnCluster, kubeconfig: &Path, log: &NamedTempFile) -> Result<Self> {
        let mut command = cluster.run_here(binary()?);
        command.args(["run", "--kubernetes", "--access-log=none", "--log-format=json", "--agent", NODE]);
        command.args(["--node", NODE, "--metrics", METRICS, "--kubeconfig"]).arg(kubeconfig);
        command.stdin(Stdio::null()).stderr(log.reopen()?);
        Ok(Self { child: command.spawn().context("starting redial")?, cluster })
    }

    /// Waits until so many pods are enrolled.
    pub(crate) fn has_enrolled(&self, pods: usize) -> Result<()> {
        until(&format!("{pods} enrolled pods"), || {
            let status = self.status()?;
            let enrolled = status["workloads"].as_array().map_or(0, Vec::len);
            if enrolled == pods { Ok(Some(())) } else { bail!("{enrolled} are") }
        })
    }

    pub(crate) fn status(&self) -> Result<Value> {
        let output = self.cluster.run_here(binary()?).args(["status", "--output", "json"]).output()?;
        let agents: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
        Ok(agents[0].clone())
    }

    fn holds(&self) -> Result<Holds> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(process.join("status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|text| text.trim().strip_suffix(" kB")).context("no VmRSS")?;
        let tick = sysconf(SysconfVar::CLK_TCK)?.context("no CLK_TCK")?;
        let stat = fs::read_to_string(process.join("stat"))?;
        // After the name, which may have anything in it: utime and stime are the 14th and 15th of all.
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        let ticks =
            fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Holds {
            cpu: Duration::from_millis(ticks * 1000 / u64::try_from(tick)?),
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
