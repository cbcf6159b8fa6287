//! That the cluster is one: pods reach each other, and a node agent sees what it needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use redial_tests::cgroup;
use redial_tests::cluster::{OwnCluster, POD, REDIAL, pod, until};
use serde_json::{Value, json};

use crate::{Run, Test};

pub(crate) const TESTS: &[Test] = &[
    ("rig::both_nodes_are_ready", Run::Own(both_nodes_are_ready)),
    ("rig::pods_of_two_nodes_reach_each_other", Run::Own(pods_of_two_nodes_reach_each_other)),
    ("rig::servers_fail_as_they_are_told", Run::Own(servers_fail_as_they_are_told)),
    ("rig::a_killed_container_starts_again", Run::Own(a_killed_container_starts_again)),
    ("rig::redials_image_runs", Run::Own(redials_image_runs)),
    ("rig::redial_in_a_pod_serves_another_pod", Run::Own(redial_in_a_pod_serves_another_pod)),
    ("rig::a_node_agent_sees_every_pods_cgroup", Run::Own(a_node_agent_sees_every_pods_cgroup)),
];

fn both_nodes_are_ready(cluster: &OwnCluster) -> Result<()> {
    let nodes = cluster.get(&["nodes"])?;
    let nodes = nodes["items"].as_array().context("no nodes")?;
    assert_eq!(nodes.len(), 2);
    for node in nodes {
        let conditions =
            node.pointer("/status/conditions").and_then(Value::as_array).context("no conditions")?;
        assert!(conditions.iter().any(|is| is["type"] == "Ready" && is["status"] == "True"), "{node}");
        assert_eq!(node.pointer("/status/nodeInfo/kubeletVersion"), Some(&json!("v1.36.2")));
    }
    Ok(())
}

/// By address and by a Service's.
fn pods_of_two_nodes_reach_each_other(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("reach")?;
    let server = namespace.pod("server", "node2", &["serve", "80"])?;
    namespace.kubectl(&["expose", "pod", "server", "--port=8080", "--target-port=80"])?;
    let client = namespace.pod("client", "node1", &["pause"])?;
    let service = namespace.get(&["service", "server"])?;
    let service = service.pointer("/spec/clusterIP").and_then(Value::as_str).context("no clusterIP")?;

    let direct = namespace.ask("client", &[&format!("{}:80", server.address)])?;
    assert_eq!((&direct[0]["status"], &direct[0]["server"]), (&json!(200), &json!("server")), "{direct:?}");
    let line: Value = serde_json::from_str(&namespace.logs("server")?)?;
    let peer = line["peer"].as_str().context("no peer")?;
    assert!(peer.starts_with(&format!("{}:", client.address)), "the server saw {peer}");

    // kube-proxy learns of a Service when it does.
    until("an answer through the Service", || {
        let asked = namespace.ask("client", &[&format!("{service}:8080"), "timeout=1000"])?;
        Ok((asked[0]["server"] == "server").then_some(()))
    })
}

