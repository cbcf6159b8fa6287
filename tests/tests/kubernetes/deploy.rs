//! What a user does: the manifest applied as it is shipped, pods labelled, policies written.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use redial_tests::cluster::{Cluster, Namespace, pod, until};
use serde_json::{Value, json};

use crate::Test;

pub(crate) const TESTS: &[Test] =
    &[("deploy::the_manifest_installs_retries_and_leaves", the_manifest_installs_retries_and_leaves)];

/// Where [`manifest`] says that redial is.
const NAMESPACE: &str = "redial";

/// Installs, sees requests retried as objects of the API say, sees what is wrong refused, and takes all away again.
fn the_manifest_installs_retries_and_leaves(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("deploy")?;
    let server = namespace.pod("server", "node2", &["serve", "80", "unavailable=1000000"])?;
    let address = format!("{}:80", server.address);
    let mut client = pod("client", "node1", &["pause"]);
    client["metadata"]["labels"]["redial.dev/enroll"] = "true".into();
    namespace.apply(&client.to_string())?;
    namespace.wait("pod/client", "condition=Ready")?;
    let attempts = || {
        let before = namespace.logs("server")?.lines().count();
        let asked = namespace.ask("client", &[&address])?;
        ensure!(asked[0]["status"] == 503, "{asked:?}");
        Ok(namespace.logs("server")?.lines().count() - before)
    };
    let becomes = |expected: usize| {
        until(&format!("{expected} attempts"), || match attempts()? {
            made if made == expected => Ok(Some(())),
            made => bail!("{made}\n{}", said(cluster)?),
        })
    };
    assert_eq!(attempts()?, 1);

    let installed = Installed::new(cluster)?;
    cluster.wait("crd/retrypolicies.redial.dev", "condition=Established")?;
    rolled_out(cluster)?;
    is_of_least_privilege(cluster)?;

    namespace.apply(&policy("retries", &json!({"http": {"numRetries": 4}})).to_string())?;
    becomes(5)?;
    let object = until("it is programmed on both nodes", || {
        let object = namespace.get(&["retrypolicy", "retries"])?;
        Ok((condition(&object, "Programmed")["status"] == "True").then_some(object))
    })?;
    assert_eq!(condition(&object, "Accepted")["status"], "True", "{object}");
    assert_eq!(object["status"]["nodes"], "2/2", "{object}");
    let printed = namespace.kubectl(&["get", "rp", "retries", "--no-headers"])?;
    let columns: Vec<_> = printed.split_whitespace().take(4).collect();
    assert_eq!(columns, ["retries", "True", "True", "2/2"]);

    refused_by_the_api_server(&namespace)?;
    // What a schema cannot say, the agents do.
    namespace.apply(&policy("wrong", &json!({"protocol": "tcp", "http": {}})).to_string())?;
    let accepted = until("it is refused", || {
        let accepted = condition(&namespace.get(&["retrypolicy", "wrong"])?, "Accepted").clone();
        Ok((accepted["status"] == "False").then_some(accepted))
    })?;
    let message = accepted["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("spec.protocol: "), "{message}");
    becomes(5)?;

    let status = in_an_agent(cluster, &["/redial", "status"])?;
    assert!(status.contains("retries"), "{status}");

    // Configured otherwise, the pods are others, and a policy is as much in force as before.
    cluster.kubectl(&["rollout", "restart", "daemonset/redial", "--namespace", NAMESPACE])?;
    rolled_out(cluster)?;
    becomes(5)?;

    drop(installed);
    assert_eq!(attempts()?, 1);
    Ok(())
}

/// What `kubectl apply` says of objects that are against the schema.
fn refused_by_the_api_server(namespace: &Namespace<'_>) -> Result<()> {
    for (spec, why) in [
        (json!({"http": {"numRetries": "many"}}), "spec.http.numRetries"),
        (json!({"http": {"numRetries": -1}}), "spec.http.numRetries"),
        (json!({"http": {"retryOn": ["sometimes"]}}), "spec.http.retryOn[0]"),
        (json!({"http": {"retries": 3}}), "spec.http.retries"),
        (json!({"http": {"methods": "some"}}), "spec.http.methods"),
        (json!({"http": {"methods": ["get"]}}), "spec.http.methods[0]"),
        (json!({"http": {"maxBufferedBody": "64KB"}}), "spec.http.maxBufferedBody"),
        (json!({"tcp": {"timeout": "5"}}), "spec.tcp.timeout"),
        (json!({"to": [{}]}), "spec.to[0]"),
    ] {
        let Err(error) = namespace.apply(&policy("bad", &spec).to_string()) else {
            bail!("the API server takes {spec}")
        };
        let error = format!("{error:#}");
        ensure!(error.contains(why), "{spec}: {error}");
    }
    for spec in [
        json!({"http": {"methods": "any", "maxBufferedBody": "64KiB"}}),
        json!({"http": {"methods": ["GET"], "maxBufferedBody": 65_536}}),
        json!({"tcp": {"backOff": {"baseInterval": "1.5ms"}, "retryOn": ["refused"]}, "to": [{"ports": [1]}]}),
    ] {
        namespace.apply(&policy("good", &spec).to_string())?;
    }
    namespace.delete("retrypolicy/good")
}

/// The agents run with what the chart says that they need, and no more.
fn is_of_least_privilege(cluster: &Cluster) -> Result<()> {
    let daemonset = cluster.get(&["daemonset/redial", "--namespace", NAMESPACE])?;
    let context = daemonset.pointer("/spec/template/spec/containers/0/securityContext").context("none")?;
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    Ok(())
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "redial.dev/v1alpha1", "kind": "RetryPolicy", "metadata": {"name": name}, "spec": spec,
    })
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

fn rolled_out(cluster: &Cluster) -> Result<()> {
    let wait = ["rollout", "status", "daemonset/redial", "--namespace", NAMESPACE, "--timeout=120s"];
    cluster.kubectl(&wait).map(drop).map_err(|error| {
        let pods = cluster.kubectl(&["describe", "pods", "--namespace", NAMESPACE]).unwrap_or_default();
        error.context(pods).context(said(cluster).unwrap_or_default())
    })
}

fn in_an_agent(cluster: &Cluster, command: &[&str]) -> Result<String> {
    cluster.kubectl(&[&["exec", "--namespace", NAMESPACE, "daemonset/redial", "--"], command].concat())
}

fn said(cluster: &Cluster) -> Result<String> {
    let selector = "--selector=app.kubernetes.io/name=redial";
    cluster.kubectl(&["logs", "--namespace", NAMESPACE, selector, "--tail=30", "--prefix"])
}

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifest.yaml")
}

/// Everything of the manifest. Drop deletes it.
struct Installed<'a>(&'a Cluster);

impl<'a> Installed<'a> {
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let installed = Self(cluster);
        cluster.apply(&fs::read_to_string(manifest())?)?;
        Ok(installed)
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        let file = manifest().display().to_string();
        drop(self.0.kubectl(&["delete", "--ignore-not-found", "--timeout=120s", "--filename", &file]));
    }
}
