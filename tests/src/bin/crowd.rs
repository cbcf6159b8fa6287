//! Many clients to run as a workload: `crowd JSON` does what a [`redial_tests::crowd::Crowd`] describes. After each part
//! it says `paused`, and waits for a line of input.

use std::io::{Write, stdin, stdout};

use anyhow::{Context, Result};
use redial_tests::crowd::Crowd;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let argument = std::env::args().nth(1).context("usage: crowd JSON")?;
    let crowd: Crowd = serde_json::from_str(&argument)?;
    let pause = || {
        writeln!(stdout(), "paused")?;
        stdin().read_line(&mut String::new()).map(|_| ())
    };
    crowd.run(pause).await
}
