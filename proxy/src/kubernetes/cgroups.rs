//! The cgroups of pods, found by their names as they come and go.
//!
//! The whole cgroup2 hierarchy is watched down to the pods' own cgroups: kubelets put theirs at different places, and kind
//! and k3s nest them. What is below a pod's cgroup is not looked at: a pod may name things there as it likes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use super::PodUid;

/// How deep below the mount a pod's cgroup may be, and how many directories are watched.
const MAX_DEPTH: usize = 12;
const MAX_WATCHES: usize = 8192;

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Appeared(PodUid),
    Gone(PodUid),
}

/// The pods' cgroups that are there.
pub struct PodCgroups {
    mount: PathBuf,
    inotify: AsyncFd<Descriptor>,
    watched: HashMap<WatchDescriptor, PathBuf>,
    pods: HashMap<PodUid, PathBuf>,
}

/// As tokio wants it.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl PodCgroups {
    /// Watches from now on. What is there already is told by the first [`PodCgroups::next`].
    pub fn watch(mount: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // SAFETY: the instance owns its descriptor, and gives the same one for as long as it lives.
        #[expect(unsafe_code, reason = "the only way to wait for a descriptor that is not a socket")]
        let inotify = unsafe { AsyncFd::register(Descriptor(inotify))? };
        Ok(Self { mount: mount.to_owned(), inotify, watched: HashMap::new(), pods: HashMap::new() })
    }

    /// The cgroup of a pod.
    #[must_use]
    pub fn get(&self, uid: PodUid) -> Option<&Path> {
        self.pods.get(&uid).map(PathBuf::as_path)
    }

    /// What has come and gone since the last time; waits until there is something. Cancel safe.
    pub async fn next(&mut self) -> io::Result<Vec<Seen>> {
        if self.watched.is_empty() {
            return Ok(self.look());
        }
        loop {
            let mut ready = self.inotify.readable().await?;
            let events =
                match ready.try_io(|inotify| inotify.get_ref().0.read_events().map_err(io::Error::from)) {
                    Ok(events) => events?,
                    Err(_would_block) => continue,
                };
            drop(ready);
            let mut seen = Vec::new();
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    return Ok(self.look());
                }
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.watched.remove(&event.wd);
                    continue;
                }
                let (Some(parent), Some(name)) = (self.watched.get(&event.wd), event.name) else { continue };
                let path = parent.join(&name);
                if !event.mask.contains(AddWatchFlags::IN_ISDIR) {
                    continue;
                }
                if event.mask.contains(AddWatchFlags::IN_CREATE) {
                    self.directory(path, &mut seen);
                } else if event.mask.contains(AddWatchFlags::IN_DELETE) {
                    self.gone(&path, &mut seen);
                }
            }
            if !seen.is_empty() {
                return Ok(seen);
            }
        }
    }

    /// Looks at everything, whatever was told.
    pub fn look(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let gone: Vec<_> = self.pods.values().filter(|path| !path.exists()).cloned().collect();
        for path in gone {
            self.gone(&path, &mut seen);
        }
        self.directory(self.mount.clone(), &mut seen);
        seen
    }

    fn directory(&mut self, path: PathBuf, seen: &mut Vec<Seen>) {
        let mut left = vec![path];
        while let Some(path) = left.pop() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(uid) = PodUid::of_cgroup(name) {
                if self.pods.get(&uid) != Some(&path) && path.is_dir() {
                    self.pods.insert(uid, path);
                    seen.push(Seen::Appeared(uid));
                }
                continue;
            }
            let depth = path.strip_prefix(&self.mount).map_or(0, |below| below.components().count());
            if depth >= MAX_DEPTH || self.watched.len() >= MAX_WATCHES {
                tracing::warn!(cgroup = %path.display(), "too deep or too many cgroups: pods below are not found");
                continue;
            }
            let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
            // First the watch, then the look: what comes in between is seen twice, and not missed.
            match self.inotify.get_ref().0.add_watch(&path, flags) {
                Ok(descriptor) => drop(self.watched.insert(descriptor, path.clone())),
                // A cgroup may go at any moment.
                Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => continue,
                Err(error) => {
                    tracing::error!(cgroup = %path.display(), %error, "cannot watch for pods (fs.inotify.max_user_watches?)");
                }
            }
            let entries = fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
            let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            left.extend(directories.map(|entry| entry.path()));
        }
    }

    fn gone(&mut self, path: &Path, seen: &mut Vec<Seen>) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(uid) = PodUid::of_cgroup(name)
            && self.pods.get(&uid).is_some_and(|known| known == path)
        {
            self.pods.remove(&uid);
            seen.push(Seen::Gone(uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::{PodCgroups, PodUid, Seen};

    const UID: &str = "0c9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4c5";
    const OTHER: &str = "1c9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4c5";

    /// Any directories will do: the names are what is looked at.
    #[tokio::test]
    async fn pods_are_seen_to_come_and_go_at_any_depth() {
        let mount = TempDir::new().unwrap();
        let (uid, other) = (PodUid::parse(UID).unwrap(), PodUid::parse(OTHER).unwrap());
        let there = mount.path().join(format!("kubepods/burstable/pod{UID}"));
        fs::create_dir_all(there.join(format!("container/pod{OTHER}"))).unwrap();
        let mut cgroups = PodCgroups::watch(mount.path()).unwrap();
        assert_eq!(cgroups.next().await.unwrap(), [Seen::Appeared(uid)]);
        assert_eq!(cgroups.get(uid), Some(&*there));

        // A node in a container, as kind has it, whose cgroups are made all at once.
        let nested = "system.slice/docker-1.scope/kubelet.slice/kubelet-kubepods.slice";
        let name = format!("kubelet-kubepods-pod{}.slice", OTHER.replace('-', "_"));
        let nested = mount.path().join(nested).join(name);
        fs::create_dir_all(nested.join("cri-containerd-1.scope")).unwrap();
        let mut seen = Vec::new();
        while seen.is_empty() {
            seen = cgroups.next().await.unwrap();
        }
        assert_eq!(seen, [Seen::Appeared(other)]);

        fs::remove_dir(nested.join("cri-containerd-1.scope")).unwrap();
        fs::remove_dir(&nested).unwrap();
        assert_eq!(cgroups.next().await.unwrap(), [Seen::Gone(other)]);
        fs::create_dir(&nested).unwrap();
        assert_eq!(cgroups.next().await.unwrap(), [Seen::Appeared(other)]);
        assert_eq!(cgroups.look(), []);
    }
}
