//! What `redial status` shows of a running agent, as both sides of the admin socket know it.
//!
//! Words of the closed enums travel as strings, so that a command line still understands an agent of another version.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Connection, Request};
use crate::reason::Reason;

/// How many failures are remembered.
const MAX_GIVE_UPS: usize = 50;

/// The agent at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// Seconds since 1970.
    pub started: u64,
    pub ready: bool,
    pub draining: bool,
    /// None where the agent is no node's of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesStatus>,
    pub workloads: Vec<WorkloadStatus>,
    pub policies: Vec<PolicyStatus>,
    #[serde(flatten)]
    pub totals: Totals,
    /// Why the latest reload of the policies was refused; None where it was accepted.
    pub last_config_error: Option<String>,
    /// The latest failed connections and requests, latest first.
    pub last_give_ups: Vec<GiveUp>,
}

/// What a node's agent knows of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesStatus {
    pub node: String,
    /// Whether all that there was at the beginning is known.
    pub synced: bool,
    /// Whether another agent of the node enrols its pods from now on.
    pub stood_down: bool,
    /// Why, for each kind of object that cannot be watched now. What was known of it holds.
    pub failing: BTreeMap<String, String>,
    /// Why, for each policy object that is not in force.
    pub refused: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    pub name: String,
    pub cgroup: PathBuf,
    /// The cookies of the network namespaces in which the workload has an engine.
    pub network_namespaces: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    pub name: String,
    /// The file, or whatever else the policy came from.
    pub origin: String,
    /// Of requests. An agent of an older version does not tell.
    #[serde(default)]
    pub routes: usize,
}

/// The counters since the agent began. A word that was never counted is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub connections_active: u64,
    pub handshakes_held: u64,
    /// By reason.
    pub connections_total: BTreeMap<String, u64>,
    /// Made after at least one retry.
    pub connections_recovered: u64,
    /// By outcome.
    pub attempts: BTreeMap<String, u64>,
    /// By the outcome of the attempt that failed.
    pub retries: BTreeMap<String, u64>,
    /// By scope.
    pub budget_refusals: BTreeMap<String, u64>,
    pub access_log_dropped: u64,
    // An agent of an older version does not tell the rest.
    #[serde(default)]
    pub requests_active: u64,
    /// By reason.
    #[serde(default)]
    pub requests_total: BTreeMap<String, u64>,
    /// Got a good response after at least one retry.
    #[serde(default)]
    pub requests_recovered: u64,
    /// By outcome.
    #[serde(default)]
    pub request_attempts: BTreeMap<String, u64>,
    /// By the condition that the failed attempt met.
    #[serde(default)]
    pub request_retries: BTreeMap<String, u64>,
}

/// A connection that the workload did not get, or a request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GiveUp {
    pub time: String,
    pub workload: String,
    pub original_destination: SocketAddr,
    pub policy: String,
    pub reason: Cow<'static, str>,
    pub attempts: usize,
    pub last_outcome: Option<Cow<'static, str>>,
    /// None where it was a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<FailedRequest>,
}

/// What a failed request asked for, where that could be read, and what it got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRequest {
    pub method: Option<String>,
    pub authority: Option<String>,
    /// Without the query string.
    pub path: Option<String>,
    pub status: Option<u16>,
    pub grpc_status: Option<u32>,
    /// Envoy's response flags.
    pub flags: String,
}

impl From<&Connection> for GiveUp {
    fn from(connection: &Connection) -> Self {
        Self {
            time: connection.time.to_string(),
            workload: connection.workload.to_string(),
            original_destination: connection.original_destination,
            policy: connection.policy.to_string(),
            reason: connection.reason.as_str().into(),
            attempts: connection.attempts.total(),
            last_outcome: connection.attempts.last().map(|last| last.outcome.as_str().into()),
            request: None,
        }
    }
}

impl From<&Request> for GiveUp {
    fn from(request: &Request) -> Self {
        Self {
            time: request.time.to_string(),
            workload: request.workload.to_string(),
            original_destination: request.original_destination,
            policy: request.policy.to_string(),
            reason: request.reason.as_str().into(),
            attempts: request.attempts.total(),
            last_outcome: request.attempts.last().map(|last| last.outcome.as_str().into()),
            request: Some(FailedRequest {
                method: request.method.as_deref().map(str::to_owned),
                authority: request.authority.as_deref().map(str::to_owned),
                path: request.path.as_deref().map(str::to_owned),
                status: request.status,
                grpc_status: request.grpc.as_ref().and_then(|grpc| grpc.status),
                flags: request.flags.to_string(),
            }),
        }
    }
}

