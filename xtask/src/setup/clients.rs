//! Installing the libraries of other languages that the tests' clients and servers use, in folders of our own.

use super::{apt, missing, there};
use crate::shell::{self, tools};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::process::Command;

/// From PyPI. What these need themselves is of no interest to a test.
const PYTHON: &[&str] = &[
    "grpcio==1.76.0",
    "hpack==4.1.0",
    "httpx==0.28.1",
    "hyperframe==6.1.0",
    "requests==2.32.5",
    "websockets==15.0.1",
];

/// From npm: the last line that runs on the Node of Debian 12.
const NODE: &[&str] = &["undici@6.22.0"];

/// Beside the libraries: which they are.
const LIST: &str = "redial-libraries";

/// Makes the folders that are not there, or not of these versions.
pub(super) fn install() -> Result<()> {
    let folder = tools()?.join("clients");
    library("python libraries", &folder.join("python"), PYTHON, python)?;
    library("node libraries", &folder.join("node"), NODE, node)
}

fn library(what: &str, folder: &Path, list: &[&str], make: fn(&Path, &[&str]) -> Result<()>) -> Result<()> {
    let (stamp, list_text) = (folder.join(LIST), list.join("\n"));
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == list_text) {
        there(what, &list.join(" "));
        return Ok(());
    }
    missing(what);
    make(folder, list)?;
    std::fs::write(&stamp, list_text).with_context(|| format!("cannot write {}", stamp.display()))
}

fn python(folder: &Path, packages: &[&str]) -> Result<()> {
    venv(folder)?;
    let pip = ["install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
    shell::run(Command::new(folder.join("bin/pip")).args(pip).args(packages))
}

fn node(folder: &Path, packages: &[&str]) -> Result<()> {
    if shell::which("npm").is_none() {
        apt::install(&["npm"])?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let npm = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"];
    shell::run(Command::new("npm").args(npm).arg(folder).args(packages))
}

/// An empty virtual environment in place of whatever the folder is.
pub(super) fn venv(folder: &Path) -> Result<()> {
    let make = || shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder));
    // Debian's python3 has a venv module that cannot make a usable environment without python3-venv.
    if make().is_err() {
        apt::install(&["python3-venv"])?;
        make()?;
    }
    Ok(())
}
