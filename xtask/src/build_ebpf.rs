//! `cargo xtask build-ebpf`: the kernel programs, compiled for BPF and put where `proxy/build.rs` looks for them.

use crate::shell;
use crate::toolchain::{Linker, Toolchain};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[cfg(target_endian = "little")]
const TARGET: &str = "bpfel-unknown-none";
#[cfg(target_endian = "big")]
const TARGET: &str = "bpfeb-unknown-none";

/// Builds the object and says where it is.
pub(crate) fn run() -> Result<()> {
    shell::run(&mut cargo("build")?)?;
    let built = target_dir().join(TARGET).join("release/redial-ebpf");
    let object = shell::root().join("target/bpf/redial-ebpf.o");
    let size = publish(&built, &object)?;
    println!("{} ({size} bytes)", object.display());
    Ok(())
}

/// A cargo command over the kernel programs, with everything that compiling them for BPF takes.
pub(crate) fn cargo(subcommand: &str) -> Result<Command> {
    let hint = "run `cargo xtask setup`";
    let toolchain =
        Toolchain::find().with_context(|| format!("no Rust toolchain has the sources of core: {hint}"))?;
    let linker = Linker::find()?.with_context(|| format!("bpf-linker is not there: {hint}"))?;

    // aya reads map definitions and struct layouts from BTF, which the linker makes from debug information.
    // aya-ebpf's bindings to struct pt_regs and the like are chosen by the architecture of the host.
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ];

    let mut cargo = toolchain.cargo(subcommand, &linker)?;
    cargo
        .args(["--package", "redial-ebpf", "--bins", "--release"])
        .args(["-Zbuild-std=core", "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .current_dir(shell::root());
    Ok(cargo)
}

/// Apart from the object's own folder, which `proxy/build.rs` watches.
fn target_dir() -> PathBuf {
    shell::root().join("target/bpf-build")
}

/// Copies the object unless nothing changed in it, so that an unchanged object rebuilds nothing that embeds it.
fn publish(built: &Path, object: &Path) -> Result<usize> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(object).ok().as_ref() != Some(&bytes) {
        let folder = object.parent().unwrap_or(object);
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(object, &bytes).with_context(|| format!("cannot write {}", object.display()))?;
    }
    Ok(bytes.len())
}
