//! redial as it is shipped: the manifest's agents, rights and definition, and what they say of requests.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use redial_tests::cluster::{Cluster, Namespace, pod, until};
use serde_json::{Value, json};

/// The namespace of the manifest.
const NAMESPACE: &str = "redial";
const SELECTOR: &str = "--selector=app.kubernetes.io/name=redial";

/// Everything of the manifest. Drop deletes it, and waits until it is gone.
pub(crate) struct Shipped<'a> {
    cluster: &'a Cluster,
    manifest: String,
}

impl<'a> Shipped<'a> {
    pub(crate) fn install(cluster: &'a Cluster) -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifest.yaml");
        let shipped = Self { cluster, manifest: manifest.display().to_string() };
        cluster.kubectl(&["apply", "--filename", &shipped.manifest])?;
        cluster.wait("crd/retrypolicies.redial.dev", "condition=Established")?;
        let wait = ["rollout", "status", "daemonset/redial", "--namespace", NAMESPACE, "--timeout=120s"];
        cluster.kubectl(&wait).map_err(|error| error.context(shipped.said().unwrap_or_default()))?;
        Ok(shipped)
    }

    /// What the agents have said lately.
    pub(crate) fn said(&self) -> Result<String> {
        self.cluster.kubectl(&["logs", "--namespace", NAMESPACE, SELECTOR, "--tail=30", "--prefix"])
    }

    /// What `redial status` says on a node.
    pub(crate) fn status(&self, node: &str) -> Result<Value> {
        let on_node = format!("--field-selector=spec.nodeName={node}");
        let agents = self.cluster.get(&["pods", "--namespace", NAMESPACE, SELECTOR, &on_node])?;
        let agent = agents["items"][0]["metadata"]["name"].as_str().context("no agent")?;
        let exec = ["exec", "--namespace", NAMESPACE, agent, "--", "/redial", "status", "--output=json"];
        let mut status: Value = serde_json::from_str(&self.cluster.kubectl(&exec)?)?;
        Ok(status[0].take())
    }

    /// The agents' records of what ended.
    pub(crate) fn records(&self) -> Result<Vec<Value>> {
        let said = self.cluster.kubectl(&["logs", "--namespace", NAMESPACE, SELECTOR, "--tail=-1"])?;
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
        let delete = ["delete", "--ignore-not-found", "--timeout=120s", "--filename", &self.manifest];
        drop(self.cluster.kubectl(&delete));
    }
}

/// Starts an enrolled pod on the first node that does as it is told.
pub(crate) fn client(namespace: &Namespace<'_>, name: &str) -> Result<()> {
    namespace.apply(&enrolled(name, &["pause"]).to_string())?;
    namespace.wait(&format!("pod/{name}"), "condition=Ready")
}

pub(crate) fn enrolled(name: &str, arguments: &[&str]) -> Value {
    let mut pod = pod(name, "node1", arguments);
    pod["metadata"]["labels"]["redial.dev/enroll"] = "true".into();
    pod
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
