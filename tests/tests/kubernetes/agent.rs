//! redial as a node's agent: what becomes of requests while pods, agents and the API server come and go, and policies of the API.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use redial_tests::cluster::{Namespace, OwnCluster, POD, REDIAL, pod, until};
use serde_json::{Value, json};

use crate::shipped::{attempts, client, policy};
use crate::{Run, Test};

pub(crate) const TESTS: &[Test] = &[
    (
        "agent::containers_that_connect_at_once_are_served",
        Run::Own(containers_that_connect_at_once_are_served),
    ),
    (
        "agent::policies_of_the_api_are_in_force_and_say_so",
        Run::Own(policies_of_the_api_are_in_force_and_say_so),
    ),
    (
        "agent::without_an_api_server_the_last_state_holds",
        Run::Own(without_an_api_server_the_last_state_holds),
    ),
    (
        "agent::agents_come_and_go_without_a_failed_request",
        Run::Own(agents_come_and_go_without_a_failed_request),
    ),
];

/// What every request gets without redial: an answer that is retried.
const FAILS: &[&str] = &["serve", "80", "unavailable=1000000"];

/// The first thing that these pods do is to ask: an init container, and then another.
fn containers_that_connect_at_once_are_served(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("at-once")?;
    let address = serves(&namespace)?;
    let _agents = start(&namespace, &[retries()])?;
    let before = namespace.logs("server")?.lines().count();
    let pods = 5;
    for number in 0..pods {
        let mut pod = enrolled(&format!("client-{number}"));
        pod["spec"]["initContainers"] = json!([{"name": "first", "image": *POD, "args": ["ask", address]}]);
        pod["spec"]["containers"][0]["args"] = json!(["ask", address]);
        pod["spec"]["restartPolicy"] = "Never".into();
        namespace.apply(&pod.to_string())?;
    }
    for number in 0..pods {
        namespace.wait(&format!("pod/client-{number}"), "jsonpath={.status.phase}=Succeeded")?;
    }
    let made = namespace.logs("server")?.lines().count() - before;
    ensure!(made == 2 * 3 * pods, "{made} attempts of {} requests\n{}", 2 * pods, said(&namespace)?);
    Ok(())
}

/// A kind whose definition comes later than the agent, an object that is wrong, and what their status says.
fn policies_of_the_api_are_in_force_and_say_so(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("policies")?;
    let address = serves(&namespace)?;
    client(&namespace, "client")?;
    let _agents = start(&namespace, &[])?;
    let becomes = |expected: usize| {
        until(&format!("{expected} attempts"), || {
            let made = attempts(&namespace, &namespace, "client", &address)?;
            if made == expected { Ok(Some(())) } else { bail!("{made}\n{}", said(&namespace)?) }
        })
    };
    becomes(1)?;
    for (group, version, kind, plural) in [
        ("redial.dev", "v1alpha1", "RetryPolicy", "retrypolicies"),
        ("kuma.io", "v1alpha1", "MeshRetry", "meshretries"),
    ] {
        let crd = definition(group, version, kind, plural);
        cluster.apply(&crd.to_string())?;
        cluster.wait(&format!("crd/{plural}.{group}"), "condition=Established")?;
    }
    namespace.apply(&policy("retries", &json!({"http": {"numRetries": 4}})).to_string())?;
    becomes(5)?;
    let of = |name: &str, kind: &str| -> Result<Value> {
        let object = namespace.get(&["retrypolicy", name])?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default())
    };
    until("it is programmed on both nodes", || {
        Ok((of("retries", "Programmed")?["message"] == "in force on 2 of 2 nodes").then_some(()))
    })?;
    assert_eq!(of("retries", "Accepted")?["status"], "True");
    assert_eq!(namespace.get(&["retrypolicy", "retries"])?["status"]["nodes"], "2/2");

    // What is wrong is said, and what was right stays.
    namespace.apply(&policy("wrong", &json!({"http": {"numRetries": "many"}})).to_string())?;
    let accepted = until("it is refused", || {
        let accepted = of("wrong", "Accepted")?;
        Ok((accepted["status"] == "False").then_some(accepted))
    })?;
    let message = accepted["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("spec.http.numRetries: expected a whole number"), "{message}");
    becomes(5)?;
    namespace.delete("retrypolicy/wrong")?;

    // What turns bad keeps what it said, until it is mended.
    namespace.apply(&policy("retries", &json!({"http": {"numRetries": "many"}})).to_string())?;
    let message = until("it is refused", || {
        let accepted = of("retries", "Accepted")?;
        Ok((accepted["status"] == "False")
            .then(|| accepted["message"].as_str().unwrap_or_default().to_owned()))
    })?;
    assert!(message.ends_with("; what it said before stays in force"), "{message}");
    assert_eq!(of("retries", "Programmed")?["status"], "False");
    becomes(5)?;
    namespace.apply(&policy("retries", &json!({"http": {"numRetries": 3}})).to_string())?;
    becomes(4)?;
    until("it is accepted again", || Ok((of("retries", "Accepted")?["status"] == "True").then_some(())))?;

    // Another system's.
    namespace.delete("retrypolicy/retries")?;
    becomes(1)?;
    let mesh_retry = |retries: i32| {
        let http = json!({"numRetries": retries, "retryOn": ["5XX"]});
        json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "MeshRetry", "metadata": {"name": "all"},
            "spec": {
                "targetRef": {"kind": "Mesh"},
                "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": http}}],
            },
        })
    };
    namespace.apply(&mesh_retry(2).to_string())?;
    becomes(3)?;
    namespace.apply(&mesh_retry(-1).to_string())?;
    until("an event says what is wrong", || {
        let events = namespace.get(&["events", "--field-selector=reason=NotAccepted"])?;
        let notes = events["items"].as_array().cloned().unwrap_or_default();
        let mut notes = notes.iter().filter_map(|event| event["message"].as_str());
        Ok(notes.any(|note| note.starts_with("spec.to[0].default.http.numRetries: expected")).then_some(()))
    })?;
    becomes(3)?;
    namespace.delete("meshretry/all")?;
    becomes(1)?;
    cluster.kubectl(&["delete", "crd", "meshretries.kuma.io", "retrypolicies.redial.dev"])?;
    Ok(())
}

