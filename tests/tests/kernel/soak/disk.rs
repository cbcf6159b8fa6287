//! A small disk of the agent's own.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::libc::ENOSPC;
use tempfile::TempDir;

/// A tmpfs. Drop unmounts it.
#[derive(Debug)]
pub struct Disk {
    place: TempDir,
}

impl Disk {
    pub fn new() -> Result<Self> {
        let disk = Self { place: TempDir::new()? };
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "soak"]).arg(disk.path());
        let status = mount.status().context("running mount")?;
        ensure!(status.success(), "mount: {status} (these tests need root)");
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Leaves no room on it.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.path().join("ballast"))?;
        let block = vec![0; 1 << 16];
        loop {
            if let Err(error) = file.write_all(&block) {
                ensure!(error.raw_os_error() == Some(ENOSPC), "filling the disk: {error}");
                return Ok(());
            }
        }
    }

    pub fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.path().join("ballast"))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is still open there goes with its last descriptor.
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}
