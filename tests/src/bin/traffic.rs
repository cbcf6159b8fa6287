//! The clients of a soak, to run as a workload: `traffic JSON` does what a [`redial_tests::soak::traffic::Traffic`] says
//! until its input ends. It prints a JSON line of a [`redial_tests::soak::Done`] for each thing that it did.

use std::io::{Read as _, Write as _, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use redial_tests::soak::Done;
use redial_tests::soak::traffic::Traffic;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let argument = std::env::args().nth(1).context("usage: traffic JSON")?;
    let traffic: Traffic = serde_json::from_str(&argument)?;
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        drop(stdin().read_to_end(&mut Vec::new()));
        told.store(true, Ordering::Relaxed);
    });
    traffic.run(stop, tell).await;
    Ok(())
}

/// One that nobody listens to any more goes on all the same.
fn tell(done: &Done) {
    let line = serde_json::to_string(done).unwrap_or_default();
    drop(writeln!(stdout(), "{line}"));
}
