//! One run: every case on every path, round by round.

use std::fs;
use std::io::{Write as _, stderr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use redial_tests::world::World;

use crate::paths::{self, Open, PATHS};
use crate::report::{Report, print};
use crate::work::CASES;

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    pub rounds: usize,
    /// How long each case lasts on each path in each round.
    pub each: Duration,
}

pub fn run(length: Length, file: &Path) -> Result<()> {
    let world = World::new("bench")?;
    // The ports of closed connections are lent again after a second. That and more of them to begin with let a busy
    // client go on; redial's own listener is above them.
    world.pod.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
    world.pod.sysctl("net/ipv4/ip_local_port_range", "10000 60999")?;
    let _server = paths::start_server(&world)?;
    let open = PATHS.iter().map(|path| path.open(&world)).collect::<Result<Vec<Open>>>()?;

    let mut report = Report::default();
    let mut connections = vec![0.0; open.len()];
    for round in 0..length.rounds {
        writeln!(stderr(), "round {} of {}", round + 1, length.rounds)?;
        for case in CASES {
            for turn in 0..open.len() {
                let index = (round + turn) % open.len();
                let measured = open[index].measure(&world, case, length.each)?;
                connections[index] += measured.connections;
                report.add(case, open[index].path, &measured);
            }
        }
    }
    print(&report)?;
    fs::write(file, report.json(length)?).with_context(|| format!("writing {}", file.display()))?;
    open.iter().zip(connections).try_for_each(|(open, connections)| open.check(connections))
}
