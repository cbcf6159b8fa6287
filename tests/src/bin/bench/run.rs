//! One run: every case on every path, round by round.

use std::fs;
use std::io::{Write as _, stderr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use redial_tests::world::World;

use crate::chart;
use crate::paths::{self, Open};
use crate::proxies::for_many_connections;
use crate::report::{Document, Report, print};
use crate::work::{Done, Suite};

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    pub rounds: usize,
    /// How long each case lasts on each path in each round.
    pub each: Duration,
}

pub fn run(length: Length, suites: &[Suite], file: &Path) -> Result<()> {
    let world = World::new("bench")?;
    for_many_connections(&world.pod)?;
    let mut reports = Vec::new();
    for suite in suites {
        // As many as connect at once have to find room. Where they come and go, a longer queue has Envoy 1.40 gather connections
        // that are gone, until it dies of a segmentation fault.
        let queue = if suite.group == "growth" { "16384" } else { "8192" };
        world.server.sysctl("net/core/somaxconn", queue)?;
        let _server = paths::start_server(&world)?;
        reports.push(measure(*suite, length, &world)?);
        // Where a later one fails, what was measured is there.
        let document = Document::new(&reports, length)?;
        write(file, &(serde_json::to_string_pretty(&document)? + "\n"))?;
        write(&file.with_extension("svg"), &chart::of(&document)?)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn measure(suite: Suite, length: Length, world: &World) -> Result<Report> {
    let open = suite.paths.iter().map(|path| path.open(world)).collect::<Result<Vec<Open>>>()?;
    let mut report = Report::new(suite);
    let mut done = vec![Done::default(); open.len()];
    for round in 0..length.rounds {
        writeln!(stderr(), "{}, round {} of {}", suite.name, round + 1, length.rounds)?;
        for case in suite.cases {
            if round > 0 && case.work.is_once() {
                continue;
            }
            for turn in 0..open.len() {
                let index = (round + turn) % open.len();
                let what = || format!("{} on {}", case.name, open[index].path.name);
                let measured = open[index].measure(world, case, length.each).with_context(what)?;
                done[index].add(&measured);
                report.add(case, open[index].path, &measured);
            }
        }
    }
    print(&report)?;
    open.iter().zip(done).try_for_each(|(open, done)| open.check(done))?;
    Ok(report)
}
