//! `redial status`: what the agents on this host do.

use super::{answer, options};
use crate::{
    agent::ADMIN_DIRECTORY,
    observe::{
        GiveUp, Status,
        admin::{Answer, Command, request},
        status::{FailedRequest, KubernetesStatus},
    },
};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
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

    /// Show it again and again, until interrupted: every second, or as often as is said
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "1s", value_parser = options::duration)]
    watch: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

impl Arguments {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let Some(interval) = self.watch else {
            return Ok(answer(self.told(&runtime.block_on(self.agents())?)?, ExitCode::SUCCESS));
        };
        // A terminal is cleared; what goes elsewhere is one answer after the other.
        let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        loop {
            let told = self.told(&runtime.block_on(self.agents())?)?;
            let mut out = io::stdout().lock();
            match write!(out, "{clear}{told}").and_then(|()| out.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                written => written?,
            }
            drop(out);
            thread::sleep(interval.max(SHORTEST_INTERVAL));
        }
    }

    fn told(&self, agents: &[Status]) -> anyhow::Result<String> {
        anyhow::ensure!(!agents.is_empty(), "no agent is running on this host");
        Ok(match self.output {
            Output::Json if self.watch.is_some() => format!("{}\n", serde_json::to_string(&agents)?),
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&agents)?),
            Output::Text => agents.iter().map(text).collect(),
        })
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
        (name.starts_with("agent-") || name.starts_with("node-"))
            && path.extension().is_some_and(|end| end == "sock")
    };
    Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_agent).collect())
}

/// How often an agent is asked at the most.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

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
    if let Some(KubernetesStatus { node, synced, stood_down, failing, refused }) = &status.kubernetes {
        let state = match (stood_down, synced) {
            (true, _) => "another agent enrols its pods",
            (false, true) => "its pods are known",
            (false, false) => "its pods are not known yet",
        };
        lines.push(format!("  node {node}: {state}"));
        lines.extend(
            failing.iter().map(|(kind, why)| format!("  cannot watch {kind}: {}", why.escape_debug())),
        );
        lines.extend(
            refused.iter().map(|(place, why)| {
                format!("  not in force: {}: {}", place.escape_debug(), why.escape_debug())
            }),
        );
    }
    let totals = &status.totals;
    lines.push(format!(
        "  connections: {} active, {} held now",
        totals.connections_active, totals.handshakes_held
    ));
    lines.extend(counts("  ended", &totals.connections_total));
    lines.extend(counts("  attempts", &totals.attempts));
    lines.extend(counts("  retries after", &totals.retries));
    if totals.requests_active > 0 || !totals.requests_total.is_empty() {
        lines.push(format!(
            "  requests: {} active, {} saved by a retry",
            totals.requests_active, totals.requests_recovered
        ));
    }
    lines.extend(counts("  requests ended", &totals.requests_total));
    lines.extend(counts("  attempts at requests", &totals.request_attempts));
    lines.extend(counts("  requests retried on", &totals.request_retries));
    lines.extend(counts("  refused by a budget", &totals.budget_refusals));
    for workload in &status.workloads {
        lines.push(format!(
            "  workload {}: {} network namespace(s)",
            workload.name,
            workload.network_namespaces.len()
        ));
    }
    for policy in &status.policies {
        let routes = match policy.routes {
            0 => String::new(),
            1 => ", 1 route".to_owned(),
            routes => format!(", {routes} routes"),
        };
        lines.push(format!("  policy {} ({}){routes}", policy.name, policy.origin));
    }
    if let Some(error) = &status.last_config_error {
        lines.push(format!("  the policies were not reloaded: {error}"));
    }
    lines.extend(status.last_give_ups.iter().take(SHOWN_GIVE_UPS).map(failure));
    lines.join("\n") + "\n"
}

