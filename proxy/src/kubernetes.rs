//! The node's part of a cluster: which of its pods are enrolled, where their cgroups are, and what the API says of policies.
//!
//! The API is watched by a thread of its own, so that no connection waits for what it sends. That thread keeps of each
//! object what is needed and tells the intake thread what changes.

pub mod cgroups;
mod objects;
pub mod roster;
mod services;
mod status;
mod uid;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use crate::dialect::Kind;

pub use objects::{Object, Objects};
pub use roster::{Change, Pod, Selector};
pub use services::{Services, split as split_services};
pub use status::Report;
pub use uid::PodUid;
pub use watch::pods::{PodObject, of_namespaces, of_pods};
pub use watch::{Cluster, Event, Health, Told, start};

/// What the command line says of the cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node's name in the API.
    pub node: String,
    /// What tells this agent from another one of the node, before and after an update.
    pub agent: String,
    /// None: the service account of the pod, or what `KUBECONFIG` names.
    pub kubeconfig: Option<PathBuf>,
    /// Pods that are enrolled where neither they nor their namespaces say anything.
    pub selector: Option<Selector>,
    /// The kinds of policy objects that are read: `HTTPRoute`, or `HTTPRoute.gateway.networking.k8s.io`. Empty: all.
    pub policy_kinds: Vec<String>,
    /// The agent's own namespace, where the agents of all nodes keep what they know of each other.
    pub namespace: String,
}

impl Settings {
    fn wants(&self, kind: &Kind) -> bool {
        self.policy_kinds.is_empty() || self.policy_kinds.iter().any(|name| kind.is_named(name))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    #[error("cannot read the kubeconfig {path}: {source}")]
    Kubeconfig { path: PathBuf, source: kube::config::KubeconfigError },
    #[error("there is neither a service account nor a kubeconfig to reach the API server with: {0}")]
    Config(#[from] kube::config::InferConfigError),
    #[error("cannot make a client for the API server: {0}")]
    Client(kube::Error),
    #[error("cannot start the thread that watches the API server: {0}")]
    Thread(std::io::Error),
    #[error("cannot watch the cgroups of pods: {0}")]
    Cgroups(std::io::Error),
}

/// How long one request to the API server, other than a watch, may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
