//! Distributions' own kernels, and what starting them in a virtual machine takes.
//!
//! Each is the newest of its distribution's release on the day it was fetched, and is used until its folder is removed.

use super::apt::{Apt, KEYRING, MIRROR};
use super::{missing, programs, there};
use crate::shell::{self, tools};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The drivers that a virtual machine may need; a package has 250 MB of others.
const DRIVERS: &[&str] = &["net", "virtio"];

const UBUNTU_MIRROR: &str = "http://archive.ubuntu.com";

/// A distribution's release, whose kernel is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Suite {
    /// Debian 11: Linux 5.10, which lacks what redial needs.
    Bullseye,
    /// Ubuntu 22.04: Linux 5.15, the oldest that redial works on.
    Jammy,
    /// Debian 12: Linux 6.1.
    Bookworm,
    /// Debian 13: Linux 6.12.
    Trixie,
    /// The newest Linux that Debian has.
    Sid,
}

impl Suite {
    pub(crate) const ALL: [Self; 5] = [Self::Bullseye, Self::Jammy, Self::Bookworm, Self::Trixie, Self::Sid];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Jammy => "jammy",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// The package that needs the newest kernel.
    fn package(self) -> &'static str {
        if self == Self::Jammy { "linux-image-generic" } else { "linux-image-amd64" }
    }

    /// Where its packages are, with their fixes.
    fn sources(self) -> Vec<String> {
        let name = self.name();
        match self {
            Self::Jammy => ["", "-updates", "-security"]
                .map(|fixes| format!("{UBUNTU_MIRROR}/ubuntu {name}{fixes} main"))
                .into(),
            Self::Sid => vec![format!("{MIRROR}/debian sid main")],
            Self::Bullseye | Self::Bookworm | Self::Trixie => vec![
                format!("{MIRROR}/debian {name} main"),
                format!("{MIRROR}/debian-security {name}-security main"),
            ],
        }
    }

    /// The file with the keys that its packages' lists are signed with. Debian has Ubuntu's.
    fn keyring(self, apt: &Path, unpacked: &Path) -> Result<PathBuf> {
        if self != Self::Jammy {
            return Ok(KEYRING.into());
        }
        Apt::new(apt, Path::new(KEYRING), &Self::Sid.sources())?.unpack(["ubuntu-keyring"], unpacked)?;
        Ok(unpacked.join("usr/share/keyrings/ubuntu-archive-keyring.gpg"))
    }
}

/// How often fetching a kernel is tried.
const ATTEMPTS: usize = 3;

/// A kernel, unpacked.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kernel {
    folder: PathBuf,
    /// What it calls itself.
    pub(crate) release: String,
}

impl Kernel {
    /// The kernel itself.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// Its modules and what depmod says of them.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    /// A busybox that needs no library.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.folder.join("busybox")
    }
}

/// Installs qemu, and what modules are read with.
pub(crate) fn install_emulator() -> Result<()> {
    programs(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("depmod", "kmod"),
        ("xz", "xz-utils"),
        ("zstd", "zstd"),
    ])
}

/// The kernel of a release, which is fetched where it is not there.
pub(crate) fn of(suite: Suite) -> Result<Kernel> {
    let (tools, name) = (tools()?, suite.name());
    let what = format!("linux of {name}");
    if let Some(kernel) = cached(&tools, suite)? {
        there(&what, &kernel.folder.display().to_string());
        return Ok(kernel);
    }
    missing(&what);
    let unfinished = tools.join(format!("linux-{name}.unfinished"));
    let release = again(|| {
        if unfinished.exists() {
            remove(&unfinished)?;
        }
        unpack(suite, &unfinished)
    })
    .with_context(|| format!("cannot fetch the newest Linux of {name}"))?;
    let folder = tools.join(format!("linux-{name}-{release}"));
    fs::rename(&unfinished, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(Kernel { folder, release })
}

/// The kernel of a release that has been fetched last.
fn cached(tools: &Path, suite: Suite) -> Result<Option<Kernel>> {
    let prefix = format!("linux-{}-", suite.name());
    let mut last = None;
    for entry in fs::read_dir(tools).into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(release) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) {
            let kernel = Kernel { folder: entry.path(), release: release.to_owned() };
            last = last.max(Some((entry.metadata()?.modified()?, kernel)));
        }
    }
    Ok(last.map(|(_, kernel)| kernel))
}

