//! The Rust toolchain that can build for BPF, and the linker it needs.
//!
//! Nobody distributes a `core` for BPF, so it is compiled from the toolchain's own sources (`-Z build-std=core`). That
//! needs rust-src, and either a nightly or `RUSTC_BOOTSTRAP=1`, which every command made here sets. rustup's toolchains
//! can have rust-src; where rustup cannot add it, Debian packages a toolchain and its sources.

use crate::shell;
use anyhow::Result;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

/// The version of bpf-linker, from crates.io.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// The LLVM that bpf-linker is built with. It reads the compiler's bitcode, so the compiler's LLVM may not be newer.
pub(crate) const LLVM: u32 = 22;

/// The Rust that the workspace asks for, whose LLVM is not newer.
pub(crate) const RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// A Rust toolchain that has the sources of `core`, known by its sysroot.
#[derive(Debug)]
pub(crate) struct Toolchain {
    sysroot: PathBuf,
}

impl Toolchain {
    /// The first that will do: the one in use, rustup's others, the distribution's.
    pub(crate) fn find() -> Option<Self> {
        let candidates: [&[&str]; 4] = [
            &["rustc"],
            &["rustup", "run", RUST, "rustc"],
            &["rustup", "run", "nightly", "rustc"],
            &["/usr/bin/rustc"],
        ];
        candidates.into_iter().find_map(Self::of)
    }

    /// The toolchain of a way to call rustc, if that works and the toolchain has what we need.
    fn of(rustc: &[&str]) -> Option<Self> {
        let ask = |question: &[&str]| shell::output(Command::new(rustc[0]).args(&rustc[1..]).args(question));
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?);
        let version = ask(&["--version", "--verbose"])?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        let llvm: u32 = llvm.split('.').next()?.parse().ok()?;
        let has = |file: &str| sysroot.join(file).is_file();
        let complete = has("bin/cargo") && has("lib/rustlib/src/rust/library/core/src/lib.rs");
        (complete && llvm <= LLVM).then_some(Self { sysroot })
    }

    /// This toolchain's clippy, if it has one.
    pub(crate) fn clippy(&self) -> Option<PathBuf> {
        Some(self.sysroot.join("bin/cargo-clippy")).filter(|program| program.is_file())
    }

    /// This toolchain's cargo with this toolchain's compiler, whatever toolchain runs us.
    pub(crate) fn cargo(&self, subcommand: &str, linker: &Linker) -> Result<Command> {
        let bin = self.sysroot.join("bin");
        // Cargo itself would take the clippy of whatever toolchain comes first on PATH.
        let program = self.clippy().filter(|_| subcommand == "clippy").unwrap_or_else(|| bin.join("cargo"));
        let mut cargo = Command::new(program);
        for inherited in ["RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"] {
            cargo.env_remove(inherited);
        }
        cargo.env("CARGO", bin.join("cargo"));
        cargo.env("RUSTC", bin.join("rustc"));
        cargo.env("RUSTC_BOOTSTRAP", "1");
        cargo.env("PATH", shell::path_with(&[&linker.folder, &bin])?);
        cargo.arg(subcommand);
        Ok(cargo)
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sysroot.display())
    }
}

/// The folder that has bpf-linker.
#[derive(Debug)]
pub(crate) struct Linker {
    folder: PathBuf,
}

impl Linker {
    /// Where `cargo xtask setup` puts it.
    pub(crate) fn root() -> Result<PathBuf> {
        Ok(shell::tools()?.join(format!("bpf-linker-{BPF_LINKER}")))
    }

    /// The one that setup built, if it is there and runs.
    pub(crate) fn find() -> Result<Option<Self>> {
        let folder = Self::root()?.join("bin");
        let version = shell::output(Command::new(folder.join("bpf-linker")).arg("--version"));
        Ok(version.map(|_| Self { folder }))
    }
}
