//! Installing a Kubernetes for the tests: its own programs built from source, what runs below them from Debian.
//!
//! Everything is in one folder among our tools, `bin` and `debian` in it, each put there whole. Nothing is started.

mod debian;
mod servers;

use super::{TO_RUN_PODS, part, programs};
use crate::shell::tools;
use anyhow::Result;
use std::path::PathBuf;

/// The release of Kubernetes. `xtask/kubernetes/go.mod` has it too, with the sums of everything that it is made of.
const VERSION: &str = "1.36.2";

/// Installs what is not there. The first time takes a quarter of an hour on two cores.
pub(super) fn install() -> Result<()> {
    programs(TO_RUN_PODS)?;
    let folder = folder()?;
    part("containerd, etcd", &folder.join("debian"), debian::unpack)?;
    part("kubernetes", &folder.join("bin"), servers::build)
}

/// Where [`install`] puts everything.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(tools()?.join(format!("kubernetes-{VERSION}")))
}
