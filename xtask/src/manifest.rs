//! `cargo xtask manifest`: the chart as one file for `kubectl apply`, for those who have no Helm.

use crate::{image, setup, shell};
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The Kubernetes that Helm, which asks none, is to think of.
const KUBERNETES: &str = "1.30.0";

const HEAD: &str = "\
# redial for a Kubernetes cluster: kubectl apply -f manifest.yaml
# Made of the chart next to this by `cargo xtask manifest`; docs/operations.md says what to know.
";

/// Renders the chart into `deploy/manifest.yaml`.
pub(crate) fn run() -> Result<()> {
    setup::to_render()?;
    let file = file();
    fs::write(&file, render()?).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}

/// Lints the chart, and looks whether the file is what the chart makes.
pub(crate) fn check() -> Result<()> {
    shell::run(helm()?.args(["lint", "--strict", "--quiet", "--kube-version", KUBERNETES]).arg(chart()))?;
    let file = file();
    let there = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    if there != render()? {
        bail!("{} is not what the chart makes: cargo xtask manifest", file.display());
    }
    Ok(())
}

fn render() -> Result<String> {
    let words = ["template", "redial", "--namespace", "redial", "--set", "namespace.create=true"];
    let mut command = helm()?;
    command.args(words).args(["--kube-version", KUBERNETES]).arg(chart());
    let output = command.output().context("cannot start helm")?;
    ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).context("helm wrote no text")?;
    let image = image::reference();
    ensure!(text.contains(&format!("image: {image}\n")), "the chart's appVersion is another than {image}'s");
    Ok(format!("{HEAD}{text}"))
}

fn helm() -> Result<Command> {
    Ok(Command::new(setup::helm::program()?))
}

fn chart() -> PathBuf {
    shell::root().join("deploy/helm/redial")
}

fn file() -> PathBuf {
    shell::root().join("deploy/manifest.yaml")
}
