//! cgroup v2: where it is mounted, which processes a cgroup has, and a cgroup of one's own around a command.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

/// How deep below an enrolled cgroup its descendants are looked for, and how many are looked at.
const MAX_DEPTH: usize = 16;
const MAX_DESCENDANTS: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(
        "no cgroup2 file system can be seen here. `ip netns exec NAME` hides it: use `nsenter --net=/run/netns/NAME` \
         instead. Else mount one: mount -t cgroup2 none /sys/fs/cgroup"
    )]
    NotMounted,
    #[error("there is no cgroup {name}: neither {absolute} nor {below} is one")]
    NoSuch { name: String, absolute: String, below: String },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{0} is not a cgroup2 directory; it must lie below {1}")]
    NotACgroup(PathBuf, PathBuf),
    #[error("cannot make the cgroup {path} (root is needed): {source}")]
    Make { path: PathBuf, source: io::Error },
}

/// The mounted cgroup2 hierarchy.
#[derive(Clone, Debug)]
pub struct CgroupRoot {
    mount: PathBuf,
}

/// A cgroup that exists somewhere below the mount.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cgroup {
    path: PathBuf,
    name: String,
    id: u64,
}

/// A cgroup that this process made, and removes when dropped.
#[derive(Debug)]
pub struct OwnedCgroup {
    cgroup: Cgroup,
    parent: PathBuf,
}

impl CgroupRoot {
    /// Finds where cgroup2 is mounted. On a hybrid host that is not `/sys/fs/cgroup`.
    pub fn find() -> Result<Self, CgroupError> {
        let path = PathBuf::from("/proc/self/mounts");
        let mounts = fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })?;
        let mount = mounts
            .lines()
            .find_map(|line| {
                let mut fields = line.split(' ');
                let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
                (kind == "cgroup2").then(|| PathBuf::from(unescape(target)))
            })
            .ok_or(CgroupError::NotMounted)?;
        Ok(Self { mount })
    }

    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The cgroup at `path`, which may be a path in the file system or one below the mount.
    pub fn open(&self, path: &Path) -> Result<Cgroup, CgroupError> {
        let below = self.mount.join(path.strip_prefix("/").unwrap_or(path));
        let is_cgroup = |path: &Path| path.join("cgroup.procs").exists();
        let chosen = if path.is_absolute() && is_cgroup(path) { path } else { &below };
        if !is_cgroup(chosen) {
            let [absolute, below] = [path, &below].map(|path| path.display().to_string());
            return Err(CgroupError::NoSuch { name: absolute.clone(), absolute, below });
        }
        let chosen = fs::canonicalize(chosen)
            .map_err(|source| CgroupError::Read { path: chosen.to_owned(), source })?;
        if !chosen.starts_with(&self.mount) || !chosen.join("cgroup.procs").exists() {
            return Err(CgroupError::NotACgroup(chosen, self.mount.clone()));
        }
        self.describe(chosen)
    }

    /// Makes the cgroup `prefix` with this process's id, below this process's own: whatever limits the process has hold
    /// there too. Removes those that processes which were killed have left.
    pub fn make(&self, prefix: &str) -> Result<OwnedCgroup, CgroupError> {
        let parent = self.own()?;
        for path in subdirectories(&parent) {
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(prefix));
            if name.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
                // One with processes in it, which go on without redial, stays: the kernel refuses.
                let _ = fs::remove_dir(path);
            }
        }
        let path = parent.join(format!("{prefix}{}", process::id()));
        fs::create_dir(&path).map_err(|source| CgroupError::Make { path: path.clone(), source })?;
        Ok(OwnedCgroup { cgroup: self.describe(path)?, parent })
    }

    /// The directory of the cgroup that this process is in.
    fn own(&self) -> Result<PathBuf, CgroupError> {
        let path = PathBuf::from("/proc/self/cgroup");
        let text = fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        let own = self.mount.join(own.trim_start_matches('/'));
        // In a container without a cgroup namespace the path is one that cannot be seen from here.
        Ok(if own.join("cgroup.procs").exists() { own } else { self.mount.clone() })
    }

    fn describe(&self, path: PathBuf) -> Result<Cgroup, CgroupError> {
        let id = cgroup_id(&path).map_err(|source| CgroupError::Read { path: path.clone(), source })?;
        let name = path.strip_prefix(&self.mount).unwrap_or(&path).to_string_lossy().into_owned();
        let name = if name.is_empty() { "/".to_owned() } else { name };
        Ok(Cgroup { path, name, id })
    }
}

impl Cgroup {
    /// The path below the mount: what logs and metrics call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn open_directory(&self) -> io::Result<File> {
        File::open(&self.path)
    }

    /// Whether it is still there, and still the same one.
    #[must_use]
    pub fn exists(&self) -> bool {
        cgroup_id(&self.path).is_ok_and(|id| id == self.id)
    }

    /// The ids of this cgroup and of those below it.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.directories().iter().filter_map(|path| cgroup_id(path).ok()).collect()
    }

    /// Whether a process is in this cgroup or in one below it.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 1")
    }

    /// The processes in this cgroup and in those below it. Empty when it is gone.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<i32> {
        self.directories()
            .iter()
            .filter_map(|path| fs::read_to_string(path.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
            .collect()
    }

    fn directories(&self) -> Vec<PathBuf> {
        let mut found = vec![self.path.clone()];
        let mut level = vec![self.path.clone()];
        for _ in 0..MAX_DEPTH {
            let below: Vec<PathBuf> = level.iter().flat_map(|path| subdirectories(path)).collect();
            if below.is_empty() || found.len() + below.len() > MAX_DESCENDANTS {
                break;
            }
            found.extend(below.iter().cloned());
            level = below;
        }
        found
    }
}

impl OwnedCgroup {
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }
}

impl Drop for OwnedCgroup {
    fn drop(&mut self) {
        // A command may leave processes behind that outlive it. They go back to where the command came from.
        let procs = self.parent.join("cgroup.procs");
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            for path in self.cgroup.directories().iter().rev() {
                for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
                    let _ = fs::write(&procs, pid);
                }
                let _ = fs::remove_dir(path);
            }
            if !self.cgroup.path.exists() {
                return;
            }
            if Instant::now() >= end {
                tracing::warn!(cgroup = %self.cgroup.path.display(), "the cgroup could not be removed");
                return;
            }
            // A process that is just ending keeps its cgroup busy for a moment.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// On a 64-bit kernel a cgroup's id is the inode number of its directory (kernfs, since Linux 5.5).
fn cgroup_id(path: &Path) -> io::Result<u64> {
    fs::metadata(path).map(|metadata| metadata.ino())
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// `/proc/self/mounts` writes blanks, tabs, newlines and backslashes in octal.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn mount_points_with_blanks_are_read() {
        assert_eq!(unescape(r"/mnt/c\040g\134x"), r"/mnt/c g\x");
    }
}
