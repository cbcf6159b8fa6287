//! Kernels that are too old: `cargo xtask vm` runs these on Linux 5.10.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use redial_tests::agent::binary;
use redial_tests::world::World;

#[test]
#[ignore = "needs a kernel before 5.14, which `cargo xtask vm` has"]
fn the_agent_names_what_is_missing_and_does_not_start() -> Result<()> {
    let world = World::new("old")?;
    let mut missing = String::new();
    for handshake in ["held", "eager"] {
        // Where it starts all the same, it is not to be waited for.
        let output = Command::new("timeout")
            .args(["--signal=KILL", "60"])
            .arg(binary()?)
            .args(["run", "--handshake", handshake, "--cgroup"])
            .arg(world.cgroup.path())
            .stdin(Stdio::null())
            .output()
            .context("starting redial")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{handshake}: {}: {said}", output.status);
        let error = said.lines().find_map(|line| line.strip_prefix("redial: "));
        let error = error.filter(|error| error.contains("network namespace cookies of sockets (Linux 5.14)"));
        error.with_context(|| format!("{handshake}: {said}"))?.clone_into(&mut missing);
    }
    // `cargo xtask vm` looks for this line.
    println!("\nredial says: {missing}");
    Ok(())
}
