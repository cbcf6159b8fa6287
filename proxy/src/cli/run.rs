//! `redial run`: an agent for the cgroups that it is given.

use super::{
    options::{self, AgentName, Options},
    privileges,
};
use crate::{
    agent::{Agent, Ended},
    dialect::Kind,
    intercept::{CgroupRoot, NetworkNamespace},
    kubernetes::{self, Selector},
    observe::{access_log::Target, logging},
};
use clap::Args;
use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};
use tracing::Level;

/// Intercept what the processes of cgroups connect to, until told to stop
///
/// SIGHUP reads the policies again, as a change of their files does, and reopens the access log. SIGTERM and SIGINT
/// stop taking connections in and wait for those that there are; a second one ends them. Another `redial run` on the same
/// cgroup takes over, and this one serves what it has to its end.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A cgroup to intercept, as a path in the file system or below the cgroup2 mount; may be repeated
    #[arg(long, value_name = "PATH", required_unless_present = "kubernetes")]
    cgroup: Vec<PathBuf>,

    #[command(flatten)]
    node: NodeOptions,

    /// Where a line of JSON is written for each connection and request: a file, - for standard output, or none
    #[arg(long, value_name = "PATH", default_value = "-")]
    access_log: String,

    /// How long connections may last after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = options::duration)]
    drain_timeout: Duration,

    #[command(flatten)]
    options: Options,
}

/// What makes the agent a node's of a Kubernetes cluster.
#[derive(Args, Debug)]
struct NodeOptions {
    /// Intercept what this node's pods connect to: those with the label or annotation redial.dev/enroll: "true", or whose
    /// namespace has it
    #[arg(long, conflicts_with_all = ["cgroup", "identity"])]
    kubernetes: bool,

    /// This node's name
    #[arg(
        long,
        value_name = "NAME",
        env = "NODE_NAME",
        requires = "kubernetes",
        required_if_eq("kubernetes", "true")
    )]
    node: Option<String>,

    /// How the API server is reached [default: the pod's service account, or what KUBECONFIG names]
    #[arg(long, value_name = "PATH", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,

    /// Labels such as app=web,tier=front of pods that are enrolled where neither they nor their namespaces say anything
    #[arg(long, value_name = "LABELS", value_parser = Selector::parse, requires = "kubernetes")]
    enroll_selector: Option<Selector>,

    /// A kind of policy objects that is read, such as HTTPRoute or HTTPRoute.gateway.networking.k8s.io; may be repeated
    /// [default: every kind that redial knows and the cluster has]
    #[arg(long, value_name = "KIND", value_parser = policy_kind, requires = "kubernetes")]
    policy_kind: Vec<String>,

    /// The agent's own namespace
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "redial")]
    namespace: String,

    #[command(flatten)]
    agent: AgentName,
}

fn policy_kind(name: &str) -> Result<String, String> {
    if Kind::watched().any(|kind| kind.is_named(name)) {
        return Ok(name.to_owned());
    }
    let known: Vec<_> = Kind::watched().map(Kind::full_name).collect();
    Err(format!("there are {}", known.join(", ")))
}

impl NodeOptions {
    fn settings(self) -> Option<kubernetes::Settings> {
        let Self { kubernetes, node, kubeconfig, enroll_selector, policy_kind, namespace, agent } = self;
        let node = node.filter(|_| kubernetes)?;
        Some(kubernetes::Settings {
            node,
            agent: agent.get(),
            kubeconfig,
            selector: enroll_selector,
            policy_kinds: policy_kind,
            namespace,
        })
    }
}

impl Arguments {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        logging::init(self.options.log_format, Level::INFO)?;
        options::prepare_process()?;
        privileges::keep_what_is_needed()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.serve())
    }

    async fn serve(self) -> anyhow::Result<ExitCode> {
        let root = CgroupRoot::find()?;
        // One that is named twice is one.
        let cgroups = self.cgroup.iter().map(|path| root.open(path)).collect::<Result<BTreeSet<_>, _>>()?;
        let cgroups: Vec<_> = cgroups.into_iter().collect();
        let access_log = match self.access_log.as_str() {
            "none" => None,
            target => Some(target.parse::<Target>()?),
        };
        let mut reload = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut settings = self.options.settings(access_log, self.drain_timeout)?;
        settings.kubernetes = self.node.settings();
        let is_node = settings.kubernetes.is_some();
        if is_node {
            settings.dialect.in_cluster = true;
            // Each pod has its own; a connection whose pod can't be told is nobody's that a policy selects.
            settings.identity = Some(Arc::default());
        }
        let mut agent = Agent::start(settings, root, &cgroups).await?;
        for cgroup in cgroups {
            agent.enrol(cgroup, NetworkNamespace::own()?)?;
        }
        // A node's agent is ready when it knows what pods there are.
        if !is_node {
            agent.announce();
        }
        let limit = loop {
            tokio::select! {
                ended = agent.run() => match ended? {
                    // The other agent has what is new; what is old is served to its end.
                    Ended::TakenOver => break None,
                },
                _ = reload.recv() => {
                    agent.reopen_access_log();
                    agent.reload();
                }
                _ = terminate.recv() => break Some(self.drain_timeout),
                _ = interrupt.recv() => break Some(self.drain_timeout),
            }
        };
        let mut drained = tokio::select! {
            drained = agent.drain(limit) => drained,
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
        };
        if !drained && limit.is_none() {
            // Told to stop while it served what is old: from here on as if it had been told so before.
            drained = tokio::select! {
                drained = agent.drain(Some(self.drain_timeout)) => drained,
                _ = terminate.recv() => false,
                _ = interrupt.recv() => false,
            };
        }
        agent.finish(drained).await;
        Ok(ExitCode::SUCCESS)
    }
}
