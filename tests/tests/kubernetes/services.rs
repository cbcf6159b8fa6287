//! Connections to Services: which endpoint each attempt of a request goes to, and what is left to the node.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use redial_tests::cluster::{Namespace, OwnCluster, POD, pod, until};
use serde_json::{Value, json};

use crate::shipped::{Shipped, client, endpoints, enrolled_on, service};
use crate::{Run, Test};

pub(crate) const TESTS: &[Test] =
    &[("services::retries_choose_among_endpoints", Run::Own(retries_choose_among_endpoints))];

/// Not ready for long, but for as long as it takes.
const PATIENT: &str = "90s";

/// One installation for all of it.
fn retries_choose_among_endpoints(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("services")?;
    client(&namespace, "client")?;
    let shipped = Shipped::install(cluster)?;
    let budget = json!({"percent": 100, "minPerSecond": 1000});
    for (name, services, spec) in [
        (
            "retries",
            &["web", "near", "leaving", "member", "any"][..],
            json!({"http": {"numRetries": 5}, "budget": budget}),
        ),
        ("waits", &["later"], json!({"tcp": {"timeout": PATIENT}, "http": {}})),
        ("waits-briefly", &["never"], json!({"tcp": {"timeout": "200ms"}})),
    ] {
        let services: Vec<_> = services.iter().map(|name| json!({"name": name})).collect();
        let mut policy = json!({
            "apiVersion": "redial.dev/v1alpha1", "kind": "RetryPolicy", "metadata": {"name": name}, "spec": spec,
        });
        policy["spec"]["to"] = json!([{"services": services}]);
        namespace.apply(&policy.to_string())?;
    }
    for name in ["retries", "waits", "waits-briefly"] {
        namespace.wait(&format!("retrypolicy/{name}"), "condition=Programmed")?;
    }
    endpoints_fail_in_turn(&namespace, &shipped).context("endpoints that fail in turn")?;
    those_of_the_node_come_first(&namespace, &shipped).context("hints")?;
    who_leaves_serves_where_nobody_else_does(&namespace, &shipped).context("an endpoint that leaves")?;
    without_a_policy_the_node_chooses(&namespace, &shipped).context("a Service without a policy")?;
    a_member_is_asked_again_itself(&namespace, &shipped).context("a StatefulSet")?;
    pods_without_names_stand_in_for_each_other(&namespace, &shipped).context("a headless Service")?;
    an_empty_service_is_waited_for(&namespace, &shipped).context("an empty Service")
}