/// Mirrors fail, and change between what they list and what they have.
fn again<T>(mut fetch: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..ATTEMPTS {
        match fetch() {
            Ok(fetched) => return Ok(fetched),
            Err(error) => println!("{error:#}; once more"),
        }
    }
    fetch()
}

/// Makes a folder with the newest kernel, and says its release.
fn unpack(suite: Suite, folder: &Path) -> Result<String> {
    let (apt, unpacked) = (folder.join("apt"), folder.join("unpacked"));
    let apt = Apt::new(&apt, &suite.keyring(&apt, &unpacked)?, &suite.sources())?;
    let needs = apt.needs(suite.package())?;
    let prefix = "linux-image-";
    let newest = needs.iter().find(|name| name.starts_with(prefix));
    let newest = newest.with_context(|| format!("{} needs no {prefix}*", suite.package()))?;
    let release = newest.trim_start_matches(prefix);
    // Most releases have the kernel and its modules in packages of their own.
    let parts = apt.needs(newest)?;
    let parts = parts.iter().filter(|name| name.starts_with("linux-") && name.ends_with(release));
    let packages = [newest.as_str(), "busybox-static"].into_iter().chain(parts.map(String::as_str));
    apt.unpack(packages, &unpacked)?;

    let modules = format!("lib/modules/{release}");
    let kernel = [format!("boot/vmlinuz-{release}"), format!("usr/{modules}/vmlinuz")];
    take(&unpacked, &kernel, &folder.join("vmlinuz"))?;
    take(&unpacked, &["bin/busybox".into(), "usr/bin/busybox".into()], &folder.join("busybox"))?;
    let base = folder.join("lib/modules");
    fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
    take(&unpacked, &[modules.clone(), format!("usr/{modules}")], &folder.join(&modules))?;
    remove(&unpacked)?;
    prune(&folder.join(modules).join("kernel"))?;
    let depmod = shell::which("depmod").context("no depmod")?;
    shell::run(Command::new(depmod).arg("-b").arg(folder).arg(release))?;
    Ok(release.to_owned())
}

/// Moves the one of these files or folders that is there.
fn take(from: &Path, places: &[String], to: &Path) -> Result<()> {
    let Some(place) = places.iter().map(|place| from.join(place)).find(|place| place.exists()) else {
        bail!("the packages have neither {}", places.join(" nor "));
    };
    fs::rename(&place, to).with_context(|| format!("cannot make {}", to.display()))
}

fn prune(modules: &Path) -> Result<()> {
    let drivers = modules.join("drivers");
    for driver in fs::read_dir(&drivers).with_context(|| format!("cannot read {}", drivers.display()))? {
        let driver = driver?;
        if driver.file_type()?.is_dir() && !DRIVERS.iter().any(|&wanted| driver.file_name() == wanted) {
            remove(&driver.path())?;
        }
    }
    let sound = modules.join("sound");
    if sound.exists() { remove(&sound) } else { Ok(()) }
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::{ATTEMPTS, Suite, again, cached};
    use anyhow::{bail, ensure};
    use std::fs;

    #[test]
    fn what_fails_once_is_fetched_again() {
        let mut asked = 0;
        let fetched = again(|| {
            asked += 1;
            ensure!(asked > 1, "404 Not Found");
            Ok(asked)
        });
        assert_eq!(fetched.unwrap(), 2);
    }

    #[test]
    fn what_keeps_failing_says_why() {
        let mut asked = 0;
        let fetched = again::<()>(|| {
            asked += 1;
            bail!("404 Not Found")
        });
        assert_eq!(fetched.unwrap_err().to_string(), "404 Not Found");
        assert_eq!(asked, ATTEMPTS);
    }

    #[test]
    fn a_kernel_is_known_by_its_release_and_an_unfinished_one_is_none() {
        let tools = tempfile::tempdir().unwrap();
        for folder in ["linux-trixie-6.12.1-amd64", "linux-sid.unfinished", "linux-sid-7.2-amd64"] {
            fs::create_dir(tools.path().join(folder)).unwrap();
        }
        assert_eq!(cached(tools.path(), Suite::Sid).unwrap().unwrap().release, "7.2-amd64");
        assert_eq!(cached(tools.path(), Suite::Bookworm).unwrap(), None);
        assert_eq!(cached(&tools.path().join("none"), Suite::Sid).unwrap(), None);
    }
}
