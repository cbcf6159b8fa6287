//! Kernels that are too old: `cargo xtask vm` runs these on Linux 5.10.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use redial_tests::agent::binary;
use redial_tests::world::World;

#[test]
#[ignore = "needs a kernel before 5.14, which `cargo xtask vm` has"]
fn the_agent_names_what_is_missing_and_does_not_start() -> Result<()> {
    let world = World::new("old")?;
    for handshake in ["held", "eager"] {
        let mut command = Command::new(binary()?);
        command.arg("run").arg("--cgroup").arg(world.cgroup.path()).args(["--handshake", handshake]);
        // Where it starts all the same, it is not to be waited for.
        let output = Command::new("timeout")
            .args(["--signal=KILL", "60"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .output()
            .context("starting redial")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{handshake}: {}: {said}", output.status);
        ensure!(said.contains("SO_NETNS_COOKIE, Linux 5.14"), "{handshake}: {said}");
        let error = said.lines().rfind(|line| line.contains("SO_NETNS_COOKIE")).unwrap_or_default();
        println!("redial says: {}", error.trim_start_matches("redial: "));
    }
    Ok(())
}
