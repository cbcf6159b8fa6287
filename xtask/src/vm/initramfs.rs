//! The first file system of a virtual machine: what is needed to mount this machine's own, and nothing else.

use crate::setup::kernels::Kernel;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The modules without which there is no root file system. What they need comes before them.
const MODULES: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Makes the archive that the kernel unpacks and whose `init` it starts.
pub(super) fn build(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "lower", "modules", "proc", "new", "sys", "upper"] {
        archive.add(folder, FOLDER, &[])?;
    }
    archive.add("bin/busybox", PROGRAM, &read(&kernel.busybox())?)?;
    archive.add("init", PROGRAM, include_bytes!("init.sh"))?;
    let dependencies = kernel.modules().join("modules.dep");
    let dependencies = fs::read_to_string(&dependencies)
        .with_context(|| format!("cannot read {}", dependencies.display()))?;
    let mut names = Vec::new();
    for path in order(&dependencies, MODULES) {
        let file = kernel.modules().join(path);
        let name = name_of(path).to_owned();
        archive.add(&format!("modules/{name}"), FILE, &module(&file)?)?;
        names.push(name);
    }
    archive.add("modules/order", FILE, names.join("\n").as_bytes())?;
    archive.end()
}

/// The files of modules and of all that they need, each after what it needs. What is not in the list is built in.
fn order<'a>(dependencies: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let mut order = Vec::new();
    for module in wanted {
        let line = dependencies
            .lines()
            .find_map(|line| line.split_once(':').filter(|(file, _)| name_of(file) == *module));
        let Some((file, needs)) = line else { continue };
        // depmod lists what has to be there first last.
        for file in needs.split_whitespace().rev().chain([file]) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    order
}

/// A module's name, of its path.
fn name_of(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file)
}

/// A module as the kernel takes it: not compressed.
fn module(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return read(file),
    };
    let output = Command::new(program)
        .args(["-d", "-c"])
        .arg(file)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} cannot read {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// A cpio archive in the form that the kernel calls `newc`.
///
/// <https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.files += 1;
        let size = u32::try_from(contents.len()).with_context(|| format!("{name} is too big"))?;
        let name_size = u32::try_from(name.len() + 1)?;
        let (owner, group, links, time, device, checksum) = (0, 0, 1, 0, 0, 0);
        self.bytes.extend(b"070701");
        let fields = [self.files, mode, owner, group, links, time, size];
        let fields = fields.into_iter().chain([device; 4]).chain([name_size, checksum]);
        self.bytes.extend(fields.flat_map(|field| format!("{field:08x}").into_bytes()));
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Result<Vec<u8>> {
        self.add("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, FILE, order};

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let dependencies = "kernel/a/top.ko.xz: kernel/b/middle.ko.xz kernel/b/low.ko.xz\n\
                            kernel/b/middle.ko.xz: kernel/b/low.ko.xz\n\
                            kernel/b/low.ko.xz:\n";
        let files = ["kernel/b/low.ko.xz", "kernel/b/middle.ko.xz", "kernel/a/top.ko.xz"];
        assert_eq!(order(dependencies, &["middle", "built_in", "top"]), files);
    }

    #[test]
    fn every_file_of_an_archive_starts_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        archive.add("a", FILE, b"12345").unwrap();
        let bytes = archive.end().unwrap();
        assert!(bytes.starts_with(b"07070100000001000081a4"));
        let (header, contents) = (112, 8);
        assert_eq!(&bytes[header..header + contents], b"12345\0\0\0");
        assert!(bytes[header + contents..].starts_with(b"070701"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