/// Of four endpoints one answers 503 and one refuses; the others are killed one after the other, and one is deleted.
fn endpoints_fail_in_turn(namespace: &Namespace<'_>, shipped: &Shipped<'_>) -> Result<()> {
    let address = service(namespace, "web", &json!({"service": "web"}))?;
    let pods = [
        ("good-1", "node2", &["serve", "80"][..]),
        ("good-2", "node2", &["serve", "80"]),
        ("failing", "node2", &["serve", "80", "unavailable=1000000"]),
        ("silent", "node1", &["pause"]),
    ];
    let sockets = endpoints_of(namespace, "web", &pods)?;
    served(namespace, shipped, &address, "/known-web", "services/retries", &sockets)?;

    // As many requests as make sure that each endpoint is the first of some.
    let asked = namespace.ask("client", &[&address, "path=/in-turn", "count=60"])?;
    for seen in &asked {
        ensure!(seen["status"] == 200 && seen["peer"] == *address, "{seen}");
    }
    let names_of = |record: &Value| {
        let tried = endpoints(record);
        let names: Vec<_> = tried.iter().filter_map(|socket| sockets.get(*socket).copied()).collect();
        ensure!(names.len() == tried.len() && !names.is_empty(), "not the Service's: {record}");
        // None again before all have been tried, and only what failed is followed by another.
        ensure!(names.iter().collect::<BTreeSet<_>>().len() == names.len(), "one twice: {record}");
        Ok(names)
    };
    let mut first = BTreeSet::new();
    for record in &connections(shipped, &address, "services/retries", asked.len())? {
        let names = names_of(record)?;
        let (last, refused) = names.split_last().context("no attempt")?;
        ensure!(*last != "silent" && refused.iter().all(|name| *name == "silent"), "{record}");
        first.insert(names[0]);
    }
    ensure!(first.len() == pods.len(), "only {first:?} are ever the first");
    for record in &shipped.requests("/in-turn", asked.len())? {
        let names = names_of(record)?;
        let (last, failed) = names.split_last().context("no attempt")?;
        ensure!(last.starts_with("good") && failed.iter().all(|name| !name.starts_with("good")), "{record}");
    }

    let busy = enrolled_on(
        "node1",
        "busy",
        &["ask", &address, "path=/busy", "count=0", "every=10", "timeout=30000"],
    );
    namespace.apply(&busy.to_string())?;
    namespace.wait("pod/busy", "condition=Ready")?;
    let lines = || -> Result<Vec<Value>> {
        let logs = namespace.logs("busy")?;
        Ok(logs.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    };
    let goes_on = |what: &str| {
        let before = lines()?.len();
        until(&format!("requests after {what}"), || Ok((lines()?.len() > before + 50).then_some(())))
    };
    goes_on("the start")?;
    for name in ["good-1", "good-2"] {
        namespace.end(name);
        namespace.wait(&format!("pod/{name}"), "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
        namespace.wait(&format!("pod/{name}"), "condition=Ready")?;
        goes_on(name)?;
    }
    namespace.delete("pod/good-2")?;
    goes_on("a deletion")?;
    let lines = lines()?;
    namespace.delete("pod/busy")?;
    let failed: Vec<_> = lines.iter().filter(|line| line["status"] != 200).collect();
    ensure!(failed.is_empty(), "of {} requests these failed: {failed:?}", lines.len());
    let by: BTreeSet<_> = lines.iter().filter_map(|line| line["server"].as_str()).collect();
    assert_eq!(by, BTreeSet::from(["good-1", "good-2"]));
    Ok(())
}

/// A Service says that a node's own endpoints are meant for it; where they fail the others are there.
fn those_of_the_node_come_first(namespace: &Namespace<'_>, shipped: &Shipped<'_>) -> Result<()> {
    let address = service(namespace, "near", &json!({"service": "near"}))?;
    let distribution = r#"{"spec": {"trafficDistribution": "PreferSameNode"}}"#;
    namespace.kubectl(&["patch", "service", "near", "--type=merge", "--patch", distribution])?;
    let fails = &["serve", "80", "unavailable=1000000"][..];
    let pods = [
        ("near", "node1", fails),
        ("far-1", "node2", &["serve", "80"]),
        ("far-2", "node2", &["serve", "80"]),
    ];
    let sockets = endpoints_of(namespace, "near", &pods)?;
    let is_hinted = || {
        let slices = namespace.get(&["endpointslices", "--selector=kubernetes.io/service-name=near"])?;
        let slices = slices["items"].as_array().cloned().unwrap_or_default();
        let endpoints = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
        let nodes: Vec<_> =
            endpoints.filter_map(|one| one["hints"]["forNodes"][0]["name"].as_str()).collect();
        Ok((nodes.len() == 3).then_some(()))
    };
    until("the endpoints have hints", is_hinted)?;
    let records = |path: &str, count: usize| {
        let options = [&address, &*format!("path={path}"), &*format!("count={count}")];
        let asked = namespace.ask("client", &options)?;
        ensure!(asked.iter().all(|seen| seen["status"] == 200), "{asked:?}");
        shipped.requests(path, count)
    };
    let is_right = |record: &Value| {
        let tried: Vec<_> = endpoints(record).into_iter().filter_map(|socket| sockets.get(socket)).collect();
        matches!(&*tried, [first, second] if **first == "near" && second.starts_with("far"))
    };
    let mut number = 0;
    until("the hints are known", || {
        number += 1;
        let records = records(&format!("/near-{number}"), 1)?;
        if records.iter().all(is_right) { Ok(Some(())) } else { bail!("{records:?}") }
    })?;
    let records = records("/near", 20)?;
    let wrong: Vec<_> = records.iter().filter(|record| !is_right(record)).collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

/// The only endpoint is being deleted, and has some time for it.
fn who_leaves_serves_where_nobody_else_does(namespace: &Namespace<'_>, shipped: &Shipped<'_>) -> Result<()> {
    let address = service(namespace, "leaving", &json!({"app": "leaving"}))?;
    let mut leaving = pod("leaving", "node2", &["serve", "80"]);
    leaving["spec"]["terminationGracePeriodSeconds"] = 90.into();
    leaving["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 80}}});
    namespace.apply(&leaving.to_string())?;
    namespace.wait("pod/leaving", "condition=Ready")?;
    let sockets = BTreeMap::from([(format!("{}:80", namespace.find("leaving")?.address), "leaving")]);
    served(namespace, shipped, &address, "/known-leaving", "services/retries", &sockets)?;
    namespace.kubectl(&["delete", "pod", "leaving", "--wait=false"])?;
    until("it is leaving", || {
        let slices = namespace.get(&["endpointslices", "--selector=kubernetes.io/service-name=leaving"])?;
        let conditions = &slices["items"][0]["endpoints"][0]["conditions"];
        Ok((conditions["ready"] == false && conditions["serving"] == true).then_some(()))
    })?;
    let asked = namespace.ask("client", &[&address, "path=/leaving", "count=20"])?;
    ensure!(asked.iter().all(|seen| seen["server"] == "leaving"), "{asked:?}");
    for record in &shipped.requests("/leaving", asked.len())? {
        ensure!(endpoints(record).iter().all(|socket| sockets.contains_key(*socket)), "{record}");
    }
    namespace.kubectl(&["delete", "pod", "leaving", "--grace-period=0", "--force"])?;
    Ok(())
}

/// What is dialled is what is connected to, whichever endpoints there are.
fn without_a_policy_the_node_chooses(namespace: &Namespace<'_>, shipped: &Shipped<'_>) -> Result<()> {
    let address = service(namespace, "left", &json!({"app": "good-1"}))?;
    until("an answer through the Service", || {
        let asked = namespace.ask("client", &[&address, "timeout=1000"])?;
        Ok((asked[0]["server"] == "good-1").then_some(()))
    })?;
    for record in &connections(shipped, &address, "default", 1)? {
        ensure!(endpoints(record).iter().all(|endpoint| *endpoint == address), "{record}");
    }
    Ok(())
}

/// Each member is known by its Service, so the policy holds, and means that member alone.
fn a_member_is_asked_again_itself(namespace: &Namespace<'_>, shipped: &Shipped<'_>) -> Result<()> {
    headless(namespace, "member", &json!({"app": "member"}))?;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "member"},
        "spec": {
            "serviceName": "member", "replicas": 2, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "member"}},
            "template": {
                "metadata": {"labels": {"app": "member"}},
                "spec": {
                    "nodeName": "node2", "terminationGracePeriodSeconds": 2,
                    "containers": [{"name": "member", "image": *POD, "args": ["serve", "80", "unavailable=1000000"]}],
                },
            },
        },
    });
    namespace.apply(&set.to_string())?;
    namespace.rolled_out("statefulset/member")?;
    let members = ["member-0", "member-1"].map(|name| namespace.find(name));
    let [first, second] = members.map(|pod| pod.map(|pod| format!("{}:80", pod.address)));
    for (number, address) in [first?, second?].iter().enumerate() {
        let path = format!("/member-{number}");
        let record = until("its policy holds", || {
            let asked = namespace.ask("client", &[address, &format!("path={path}")])?;
            ensure!(asked[0]["status"] == 503 && asked[0]["server"] == path[1..], "{asked:?}");
            let record = shipped.records()?.into_iter().rfind(|record| record["path"] == *path);
            Ok(record.filter(|record| record["policy"] == "services/retries"))
        })?;
        assert_eq!(endpoints(&record), [address.as_str(); 6], "{record}");
    }
    Ok(())
}

