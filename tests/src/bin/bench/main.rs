//! The benchmark that `cargo xtask bench` runs: the cases of [`work::SUITES`] times their paths, side by side in one run.
//!
//! A path is a way from a client to the server. What a case measures on a path counts only beside what it measures on
//! the direct path in the same run, so every round goes through all paths, each round in another order. Nothing here
//! passes or fails by a time.
//!
//! This program is also its own client and server and the bare proxy, in processes of their own: the client has to start
//! in a workload's cgroup.

mod chart;
mod client;
mod http;
mod paths;
mod proxies;
mod report;
mod run;
mod server;
mod storm;
mod work;

use std::io::{Read as _, Write as _, stderr, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use run::Length;
use work::Suite;

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
        ["run", rounds, seconds, file, ref groups @ ..] => {
            raise_limit()?;
            let length = Length { rounds: rounds.parse()?, each: work::seconds(seconds)? };
            let named = |suite: &&Suite| groups.contains(&suite.group);
            let suites: Vec<_> = work::SUITES.iter().filter(named).copied().collect();
            run::run(length, &suites, Path::new(file))
        }
        ["hyper", front, upstream, threads] => {
            http::hyper::serve(front.parse()?, upstream.parse()?, threads.parse()?)
        }
        ["storm", connections, rate, seconds, file] => {
            raise_limit()?;
            storm::run(connections.parse()?, rate.parse()?, seconds.parse()?, Path::new(file))
        }
        ["storm-server", host, plan] => storm::serve(host.parse()?, serde_json::from_str(plan)?),
        ["storm-client", host, plan] => storm::ask(host.parse()?, serde_json::from_str(plan)?),
        ["server", host] => server::serve(host.parse()?),
        ["client", case, host, seconds] => {
            let mut cases = work::SUITES.iter().flat_map(|suite| suite.cases);
            let case = cases.find(|known| known.name == case).context("no such case")?;
            let measured = client::measure(case.work, host.parse()?, work::seconds(seconds)?)?;
            writeln!(stdout(), "{}", serde_json::to_string(&measured)?)?;
            // Its connections end with it, and that is no part of what was measured.
            stdin().read_to_end(&mut Vec::new())?;
            Ok(())
        }
        _ => bail!(
            "usage: bench run ROUNDS SECONDS FILE GROUP.. | storm CONNECTIONS RATE SECONDS FILE; `cargo xtask bench` builds what this needs and runs it"
        ),
    }
}

/// For everything that is started from here: thousands of connections are open at once.
fn raise_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}
