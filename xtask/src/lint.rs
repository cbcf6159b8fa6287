//! `cargo xtask lint`: everything that can be said about the code without running it.

use crate::toolchain::RUST;
use crate::{build_ebpf, manifest, setup, shell};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::process::Command;

/// Stops at the first complaint.
pub(crate) fn run() -> Result<()> {
    setup::to_build()?;
    setup::to_lint()?;
    shell::run(shell::cargo("fmt").args(["--all", "--check"]))?;
    shell::run(shell::cargo("clippy").args([
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-Dwarnings",
    ]))?;
    shell::run(build_ebpf::cargo("clippy")?.args(["--", "-Dwarnings"]))?;
    let doc = ["--locked", "--workspace", "--no-deps", "--document-private-items"];
    // Private items are documented too, so a link to one leads somewhere.
    let flags = "-Dwarnings -Arustdoc::private_intra_doc_links";
    shell::run(shell::cargo("doc").args(doc).env("RUSTDOCFLAGS", flags))?;
    manifest::check()?;
    oldest_compiler()?;
    dependencies()?;
    machine_paths()
}

/// The compiler that Cargo.toml says is enough, is enough: all that is built asks for no newer one, and where the one in use is
/// newer, that one looks at it, too. clippy has looked for what the standard library got later.
fn oldest_compiler() -> Result<()> {
    let metadata = shell::output(shell::cargo("metadata").args(["--format-version=1", "--locked"]));
    let metadata: Value = serde_json::from_str(&metadata.context("cargo does not say what is built")?)?;
    let packages = metadata["packages"].as_array().context("cargo names no packages")?;
    let asks = |package: &Value| minor(package["rust_version"].as_str()?);
    let stated = minor(RUST).context("Cargo.toml has no rust-version")?;
    if let Some(package) = packages.iter().find(|package| asks(package) > Some(stated)) {
        bail!(
            "Cargo.toml: rust-version is {RUST}, and {} asks for {}",
            package["name"],
            package["rust_version"]
        );
    }
    let used = shell::output(Command::new("rustc").arg("--version")).context("there is no rustc")?;
    if used.split_whitespace().nth(1).and_then(minor) == Some(stated) {
        println!("the compiler in use is the oldest that is enough: {used}");
        return Ok(());
    }
    if shell::output(Command::new("rustup").args(["run", RUST, "rustc", "--version"])).is_none() {
        let install = ["toolchain", "install", RUST, "--profile=minimal", "--no-self-update"];
        if shell::run(Command::new("rustup").args(install)).is_err() {
            println!("NOTE: rust-version {RUST} is NOT checked: rustup cannot get that toolchain from here");
            return Ok(());
        }
    }
    let mut check = Command::new("rustup");
    check.args(["run", RUST, "cargo", "check", "--locked", "--workspace", "--all-targets"]);
    shell::run(check.args(["--target-dir", "target/oldest"]).current_dir(shell::root()))
}

/// What counts of a version of Rust: the 95 of 1.95 or of 1.95.0.
fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
}

/// Licences, sources, duplicates and, where their database can be had, security advisories.
fn dependencies() -> Result<()> {
    let deny = |words: &[&str]| {
        let mut deny = Command::new(setup::cargo_deny()?);
        deny.args(words).current_dir(shell::root());
        shell::run(&mut deny)
    };
    deny(&["check", "--hide-inclusion-graph", "bans", "licenses", "sources"])?;
    if deny(&["fetch", "db"]).is_err() {
        println!("NOTE: security advisories are NOT checked: their database cannot be fetched from here");
        return Ok(());
    }
    deny(&["check", "advisories"])
}

/// A path that exists on one developer's machine has no place in what is committed.
fn machine_paths() -> Result<()> {
    let mut grep = Command::new("git");
    grep.args(["grep", "-nIE", "(^|[^[:alnum:]_.*~/-])/(root|home|work)/", "--", ".", ":!Cargo.lock"]);
    let found = grep.current_dir(shell::root()).output().context("cannot start git")?;
    match found.status.code() {
        Some(1) => Ok(()),
        Some(0) => bail!("paths of one machine:\n{}", String::from_utf8_lossy(&found.stdout)),
        _ => bail!("git grep: {}", String::from_utf8_lossy(&found.stderr)),
    }
}
