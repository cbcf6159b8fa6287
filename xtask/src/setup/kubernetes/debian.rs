//! What Kubernetes runs on, from Debian's newest packages: those of Debian 12 are older than this kubelet takes.
//!
//! The packages are unpacked and not installed, so they change nothing on the machine. They need no more of it than a
//! libc, even an older one.

use super::super::apt::{Apt, KEYRING, MIRROR};
use anyhow::{Result, bail};
use std::path::Path;

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
    let apt = Apt::new(&folder.join("apt"), Path::new(KEYRING), &[format!("{MIRROR}/debian sid main")])?;
    apt.unpack(PACKAGES.iter().copied(), folder)?;
    if let Some(file) = FILES.iter().find(|file| !folder.join("usr").join(file).is_file()) {
        bail!("Debian's packages {} have no {file}", PACKAGES.join(", "));
    }
    Ok(())
}
