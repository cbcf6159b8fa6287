//! `redial run`: an agent for the cgroups that it is given.

use super::options::{self, Options};
use crate::{
    agent::Agent,
    intercept::{CgroupRoot, NetworkNamespace},
    observe::{access_log::Target, logging},
};
use clap::Args;
use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, time::Duration};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};
use tracing::Level;

/// Intercept what the processes of cgroups connect to, until told to stop
///
/// SIGHUP reads the policies again, as a change of their files does, and reopens the access log. SIGTERM and SIGINT
/// stop taking connections in and wait for those that there are. A second `redial run` on the same cgroup takes over.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A cgroup to intercept, as a path in the file system or below the cgroup2 mount; may be repeated
    #[arg(long, value_name = "PATH", required = true)]
    cgroup: Vec<PathBuf>,

    /// Where a line of JSON is written for each connection: a file, - for standard output, or none
    #[arg(long, value_name = "PATH", default_value = "-")]
    access_log: String,

    /// How long connections may last after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = options::duration)]
    drain_timeout: Duration,

    #[command(flatten)]
    options: Options,
}

impl Arguments {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        logging::init(self.options.log_format, Level::INFO)?;
        options::prepare_process()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.serve())
    }

    async fn serve(self) -> anyhow::Result<ExitCode> {
        let root = CgroupRoot::find()?;
        // One that is named twice is one.
        let cgroups = self.cgroup.iter().map(|path| root.open(path)).collect::<Result<BTreeSet<_>, _>>()?;
        let access_log = match self.access_log.as_str() {
            "none" => None,
            target => Some(target.parse::<Target>()?),
        };
        let mut reload = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut agent = Agent::start(self.options.settings(access_log, self.drain_timeout)?).await?;
        for cgroup in cgroups {
            agent.enrol(cgroup, NetworkNamespace::own()?).await?;
        }
        agent.announce().await?;
        loop {
            tokio::select! {
                ended = agent.run() => {
                    ended?;
                    break;
                }
                _ = reload.recv() => {
                    agent.reopen_access_log();
                    agent.reload().await;
                }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        agent.drain().await;
        Ok(ExitCode::SUCCESS)
    }
}
