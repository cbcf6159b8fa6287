//! One run: every case on every path, round by round.

use std::fs;
use std::io::{Write as _, stderr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use redial_tests::world::World;

use crate::paths::{self, Open};
use crate::report::{Report, json, print};
use crate::work::{Done, Suite, Work};

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    pub rounds: usize,
    /// How long each case lasts on each path in each round.
    pub each: Duration,
}

pub fn run(length: Length, suites: &[Suite], file: &Path) -> Result<()> {
    let world = World::new("bench")?;
    // The ports of closed connections are lent again after a second. That and more of them to begin with let a busy
    // client go on; redial's own listener is above them.
    world.pod.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    world.pod.sysctl("net/ipv4/ip_local_port_range", "10000 60999")?;
    // Where memory is measured, thousands connect at once.
    for netns in [&world.pod, &world.server] {
        netns.sysctl("net/core/somaxconn", "8192")?;
    }
    let _server = paths::start_server(&world)?;
    let reports = suites.iter().map(|suite| measure(*suite, length, &world)).collect::<Result<Vec<_>>>()?;
    fs::write(file, json(&reports, length)?).with_context(|| format!("writing {}", file.display()))
}

fn measure(suite: Suite, length: Length, world: &World) -> Result<Report> {
    let open = suite.paths.iter().map(|path| path.open(world)).collect::<Result<Vec<Open>>>()?;
    let mut report = Report::new(suite);
    let mut done = vec![Done::default(); open.len()];
    for round in 0..length.rounds {
        writeln!(stderr(), "{}, round {} of {}", suite.name, round + 1, length.rounds)?;
        for case in suite.cases {
            // Memory that was used before and is free again would hide what is used now.
            if round > 0 && matches!(case.work, Work::Idle { .. }) {
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
