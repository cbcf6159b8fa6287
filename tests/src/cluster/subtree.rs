//! A cgroup of the same name in every hierarchy of this machine, to be the root of all that a node sees.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{cgroup, unique};

/// How long the processes of a killed cgroup may take to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// Drop kills what is left in it and removes it with all cgroups below.
#[derive(Debug)]
pub(super) struct Subtree {
    /// Where each hierarchy is mounted.
    mounts: Vec<PathBuf>,
    name: String,
    unified: PathBuf,
}

impl Subtree {
    /// Makes the cgroups, each with one below it for the processes that are no pod's: cgroup2 has processes in leaves
    /// only.
    pub(super) fn new(role: &str) -> Result<Self> {
        let subtree = Self { mounts: mounts()?, name: unique(role), unified: cgroup::mount()? };
        for (_, root) in subtree.roots() {
            let system = root.join("system");
            fs::create_dir_all(&system).with_context(|| {
                format!("creating the cgroup {}; these tests need root", system.display())
            })?;
            // A cpuset of cgroup v1 begins without a processor and takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                for cgroup in [&root, &system] {
                    let parent = cgroup.parent().context("a cgroup without a parent")?;
                    if fs::read_to_string(cgroup.join(file)).is_ok_and(|set| set.trim().is_empty())
                        && let Ok(set) = fs::read(parent.join(file))
                    {
                        fs::write(cgroup.join(file), set).with_context(|| format!("setting {file}"))?;
                    }
                }
            }
        }
        Ok(subtree)
    }

    /// Each hierarchy's mount, with this subtree's root in it.
    pub(super) fn roots(&self) -> impl Iterator<Item = (&Path, PathBuf)> {
        self.mounts.iter().map(|mount| (mount.as_path(), mount.join(&self.name)))
    }

    /// The root in cgroup2.
    pub(super) fn unified(&self) -> PathBuf {
        self.unified.join(&self.name)
    }

    /// All its cgroups in cgroup2, the innermost first.
    pub(super) fn below(&self) -> Result<Vec<PathBuf>> {
        below(&self.unified())
    }

    /// Removes what it has beside the cgroups for processes that are no pod's. Says whether nothing is left.
    pub(super) fn is_empty(&self) -> Result<bool> {
        let mut is_empty = true;
        for (_, root) in self.roots() {
            let own = [root.clone(), root.join("system")];
            for cgroup in below(&root)?.into_iter().filter(|cgroup| !own.contains(cgroup)) {
                is_empty &= fs::remove_dir(cgroup).is_ok();
            }
        }
        Ok(is_empty)
    }

    /// Lets pods be limited where cgroup2 is the only hierarchy. No process may be in the root.
    pub(super) fn enable_controllers(&self) -> Result<()> {
        if self.mounts.len() > 1 {
            return Ok(());
        }
        let available = fs::read_to_string(self.unified.join("cgroup.controllers"))?;
        for cgroup in [&self.unified, &self.unified()] {
            let file = cgroup.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&file)?;
            let missing =
                |controller: &&str| !enabled.split_whitespace().any(|enabled| enabled == *controller);
            for controller in available.split_whitespace().filter(missing) {
                fs::write(&file, format!("+{controller}"))
                    .with_context(|| format!("enabling {controller} in {}", file.display()))?;
            }
        }
        Ok(())
    }
}

/// A cgroup and all below it, the innermost first. What goes meanwhile is left out.
fn below(cgroup: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(cgroup) {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            found.extend(below(&entry.path())?);
        }
    }
    found.push(cgroup.to_owned());
    Ok(found)
}

impl Drop for Subtree {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            drop(fs::write(self.unified().join("cgroup.kill"), "1"));
            let left = self.roots().filter(|(_, root)| remove(root).is_err()).count();
            if left == 0 || Instant::now() > deadline {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}

/// Removes a cgroup, those below it first.
fn remove(cgroup: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&entry.path())?;
    }
    fs::remove_dir(cgroup)
}

fn mounts() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let cgroup = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        ["cgroup", "cgroup2"].contains(&kind).then(|| PathBuf::from(place))
    };
    Ok(mounts.lines().filter_map(cgroup).collect())
}
