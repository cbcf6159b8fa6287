//! What a user does: the manifest applied as it is shipped, pods labelled, policies written.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use redial_tests::bpf::Objects;
use redial_tests::cluster::{Cluster, Namespace, Node, Pod, pod, until};
use serde_json::{Value, json};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("deploy::the_manifest_installs_retries_and_leaves", the_manifest_installs_retries_and_leaves),
    ("deploy::the_shipped_seccomp_profile_is_enough", the_shipped_seccomp_profile_is_enough),
];

/// Where [`manifest`] says that redial is.
pub(crate) const NAMESPACE: &str = "redial";
const SELECTOR: &str = "--selector=app.kubernetes.io/name=redial";

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

    let agents = agents(cluster)?;
    let mut objects = Objects::default();
    for agent in &agents {
        node_of(cluster, agent)?
            .processes(agent)?
            .into_iter()
            .try_for_each(|process| objects.add(process))?;
    }
    // One at least of each of the programs and maps for each agent, and of the links for the client.
    ensure!(
        objects.programs.len() >= 2 && objects.maps.len() >= 2 && objects.links.len() >= 2,
        "{objects:?}"
    );
    ensure!(!listens_on_loopback(cluster, &namespace.find("client")?)?.is_empty(), "no engine in the client");
    drop(installed);
    assert_eq!(attempts()?, 1);
    leaves_nothing(cluster, &namespace, &objects)
}

/// The nodes are as they were, and the pods that were enrolled.
fn leaves_nothing(cluster: &Cluster, namespace: &Namespace<'_>, objects: &Objects) -> Result<()> {
    until("the agents' end", || {
        let pods = cluster.kubectl(&["get", "pods", "--all-namespaces", "--output=name", SELECTOR])?;
        Ok(pods.trim().is_empty().then_some(()))
    })?;
    // The kernel frees them when it comes to it.
    until("the end of what they had in the kernel", || {
        let left = objects.left()?;
        ensure!(left == Objects::default(), "{left:?}");
        Ok(Some(()))
    })?;
    for node in cluster.nodes() {
        let listed = node.run_here("find").args(["/run/redial", "-mindepth", "1"]).output()?;
        ensure!(listed.stdout.is_empty(), "{}: {}", node.name(), String::from_utf8_lossy(&listed.stdout));
    }
    let listeners = listens_on_loopback(cluster, &namespace.find("client")?)?;
    ensure!(listeners.is_empty(), "{listeners:?}");
    Ok(())
}

/// The listeners on 127.0.0.1 in a pod's network, as /proc/net/tcp has them.
fn listens_on_loopback(cluster: &Cluster, pod: &Pod) -> Result<Vec<String>> {
    let process = *node_of(cluster, pod)?.processes(pod)?.first().context("no process")?;
    let table = fs::read_to_string(format!("/proc/{process}/net/tcp"))?;
    let listens = |line: &&str| {
        let words: Vec<_> = line.split_whitespace().collect();
        matches!(words[..], [_, local, _, "0A", ..] if local.starts_with("0100007F:"))
    };
    Ok(table.lines().filter(listens).map(str::to_owned).collect())
}

fn node_of<'a>(cluster: &'a Cluster, pod: &Pod) -> Result<&'a Node> {
    cluster.nodes().iter().find(|node| node.name() == pod.node).context("no such node")
}