/// An API server that does not answer for a while changes nothing, and afterwards pods are enrolled again.
fn without_an_api_server_the_last_state_holds(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("away")?;
    let address = serves(&namespace)?;
    let _agents = start(&namespace, &[retries()])?;
    let mut busy = enrolled("busy");
    busy["spec"]["containers"][0]["args"] = json!(["ask", address, "count=0", "every=50"]);
    namespace.apply(&busy.to_string())?;
    namespace.wait("pod/busy", "condition=Ready")?;
    let lines = |pod: &str| Ok::<_, anyhow::Error>(namespace.logs(pod)?.lines().count());
    let before = lines("busy")?;
    cluster.signal("kube-apiserver", Signal::SIGSTOP)?;
    sleep(Duration::from_secs(5));
    cluster.signal("kube-apiserver", Signal::SIGCONT)?;
    let after = until("the API server answers", || lines("busy").map(Some))?;
    ensure!(after > before + 20, "{before} requests, then {after}");
    client(&namespace, "later")?;
    namespace.delete("pod/busy")?;
    let made = lines("server")?;
    ensure!(made >= 3 * after, "{made} attempts of {after} requests or more");
    until("the later pod is served", || {
        let made = attempts(&namespace, &namespace, "later", &address)?;
        if made == 3 { Ok(Some(())) } else { bail!("{made}\n{}", said(&namespace)?) }
    })
}

