//! redial as it is shipped: the manifest's agents, rights and definition, and what they say of requests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use redial_tests::bpf::Objects;
use redial_tests::cluster::{Cluster, Namespace, Node, Pod, REDIAL, SHIPPED, pod, until};
use serde_json::{Value, json};

/// The namespace of the manifest.
const NAMESPACE: &str = "redial";
const SELECTOR: &str = "--selector=app.kubernetes.io/name=redial";

/// Everything of the manifest. Drop deletes it, and waits until it is gone.
pub(crate) struct Shipped<'a>(&'a Cluster);

pub(crate) fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The manifest, with the image of these tests.
pub(crate) fn manifest() -> Result<String> {
    let documents = fs::read_to_string(deploy().join("manifest.yaml"))?;
    ensure!(documents.contains(SHIPPED), "the manifest has another image than {SHIPPED}");
    Ok(documents.replace(SHIPPED, &REDIAL))
}

impl<'a> Shipped<'a> {
    pub(crate) fn install(cluster: &'a Cluster) -> Result<Self> {
        Self::install_as(cluster, &manifest()?)
    }

    /// The same with something changed.
    pub(crate) fn install_as(cluster: &'a Cluster, manifest: &str) -> Result<Self> {
        Self::install_by(cluster, || cluster.apply(manifest))
    }

    /// The same objects, however they come into the cluster.
    pub(crate) fn install_by(cluster: &'a Cluster, install: impl FnOnce() -> Result<()>) -> Result<Self> {
        // What there is already is somebody's.
        let there = cluster.present(&manifest()?)?;
        ensure!(there.is_empty(), "the cluster has a redial already:\n{there}");
        let shipped = Self(cluster);
        install()?;
        cluster.wait("crd/retrypolicies.redial.dev", "condition=Established")?;
        shipped.rolled_out()?;
        Ok(shipped)
    }

    /// Replaces every agent, as a change of the `DaemonSet` does.
    pub(crate) fn restart(&self) -> Result<()> {
        self.0.kubectl(&["rollout", "restart", "daemonset/redial", "--namespace", NAMESPACE])?;
        self.rolled_out()
    }

    fn rolled_out(&self) -> Result<()> {
        let wait = ["rollout", "status", "daemonset/redial", "--namespace", NAMESPACE, "--timeout=120s"];
        self.0.kubectl(&wait).map(drop).map_err(|error| {
            let pods = self.0.kubectl(&["describe", "pods", "--namespace", NAMESPACE]).unwrap_or_default();
            error.context(pods).context(self.said().unwrap_or_default())
        })
    }

    pub(crate) fn daemonset(&self) -> Result<Value> {
        self.0.get(&["daemonset/redial", "--namespace", NAMESPACE])
    }

    /// The agents, one a node.
    pub(crate) fn agents(&self) -> Result<Vec<Pod>> {
        until("one agent a node", || {
            let pods = self.0.get(&["pods", "--namespace", NAMESPACE, SELECTOR])?;
            let pods = pods["items"].as_array().context("no pods")?;
            let agents = pods.iter().map(Pod::read).collect::<Result<Vec<_>>>()?;
            Ok((agents.len() == self.nodes()?).then_some(agents))
        })
    }

    /// How many nodes are to have an agent.
    fn nodes(&self) -> Result<usize> {
        let daemonset = self.daemonset()?;
        let nodes = daemonset["status"]["desiredNumberScheduled"].as_u64().context("no number of nodes")?;
        Ok(usize::try_from(nodes)?)
    }

    /// Waits until a `RetryPolicy` is in force on every node.
    pub(crate) fn has_in_force(&self, namespace: &Namespace<'_>, policy: &str) -> Result<Value> {
        until(&format!("{policy} is in force everywhere"), || {
            let (object, nodes) = (namespace.get(&["retrypolicy", policy])?, self.nodes()?);
            Ok((object["status"]["nodes"] == format!("{nodes}/{nodes}")).then_some(object))
        })
    }

    /// What the agents of these nodes have in the kernel, which is something of everything.
    pub(crate) fn objects(&self, nodes: &[Node]) -> Result<Objects> {
        let mut objects = Objects::default();
        for agent in self.agents()? {
            if let Some(node) = nodes.iter().find(|node| node.name() == agent.node) {
                node.processes(&agent)?.into_iter().try_for_each(|process| objects.add(process))?;
            }
        }
        let Objects { programs, maps, links } = &objects;
        let all = [programs, maps, links];
        ensure!(all.iter().all(|ids| ids.len() >= nodes.len()), "{objects:?}");
        Ok(objects)
    }