fn servers_fail_as_they_are_told(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("failing")?;
    let server = namespace.pod("server", "node2", &["serve", "80", "reset=1", "hang=1", "unavailable=2"])?;
    namespace.pod("client", "node1", &["pause"])?;
    let asked = namespace.ask("client", &[&format!("{}:80", server.address), "count=5", "timeout=500"])?;
    let seen =
        asked.iter().map(|line| if line["error"].is_null() { &line["status"] } else { &line["error"] });
    let expected = [json!("ECONNRESET"), json!("EAGAIN"), json!(503), json!(503), json!(200)];
    assert_eq!(seen.collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    let refused = namespace.ask("client", &[&format!("{}:81", server.address), "connect=true"])?;
    assert_eq!(refused[0]["error"], "ECONNREFUSED");
    Ok(())
}

fn a_killed_container_starts_again(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("killed")?;
    let server = namespace.pod("server", "node1", &["pause"])?;
    let node = cluster.nodes().first().context("no node")?;
    node.kill(&server)?;
    namespace.wait("pod/server", "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
    namespace.wait("pod/server", "condition=Ready")?;
    assert_eq!(namespace.find("server")?, server, "the pod is the same");
    Ok(())
}

fn redials_image_runs(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("image")?;
    let mut pod = pod("redial", "node1", &["--version"]);
    pod["spec"]["containers"][0]["image"] = REDIAL.as_str().into();
    pod["spec"]["restartPolicy"] = "Never".into();
    namespace.apply(&pod.to_string())?;
    namespace.wait("pod/redial", "jsonpath={.status.phase}=Succeeded")?;
    assert_eq!(namespace.logs("redial")?, concat!("redial ", env!("CARGO_PKG_VERSION"), "\n"));
    Ok(())
}

/// The programs load in a privileged pod, and attach to a cgroup that is mounted there.
fn redial_in_a_pod_serves_another_pod(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("served")?;
    let server = namespace.pod("server", "node2", &["serve", "80", "unavailable=2"])?;
    let client = namespace.pod("client", "node1", &["pause"])?;
    let address = format!("{}:80", server.address);
    let without = namespace.ask("client", &[&address])?;
    assert_eq!(without[0]["status"], 503, "{without:?}");

    namespace.apply(
        r#"{apiVersion: v1, kind: ConfigMap, metadata: {name: policies}, data: {policy.yaml: "
            apiVersion: redial.dev/v1alpha1\n
            kind: RetryPolicy\n
            metadata: {name: all}\n
            spec: {http: {}}\n"}}"#,
    )?;
    let node = cluster.nodes().iter().find(|node| node.name() == client.node).context("no such node")?;
    let cgroup = node.pod_cgroup(&client)?;
    let below = cgroup.strip_prefix(node.cgroup())?;
    let mount = cgroup::mount()?;
    let mount = Path::new("/host/cgroup").join(mount.strip_prefix("/sys/fs/cgroup")?);
    let cgroup = mount.join(below).display().to_string();
    let mut agent = pod("redial", &client.node, &["run", "--config", "/policies", "--cgroup", &cgroup]);
    agent["spec"]["hostNetwork"] = true.into();
    agent["spec"]["hostPID"] = true.into();
    agent["spec"]["containers"][0]["image"] = REDIAL.as_str().into();
    agent["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    agent["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "cgroup", "mountPath": "/host/cgroup"}, {"name": "policies", "mountPath": "/policies"}]);
    agent["spec"]["volumes"] = json!([
        {"name": "cgroup", "hostPath": {"path": "/sys/fs/cgroup"}},
        {"name": "policies", "configMap": {"name": "policies"}},
    ]);
    namespace.apply(&agent.to_string())?;
    namespace.wait("pod/redial", "condition=Ready")?;
    until("redial is ready", || {
        let said = namespace.logs("redial")?;
        ensure!(said.contains("ready"), said);
        Ok(Some(()))
    })?;

    let with = namespace.ask("client", &[&address])?;
    assert_eq!(with[0]["status"], 200, "{with:?}\n{}", namespace.logs("redial")?);
    assert_eq!(with[0]["peer"], address.as_str());
    assert_eq!(namespace.logs("server")?.lines().count(), 3);
    Ok(())
}

/// A pod of the node's network and process table, with the node's cgroups mounted, finds every other pod's cgroup by
/// its UID, and in it processes that it sees.
fn a_node_agent_sees_every_pods_cgroup(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("agents")?;
    let pods = [
        namespace.pod("one", "node1", &["pause"])?,
        namespace.pod("two", "node2", &["pause"])?,
        namespace.pod("three", "node2", &["pause"])?,
    ];
    namespace.apply(&agents().to_string())?;
    namespace.rolled_out("daemonset/agent")?;
    let agents = namespace.get(&["pods", "--selector=app=agent"])?;
    let agents = agents["items"].as_array().context("no agents")?;
    assert_eq!(agents.len(), 2);
    for agent in agents {
        let text = |pointer| agent.pointer(pointer).and_then(Value::as_str).context("no such text");
        let (name, node) = (text("/metadata/name")?, text("/spec/nodeName")?);
        let own = cluster.nodes().iter().find(|own| own.name() == node).context("no such node")?;
        assert_eq!(text("/status/podIP")?, own.address().to_string(), "the network is the node's");

        let mounts = namespace.exec(name, &["/pod", "read", "/proc/self/mounts"])?;
        let mount = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|mount| mount[1].starts_with("/host/cgroup") && mount[2] == "cgroup2")
            .with_context(|| format!("no cgroup2 in\n{mounts}"))?;
        let listed = namespace.exec(name, &["/pod", "list", mount[1]])?;
        for pod in &pods {
            let found: Vec<_> = listed.lines().filter(|path| path.contains(&pod.uid)).collect();
            assert_eq!(!found.is_empty(), pod.node == node, "{} on {node}:\n{listed}", pod.name);
            let Some(leaf) = found.iter().max_by_key(|path| path.len()) else { continue };
            let processes = namespace.exec(name, &["/pod", "read", &format!("{leaf}/cgroup.procs")])?;
            let process = processes.lines().next().with_context(|| format!("nobody in {leaf}"))?;
            let command = namespace.exec(name, &["/pod", "read", &format!("/proc/{process}/cmdline")])?;
            assert!(command.starts_with("/pod"), "{process} is {command}");
            let cgroups = namespace.exec(name, &["/pod", "read", &format!("/proc/{process}/cgroup")])?;
            let unified = cgroups.lines().find(|line| line.starts_with("0::"));
            // The same names, from the node's root or from another place below it.
            let names = leaf.strip_prefix(mount[1]).context("not below the mount")?;
            for name in names.rsplit('/').take(2) {
                assert!(unified.is_some_and(|line| line.contains(name)), "{cgroups}");
            }
            let host = own.pod_cgroup(pod)?;
            assert!(host.join("cgroup.procs").is_file(), "the machine has no {}", host.display());
        }
        // It sees the machine's other processes too, and that they are not the node's.
        let this = format!("/proc/{}/cgroup", Pid::this());
        let cgroups = namespace.exec(name, &["/pod", "read", &this])?;
        assert!(cgroups.lines().any(|line| line.starts_with("0::/..")), "{cgroups}");
    }
    Ok(())
}

