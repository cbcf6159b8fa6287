//! `cargo xtask bench`: what redial costs, beside the direct path and beside other proxies, in one run on this machine.
//!
//! The benchmark itself is a program of the tests' package, because it stands on their rigs: `tests/src/bin/bench`.

use crate::{build_ebpf, image, setup, shell};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Connections and their bytes.
    Tcp,
    /// Requests.
    Http,
    /// How the costs grow with connections, policies and pods, and what workloads pay that are not enrolled.
    Growth,
    /// What a failing upstream gets of its clients' retries.
    Storm,
}

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to measure [default: everything].
    parts: Vec<Part>,
    /// Three short rounds: enough to see an order of magnitude.
    #[arg(long)]
    quick: bool,
    /// How often everything is measured [default: 5, or 3 where it is to be quick].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// How long each measurement of a round lasts [default: 0.6, or 0.2 where it is to be quick].
    #[arg(long)]
    seconds: Option<f64>,
    /// Where to put a picture of connections and requests beside the other proxies, as SVG.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Where to put a picture of the retry storm, as SVG.
    #[arg(long, value_name = "FILE")]
    storm_chart: Option<PathBuf>,
}

/// Sets up, builds, measures, and says where the numbers are.
pub(crate) fn run(args: &Args) -> Result<()> {
    shell::as_root("env").context("the benchmark")?;
    setup::to_build()?;
    setup::to_run()?;
    build_ebpf::run()?;
    // What is measured is what the image has.
    let redial = image::redial_program()?;
    shell::run(shell::cargo("build").args(["--release", "--package", "redial-tests", "--bin", "bench"]))?;

    // Cargo puts them beside the folder of the build that we are.
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    let target = this.ancestors().nth(2).context("this program is not in a target folder")?;
    let is_asked = |part| args.parts.is_empty() || args.parts.contains(&part);
    let (rounds, seconds) = if args.quick { (3, 0.2) } else { (5, 0.6) };
    let parts = [(Part::Tcp, "tcp"), (Part::Http, "http"), (Part::Growth, "growth")];
    let parts: Vec<_> = parts.iter().filter(|(part, _)| is_asked(*part)).map(|(_, name)| *name).collect();
    if !parts.is_empty() {
        let rounds = args.rounds.unwrap_or(rounds).to_string();
        let seconds = args.seconds.unwrap_or(seconds).to_string();
        bench(target, &redial, "latest", args.chart.as_deref(), |command, file| {
            command.args(["run", &rounds, &seconds]).arg(file).args(&parts);
        })?;
    }
    if is_asked(Part::Storm) {
        let [connections, rate, seconds] =
            if args.quick { ["1000", "1000", "5"] } else { ["10000", "2000", "20"] };
        bench(target, &redial, "storm", args.storm_chart.as_deref(), |command, file| {
            command.args(["storm", connections, rate, seconds]).arg(file);
        })?;
    }
    Ok(())
}

/// Runs the benchmark with a file for its numbers, beside which it puts a picture.
fn bench(
    target: &Path,
    redial: &Path,
    name: &str,
    chart: Option<&Path>,
    tell: impl FnOnce(&mut Command, &Path),
) -> Result<()> {
    let folder = target.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (numbers, picture) =
        (folder.join(name).with_extension("json"), folder.join(name).with_extension("svg"));
    // Root is to write to them, but they are the user's.
    for file in [&numbers, &picture] {
        fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let redial = redial.to_str().context("the target folder's name is not UTF-8")?;
    let mut command = shell::as_root("env")?;
    command.arg(format!("REDIAL_BIN={redial}")).arg(target.join("release/bench"));
    tell(&mut command, &numbers);
    shell::run(&mut command)?;
    println!("{}\n{}", numbers.display(), picture.display());
    if let Some(chart) = chart {
        fs::copy(&picture, chart).with_context(|| format!("cannot write {}", chart.display()))?;
    }
    Ok(())
}
