//! `cargo xtask test`: the unit tests, then the tests on this machine's own kernel.
//!
//! A kernel test needs root and a cgroup2 hierarchy. Without them the command fails at once, before it builds anything.

use crate::{build_ebpf, setup, shell};
use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the unit tests, which need neither root nor what `cargo xtask setup` installs.
    #[arg(long, conflicts_with = "kernel")]
    unit: bool,
    /// Only the tests on the kernel.
    #[arg(long)]
    kernel: bool,
    /// What `cargo test` is to be told: a filter, or options of its own, or after another `--` those of the tests.
    #[arg(last = true)]
    rest: Vec<OsString>,
}

/// Sets up, builds and runs the tests. Stops after the first half if that fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.unit {
        needs_root_and_cgroup2()?;
        setup::to_build()?;
        setup::to_run()?;
    }
    if !args.kernel {
        shell::run(shell::cargo("test").args(["--workspace", "--exclude", "redial-tests"]).args(&args.rest))?;
    }
    if !args.unit {
        build_ebpf::run()?;
        shell::run(shell::cargo("build").args(["--release", "--package", "redial"]))?;
        kernel(&args.rest)?;
    }
    Ok(())
}

/// The tests run as root; cargo does not, so that it leaves no files of root's in the target folder.
fn kernel(rest: &[OsString]) -> Result<()> {
    let mut cargo = shell::cargo("test");
    cargo.args(["--package", "redial-tests"]);
    if !shell::is_root()? {
        // sudo sets a PATH of its own, which lacks what the user installed.
        let path = std::env::var("PATH").context("PATH")?;
        let runner = format!("['sudo', '-E', 'env', 'PATH={path}']");
        cargo.arg("--config").arg(format!("target.'cfg(all())'.runner={runner}"));
    }
    cargo.args(rest).env("REDIAL_BIN", redial()?).env("ENVOY_BIN", setup::envoy::program()?);
    // The tests make namespaces, cgroups and load on one machine, so each has it to itself.
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        cargo.env("RUST_TEST_THREADS", "1");
    }
    shell::run(&mut cargo)
}

/// The release build of redial: cargo puts it beside the folder of the build that we are.
fn redial() -> Result<PathBuf> {
    let xtask = std::env::current_exe().context("cannot tell where this program is")?;
    let target = xtask.ancestors().nth(2).context("this program is not in a target folder")?;
    Ok(target.join("release/redial"))
}

fn needs_root_and_cgroup2() -> Result<()> {
    shell::as_root("true").context("the kernel tests")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    if !mounts.lines().any(|mount| mount.contains(" - cgroup2 ")) {
        bail!("the kernel tests need a cgroup2 hierarchy: mount -t cgroup2 none /sys/fs/cgroup");
    }
    Ok(())
}
