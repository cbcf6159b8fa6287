//! `redial ready`: whether one agent takes connections in, for probes.

use super::options::AgentName;
use crate::{
    agent::node_agent_path,
    observe::admin::{Answer, Command, request},
};
use anyhow::{bail, ensure};
use clap::Args;
use std::process::ExitCode;
use tokio::runtime;

/// Exit with 0 where a node's agent is ready, for a container's probe
///
/// The agent of the same `--agent` is asked by its admin socket. Its port for metrics may still be another agent's, which
/// it takes over from.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    agent: AgentName,
}

impl Arguments {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(request(&node_agent_path(&self.agent.get()), Command::Status))? {
            Answer::Status(status) => {
                ensure!(status.ready, "the agent is not ready");
                Ok(ExitCode::SUCCESS)
            }
            Answer::Draining(_) | Answer::Error(_) => bail!("the agent has no status to tell"),
        }
    }
}
