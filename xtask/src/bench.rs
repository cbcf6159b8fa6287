//! `cargo xtask bench`: what redial costs, beside the direct path and beside other proxies, in one run on this machine.
//!
//! The benchmark itself is a program of the tests' package, because it stands on their rigs: `tests/src/bin/bench`.

use crate::{build_ebpf, setup, shell};
use anyhow::{Context as _, Result};
use std::fs;

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only connections and their bytes.
    #[arg(long, conflicts_with = "http")]
    tcp: bool,
    /// Only requests.
    #[arg(long)]
    http: bool,
    /// Three short rounds: enough to see an order of magnitude.
    #[arg(long)]
    quick: bool,
    /// How often everything is measured [default: 7, or 3 where it is to be quick].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// How long each measurement of a round lasts [default: 1, or 0.3 where it is to be quick].
    #[arg(long)]
    seconds: Option<f64>,
}

/// Sets up, builds, measures, and says where the numbers are.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut bench = shell::as_root("env").context("the benchmark")?;
    setup::to_build()?;
    // The tests' programs come with these, and most of them are not needed here.
    let programs: &[&str] = if args.tcp { &["ip", "haproxy"] } else { &["ip", "haproxy", "nginx"] };
    if !args.tcp || programs.iter().any(|program| shell::which(program).is_none()) {
        setup::to_run()?;
    }
    build_ebpf::run()?;
    shell::run(
        shell::cargo("build")
            .args(["--release", "--package", "redial", "--package", "redial-tests"])
            .args(["--bin", "redial", "--bin", "bench"]),
    )?;

    // Cargo puts them beside the folder of the build that we are.
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    let target = this.ancestors().nth(2).context("this program is not in a target folder")?;
    let file = target.join("bench/latest.json");
    // Root is to write to it, but it is the user's.
    fs::create_dir_all(target.join("bench"))
        .and_then(|()| fs::write(&file, ""))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let (rounds, seconds) = if args.quick { (3, 0.3) } else { (7, 1.0) };
    let redial = target.join("release/redial");
    let redial = redial.to_str().context("the target folder's name is not UTF-8")?;
    let result = shell::run(
        bench
            .arg(format!("REDIAL_BIN={redial}"))
            .arg(target.join("release/bench"))
            .args(["run", &args.rounds.unwrap_or(rounds).to_string()])
            .arg(args.seconds.unwrap_or(seconds).to_string())
            .arg(&file)
            .args(args.tcp.then_some("tcp"))
            .args(args.http.then_some("http")),
    );
    println!("{}", file.display());
    result
}
