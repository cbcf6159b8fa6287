//! The benchmark that `cargo xtask bench` runs: [`work::CASES`] times [`paths::PATHS`], side by side in one run.
//!
//! A path is a way from a client to the server. What a case measures on a path counts only beside what it measures on
//! the direct path in the same run, so every round goes through all paths, each round in another order. Nothing here
//! passes or fails by a time.
//!
//! This program is also its own client and server, in processes of their own: the client has to start in a workload's
//! cgroup.

mod client;
mod paths;
mod report;
mod run;
mod server;
mod work;

use std::io::{Write as _, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use run::Length;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody listens to this either, the exit code remains.
            drop(writeln!(stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        ["run", rounds, seconds, file] => {
            let length = Length { rounds: rounds.parse()?, each: work::seconds(seconds)? };
            run::run(length, Path::new(file))
        }
        ["server", host] => server::serve(host.parse()?),
        ["client", case, host, seconds] => {
            let case = work::CASES.iter().find(|known| known.name == case).context("no such case")?;
            let measured = client::measure(case.work, host.parse()?, work::seconds(seconds)?)?;
            Ok(writeln!(stdout(), "{}", serde_json::to_string(&measured)?)?)
        }
        _ => bail!(
            "usage: bench run ROUNDS SECONDS FILE; `cargo xtask bench` builds what this needs and runs it"
        ),
    }
}
