//! A busy client to run as a workload: `load JSON` does what a [`redial_tests::load::Load`] describes until its input
//! ends, then prints one line of JSON.

use std::io::{Read, Write, stdin, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use redial_tests::load::Load;

fn main() -> Result<()> {
    let argument = std::env::args().nth(1).context("usage: load JSON")?;
    let load: Load = serde_json::from_str(&argument)?;
    let stop = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        let running = scope.spawn(|| load.run(&stop));
        drop(stdin().read_to_end(&mut Vec::new()));
        stop.store(true, Ordering::Relaxed);
        running.join()
    });
    let report = report.ok().context("a load thread panicked")?;
    writeln!(stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(())
}
