//! A node that loses all that runs on it, and comes back.

use anyhow::{Context, Result, ensure};
use redial_tests::cluster::{OwnCluster, until};
use serde_json::json;

use crate::shipped::{Shipped, client, policy};
use crate::{Run, Test};

pub(crate) const TESTS: &[Test] = &[(
    "restart::a_node_that_comes_back_has_its_pods_enrolled",
    Run::Own(a_node_that_comes_back_has_its_pods_enrolled),
)];

fn a_node_that_comes_back_has_its_pods_enrolled(cluster: &OwnCluster) -> Result<()> {
    let namespace = cluster.namespace("restart")?;
    let shipped = Shipped::install(cluster)?;
    let server = namespace.pod("server", "node2", &["serve", "80", "unavailable=1000000"])?;
    namespace.apply(&policy("retries", &json!({"http": {"numRetries": 4}})).to_string())?;
    client(&namespace, "client")?;
    let address = format!("{}:80", server.address);
    let retries = || {
        until("5 attempts", || {
            let before = namespace.logs("server")?.lines().count();
            let asked = namespace.ask("client", &[&address])?;
            ensure!(asked[0]["status"] == 503, "{asked:?}");
            let made = namespace.logs("server")?.lines().count() - before;
            ensure!(made == 5, "{made}\n{}", shipped.said()?);
            Ok(Some(()))
        })
    };
    retries()?;

    let node = cluster.nodes().first().context("no node")?;
    let objects = shipped.objects(std::slice::from_ref(node))?;
    let before = namespace.find("client")?;
    cluster.restart(node)?;
    objects.wait_gone()?;
    until("the client's new container", || {
        let pod = namespace.get(&["pod", "client"])?;
        let restarts = pod.pointer("/status/containerStatuses/0/restartCount");
        ensure!(restarts.is_some_and(|restarts| *restarts != 0), "{restarts:?}");
        Ok(Some(()))
    })?;
    namespace.wait("pod/client", "condition=Ready")?;
    ensure!(namespace.find("client")?.uid == before.uid, "it is another pod");
    retries()?;
    let status = shipped.status(node.name())?;
    let workloads = status["workloads"].as_array().context("no workloads")?;
    let own =
        workloads.iter().filter(|one| one["name"].as_str().is_some_and(|name| name.contains("restart")));
    ensure!(own.count() == 1, "{status}");
    Ok(())
}
