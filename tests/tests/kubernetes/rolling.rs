//! Requests that go on while agents, and then servers, are replaced: none fails, and each client's are counted.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use redial_tests::cluster::{Cluster, Namespace, POD, until};
use serde_json::{Value, json};

use crate::shipped::{Shipped, enrolled_on, policy};
use crate::{Run, Test};

pub(crate) const TESTS: &[Test] =
    &[("rolling::no_request_fails_while_all_is_replaced", Run::Api(no_request_fails_while_all_is_replaced))];

/// How many requests each client has made before something is replaced, and makes afterwards.
const SOME: usize = 100;

fn no_request_fails_while_all_is_replaced(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("rolled")?;
    let shipped = Shipped::install(cluster)?;
    let spec = json!({"http": {"numRetries": 3}, "budget": {"percent": 100, "minPerSecond": 1000}});
    namespace.apply(&policy("retries", &spec).to_string())?;
    shipped.has_in_force(&namespace, "retries")?;
    while_agents_are_replaced(&namespace, &shipped)?;
    while_servers_are_replaced(&namespace, &shipped)
}

/// The template of the `DaemonSet` changes. What the server has seen is what the clients have asked, each request once.
fn while_agents_are_replaced(namespace: &Namespace<'_>, shipped: &Shipped<'_>) -> Result<()> {
    let server = namespace.pod("server", namespace.cluster().far(), &["serve", "80"])?;
    let clients = Clients::start(namespace, "agents", &format!("{}:80", server.address))?;
    let before = shipped.agents()?;
    shipped.restart()?;
    until("one agent a node, all new", || {
        let after = shipped.agents()?;
        Ok(after.iter().all(|agent| before.iter().all(|old| old.uid != agent.uid)).then_some(()))
    })?;
    for node in nodes(namespace) {
        until("the new agent has served connections", || {
            let status = shipped.status(node)?;
            let ended = status["connections_total"].as_object().context("no totals")?;
            ensure!(!ended.is_empty(), "{status}");
            Ok(Some(()))
        })?;
    }
    let made = clients.end()?;
    let seen = namespace.logs("server")?.lines().count();
    println!("{} requests while agents were replaced", made.len());
    ensure!(made.len() == seen, "{} requests were made, and the server saw {seen}", made.len());
    Ok(())
}

/// Servers end in the middle of requests, and what they had is another's.
fn while_servers_are_replaced(namespace: &Namespace<'_>, shipped: &Shipped<'_>) -> Result<()> {
    namespace.apply(
        &json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {
                        "terminationGracePeriodSeconds": 2,
                        "containers": [{"name": "web", "image": *POD, "args": ["serve", "80"]}],
                    },
                },
            },
        })
        .to_string(),
    )?;
    namespace.rolled_out("deployment/web")?;
    namespace.kubectl(&["expose", "deployment", "web", "--port=80"])?;
    let service = namespace.get(&["service", "web"])?;
    let address = service.pointer("/spec/clusterIP").and_then(Value::as_str).context("no clusterIP")?;
    let address = format!("{address}:80");
    let spec = json!({
        "to": [{"services": [{"name": "web"}]}],
        "http": {"numRetries": 3}, "budget": {"percent": 100, "minPerSecond": 1000},
    });
    namespace.apply(&policy("web", &spec).to_string())?;
    shipped.has_in_force(namespace, "web")?;
    // kube-proxy learns of a Service when it does.
    for node in nodes(namespace) {
        let asks = format!("asks-{node}");
        namespace.pod(&asks, node, &["pause"])?;
        until("an answer through the Service", || {
            let asked = namespace.ask(&asks, &[&address, "timeout=1000"])?;
            Ok((asked[0]["status"] == 200).then_some(()))
        })?;
    }
    let clients = Clients::start(namespace, "servers", &address)?;
    namespace.kubectl(&["rollout", "restart", "deployment/web"])?;
    namespace.rolled_out("deployment/web")?;
    until("the old servers are gone", || {
        let pods = namespace.get(&["pods", "--selector=app=web"])?;
        Ok((pods["items"].as_array().map(Vec::len) == Some(2)).then_some(()))
    })?;
    let made = clients.end()?;
    let servers: BTreeSet<_> = made.iter().filter_map(|line| line["server"].as_str()).collect();
    println!("{} requests while servers were replaced: {servers:?}", made.len());
    ensure!(servers.len() >= 4, "{servers:?}");
    Ok(())
}

fn nodes<'a>(namespace: &'a Namespace<'_>) -> impl Iterator<Item = &'a str> {
    namespace.cluster().names().iter().map(String::as_str)
}

/// An enrolled pod on each node, which asks over and over, each time by a new connection.
struct Clients<'a> {
    namespace: &'a Namespace<'a>,
    names: Vec<String>,
}

impl<'a> Clients<'a> {
    fn start(namespace: &'a Namespace<'a>, name: &str, address: &str) -> Result<Self> {
        let names = nodes(namespace).map(|node| format!("{name}-{node}"));
        let clients = Self { namespace, names: names.collect() };
        for (name, node) in clients.names.iter().zip(nodes(namespace)) {
            let mut pod = enrolled_on(node, name, &["ask", address, "count=0", "every=5"]);
            pod["spec"]["restartPolicy"] = "Never".into();
            namespace.apply(&pod.to_string())?;
        }
        clients.make_some()?;
        Ok(clients)
    }

    /// Waits until each has made some requests from now on.
    fn make_some(&self) -> Result<()> {
        for name in &self.names {
            self.namespace.wait(&format!("pod/{name}"), "condition=Ready")?;
            let before = self.namespace.logs(name)?.lines().count();
            until("some requests", || {
                Ok((self.namespace.logs(name)?.lines().count() >= before + SOME).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Lets each end the request that it is in. Fails where any has failed.
    fn end(self) -> Result<Vec<Value>> {
        self.make_some()?;
        let mut made: Vec<Value> = Vec::new();
        for name in &self.names {
            self.namespace.end(name);
            self.namespace.wait(&format!("pod/{name}"), "jsonpath={.status.phase}=Succeeded")?;
            for line in self.namespace.logs(name)?.lines() {
                made.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
            }
        }
        let failed: Vec<&Value> = made.iter().filter(|line| line["status"] != 200).collect();
        ensure!(failed.is_empty(), "{} of {} requests failed: {failed:?}", failed.len(), made.len());
        Ok(made)
    }
}
