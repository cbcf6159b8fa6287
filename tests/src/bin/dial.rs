//! A client to run as a workload: `dial JSON` makes the connection that a [`redial_tests::dial::Dial`] describes.
//!
//! It prints `paused` whenever its script pauses, goes on at the next line of input, and ends with one line of JSON.

use std::io::{BufRead, Write, stdin, stdout};

use anyhow::{Context, Result};
use redial_tests::dial::Dial;

fn main() -> Result<()> {
    let argument = std::env::args().nth(1).context("usage: dial JSON")?;
    let dial: Dial = serde_json::from_str(&argument)?;
    let dialled = dial.run(|| {
        // Whoever paused this client is gone if there is nobody to tell or to hear from; then it just goes on.
        drop(writeln!(stdout(), "paused"));
        drop(stdin().lock().read_line(&mut String::new()));
    })?;
    writeln!(stdout(), "{}", serde_json::to_string(&dialled)?)?;
    Ok(())
}
