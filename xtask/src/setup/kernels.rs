//! Debian's own kernels, and what starting them in a virtual machine takes.
//!
//! Each is the newest of its release of Debian on the day it was unpacked, and stays until its folder is removed.

use super::apt::Apt;
use super::{part, programs};
use crate::shell::{self, tools};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The drivers that a virtual machine may need; a package has 250 MB of others.
const DRIVERS: &[&str] = &["net", "virtio"];

/// A kernel, unpacked.
#[derive(Debug)]
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

/// The kernel of a release of Debian, which is fetched where it is not there.
pub(crate) fn of(suite: &str) -> Result<Kernel> {
    let folder = tools()?.join(format!("linux-{suite}"));
    part(&format!("linux of {suite}"), &folder, |folder| unpack(suite, folder))?;
    let release = only_entry(&folder.join("lib/modules"))?;
    Ok(Kernel { folder, release })
}

fn unpack(suite: &str, folder: &Path) -> Result<()> {
    let mut sources = vec![format!("debian {suite} main")];
    if suite != "sid" {
        sources.push(format!("debian-security {suite}-security main"));
    }
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let apt = Apt::new(&folder.join("apt"), &sources)?;
    let needs = apt.needs("linux-image-amd64")?;
    let prefix = "linux-image-";
    let newest = needs.iter().find(|name| name.starts_with(prefix));
    let newest = newest.with_context(|| format!("linux-image-amd64 of {suite} needs no {prefix}*"))?;
    let release = newest.trim_start_matches(prefix);
    // Newer releases have the kernel and its modules in packages of their own.
    let parts = apt.needs(newest)?;
    let parts = parts.iter().filter(|name| name.starts_with("linux-") && name.ends_with(release));
    let unpacked = folder.join("unpacked");
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
    shell::run(Command::new(shell::which("depmod").context("no depmod")?).arg("-b").arg(folder).arg(release))
}

/// Moves the one of these files or folders that is there.
fn take(from: &Path, places: &[String], to: &Path) -> Result<()> {
    let Some(place) = places.iter().map(|place| from.join(place)).find(|place| place.exists()) else {
        bail!("Debian's packages have neither {}", places.join(" nor "));
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
    remove(&modules.join("sound"))
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

fn only_entry(folder: &Path) -> Result<String> {
    let mut entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let entry = entries.next().with_context(|| format!("{} is empty", folder.display()))??;
    entry.file_name().into_string().ok().context("a kernel with a strange name")
}
