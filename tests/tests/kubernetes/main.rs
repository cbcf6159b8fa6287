//! What redial promises, on a real Kubernetes: see [`redial_tests::cluster`].
//!
//! To start a cluster takes longer than most tests, so they share one, and what runs them is here. A test is a function
//! of its file's `TESTS`, gets the cluster, and makes a namespace for what is its own.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a harness says what it runs and how that went"
)]

mod agent;
mod churn;
mod deploy;
mod dialects;
mod restart;
mod rig;
mod rolling;
mod services;
mod shipped;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use redial_tests::cluster::Cluster;

type Test = (&'static str, fn(&Cluster) -> Result<()>);

const TESTS: &[&[Test]] = &[
    rig::TESTS,
    agent::TESTS,
    churn::TESTS,
    services::TESTS,
    dialects::TESTS,
    deploy::TESTS,
    rolling::TESTS,
    restart::TESTS,
];

/// As the usual harness is called: words that are part of a test's name, `--exact`, `--skip WORD`, `--list`.
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut words, mut skipped, mut exact, mut list) = (Vec::new(), Vec::new(), false, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--exact" => exact = true,
            "--list" => list = true,
            "--skip" => skipped.extend(arguments.next()),
            "--test-threads" => drop(arguments.next()),
            other if other.starts_with('-') => {}
            _ => words.push(argument),
        }
    }
    let matches = |name: &str, word: &String| if exact { name == word } else { name.contains(word.as_str()) };
    let wanted = |(name, _): &&Test| {
        (words.is_empty() || words.iter().any(|word| matches(name, word)))
            && !skipped.iter().any(|word| matches(name, word))
    };
    let tests: Vec<_> = TESTS.iter().copied().flatten().filter(wanted).collect();
    if list || tests.is_empty() {
        for (name, _) in tests {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    match run(&tests) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the tests one after the other, and looks at the end that the machine is as it was.
fn run(tests: &[&Test]) -> Result<()> {
    let before = rig::Machine::look()?;
    let start = Instant::now();
    let cluster = Cluster::start(2).context("starting a cluster")?;
    println!("\nrunning {} tests; the cluster took {:.1?}", tests.len(), start.elapsed());
    let failed: Vec<_> = tests.iter().filter(|(name, test)| !passes(name, || test(&cluster))).collect();
    if !failed.is_empty() {
        println!("what the cluster said is in {}", cluster.keep_logs()?.display());
        cluster.check().unwrap_or_else(|ended| println!("{ended:#}"));
    }
    let start = Instant::now();
    drop(cluster);
    println!("it was gone after {:.1?}", start.elapsed());
    let clean = passes("nothing_is_left", || before.is_as_it_was());
    if failed.is_empty() && clean { Ok(()) } else { bail!("tests failed") }
}

fn passes(name: &str, test: impl FnOnce() -> Result<()>) -> bool {
    let start = Instant::now();
    // A panic has said what it is by now.
    let (passed, word) = match catch_unwind(AssertUnwindSafe(test)) {
        Ok(Ok(())) => (true, "ok"),
        Ok(Err(error)) => {
            println!("{name}: {error:#}");
            (false, "FAILED")
        }
        Err(_) => (false, "FAILED"),
    };
    println!("test {name} ... {word} ({:.1?})", start.elapsed());
    passed
}
