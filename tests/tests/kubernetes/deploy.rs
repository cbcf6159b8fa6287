//! What a user does: the manifest applied as it is shipped, pods labelled, policies written.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use redial_tests::cluster::{Cluster, Namespace, OwnCluster, Pod, until};
use redial_tests::netns::loopback_listeners;
use serde_json::{Value, json};

use crate::shipped::{Shipped, attempts, client, deploy, manifest, policy};
use crate::{Run, Test};

pub(crate) const TESTS: &[Test] = &[
    ("deploy::the_manifest_installs_retries_and_leaves", Run::Api(the_manifest_installs_retries_and_leaves)),
    ("deploy::nothing_is_left_on_the_nodes", Run::Own(nothing_is_left_on_the_nodes)),
    ("deploy::the_shipped_seccomp_profile_is_enough", Run::Own(the_shipped_seccomp_profile_is_enough)),
];

/// Installs, sees requests retried as objects of the API say, sees what is wrong refused, and takes all away again.
fn the_manifest_installs_retries_and_leaves(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("deploy")?;
    let server =
        namespace.pod("server", namespace.cluster().far(), &["serve", "80", "unavailable=1000000"])?;
    let address = format!("{}:80", server.address);
    client(&namespace, "client")?;
    let attempts = || attempts(&namespace, &namespace, "client", &address);
    assert_eq!(attempts()?, 1);

    let shipped = Shipped::install(cluster)?;
    let becomes = |expected: usize| {
        until(&format!("{expected} attempts"), || match attempts()? {
            made if made == expected => Ok(Some(())),
            made => bail!("{made}\n{}", shipped.said()?),
        })
    };
    is_of_least_privilege(&shipped)?;

    namespace.apply(&policy("retries", &json!({"http": {"numRetries": 4}})).to_string())?;
    becomes(5)?;
    let object = shipped.has_in_force(&namespace, "retries")?;
    for kind in ["Accepted", "Programmed"] {
        assert_eq!(condition(&object, kind)["status"], "True", "{object}");
    }
    let printed = namespace.kubectl(&["get", "rp", "retries", "--no-headers"])?;
    let columns: Vec<_> = printed.split_whitespace().take(4).collect();
    assert_eq!(columns[..3], ["retries", "True", "True"]);
    assert_eq!(object["status"]["nodes"], columns[3], "{object}");

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

    let status = shipped.exec("daemonset/redial", &["status"])?;
    assert!(status.contains("retries"), "{status}");

    // Configured otherwise, the pods are others, and a policy is as much in force as before.
    shipped.restart()?;
    becomes(5)?;

    drop(shipped);
    let left = cluster.present(&manifest()?)?;
    ensure!(left.is_empty(), "{left}");
    assert_eq!(attempts()?, 1);
    Ok(())
}

/// The nodes are as they were, and the pods that were enrolled.
fn nothing_is_left_on_the_nodes(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("leaves")?;
    client(&namespace, "client")?;
    let shipped = Shipped::install(cluster)?;
    until("an engine in the client", || {
        Ok((!listens_on_loopback(cluster, &namespace.find("client")?)?.is_empty()).then_some(()))
    })?;
    let objects = shipped.objects(cluster.nodes())?;
    drop(shipped);
    objects.wait_gone()?;
    for node in cluster.nodes() {
        let listed = node.run_here("find").args(["/run/redial", "-mindepth", "1"]).output()?;
        ensure!(listed.stdout.is_empty(), "{}: {}", node.name(), String::from_utf8_lossy(&listed.stdout));
    }
    let listeners = listens_on_loopback(cluster, &namespace.find("client")?)?;
    ensure!(listeners.is_empty(), "{listeners:?}");
    Ok(())
}

/// The listeners on 127.0.0.1 in a pod's network.
fn listens_on_loopback(cluster: &OwnCluster, pod: &Pod) -> Result<Vec<u16>> {
    let processes = cluster.node_of(pod)?.processes(pod)?;
    loopback_listeners(&processes.first().context("no process")?.to_string())
}

/// With the profile of `deploy/seccomp.json` in the place of the runtime's, agents start, answer, retry and are replaced.
fn the_shipped_seccomp_profile_is_enough(cluster: &OwnCluster) -> Result<()> {
    const PROFILE: &str = "redial.json";
    let profile = fs::read_to_string(deploy().join("seccomp.json"))?;
    for node in cluster.nodes() {
        node.add_seccomp_profile(PROFILE, &profile)?;
    }
    let runtimes = "type: RuntimeDefault";
    let documents = manifest()?;
    ensure!(documents.matches(runtimes).count() == 1, "not one {runtimes} in the manifest");
    let localhost = format!("{{type: Localhost, localhostProfile: {PROFILE}}}");
    let documents = documents.replace(
        &format!("seccompProfile:\n              {runtimes}"),
        &format!("seccompProfile: {localhost}"),
    );
    ensure!(documents.contains(&localhost), "the manifest has its profile elsewhere");
    let shipped = Shipped::install_as(cluster, &documents)?;
    for round in 0..2 {
        for agent in shipped.agents()? {
            let processes = cluster.node_of(&agent)?.processes(&agent)?;
            ensure!(!processes.is_empty(), "{agent:?} has no process");
            for process in processes {
                let status = fs::read_to_string(format!("/proc/{process}/status"))?;
                ensure!(status.lines().any(|line| line == "Seccomp:\t2"), "{agent:?}: {status}");
            }
        }
        retries_under_a_policy(&cluster.namespace(&format!("seccomp-{round}"))?, &shipped)?;
        shipped.restart()?;
    }
    Ok(())
}

fn retries_under_a_policy(namespace: &Namespace<'_>, shipped: &Shipped<'_>) -> Result<()> {
    let server =
        namespace.pod("server", namespace.cluster().far(), &["serve", "80", "unavailable=1000000"])?;
    namespace.apply(&policy("retries", &json!({"http": {"numRetries": 4}})).to_string())?;
    client(namespace, "client")?;
    until("5 attempts", || {
        let before = namespace.logs("server")?.lines().count();
        namespace.ask("client", &[&format!("{}:80", server.address)])?;
        let made = namespace.logs("server")?.lines().count() - before;
        ensure!(made == 5, "{made}\n{}", shipped.said()?);
        Ok(Some(()))
    })?;
    ensure!(shipped.exec("daemonset/redial", &["status"])?.contains("retries"), "no status");
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
fn is_of_least_privilege(shipped: &Shipped<'_>) -> Result<()> {
    let daemonset = shipped.daemonset()?;
    let context = daemonset.pointer("/spec/template/spec/containers/0/securityContext").context("none")?;
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    Ok(())
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}
