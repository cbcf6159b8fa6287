//! The options of every command that starts an agent.

use crate::{
    agent::{AtLimit, Settings},
    dialect,
    endpoint::RESOLV_CONF,
    intercept::{Exclusions, HandshakeMode},
    observe::{access_log::Target, logging::LogFormat},
    policy::{Identity, label_pairs},
    retry::BudgetPolicy,
};
use anyhow::Context as _;
use clap::Args;
use ipnet::IpNet;
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Uid,
};
use std::{net::SocketAddr, path::PathBuf, process, sync::Arc, time::Duration};

/// How documents are read, for every command that reads any.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct DialectOptions {
    /// Leave AWS App Mesh routes without a retry policy without retries, instead of App Mesh's default retry policy
    #[arg(long)]
    no_app_mesh_default_retry: bool,
}

/// What tells a node's agents apart.
#[derive(Args, Clone, Debug)]
pub struct AgentName {
    /// The name by which the agent is found among those of its node; a pod's UID does well [default: its process id]
    #[arg(long = "agent", value_name = "NAME", env = "REDIAL_AGENT", value_parser = agent_name)]
    name: Option<String>,
}

#[derive(Args, Debug)]
pub struct Options {
    /// A policy file, or a folder of them; may be repeated
    #[arg(long, value_name = "PATH")]
    config: Vec<PathBuf>,

    #[command(flatten)]
    dialect: DialectOptions,

    /// When a connect() is answered: when the upstream's answer is known, or at once
    #[arg(long, value_enum, default_value_t)]
    handshake: HandshakeMode,

    /// A destination port that is never intercepted; may be repeated
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    exclude_port: Vec<u16>,

    /// A destination range that is never intercepted, such as 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "CIDR")]
    exclude_cidr: Vec<IpNet>,

    /// Where metrics and health are served, such as 127.0.0.1:9090
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,

    /// What the workload is to policies that ask: labels or tags such as app=web,kuma.io/service=web, and
    /// namespace=shop. Without it every policy's selectors take it
    #[arg(long = "as", value_name = "LABELS", value_parser = identity)]
    identity: Option<Arc<Identity>>,

    /// How the resolver for host names in policies is set up
    #[arg(long, value_name = "PATH", default_value = RESOLV_CONF)]
    resolv_conf: PathBuf,

    /// How many connections may be held or relayed at a time [default: what the descriptor limit allows]
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    max_connections: Option<usize>,

    /// How many of them the connections of one network namespace may be [default: a quarter with --kubernetes, else all]
    #[arg(long, value_name = "COUNT", value_parser = positive)]
    max_connections_per_namespace: Option<usize>,

    /// What happens to new connections when one of these bounds is reached
    #[arg(long, value_enum, default_value_t)]
    at_limit: AtLimit,

    /// How many retries all destinations together may have, in percent of their connections of the last 10 s
    #[arg(long, value_name = "PERCENT", default_value_t = BudgetPolicy::NODE.percent(),
        value_parser = clap::value_parser!(u32).range(0..=i64::from(BudgetPolicy::MAX_PERCENT)))]
    node_budget_percent: u32,

    /// How many retries a second all destinations together may have beside that share
    #[arg(long, value_name = "COUNT", default_value_t = BudgetPolicy::NODE.min_per_second())]
    node_budget_min_per_second: u32,

    /// How much of requests' bodies is kept for retries, of all requests together; beyond it requests are sent once
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = size)]
    max_buffered_bodies: usize,

    /// How much of it the requests of one network namespace may have [default: a quarter with --kubernetes, else all]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_buffered_bodies_per_namespace: Option<usize>,

    /// The format of the log on standard error
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl AgentName {
    pub fn get(self) -> String {
        self.name.unwrap_or_else(|| process::id().to_string())
    }
}

impl DialectOptions {
    pub fn get(self) -> dialect::Options {
        let app_mesh_default_retry = !self.no_app_mesh_default_retry;
        dialect::Options { app_mesh_default_retry, ..dialect::Options::default() }
    }
}

impl Options {
    pub fn settings(&self, access_log: Option<Target>, drain_timeout: Duration) -> anyhow::Result<Settings> {
        let interval = BudgetPolicy::NODE.interval();
        let (percent, min_per_second) = (self.node_budget_percent, self.node_budget_min_per_second);
        Ok(Settings {
            config: self.config.clone(),
            dialect: self.dialect.get(),
            handshake: self.handshake,
            exclusions: Exclusions { ports: self.exclude_port.clone(), ranges: self.exclude_cidr.clone() },
            access_log,
            metrics: self.metrics,
            resolv_conf: self.resolv_conf.clone(),
            max_connections: self.max_connections,
            max_connections_per_namespace: self.max_connections_per_namespace,
            at_limit: self.at_limit,
            identity: self.identity.clone(),
            node_budget: BudgetPolicy::try_new(percent, min_per_second, interval)?,
            max_buffered: self.max_buffered_bodies,
            max_buffered_per_namespace: self.max_buffered_bodies_per_namespace,
            drain_timeout,
            kubernetes: None,
        })
    }
}

/// What an agent needs of its process before it starts.
pub fn prepare_process() -> anyhow::Result<()> {
    anyhow::ensure!(
        Uid::effective().is_root(),
        "root is needed to load kernel programs; try: sudo redial ..."
    );
    // Each connection takes two descriptors. The hard limit is the operator's word; the soft one is a habit.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
    // Before Linux 5.11 the memory of maps counts against this limit. Where it may not be raised, it rarely matters.
    let unlimited = nix::libc::RLIM_INFINITY;
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited) {
        tracing::debug!(%error, "cannot lift the limit of locked memory (only needed before Linux 5.11)");
    }
    Ok(())
}

/// A Go duration such as `30s` or `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    dialect::duration::parse(text).map_err(|error| error.to_string())
}

fn agent_name(text: &str) -> Result<String, String> {
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if (1..=64).contains(&text.len()) && is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 64 letters, digits and dashes".to_owned())
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number of at least 1 is needed".to_owned()),
        Ok(count) => Ok(count),
    }
}

fn size(text: &str) -> Result<usize, String> {
    let bytes = dialect::size::parse(text).map_err(|error| error.to_string())?;
    usize::try_from(bytes).map_err(|error| error.to_string())
}

/// `name=value` pairs with commas between them; `namespace` is no label.
pub fn identity(text: &str) -> Result<Arc<Identity>, String> {
    let mut identity = Identity::default();
    for pair in label_pairs(text) {
        let (name, value) = pair?;
        let before = if name == "namespace" {
            identity.namespace.replace(value.into())
        } else {
            identity.labels.insert(name.into(), value.into())
        };
        if before.is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(Arc::new(identity))
}
