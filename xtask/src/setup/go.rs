//! The Go that programs are built with which come as modules.

use crate::shell;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What Kubernetes' release is made with. A later one's JSON has the API server answer 503 where kubectl asks for its schema.
const GO: (&str, &str) = ("1.26", "1.26.8");

/// The machine's own Go where it will do, else one that comes as a module.
pub(super) fn program(folder: &Path) -> Result<PathBuf> {
    let (line, release) = GO;
    let ask = |question: &[&str]| {
        let mut go = Command::new("go");
        shell::output(go.args(question).env("GOTOOLCHAIN", "local").env("GOFLAGS", "").current_dir(folder))
    };
    let version = ask(&["env", "GOVERSION"]).context("go does not start")?;
    if version.strip_prefix("go").is_some_and(|version| version.starts_with(&format!("{line}."))) {
        return Ok(PathBuf::from("go"));
    }
    println!("this is {version}, and what is built here takes Go {line}");
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
