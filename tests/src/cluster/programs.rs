//! The programs that `cargo xtask setup` installs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The release that setup installs.
const VERSION: &str = "1.36.2";

#[derive(Clone, Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// In the folder that `REDIAL_KUBERNETES` names, or where setup puts it.
    pub(super) fn locate() -> Result<Self> {
        let root = match std::env::var_os("REDIAL_KUBERNETES") {
            Some(root) => PathBuf::from(root),
            None => crate::tools()?.join(format!("kubernetes-{VERSION}")),
        };
        ensure!(
            root.join("bin").is_dir(),
            "there is no Kubernetes in {}; run `cargo xtask setup`",
            root.display()
        );
        Ok(Self(root))
    }

    /// Where the program is: Kubernetes', Debian's newer, or the machine's own.
    pub(super) fn find(&self, program: &str) -> Result<PathBuf> {
        let path = self.path()?;
        std::env::split_paths(&path)
            .map(|folder| folder.join(program))
            .find(|file| file.is_file())
            .with_context(|| format!("there is no {program}; `cargo xtask setup` installs it"))
    }

    /// A PATH for a node.
    pub(super) fn path(&self) -> Result<OsString> {
        let own = ["bin", "debian/usr/bin"].map(|folder| self.folder(folder));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let machine = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        std::env::join_paths(own.into_iter().chain(machine)).context("a folder on PATH has a colon in it")
    }

    pub(super) fn folder(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}