fn agents() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {
                "metadata": {"labels": {"app": "agent"}},
                "spec": {
                    "hostNetwork": true,
                    "hostPID": true,
                    "terminationGracePeriodSeconds": 2,
                    "containers": [{
                        "name": "agent",
                        "image": *POD,
                        "args": ["pause"],
                        "securityContext": {"privileged": true},
                        "volumeMounts": [{"name": "cgroup", "mountPath": "/host/cgroup", "readOnly": true}],
                    }],
                    "volumes": [{"name": "cgroup", "hostPath": {"path": "/sys/fs/cgroup", "type": "Directory"}}],
                },
            },
        },
    })
}

/// What of the machine a cluster could have left something in.
pub(crate) struct Machine {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    links: BTreeSet<String>,
    settings: Vec<(&'static str, Option<String>)>,
    folders: Vec<(&'static str, bool)>,
}

impl Machine {
    pub(crate) fn look() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?.lines().map(str::to_owned).collect();
        let mut cgroups = BTreeSet::new();
        for mount in fs::read_to_string("/proc/self/mounts")?.lines() {
            let mount: Vec<_> = mount.split(' ').collect();
            if mount[2].starts_with("cgroup") {
                cgroups.extend(names(mount[1])?.into_iter().map(|name| format!("{}/{name}", mount[1])));
            }
        }
        let settings = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"];
        let setting = |name| (name, fs::read_to_string(format!("/proc/sys/{name}")).ok());
        let folders = [
            "/etc/cni",
            "/opt/cni",
            "/run/containerd",
            "/run/node",
            "/usr/libexec/kubernetes",
            "/var/lib/cni",
            "/var/lib/containerd",
            "/var/lib/kubelet",
            "/var/log/containers",
            "/var/log/pods",
        ];
        Ok(Self {
            mounts,
            cgroups,
            namespaces: names("/run/netns").unwrap_or_default(),
            links: names("/sys/class/net")?,
            settings: settings.map(setting).into(),
            folders: folders.map(|folder| (folder, fs::exists(folder).unwrap_or(false))).into(),
        })
    }

    /// Everything this process made is gone: names of cgroups and namespaces have its number in them.
    pub(crate) fn is_as_it_was(&self) -> Result<()> {
        let own = format!("rdl{}-", Pid::this());
        let after = Self::look()?;
        let left = |before: &BTreeSet<String>, after: &BTreeSet<String>| -> Vec<String> {
            let new = |name: &&String| !before.contains(*name) && name.contains(&own);
            after.iter().filter(new).cloned().collect()
        };
        assert_eq!(left(&self.cgroups, &after.cgroups), [""; 0], "cgroups");
        assert_eq!(left(&self.namespaces, &after.namespaces), [""; 0], "namespaces");
        let mounted = after.mounts.difference(&self.mounts).filter(|mount| {
            mount.contains(&own)
                || ["kubelet", "containerd", "/run/node"].iter().any(|word| mount.contains(word))
        });
        assert_eq!(mounted.collect::<Vec<_>>(), [""; 0], "mounts");
        assert_eq!(after.links, self.links, "interfaces");
        assert_eq!(after.settings, self.settings, "settings");
        assert_eq!(after.folders, self.folders, "folders");
        for process in names("/proc")?.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            // One that has ended while we look is gone; a dead one that its parent has not asked for has no program.
            let program = fs::read_link(format!("/proc/{process}/exe")).unwrap_or_default();
            let cgroups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
            ensure!(
                program.as_os_str().is_empty() || !cgroups.contains(&own),
                "{process} still runs: {}",
                program.display()
            );
        }
        Ok(())
    }
}

fn names(folder: &str) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {folder}"))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
