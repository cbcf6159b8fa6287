//! `cargo xtask lint`: everything that can be said about the code without running it.

use crate::{build_ebpf, manifest, setup, shell};
use anyhow::{Context as _, Result, bail};
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
    dependencies()?;
    machine_paths()
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