fn failure(give_up: &GiveUp) -> String {
    let GiveUp {
        time,
        workload,
        original_destination,
        policy: _,
        reason,
        attempts,
        last_outcome: _,
        request,
    } = give_up;
    let (asked, got) = request.as_ref().map(|request| (asked(request), got(request))).unwrap_or_default();
    format!("  {time} {workload} -> {original_destination}{asked}: {reason} after {attempts} attempt(s){got}")
}

/// ` GET shop.example/cart`, or nothing where the request could not be read. With nothing in it that a terminal would obey: the words are the client's.
fn asked(request: &FailedRequest) -> String {
    let FailedRequest { method, authority, path, status: _, grpc_status: _, flags: _ } = request;
    let Some(method) = method else { return String::new() };
    let [authority, path] = [authority, path].map(|word| word.as_deref().unwrap_or_default());
    format!(" {} {}{}", method.escape_debug(), authority.escape_debug(), path.escape_debug())
}

/// ` (503, URX,UF)`.
fn got(request: &FailedRequest) -> String {
    let status = request.status.map(|status| status.to_string());
    let grpc_status = request.grpc_status.map(|status| format!("grpc-status {status}"));
    let flags = Some(request.flags.clone()).filter(|flags| flags != "-");
    let words: Vec<_> = [status, grpc_status, flags].into_iter().flatten().collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
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

#[cfg(test)]
mod tests {
    use super::text;
    use crate::observe::Status;
    use serde_json::json;

    /// What an agent of the first version answers, with these members on top.
    fn status(more: &serde_json::Value) -> Status {
        let mut status = json!({
            "version": "0.1.0", "pid": 7, "started": 1_790_726_400, "ready": true, "draining": false,
            "workloads": [], "policies": [], "connections_active": 2, "handshakes_held": 0,
            "connections_total": {}, "connections_recovered": 0, "attempts": {}, "retries": {},
            "budget_refusals": {}, "access_log_dropped": 0, "last_config_error": null, "last_give_ups": [],
        });
        for (name, value) in more.as_object().unwrap() {
            status[name] = value.clone();
        }
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn an_agent_without_requests_says_nothing_of_them() {
        let text = text(&status(&json!({})));
        assert_eq!(text, "agent 7 (redial 0.1.0): ready\n  connections: 2 active, 0 held now\n");
    }

    #[test]
    fn requests_and_their_failures_have_lines_of_their_own() {
        let give_up = json!({
            "time": "2026-09-30T00:00:00.007Z", "workload": "web", "original_destination": "10.0.0.7:8080",
            "policy": "default", "reason": "attempts-exhausted", "attempts": 3,
            "last_outcome": "connect-refused",
            "request": {
                "method": "GET", "authority": "shop.example", "path": "/\u{1b}[31mcart", "status": 503,
                "grpc_status": null, "flags": "URX,UF",
            },
        });
        let mut unread = give_up.clone();
        unread["reason"] = "bad-request".into();
        unread["attempts"] = 0.into();
        unread["request"] = json!({
            "method": null, "authority": null, "path": null, "status": null, "grpc_status": 13, "flags": "-",
        });
        let text = text(&status(&json!({
            "requests_active": 1, "requests_total": {"responded": 5, "attempts-exhausted": 1},
            "requests_recovered": 2, "request_attempts": {"response": 5}, "request_retries": {"reset": 2},
            "last_give_ups": [give_up, unread],
        })));
        assert_eq!(
            text.lines().skip(2).collect::<Vec<_>>(),
            [
                "  requests: 1 active, 2 saved by a retry",
                "  requests ended: 1 attempts-exhausted, 5 responded",
                "  attempts at requests: 5 response",
                "  requests retried on: 2 reset",
                "  2026-09-30T00:00:00.007Z web -> 10.0.0.7:8080 GET shop.example/\\u{1b}[31mcart: \
                 attempts-exhausted after 3 attempt(s) (503, URX,UF)",
                "  2026-09-30T00:00:00.007Z web -> 10.0.0.7:8080: bad-request after 0 attempt(s) \
                 (grpc-status 13)",
            ]
        );
    }
}