/// Requests go on while agents are rolled, killed and deleted. What goes direct meets no failure here.
fn agents_come_and_go_without_a_failed_request(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("rolling")?;
    let server = namespace.pod("server", "node2", &["serve", "80"])?;
    let address = format!("{}:80", server.address);
    let _agents = start(&namespace, &[retries()])?;
    let mut busy = enrolled("busy");
    busy["spec"]["containers"][0]["args"] = json!(["ask", address, "count=0", "every=5"]);
    namespace.apply(&busy.to_string())?;
    namespace.wait("pod/busy", "condition=Ready")?;
    let agents = || -> Result<Vec<Value>> {
        let pods =
            namespace.get(&["pods", "--selector=app=redial", "--field-selector=spec.nodeName=node1"])?;
        Ok(pods["items"].as_array().cloned().unwrap_or_default())
    };
    let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let before = agents()?;
    let before = uid(before.first().context("no agent")?);

    namespace.kubectl(&["rollout", "restart", "daemonset/redial"])?;
    namespace.rolled_out("daemonset/redial")?;
    let agent = until("one agent, a new one", || {
        let agents = agents()?;
        Ok(agents.first().filter(|agent| agents.len() == 1 && uid(agent) != before).cloned())
    })?;
    let name = agent["metadata"]["name"].as_str().context("no name")?;
    until("the new agent serves", || {
        let status = namespace.exec(name, &["/redial", "status", "--output=json"])?;
        let status: Value = serde_json::from_str(&status)?;
        let workloads = status[0]["workloads"].as_array().cloned().unwrap_or_default();
        Ok(workloads.iter().any(|workload| workload["name"] == "rolling/busy").then_some(()))
    })?;

    let failed = || -> Result<(usize, Vec<Value>)> {
        let logs = namespace.logs("busy")?;
        let lines: Vec<Value> = logs.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok((lines.len(), lines.into_iter().filter(|line| line["status"] != 200).collect()))
    };
    let (made, lost) = failed()?;
    ensure!(made > 100 && lost.is_empty(), "{made} requests, failed: {lost:?}");

    // Whoever is in the middle of a connect() when the agent is killed loses that one, and so may who begins one while the kernel
    // takes the agent's descriptors back; the next goes direct.
    let node = cluster.nodes().first().context("no node")?;
    node.kill(&namespace.find(name)?)?;
    namespace.wait(&format!("pod/{name}"), "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
    namespace.wait(&format!("pod/{name}"), "condition=Ready")?;
    namespace.delete("daemonset/redial")?;
    sleep(Duration::from_millis(200));
    let (later, lost) = failed()?;
    ensure!(later > made + 50 && lost.len() <= 2, "{later} requests, failed: {lost:?}");
    Ok(())
}

/// A server on the other node, and its address.
fn serves(namespace: &Namespace<'_>) -> Result<String> {
    let server = namespace.pod("server", "node2", FAILS)?;
    Ok(format!("{}:80", server.address))
}

fn enrolled(name: &str) -> Value {
    let mut pod = pod(name, "node1", &["pause"]);
    pod["metadata"]["labels"]["redial.dev/enroll"] = "true".into();
    pod
}

fn said(namespace: &Namespace<'_>) -> Result<String> {
    namespace.kubectl(&["logs", "--selector=app=redial", "--tail=30", "--prefix"])
}

/// Of every request that fails, within any budget.
fn retries() -> Value {
    policy("all", &json!({"http": {}, "budget": {"percent": 100, "minPerSecond": 1000}}))
}

/// A kind that takes anything, as redial has to expect.
pub(crate) fn definition(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{
                "name": version, "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

/// Agents on every node. Drop ends them, and waits until they are gone: the next test has its own.
struct Agents<'a>(&'a Namespace<'a>);

impl Drop for Agents<'_> {
    fn drop(&mut self) {
        drop(self.0.kubectl(&["delete", "daemonset/redial", "--ignore-not-found", "--cascade=foreground"]));
        // These are in no namespace, and so do not go with one.
        let name = format!("redial-{}", self.0.name());
        drop(self.0.kubectl(&["delete", "clusterrole,clusterrolebinding", &name, "--ignore-not-found"]));
    }
}

/// Deploys agents with these policies in files.
fn start<'a>(namespace: &'a Namespace<'_>, policies: &[Value]) -> Result<Agents<'a>> {
    let agents = Agents(namespace);
    for document in deployment(namespace.name(), policies) {
        namespace.apply(&document.to_string())?;
    }
    namespace.rolled_out("daemonset/redial")?;
    Ok(agents)
}

fn deployment(namespace: &str, policies: &[Value]) -> Vec<Value> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": policies});
    let watch = ["get", "list", "watch"];
    let name = format!("redial-{namespace}");
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    vec![
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "policies"},
            "data": {"policy.yaml": list.to_string()},
        }),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "redial"}}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
            "rules": [
                {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": watch},
                {"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "verbs": watch},
                {"apiGroups": ["redial.dev"], "resources": ["retrypolicies"], "verbs": watch},
                {"apiGroups": ["redial.dev"], "resources": ["retrypolicies/status"], "verbs": ["patch"]},
                {"apiGroups": ["kuma.io"], "resources": ["meshretries"], "verbs": watch},
                {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
                {
                    "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                    "verbs": ["get", "list", "create", "update", "patch"],
                },
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "redial", "namespace": namespace}],
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "redial"},
            "spec": {
                "selector": {"matchLabels": {"app": "redial"}},
                "updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": {
                    "metadata": {"labels": {"app": "redial", "redial.dev/enroll": "false"}},
                    "spec": {
                        "serviceAccountName": "redial",
                        "hostNetwork": true,
                        "hostPID": true,
                        "terminationGracePeriodSeconds": 5,
                        "containers": [{
                            "name": "redial",
                            "image": *REDIAL,
                            "args": ["run", "--kubernetes", "--config", "/policies", "--drain-timeout", "3s"],
                            "env": [
                                field("NODE_NAME", "spec.nodeName"),
                                field("POD_NAMESPACE", "metadata.namespace"),
                                field("REDIAL_AGENT", "metadata.uid"),
                            ],
                            "readinessProbe": {"exec": {"command": ["/redial", "ready"]}, "periodSeconds": 1},
                            "securityContext": {"privileged": true},
                            "volumeMounts": [
                                {"name": "cgroup", "mountPath": "/sys/fs/cgroup"},
                                {"name": "policies", "mountPath": "/policies"},
                                {"name": "run", "mountPath": "/run/redial"},
                            ],
                        }],
                        "volumes": [
                            {"name": "cgroup", "hostPath": {"path": "/sys/fs/cgroup"}},
                            {"name": "policies", "configMap": {"name": "policies"}},
                            {"name": "run", "hostPath": {"path": "/run/redial", "type": "DirectoryOrCreate"}},
                        ],
                    },
                },
            },
        }),
    ]
}
