//! Cgroups that stand for workloads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::unique;

/// A cgroup under the machine's cgroup2 mount. Drop kills what is left in it and removes it with its children.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub fn new(role: &str) -> Result<Self> {
        Self::at(&mount()?.join(unique(role)))
    }

    /// A cgroup inside this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::at(&self.path.join(name))
    }

    /// A cgroup at a path where there is none.
    pub fn at(path: &Path) -> Result<Self> {
        fs::create_dir(path)
            .with_context(|| format!("creating the cgroup {}; these tests need root", path.display()))?;
        Ok(Self { path: path.to_owned() })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs `program` in this cgroup, from before its first instruction and under the same pid.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo 0 >"$0" && exec "$@""#]);
        command.arg(self.path.join("cgroup.procs")).arg(program.as_ref());
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A killed process leaves its cgroup a moment after the signal.
        for _ in 0..200 {
            drop(fs::write(self.path.join("cgroup.kill"), "1"));
            if fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            sleep(Duration::from_millis(10));
        }
    }
}

/// Where cgroup2 is mounted.
pub fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ');
            let (_device, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        })
        .context("no cgroup2 mount; mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}
