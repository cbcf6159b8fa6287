//! What Kubernetes runs on, from Debian's newest packages: those of Debian 12 are older than this kubelet takes.
//!
//! The packages are unpacked and not installed, by an apt with lists of its own, so they change nothing on the machine.
//! They need no more of it than a libc, even an older one.

use super::super::apt;
use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const SOURCES: &str = "http://deb.debian.org/debian sid main";

/// containerd and its shim, etcd, and the network plug-ins.
const PACKAGES: &[&str] = &["containerd", "etcd-server", "containernetworking-plugins"];

/// What has to be in them.
const FILES: &[&str] = &[
    "bin/containerd",
    "bin/containerd-shim-runc-v2",
    "bin/ctr",
    "bin/etcd",
    "lib/cni/bridge",
    "lib/cni/host-local",
];

/// Unpacks the packages into a folder.
pub(super) fn unpack(folder: &Path) -> Result<()> {
    if !Path::new(KEYRING).is_file() {
        apt::install(&["debian-archive-keyring"])?;
    }
    let own = folder.join("apt");
    for empty in ["lists/partial", "archives/partial"] {
        let empty = own.join(empty);
        fs::create_dir_all(&empty).with_context(|| format!("cannot make {}", empty.display()))?;
    }
    let list = format!("deb [signed-by={KEYRING} target=Packages] {SOURCES}\n");
    for (name, text) in [("sources.list", list.as_str()), ("status", "")] {
        fs::write(own.join(name), text).with_context(|| format!("cannot write apt's {name}"))?;
    }
    shell::run(apt_get(&own).arg("update"))?;
    shell::run(apt_get(&own).arg("download").args(PACKAGES))?;

    let files = own.read_dir().with_context(|| format!("cannot read {}", own.display()))?;
    let packages = files.flatten().map(|file| file.path());
    for package in packages.filter(|file| file.extension().is_some_and(|extension| extension == "deb")) {
        shell::run(Command::new("dpkg").arg("-x").arg(&package).arg(folder))?;
    }
    if let Some(file) = FILES.iter().find(|file| !folder.join("usr").join(file).is_file()) {
        bail!("Debian's packages {} have no {file}", PACKAGES.join(", "));
    }
    fs::remove_dir_all(&own).with_context(|| format!("cannot remove {}", own.display()))
}

/// An apt-get that reads and writes nothing of the machine's own, and works for any user.
fn apt_get(own: &Path) -> Command {
    let mut apt = Command::new("apt-get");
    apt.arg("-q").current_dir(own);
    let set = [
        ("Dir::Etc::SourceList", "sources.list"),
        ("Dir::State", ""),
        ("Dir::State::Status", "status"),
        ("Dir::Cache", ""),
    ];
    for (option, file) in set {
        apt.arg("-o").arg(format!("{option}={}", own.join(file).display()));
    }
    apt.args(["-o", "Dir::Etc::SourceParts=/dev/null", "-o", "APT::Sandbox::User=root"]);
    apt
}
