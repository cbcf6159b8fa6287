//! `cargo xtask demo`: what redial does, shown on this machine.
//!
//! The demo lives in network namespaces that have no name and so last exactly as long as its processes. Each of these ends
//! with the one that started it, or by itself within half a minute. However the demo ends, nothing is left to clean up.

mod client;
mod network;
mod server;
mod stage;
mod table;

use crate::{build_ebpf, setup, shell};
use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

const POLICY: &str = include_str!("demo/policy.yaml");

/// Options of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Option<Part>,
}

/// The programs of the demo, which it starts itself.
#[derive(Debug, clap::Subcommand)]
enum Part {
    #[command(hide = true)]
    Stage,
    #[command(hide = true)]
    Server(server::Args),
    #[command(hide = true)]
    Client(client::Args),
}

/// Sets up, builds, and shows.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.part {
        None => prepare_and_show(),
        Some(Part::Stage) => stage::run(&Files::locate()?),
        Some(Part::Server(args)) => server::run(args),
        Some(Part::Client(args)) => client::run(args),
    }
}

fn prepare_and_show() -> Result<()> {
    let mut unshare = shell::as_root("unshare").context("the demo")?;
    setup::to_build()?;
    // The tests' programs come with these, and somebody who only wants to look can do without them.
    if ["ip", "nft", "curl"].into_iter().any(|program| shell::which(program).is_none()) {
        setup::to_run()?;
    }
    build_ebpf::run()?;
    shell::run(shell::cargo("build").args(["--release", "--package", "redial"]))?;
    let files = Files::locate()?;
    files.write()?;
    println!();

    // This process becomes the demo, so that whoever ends this process ends the demo.
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    unshare.args(["--net", "--"]).arg(this).args(["demo", "stage"]).current_dir(shell::root());
    Err(unshare.exec()).context("cannot start unshare")
}

/// What the demo reads and writes.
#[derive(Debug)]
struct Files {
    redial: PathBuf,
    policy: PathBuf,
    access_log: PathBuf,
}

impl Files {
    /// Beside the folder of the build that we are.
    fn locate() -> Result<Self> {
        let this = std::env::current_exe().context("cannot tell where this program is")?;
        let target = this.ancestors().nth(2).context("this program is not in a target folder")?;
        // Where it can be, a path is as one would type it.
        let target = target.strip_prefix(shell::root()).unwrap_or(target);
        Ok(Self {
            redial: target.join("release/redial"),
            policy: target.join("demo/policy.yaml"),
            access_log: target.join("demo/access.log"),
        })
    }

    /// Writes the policy, and an empty access log: root's demo writes to it, but it is the user's.
    fn write(&self) -> Result<()> {
        for (path, text) in [(&self.policy, POLICY), (&self.access_log, "")] {
            let path = shell::root().join(path);
            let folder = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
