//! Building Kubernetes' own programs from the module `k8s.io/kubernetes`.

use super::VERSION;
use crate::setup::go;
use crate::shell;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

const PROGRAMS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// Builds all programs into a folder.
pub(super) fn build(folder: &Path) -> Result<()> {
    let go = go::program(folder)?;
    // Programs that do not know their version cannot tell each other what they understand.
    let (major_minor, _patch) = VERSION.rsplit_once('.').unwrap_or((VERSION, ""));
    let (major, minor) = major_minor.split_once('.').unwrap_or((major_minor, ""));
    let known = [
        ("gitVersion", format!("v{VERSION}")),
        ("gitMajor", major.to_owned()),
        ("gitMinor", minor.to_owned()),
        ("gitTreeState", "clean".to_owned()),
    ];
    let known = known.map(|(name, value)| format!(" -X k8s.io/component-base/version.{name}={value}"));
    println!("this is built once, and takes a quarter of an hour on two cores");
    shell::run(
        Command::new(go)
            .args(["build", "-trimpath", "-o"])
            .arg(folder)
            .arg(format!("-ldflags=-s -w{}", known.concat()))
            .args(PROGRAMS.iter().map(|program| format!("k8s.io/kubernetes/cmd/{program}")))
            .current_dir(shell::root().join("xtask/kubernetes"))
            .envs([("CGO_ENABLED", "0"), ("GOFLAGS", "-mod=readonly"), ("GOTOOLCHAIN", "local")])
            .env("GOWORK", "off"),
    )
}