fn pods_without_names_stand_in_for_each_other(
    namespace: &Namespace<'_>,
    shipped: &Shipped<'_>,
) -> Result<()> {
    headless(namespace, "any", &json!({"service": "any"}))?;
    let pods = [
        ("any-bad", "node2", &["serve", "80", "unavailable=1000000"][..]),
        ("any-good", "node1", &["serve", "80"]),
    ];
    let sockets = endpoints_of(namespace, "any", &pods)?;
    let socket = |name| sockets.iter().find(|(_, pod)| **pod == name).map(|(socket, _)| socket.as_str());
    let (bad, good) = (socket("any-bad").context("none")?, socket("any-good").context("none")?);
    until("a retry goes to the other pod", || {
        let asked = namespace.ask("client", &[bad, "path=/any"])?;
        Ok((asked[0]["status"] == 200 && asked[0]["server"] == "any-good").then_some(()))
    })?;
    let records = shipped.requests("/any", 1)?;
    let record = records.iter().rfind(|record| record["status"] == 200).context("no such record")?;
    assert_eq!(endpoints(record), [bad, good], "{record}");
    // The program still sees what it dialled.
    let asked = namespace.ask("client", &[bad])?;
    assert_eq!(asked[0]["peer"], bad);
    Ok(())
}

fn an_empty_service_is_waited_for(namespace: &Namespace<'_>, shipped: &Shipped<'_>) -> Result<()> {
    let never = service(namespace, "never", &json!({"service": "never"}))?;
    let later = service(namespace, "later", &json!({"service": "later"}))?;
    // The node refuses, with the agents' help and without.
    until("the node knows the Services", || {
        namespace
            .ask("client", &[&never, "connect=true", "timeout=2000"])
            .map(|asked| (asked[0]["error"] == "ECONNREFUSED").then_some(()))
    })?;
    // Before the agent knows the Service, the node refuses that one too.
    until("the Service is waited for", || {
        let asked = namespace.ask("client", &[&later, "connect=true", "timeout=500"])?;
        if asked[0]["error"] == "timed out" { Ok(Some(())) } else { bail!("{asked:?}") }
    })?;
    let held = || Ok::<_, anyhow::Error>(shipped.status("node1")?["handshakes_held"].clone());
    until("nobody waits any more", || Ok((held()? == 0).then_some(())))?;
    let mut waiting = enrolled_on("node1", "waiting", &["ask", &later, "path=/later", "timeout=90000"]);
    waiting["spec"]["restartPolicy"] = "Never".into();
    namespace.apply(&waiting.to_string())?;
    until("its handshake is held", || Ok((held()? == 1).then_some(())))?;
    let sockets = endpoints_of(namespace, "later", &[("endpoint", "node2", &["serve", "80"][..])])?;
    namespace.wait("pod/waiting", "jsonpath={.status.phase}=Succeeded")?;
    let seen: Value = serde_json::from_str(&namespace.logs("waiting")?)?;
    ensure!(seen["status"] == 200 && seen["server"] == "endpoint" && seen["peer"] == *later, "{seen}");
    let records = shipped.requests("/later", 1)?;
    let [record] = &*records else { bail!("{records:?}") };
    assert_eq!(endpoints(record), sockets.keys().collect::<Vec<_>>(), "{record}");
    let asked = namespace.ask("client", &[&never, "connect=true"])?;
    assert_eq!(asked[0]["error"], "ECONNREFUSED", "what has never an endpoint is the node's after a while");
    Ok(())
}