/// With the profile of `deploy/seccomp.json` in the place of the runtime's, agents start, answer, retry and are replaced.
fn the_shipped_seccomp_profile_is_enough(cluster: &Cluster) -> Result<()> {
    const PROFILE: &str = "redial.json";
    let profile = fs::read_to_string(manifest().with_file_name("seccomp.json"))?;
    for node in cluster.nodes() {
        node.add_seccomp_profile(PROFILE, &profile)?;
    }
    let runtimes = "type: RuntimeDefault";
    let documents = fs::read_to_string(manifest())?;
    ensure!(documents.matches(runtimes).count() == 1, "not one {runtimes} in the manifest");
    let localhost = format!("{{type: Localhost, localhostProfile: {PROFILE}}}");
    let documents = documents.replace(
        &format!("seccompProfile:\n              {runtimes}"),
        &format!("seccompProfile: {localhost}"),
    );
    ensure!(documents.contains(&localhost), "the manifest has its profile elsewhere");
    let _installed = Installed::of(cluster, &documents)?;
    cluster.wait("crd/retrypolicies.redial.dev", "condition=Established")?;
    rolled_out(cluster)?;
    for _ in 0..2 {
        for agent in agents(cluster)? {
            let processes = node_of(cluster, &agent)?.processes(&agent)?;
            ensure!(!processes.is_empty(), "{agent:?} has no process");
            for process in processes {
                let status = fs::read_to_string(format!("/proc/{process}/status"))?;
                ensure!(status.lines().any(|line| line == "Seccomp:\t2"), "{agent:?}: {status}");
            }
        }
        retries_under_a_policy(cluster)?;
        cluster.kubectl(&["rollout", "restart", "daemonset/redial", "--namespace", NAMESPACE])?;
        rolled_out(cluster)?;
    }
    Ok(())
}

fn retries_under_a_policy(cluster: &Cluster) -> Result<()> {
    let namespace =
        cluster.namespace(&format!("seccomp-{}", agents(cluster)?.first().context("no agent")?.uid))?;
    let server = namespace.pod("server", "node2", &["serve", "80", "unavailable=1000000"])?;
    namespace.apply(&policy("retries", &json!({"http": {"numRetries": 4}})).to_string())?;
    let mut client = pod("client", "node1", &["pause"]);
    client["metadata"]["labels"]["redial.dev/enroll"] = "true".into();
    namespace.apply(&client.to_string())?;
    namespace.wait("pod/client", "condition=Ready")?;
    until("5 attempts", || {
        let before = namespace.logs("server")?.lines().count();
        namespace.ask("client", &[&format!("{}:80", server.address)])?;
        let made = namespace.logs("server")?.lines().count() - before;
        ensure!(made == 5, "{made}\n{}", said(cluster)?);
        Ok(Some(()))
    })?;
    ensure!(in_an_agent(cluster, &["/redial", "status"])?.contains("retries"), "no status");
    Ok(())
}

/// Of both nodes.
pub(crate) fn agents(cluster: &Cluster) -> Result<Vec<Pod>> {
    until("one agent a node", || {
        let pods = cluster.get(&["pods", "--namespace", NAMESPACE, SELECTOR])?;
        let pods = pods["items"].as_array().context("no pods")?;
        let agent = |pod: &Value| {
            let text = |pointer| {
                let text = pod.pointer(pointer).and_then(Value::as_str);
                text.map(str::to_owned).context("not there yet")
            };
            Ok(Pod {
                name: text("/metadata/name")?,
                uid: text("/metadata/uid")?,
                address: text("/status/podIP")?,
                node: text("/spec/nodeName")?,
            })
        };
        let agents = pods.iter().map(agent).collect::<Result<Vec<_>>>()?;
        Ok((agents.len() == cluster.nodes().len()).then_some(agents))
    })
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

pub(crate) fn policy(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "redial.dev/v1alpha1", "kind": "RetryPolicy", "metadata": {"name": name}, "spec": spec,
    })
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

pub(crate) fn rolled_out(cluster: &Cluster) -> Result<()> {
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
    cluster.kubectl(&["logs", "--namespace", NAMESPACE, SELECTOR, "--tail=30", "--prefix"])
}

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifest.yaml")
}

/// Everything of the manifest. Drop deletes it.
pub(crate) struct Installed<'a>(&'a Cluster);

impl<'a> Installed<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Result<Self> {
        Self::of(cluster, &fs::read_to_string(manifest())?)
    }

    /// The same with something changed.
    fn of(cluster: &'a Cluster, documents: &str) -> Result<Self> {
        let installed = Self(cluster);
        cluster.apply(documents)?;
        Ok(installed)
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        let file = manifest().display().to_string();
        drop(self.0.kubectl(&["delete", "--ignore-not-found", "--timeout=120s", "--filename", &file]));
    }
}
