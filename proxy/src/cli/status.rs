//! `redial status`: what the agents on this host do.

use crate::{
    agent::ADMIN_DIRECTORY,
    observe::{
        Status,
        admin::{Answer, Command, request},
    },
};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::runtime;

/// Show what the agents on this host are doing
#[derive(Args, Debug)]
pub struct Arguments {
    /// The admin socket of one agent [default: every agent's]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

impl Arguments {
    #[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let agents = runtime.block_on(self.agents())?;
        anyhow::ensure!(!agents.is_empty(), "no agent is running on this host");
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&agents)?),
            Output::Text => agents.iter().for_each(|status| print!("{}", text(status))),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn agents(&self) -> anyhow::Result<Vec<Status>> {
        if let Some(socket) = &self.socket {
            return match request(socket, Command::Status).await? {
                Answer::Status(status) => Ok(vec![*status]),
                Answer::Draining(_) | Answer::Error(_) => anyhow::bail!("the agent has no status to tell"),
            };
        }
        let mut agents = BTreeMap::new();
        for socket in sockets(Path::new(ADMIN_DIRECTORY))? {
            // Nobody listens on a socket that an agent left behind when it was killed.
            if let Ok(Answer::Status(status)) = request(&socket, Command::Status).await {
                agents.insert(status.pid, *status);
            }
        }
        Ok(agents.into_values().collect())
    }
}

/// Each agent's own socket; those of its workloads are for agents that take over.
fn sockets(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {} (try sudo)", directory.display()))?,
    };
    let is_agent = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("agent-") && path.extension().is_some_and(|end| end == "sock")
    };
    Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_agent).collect())
}

/// JSON has them all.
const SHOWN_GIVE_UPS: usize = 10;

fn text(status: &Status) -> String {
    let mut lines = vec![format!(
        "agent {} (redial {}): {}",
        status.pid,
        status.version,
        match (status.draining, status.ready) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "starting",
        }
    )];
    let totals = &status.totals;
    lines.push(format!(
        "  connections: {} active, {} held now",
        totals.connections_active, totals.handshakes_held
    ));
    lines.extend(counts("  ended", &totals.connections_total));
    lines.extend(counts("  attempts", &totals.attempts));
    lines.extend(counts("  retries after", &totals.retries));
    lines.extend(counts("  refused by a budget", &totals.budget_refusals));
    for workload in &status.workloads {
        lines.push(format!(
            "  workload {}: {} network namespace(s)",
            workload.name,
            workload.network_namespaces.len()
        ));
    }
    for policy in &status.policies {
        lines.push(format!("  policy {} ({})", policy.name, policy.origin));
    }
    if let Some(error) = &status.last_config_error {
        lines.push(format!("  the policies were not reloaded: {error}"));
    }
    for give_up in status.last_give_ups.iter().take(SHOWN_GIVE_UPS) {
        lines.push(format!(
            "  {} {} -> {}: {} after {} attempt(s)",
            give_up.time, give_up.workload, give_up.original_destination, give_up.reason, give_up.attempts
        ));
    }
    lines.join("\n") + "\n"
}

/// `name: 3 closed, 1 timed-out`, without the zeros; nothing where all are zero.
fn counts(name: &str, counts: &BTreeMap<String, u64>) -> Option<String> {
    let words: Vec<String> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    (!words.is_empty()).then(|| format!("{name}: {}", words.join(", ")))
}
