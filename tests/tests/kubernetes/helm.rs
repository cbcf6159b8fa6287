//! The chart as Helm has it: installed, upgraded to other values, uninstalled.

use anyhow::{Context, Result, bail, ensure};
use redial_tests::cluster::{Cluster, Namespace, until};
use serde_json::{Value, json};

use crate::definitions::Definitions;
use crate::shipped::{Shipped, attempts, client, deploy, manifest, policy};
use crate::{Run, Test};

pub(crate) const TESTS: &[Test] =
    &[("helm::the_chart_comes_changes_and_goes", Run::Api(the_chart_comes_changes_and_goes))];

const MONITORS: &str = include_str!("../../documents/definitions/prometheus.yaml");

fn the_chart_comes_changes_and_goes(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("helm")?;
    let server = namespace.pod("server", cluster.far(), &["serve", "80", "unavailable=1000000"])?;
    let address = format!("{}:80", server.address);
    client(&namespace, "client")?;
    // Nothing but the agents' selector enrols this one.
    namespace.pod("plain", cluster.near(), &["pause"])?;

    let shipped =
        Shipped::install_by(cluster, || helm(cluster, "install", &["--create-namespace"], &json!({})))?;
    namespace.apply(&policy("retries", &json!({"http": {"numRetries": 4}})).to_string())?;
    becomes(&namespace, &shipped, "client", &address, 5)?;
    ensure!(
        attempts(&namespace, &namespace, "plain", &address)? == 1,
        "a pod is enrolled that nobody enrolled"
    );

    let monitors = Definitions::install(cluster, MONITORS)?;
    let file = policy("of-a-file", &json!({"to": [{"ports": [80]}], "http": {"numRetries": 2}}));
    let values = json!({
        "enrolment": {"selector": "app=plain"},
        "policies": {"files": {"retries.json": file.to_string()}},
        "metrics": {"podMonitor": {"enabled": true, "labels": {"release": "prometheus"}}},
        "drainTimeoutSeconds": 7,
    });
    namespace.delete("retrypolicy/retries")?;
    helm(cluster, "upgrade", &[], &values)?;
    for pod in ["plain", "client"] {
        becomes(&namespace, &shipped, pod, &address, 3)?;
    }
    let daemonset = shipped.daemonset()?;
    assert_eq!(daemonset["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 17);
    is_as_the_operator_reads_it(&cluster.get(&["podmonitor/redial", "--namespace=redial"])?, &daemonset)?;

    namespace.apply(&policy("stays", &json!({"http": {"numRetries": 1}})).to_string())?;
    cluster.helm(&["uninstall", "redial", "--namespace=redial", "--wait"], "")?;
    let left = cluster.present(&manifest()?)?;
    let mut left: Vec<_> = left.lines().collect();
    left.sort_unstable();
    assert_eq!(
        left,
        ["customresourcedefinition.apiextensions.k8s.io/retrypolicies.redial.dev", "namespace/redial"]
    );
    namespace.get(&["retrypolicy", "stays"])?;
    for pod in ["plain", "client"] {
        becomes(&namespace, &shipped, pod, &address, 1)?;
    }
    drop(monitors);
    Ok(())
}

fn becomes(
    namespace: &Namespace<'_>,
    shipped: &Shipped<'_>,
    pod: &str,
    address: &str,
    expected: usize,
) -> Result<()> {
    until(&format!("{expected} attempts of {pod}"), || match attempts(namespace, namespace, pod, address)? {
        made if made == expected => Ok(Some(())),
        made => bail!("{made}\n{}", shipped.said().unwrap_or_default()),
    })
}

/// `helm install` or `helm upgrade` of the chart, with the image of these tests.
fn helm(cluster: &Cluster, what: &str, options: &[&str], values: &Value) -> Result<()> {
    let image: &str = &redial_tests::cluster::REDIAL;
    let (repository, tag) = image.rsplit_once(':').context("an image without a tag")?;
    let mut values = values.clone();
    values["image"] = json!({"repository": repository, "tag": tag});
    let chart = deploy().join("helm/redial");
    let chart = chart.to_str().context("an odd path")?;
    let words = [what, "redial", chart, "--namespace=redial", "--wait", "--timeout=120s", "--values=-"];
    cluster.helm(&[&words, options].concat(), &values.to_string())?;
    Ok(())
}

/// The metrics of every agent, at the node's address and the chart's port.
fn is_as_the_operator_reads_it(monitor: &Value, daemonset: &Value) -> Result<()> {
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let selector = &monitor["spec"]["selector"]["matchLabels"];
    let labels = daemonset["spec"]["template"]["metadata"]["labels"].as_object().context("no labels")?;
    let selected = selector.as_object().context("no selector")?;
    ensure!(!selected.is_empty(), "every pod is selected");
    ensure!(selected.iter().all(|(name, value)| labels.get(name) == Some(value)), "{selector} of {labels:?}");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(endpoint["path"], "/metrics");
    let relabelings = endpoint["relabelings"].as_array().context("no relabelings")?;
    let mut addresses = relabelings.iter().filter(|one| one["targetLabel"] == "__address__");
    ensure!(addresses.any(|one| one["replacement"] == "$1:9464"), "{endpoint}");
    Ok(())
}