/// The latest failed connections and requests. A clone is the same memory. Only failures take its lock.
#[derive(Clone, Debug, Default)]
pub struct RecentGiveUps(Arc<Mutex<VecDeque<GiveUp>>>);

impl RecentGiveUps {
    /// Remembers the connection if the workload did not get it.
    pub fn connection_ended(&self, connection: &Connection) {
        if never_was(connection.reason) {
            self.add(connection.into());
        }
    }

    /// Remembers the request if it failed.
    pub fn request_ended(&self, request: &Request) {
        if request.reason.is_give_up() {
            self.add(request.into());
        }
    }

    fn add(&self, give_up: GiveUp) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.truncate(MAX_GIVE_UPS - 1);
        recent.push_front(give_up);
    }

    /// Latest first.
    #[must_use]
    pub fn list(&self) -> Vec<GiveUp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Whether the connection ended before there was one, for whatever cause.
const fn never_was(reason: Reason) -> bool {
    match reason {
        Reason::ClientGone
        | Reason::NotRetriable
        | Reason::NotRepeatable
        | Reason::NotReplayable
        | Reason::NoEndpoint
        | Reason::TooManyRetries
        | Reason::AttemptsExhausted
        | Reason::TimedOut
        | Reason::BudgetExhausted
        | Reason::Overloaded
        | Reason::NoOriginalDestination
        | Reason::HandshakeLost => true,
        Reason::Closed
        | Reason::Responded
        | Reason::IdleTimeout
        | Reason::BadRequest
        | Reason::HeadTooLarge
        | Reason::ClientReset
        | Reason::UpstreamReset
        | Reason::UpstreamTimeout
        | Reason::Drained => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use super::{PolicyStatus, RecentGiveUps, Status, Totals, WorkloadStatus};
    use crate::observe::record::tests::connection;
    use crate::reason::{AttemptOutcome, Reason};

    pub(in crate::observe) fn status() -> Status {
        let give_ups = RecentGiveUps::default();
        give_ups.connection_ended(&connection(Reason::AttemptsExhausted, &[AttemptOutcome::Refused; 3]));
        Status {
            version: "0.1.0".to_owned(),
            pid: 7,
            started: 1_790_726_400,
            ready: true,
            draining: false,
            kubernetes: None,
            workloads: vec![WorkloadStatus {
                name: "web".to_owned(),
                cgroup: "/sys/fs/cgroup/web".into(),
                network_namespaces: vec![4_026_531_840],
            }],
            policies: vec![PolicyStatus {
                name: "default".to_owned(),
                origin: "built in".to_owned(),
                routes: 0,
            }],
            totals: Totals {
                connections_active: 2,
                connections_total: [("attempts-exhausted".to_owned(), 1)].into(),
                ..Totals::default()
            },
            last_config_error: None,
            last_give_ups: give_ups.list(),
        }
    }

    #[test]
    fn the_counters_stand_beside_the_rest() {
        let json = serde_json::to_value(status()).unwrap();
        assert_eq!(json["connections_active"], 2);
        assert_eq!(json["connections_total"]["attempts-exhausted"], 1);
        assert_eq!(json["last_give_ups"][0]["last_outcome"], "refused");
        assert_eq!(json["last_give_ups"][0]["attempts"], 3);
        assert_eq!(json["last_give_ups"][0]["time"], "2026-09-30T00:00:00.007Z");
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status());
    }

    #[test]
    fn the_latest_fifty_failures_are_remembered() {
        let give_ups = RecentGiveUps::default();
        for port in 1..=60 {
            let mut failed = connection(Reason::TimedOut, &[AttemptOutcome::Timeout]);
            failed.original_destination = SocketAddr::new("10.0.0.7".parse().unwrap(), port);
            give_ups.connection_ended(&failed);
            give_ups.connection_ended(&connection(Reason::Closed, &[AttemptOutcome::Connected]));
        }
        let ports: Vec<u16> =
            give_ups.list().iter().map(|give_up| give_up.original_destination.port()).collect();
        assert_eq!(ports, (11..=60).rev().collect::<Vec<u16>>());
    }
}
