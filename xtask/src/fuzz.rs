//! `cargo xtask fuzz`: every fuzz target for a few seconds, from its seeds on.
//!
//! The targets are libFuzzer's, built as cargo-fuzz builds them: coverage is the compiler's own, and AddressSanitizer,
//! which Rust calls unstable, is had with `RUSTC_BOOTSTRAP=1`.

use crate::{setup, shell};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the compiler is told beside the profile `fuzz`.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Zsanitizer=address",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// The seconds of each target in `cargo xtask test`.
const SHORT: u32 = 5;

/// The seconds that an input may take. A target that goes round in circles is found by it.
const SLOWEST: u32 = 30;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each target runs.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only these targets.
    targets: Vec<String>,
}

/// Builds and runs the targets. Stops at the first that finds something.
pub(crate) fn run(args: &Args) -> Result<()> {
    let known = targets()?;
    if let Some(unknown) = args.targets.iter().find(|target| !known.contains(target)) {
        bail!("no fuzz target {unknown}: there are {}", known.join(", "));
    }
    setup::to_compile()?;
    fuzz_all(if args.targets.is_empty() { &known } else { &args.targets }, args.seconds)
}

/// Every target for a moment: what `cargo xtask test` does.
pub(crate) fn short() -> Result<()> {
    fuzz_all(&targets()?, SHORT)
}

fn fuzz_all(targets: &[String], seconds: u32) -> Result<()> {
    let programs = build(targets)?;
    targets.iter().try_for_each(|target| fuzz(&programs, target, seconds))
}

/// The names of the targets, in order.
fn targets() -> Result<Vec<String>> {
    let folder = shell::root().join("fuzz/fuzz_targets");
    let files = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let names = files.flatten().filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    Ok(names)
}

/// Builds targets, and says where they are. They share nothing with other builds: all that they need is instrumented.
fn build(targets: &[String]) -> Result<PathBuf> {
    // With a platform named, programs that run while building are built without these flags.
    let platform = shell::output(Command::new("rustc").args(["--print", "host-tuple"]));
    let platform = platform.context("rustc does not say which platform this is")?;
    let mut cargo = shell::cargo("build");
    cargo.args(["--locked", "--package", "redial-fuzz", "--profile", "fuzz", "--target", &platform]);
    cargo.args(targets.iter().flat_map(|target| ["--bin", target]));
    cargo.args(["--target-dir", "target/fuzz"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")).env("RUSTC_BOOTSTRAP", "1");
    shell::run(&mut cargo)?;
    Ok(Path::new("target/fuzz").join(platform).join("fuzz"))
}

fn fuzz(programs: &Path, target: &str, seconds: u32) -> Result<()> {
    let (program, seeds) = (programs.join(target), format!("fuzz/seeds/{target}"));
    let corpus = format!("target/fuzz/corpus/{target}");
    let found = format!("target/fuzz/found/{target}/");
    for folder in [&corpus, &found] {
        let folder = shell::root().join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut fuzzer = Command::new(shell::root().join(&program));
    fuzzer.current_dir(shell::root()).args([&corpus, &seeds]);
    fuzzer.arg(format!("-artifact_prefix={found}")).arg(format!("-max_total_time={seconds}"));
    fuzzer.arg(format!("-timeout={SLOWEST}")).args(["-print_final_stats=1", "-verbosity=0"]);
    shell::run(&mut fuzzer).with_context(|| match newest(&found) {
        Some(input) => {
            let (program, input) = (program.display(), input.display());
            format!("the fuzz target {target} fails on {input}: `{program} {input}` repeats it; its place is then {seeds}")
        }
        None => format!("the fuzz target {target} does not run"),
    })
}

/// The input that was found last.
fn newest(folder: &str) -> Option<PathBuf> {
    let files = shell::root().join(folder).read_dir().ok()?.flatten();
    let newest = files.max_by_key(|file| file.metadata().and_then(|metadata| metadata.modified()).ok())?;
    Some(Path::new(folder).join(newest.file_name()))
}
