//! What redial promises, on a real Kubernetes: see [`redial_tests::cluster`].
//!
//! To start a cluster takes longer than most tests, so they share one, and what runs them is here. A test is a function
//! of its file's `TESTS`, gets the cluster, and makes a namespace for what is its own.
//!
//! With `REDIAL_KUBECONFIG` it is the cluster that the file names, for the tests that need no more than its API. They touch
//! nothing there but what they have made, and delete that.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a harness says what it runs and how that went"
)]

mod agent;
mod churn;
mod definitions;
mod deploy;
mod dialects;
mod enrolment;
mod garbage;
mod given;
mod helm;
mod restart;
mod rig;
mod rolling;
mod services;
mod shipped;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use redial_tests::cluster::{Cluster, OwnCluster};

/// What a test is run on.
#[derive(Clone, Copy)]
enum Run {
    /// Any cluster: it needs only the API.
    Api(fn(&Cluster) -> Result<()>),
    /// One of the tests' own: it looks into nodes and the control plane, or ends something there.
    Own(fn(&OwnCluster) -> Result<()>),
}

type Test = (&'static str, Run);

const TESTS: &[&[Test]] = &[
    rig::TESTS,
    enrolment::TESTS,
    agent::TESTS,
    churn::TESTS,
    garbage::TESTS,
    services::TESTS,
    dialects::TESTS,
    deploy::TESTS,
    helm::TESTS,
    rolling::TESTS,
    restart::TESTS,
    given::TESTS,
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
    let result = match std::env::var_os("REDIAL_KUBECONFIG") {
        Some(kubeconfig) => run_on_given(Path::new(&kubeconfig), &tests),
        None => run(&tests),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the tests on a cluster of their own, and looks at the end that the machine is as it was.
fn run(tests: &[&Test]) -> Result<()> {
    let before = rig::Machine::look()?;
    let start = Instant::now();
    let cluster = OwnCluster::start(2).context("starting a cluster")?;
    println!("\nrunning {} tests; the cluster took {:.1?}", tests.len(), start.elapsed());
    let is_good = all_pass(&cluster, tests, |name, run| match run {
        Run::Api(test) => passes(name, || test(&cluster)),
        Run::Own(test) => passes(name, || test(&cluster)),
    });
    if !is_good {
        println!("what the cluster said is in {}", cluster.keep_logs()?.display());
        cluster.check().unwrap_or_else(|ended| println!("{ended:#}"));
    }
    let start = Instant::now();
    drop(cluster);
    println!("it was gone after {:.1?}", start.elapsed());
    let is_clean = passes("nothing_is_left", || before.is_as_it_was());
    if is_good && is_clean { Ok(()) } else { bail!("tests failed") }
}

/// Runs those that can run on the cluster of a kubeconfig, and names the others.
fn run_on_given(kubeconfig: &Path, tests: &[&Test]) -> Result<()> {
    let (api, own): (Vec<&Test>, Vec<&Test>) =
        tests.iter().copied().partition(|(_, run)| matches!(run, Run::Api(_)));
    for (name, _) in &own {
        println!("test {name} ... ignored, it needs a cluster of the tests' own");
    }
    ensure!(!api.is_empty(), "none of these tests can run on a cluster that is there already");
    let cluster =
        Cluster::given(kubeconfig).with_context(|| format!("the cluster of {}", kubeconfig.display()))?;
    println!(
        "\nrunning {} tests on the nodes {}; {} are ignored",
        api.len(),
        cluster.names().join(", "),
        own.len()
    );
    let is_good = passes("given::the_images_are_there", || given::has_images(&cluster))
        && all_pass(&cluster, &api, |name, run| match run {
            Run::Api(test) => passes(name, || test(&cluster)),
            Run::Own(_) => false,
        });
    if is_good { Ok(()) } else { bail!("tests failed") }
}

/// Runs them one after the other, and looks at the end that the API has no more than before.
fn all_pass(cluster: &Cluster, tests: &[&Test], passes_on: impl Fn(&str, Run) -> bool) -> bool {
    let before = given::Objects::look(cluster);
    let failed = tests.iter().filter(|(name, run)| !passes_on(name, *run)).count();
    passes("nothing_is_left_in_the_api", || before?.are_as_before(cluster)) && failed == 0
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