/// The records of so many connections to a Service that were under a policy.
fn connections(shipped: &Shipped<'_>, address: &str, policy: &str, count: usize) -> Result<Vec<Value>> {
    until(&format!("records of {count} connections to {address} under {policy}"), || {
        let mut records = shipped.records()?;
        records.retain(|record| record["kind"] == "tcp" && record["original_destination"] == *address);
        records.retain(|record| record["policy"] == *policy);
        ensure!(records.len() >= count, "there are {}", records.len());
        Ok(Some(records))
    })
}

/// Asks until the agent knows the Service: a policy may hold before.
fn served(
    namespace: &Namespace<'_>,
    shipped: &Shipped<'_>,
    address: &str,
    path: &str,
    policy: &str,
    sockets: &BTreeMap<String, &str>,
) -> Result<()> {
    until("the Service's endpoints are known", || {
        namespace.ask("client", &[address, &format!("path={path}")])?;
        let record = shipped.requests(path, 1)?.pop().context("none")?;
        let tried = endpoints(&record);
        if record["policy"] == policy && tried.iter().all(|socket| sockets.contains_key(*socket)) {
            return Ok(Some(()));
        }
        bail!("{record}")
    })
}

/// Starts pods that are a Service's endpoints: where each is.
fn endpoints_of<'a>(
    namespace: &Namespace<'_>,
    service: &str,
    pods: &[(&'a str, &str, &[&str])],
) -> Result<BTreeMap<String, &'a str>> {
    for (name, node, arguments) in pods {
        let mut pod = pod(name, node, arguments);
        pod["metadata"]["labels"]["service"] = service.into();
        namespace.apply(&pod.to_string())?;
    }
    let mut sockets = BTreeMap::new();
    for (name, ..) in pods {
        namespace.wait(&format!("pod/{name}"), "condition=Ready")?;
        sockets.insert(format!("{}:80", namespace.find(name)?.address), *name);
    }
    until("the endpoints are told", || {
        let slices = namespace
            .get(&["endpointslices", &format!("--selector=kubernetes.io/service-name={service}")])?;
        let slices = slices["items"].as_array().cloned().unwrap_or_default();
        let ready = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
        let ready = ready.filter(|endpoint| endpoint["conditions"]["ready"] == true).count();
        Ok((ready == pods.len()).then_some(()))
    })?;
    Ok(sockets)
}

fn headless(namespace: &Namespace<'_>, name: &str, selector: &Value) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"clusterIP": "None", "selector": selector, "ports": [{"port": 80}]},
    });
    namespace.apply(&service.to_string())
}
