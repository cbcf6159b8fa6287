//! Building Kubernetes' own programs from the module `k8s.io/kubernetes`.

use super::VERSION;
use crate::shell;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Go that this release is made with. A later one's JSON has the API server answer 503 where kubectl asks for its
/// schema.
const GO: (&str, &str) = ("1.26", "1.26.8");

const PROGRAMS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// Builds all programs into a folder.
pub(super) fn build(folder: &Path) -> Result<()> {
    let go = go(folder)?;
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

/// The machine's own Go where it will do, else one that comes as a module.
fn go(folder: &Path) -> Result<PathBuf> {
    let (line, release) = GO;
    let ask = |question: &[&str]| {
        let mut go = Command::new("go");
        shell::output(go.args(question).env("GOTOOLCHAIN", "local").env("GOFLAGS", "").current_dir(folder))
    };
    let version = ask(&["env", "GOVERSION"]).context("go does not start")?;
    if version.strip_prefix("go").is_some_and(|version| version.starts_with(&format!("{line}."))) {
        return Ok(PathBuf::from("go"));
    }
    println!("this is {version}, and Kubernetes {VERSION} takes Go {line}");
    let arch = ask(&["env", "GOARCH"]).context("go env GOARCH")?;
    let module = format!("golang.org/toolchain@v0.0.1-go{release}.linux-{arch}");
    let told = ask(&["mod", "download", "-json", &module]).with_context(|| format!("cannot get {module}"))?;
    let told: Value = serde_json::from_str(&told).with_context(|| format!("about {module}: {told}"))?;
    let root = told.get("Dir").and_then(Value::as_str).map(PathBuf::from);
    let root = root.with_context(|| format!("{module} came without a folder"))?;
    // A Go that does not know of such modules unpacks them as it does others, with nothing that can be executed.
    let tools = root.join(format!("pkg/tool/linux_{arch}"));
    for place in [&root.join("bin"), &tools] {
        let programs = place.read_dir().with_context(|| format!("cannot read {}", place.display()))?;
        for program in programs.flatten().map(|program| program.path()) {
            fs::set_permissions(&program, fs::Permissions::from_mode(0o555))
                .with_context(|| format!("cannot make {} a program", program.display()))?;
        }
    }
    Ok(root.join("bin/go"))
}
