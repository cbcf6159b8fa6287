//! Tests on a cluster that is there already: what it must have, and that it is left as it was.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use redial_tests::cluster::{Cluster, OwnCluster, POD, REDIAL, pod, until};

use crate::{Run, Test};

pub(crate) const TESTS: &[Test] = &[("given::a_kubeconfig_is_enough", Run::Own(a_kubeconfig_is_enough))];

/// Of these kinds tests make objects that are in no namespace.
const KINDS: &str = "namespaces,crds,clusterroles,clusterrolebindings";

/// What there is beside namespaces' contents.
pub(crate) struct Objects(BTreeSet<String>);

impl Objects {
    pub(crate) fn look(cluster: &Cluster) -> Result<Self> {
        let names = cluster.kubectl(&["get", KINDS, "--output=name"])?;
        Ok(Self(names.lines().map(str::to_owned).collect()))
    }

    /// Waits until there is nothing new: namespaces go after what is in them.
    pub(crate) fn are_as_before(&self, cluster: &Cluster) -> Result<()> {
        until("the end of what tests made", || {
            let now = Self::look(cluster)?;
            let left: Vec<_> = now.0.difference(&self.0).cloned().collect();
            ensure!(left.is_empty(), "{}", left.join(", "));
            Ok(Some(()))
        })
    }
}

/// Fails, and says what to do, where nodes cannot start the images.
pub(crate) fn has_images(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("redial-images")?;
    let nodes = BTreeSet::from([cluster.near(), cluster.far()]);
    for (name, image, command, state) in [
        ("pod", &*POD, "pause", "condition=Ready"),
        ("redial", &*REDIAL, "--version", "jsonpath={.status.phase}=Succeeded"),
    ] {
        for (number, node) in nodes.iter().enumerate() {
            let name = format!("{name}-{number}");
            let mut pod = pod(&name, node, &[command]);
            pod["spec"]["containers"][0]["image"] = image.as_str().into();
            pod["spec"]["restartPolicy"] = "Never".into();
            namespace.apply(&pod.to_string())?;
            namespace.wait(&format!("pod/{name}"), state).with_context(|| {
                format!("{node} does not run {image}, whose archive `cargo xtask test --kubernetes` makes in target/image")
            })?;
        }
    }
    Ok(())
}

/// Another process runs a test on this cluster, and has nothing of it but the file.
fn a_kubeconfig_is_enough(cluster: &OwnCluster) -> Result<()> {
    const WANTED: &str = "deploy::the_manifest_installs_retries_and_leaves";
    let run = |words: &[&str]| {
        let mut command = cluster.run_here(std::env::current_exe()?);
        command.args(words).env("REDIAL_KUBECONFIG", cluster.kubeconfig()).env_remove("REDIAL_KUBERNETES");
        command.env("PATH", cluster.path()?);
        let output = command.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok::<_, anyhow::Error>((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    let (is_good, said) = run(&["deploy::"])?;
    ensure!(is_good, "{said}");
    for line in [
        &format!("test {WANTED} ... ok"),
        "test deploy::nothing_is_left_on_the_nodes ... ignored, it needs a cluster of the tests' own",
        "test nothing_is_left_in_the_api ... ok",
    ] {
        ensure!(said.contains(line), "no `{line}` in\n{said}");
    }
    let (is_good, said) = run(&["restart::"])?;
    ensure!(!is_good && said.contains("error: none of these tests can run"), "{said}");

    // What is somebody else's is not touched.
    cluster.kubectl(&["create", "namespace", "redial"])?;
    let (is_good, said) = run(&["--exact", WANTED])?;
    let there = cluster.kubectl(&["get", "namespace", "redial", "--output=jsonpath={.status.phase}"])?;
    cluster.kubectl(&["delete", "namespace", "redial"])?;
    ensure!(!is_good && said.contains("the cluster has a redial already:\nnamespace/redial"), "{said}");
    ensure!(there == "Active", "{there}");
    Ok(())
}