    /// What the agents have said lately.
    pub(crate) fn said(&self) -> Result<String> {
        self.0.kubectl(&["logs", "--namespace", NAMESPACE, SELECTOR, "--tail=30", "--prefix"])
    }

    /// What `redial status` says on a node.
    pub(crate) fn status(&self, node: &str) -> Result<Value> {
        let agents = self.agents()?;
        let agent = agents.iter().find(|agent| agent.node == node).context("no agent")?;
        let mut status: Value = serde_json::from_str(&self.exec(&agent.name, &["status", "--output=json"])?)?;
        Ok(status[0].take())
    }

    /// What redial says to a command in an agent's pod, or in that of some agent: `daemonset/redial`.
    pub(crate) fn exec(&self, agent: &str, command: &[&str]) -> Result<String> {
        self.0.kubectl(&[&["exec", "--namespace", NAMESPACE, agent, "--", "/redial"], command].concat())
    }

    /// The agents' records of what ended.
    pub(crate) fn records(&self) -> Result<Vec<Value>> {
        let said = self.0.kubectl(&["logs", "--namespace", NAMESPACE, SELECTOR, "--tail=-1"])?;
        // What an agent logs has no kind.
        let records = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(records.filter(|line| line.get("original_destination").is_some()).collect())
    }

    /// The records of so many requests for a path.
    pub(crate) fn requests(&self, path: &str, count: usize) -> Result<Vec<Value>> {
        until(&format!("records of {count} requests for {path}"), || {
            let mut records = self.records()?;
            records.retain(|record| record["path"] == path);
            ensure!(records.len() >= count, "there are {}", records.len());
            Ok(Some(records))
        })
    }
}

impl Drop for Shipped<'_> {
    fn drop(&mut self) {
        drop(manifest().and_then(|documents| self.0.take_back(&documents)));
        // Their pods go after what they are of.
        let gone = until("the agents' end", || {
            let pods = self.0.kubectl(&["get", "pods", "--all-namespaces", "--output=name", SELECTOR])?;
            Ok(pods.trim().is_empty().then_some(()))
        });
        drop(gone);
    }
}

/// Starts an enrolled pod that does as it is told.
pub(crate) fn client(namespace: &Namespace<'_>, name: &str) -> Result<()> {
    namespace.apply(&enrolled_on(namespace.cluster().near(), name, &["pause"]).to_string())?;
    namespace.wait(&format!("pod/{name}"), "condition=Ready")
}

pub(crate) fn enrolled_on(node: &str, name: &str, arguments: &[&str]) -> Value {
    let mut pod = pod(name, node, arguments);
    pod["metadata"]["labels"]["redial.dev/enroll"] = "true".into();
    pod
}

/// How often the server was asked for one request of a pod.
pub(crate) fn attempts(
    servers: &Namespace<'_>,
    of: &Namespace<'_>,
    name: &str,
    address: &str,
) -> Result<usize> {
    let before = servers.logs("server")?.lines().count();
    let asked = of.ask(name, &[address])?;
    ensure!(asked[0]["status"] == 503, "{asked:?}");
    Ok(servers.logs("server")?.lines().count() - before)
}

/// A `RetryPolicy`.
pub(crate) fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "redial.dev/v1alpha1", "kind": "RetryPolicy", "metadata": {"name": name}, "spec": spec,
    })
}

/// A Service on port 8080 of the pods that have these labels, and where it is.
pub(crate) fn service(namespace: &Namespace<'_>, name: &str, selector: &Value) -> Result<String> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"port": 8080, "targetPort": 80}]},
    });
    namespace.apply(&service.to_string())?;
    let service = namespace.get(&["service", name])?;
    let address = service["spec"]["clusterIP"].as_str().context("no clusterIP")?;
    Ok(format!("{address}:8080"))
}

/// Where the attempts of a record went.
pub(crate) fn endpoints(record: &Value) -> Vec<&str> {
    let attempts = record["attempts"].as_array();
    attempts.into_iter().flatten().filter_map(|attempt| attempt["endpoint"].as_str()).collect()
}
