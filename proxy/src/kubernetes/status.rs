//! What has become of policy objects, told to who wrote them: conditions of redial's own and of the Gateway API's, events about
//! others'.
//!
//! Every node's agent keeps a lease that says which objects it has in force. One of the agents, which holds another lease,
//! writes for all: so that a thousand nodes don't write the same thing a thousand times.

mod entries;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Error};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Object, REQUEST_TIMEOUT, Settings};

/// How often a lease is renewed where nothing changes, and how long it holds.
const RENEWAL: Duration = Duration::from_secs(10);
const VALIDITY: Duration = Duration::from_secs(40);
/// What changes together is written together.
const SETTLE: Duration = Duration::from_millis(500);
const LEADER: &str = "redial-status";
const AGENTS: &str = "redial.dev/agent";
/// Of a node's lease: the newest `resourceVersion` among the RetryPolicies that its agent has looked at.
const PROGRAMMED: &str = "redial.dev/programmed";
const FIELD_MANAGER: &str = "redial";

/// What an agent has made of the objects.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Those that were looked at.
    pub objects: Arc<[Object]>,
    /// What is wrong with those that are not in force as they are, by their places.
    pub refused: BTreeMap<Arc<Path>, String>,
}

/// What the condition of a type is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// Writes for as long as there are reports.
pub(super) async fn write(client: Client, settings: Settings, mut reports: watch::Receiver<Report>) {
    let mut writer = Writer {
        leases: Api::namespaced(client.clone(), &settings.namespace),
        recorder: Recorder::new(
            client.clone(),
            Reporter { controller: "redial.dev/agent".to_owned(), instance: Some(settings.node.clone()) },
        ),
        client,
        settings,
        leader: None,
        first_seen: HashMap::new(),
        told: HashMap::new(),
        was_failing: false,
    };
    loop {
        if let Ok(Err(_)) = timeout(RENEWAL, reports.changed()).await {
            return;
        }
        sleep(SETTLE).await;
        let report = reports.borrow_and_update().clone();
        match timeout(REQUEST_TIMEOUT, writer.pass(&report)).await {
            Ok(Ok(())) => writer.was_failing = false,
            Ok(Err(error)) => writer.failed(&error.to_string()),
            Err(_) => writer.failed("the API server does not answer"),
        }
    }
}

struct Writer {
    client: Client,
    settings: Settings,
    leases: Api<Lease>,
    recorder: Recorder,
    /// Who holds the leader's lease, since when it was seen so, and when it was last renewed.
    leader: Option<(String, Option<MicroTime>, Instant)>,
    /// By UID: the generation of an object, and the version at which it was seen first.
    first_seen: HashMap<String, (i64, u64)>,
    /// By UID: the event that was told of an object.
    told: HashMap<String, String>,
    was_failing: bool,
}

impl Writer {
    fn failed(&mut self, error: &str) {
        if !self.was_failing {
            tracing::warn!(error, "cannot tell in the API what has become of policies");
        }
        self.was_failing = true;
    }

    async fn pass(&mut self, report: &Report) -> Result<(), Error> {
        self.renew_own(report).await?;
        if !self.leads().await? {
            self.first_seen.clear();
            return Ok(());
        }
        let nodes = self.nodes().await?;
        let told =
            [self.conditions(report, &nodes).await, self.entries(report).await, self.events(report).await];
        told.into_iter().collect()
    }

    /// Says that this node is there, and which objects it has looked at.
    async fn renew_own(&self, report: &Report) -> Result<(), Error> {
        let newest = report.objects.iter().filter(|object| object.kind.is_own()).map(version).max();
        let name = format!("redial-node-{}", self.settings.node);
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "labels": {AGENTS: "true"},
                "annotations": {PROGRAMMED: newest.unwrap_or_default().to_string()},
            },
            "spec": {
                "holderIdentity": self.settings.agent,
                "leaseDurationSeconds": VALIDITY.as_secs(),
                "renewTime": MicroTime(Timestamp::now()),
            },
        });
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        self.leases.patch(&name, &apply, &Patch::Apply(&lease)).await.map(drop)
    }

    /// Whether this agent writes for all. A lease that nobody renews any more is taken.
    async fn leads(&mut self) -> Result<bool, Error> {
        let now = MicroTime(Timestamp::now());
        let me = format!("{}/{}", self.settings.node, self.settings.agent);
        let spec = LeaseSpec {
            holder_identity: Some(me.clone()),
            lease_duration_seconds: i32::try_from(VALIDITY.as_secs()).ok(),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let Some(mut lease) = self.leases.get_opt(LEADER).await? else {
            let mut lease = Lease { spec: Some(spec), ..Lease::default() };
            lease.metadata.name = Some(LEADER.to_owned());
            return lost_race(self.leases.create(&PostParams::default(), &lease).await);
        };
        let held = lease.spec.take().unwrap_or_default();
        let (holder, renewed) = (held.holder_identity.unwrap_or_default(), held.renew_time);
        // Clocks differ: what counts is how long it has been seen not to be renewed.
        let is_renewed = self.leader.as_ref().is_none_or(|(known, at, _)| (known, at) != (&holder, &renewed));
        if is_renewed {
            self.leader = Some((holder.clone(), renewed, Instant::now()));
        }
        let is_dead = self.leader.as_ref().is_some_and(|(_, _, seen)| seen.elapsed() > VALIDITY);
        if holder != me && !holder.is_empty() && !is_dead {
            return Ok(false);
        }
        lease.spec = Some(spec);
        // The version that was read goes along, so that of two who take it one does.
        lost_race(self.leases.replace(LEADER, &PostParams::default(), &lease).await)
    }

    /// What each node that is there has looked at.
    async fn nodes(&self) -> Result<Vec<u64>, Error> {
        let leases = self.leases.list(&ListParams::default().labels(&format!("{AGENTS}=true"))).await?;
        let now = Timestamp::now();
        let is_there = |lease: &Lease| {
            let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
            renewed.is_some_and(|MicroTime(at)| now.duration_since(*at).unsigned_abs() < VALIDITY)
        };
        let programmed = |lease: Lease| {
            let newest = lease.metadata.annotations.unwrap_or_default().remove(PROGRAMMED);
            newest.and_then(|text| text.parse().ok()).unwrap_or_default()
        };
        Ok(leases.items.into_iter().filter(is_there).map(programmed).collect())
    }

    /// The conditions of redial's own objects. Of several that can't be written the others are, and the last is told.
    async fn conditions(&mut self, report: &Report, nodes: &[u64]) -> Result<(), Error> {
        let own = report.objects.iter().filter(|object| object.kind.is_own());
        let uids: HashSet<_> = own.clone().map(|object| object.uid.as_str()).collect();
        self.first_seen.retain(|uid, _| uids.contains(uid.as_str()));
        let mut result = Ok(());
        for object in own {
            // What is written here makes a new version, which is no new policy.
            let seen =
                self.first_seen.entry(object.uid.clone()).or_insert((object.generation, version(object)));
            if seen.0 != object.generation {
                *seen = (object.generation, version(object));
            }
            let programmed = nodes.iter().filter(|newest| **newest >= seen.1).count();
            let wanted = wanted(report.refused.get(&object.place), programmed, nodes.len());
            if let Some(status) = status(object, &wanted, programmed, nodes.len()) {
                let patch = Patch::Merge(json!({"status": status}));
                let written =
                    self.api(object).patch_status(&object.name, &PatchParams::default(), &patch).await;
                result = may_be_gone(written).map(drop).and(result);
            }
        }
        result
    }

    /// What objects of the Gateway API say of the things that they refer to.
    async fn entries(&self, report: &Report) -> Result<(), Error> {
        let mut result = Ok(());
        for object in report.objects.iter() {
            let refused = report.refused.get(&object.place);
            if entries::wanted(object, refused).is_some() {
                result = self.write_entries(object, refused).await.and(result);
            }
        }
        result
    }

    async fn write_entries(&self, object: &Object, refused: Option<&String>) -> Result<(), Error> {
        let api = self.api(object);
        // The list is others' too, and is written as a whole: as it is now, and not as it was when it was looked at.
        let now = api.get_opt(&object.name).await?.and_then(|now| Object::new(object.kind, now));
        let Some(now) = now.filter(|now| now.uid == object.uid && now.generation == object.generation) else {
            return Ok(());
        };
        let Some((list, entries)) = entries::wanted(&now, refused) else { return Ok(()) };
        let mut status = Map::new();
        status.insert(list.to_owned(), entries);
        let patch = json!({"metadata": {"resourceVersion": now.resource_version}, "status": status});
        let written = api.patch_status(&object.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        lost_race(may_be_gone(written)).map(drop)
    }

    /// The objects among which this one is.
    fn api(&self, object: &Object) -> Api<DynamicObject> {
        let document: Value = serde_json::from_str(&object.text).unwrap_or_default();
        let version = document.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let version = version.rsplit('/').next().unwrap_or_default();
        let kind = GroupVersionKind::gvk(object.kind.group, version, object.kind.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, object.kind.plural.unwrap_or_default());
        Api::namespaced_with(self.client.clone(), &object.namespace, &resource)
    }

    /// An event for each object of another system that is not in force.
    async fn events(&mut self, report: &Report) -> Result<(), Error> {
        let there: HashMap<_, _> =
            report.objects.iter().map(|object| (object.uid.as_str(), object)).collect();
        self.told.retain(|uid, _| {
            there.get(uid.as_str()).is_some_and(|object| report.refused.contains_key(&object.place))
        });
        for object in report.objects.iter().filter(|object| !object.kind.is_own()) {
            let Some(why) = report.refused.get(&object.place) else { continue };
            if self.told.get(&object.uid) == Some(why) {
                continue;
            }
            let document: Value = serde_json::from_str(&object.text).unwrap_or_default();
            let reference = ObjectReference {
                api_version: document.get("apiVersion").and_then(Value::as_str).map(str::to_owned),
                kind: Some(object.kind.kind.to_owned()),
                name: Some(object.name.clone()),
                namespace: Some(object.namespace.clone()).filter(|namespace| !namespace.is_empty()),
                uid: Some(object.uid.clone()),
                ..ObjectReference::default()
            };
            let event = Event {
                type_: EventType::Warning,
                reason: "NotAccepted".to_owned(),
                note: Some(shortened(why)),
                action: "Read".to_owned(),
                secondary: None,
            };
            self.recorder.publish(&event, &reference).await?;
            self.told.insert(object.uid.clone(), why.clone());
        }
        Ok(())
    }
}

/// Whether it was written, where another may have written first.
fn lost_race<T>(result: Result<T, Error>) -> Result<bool, Error> {
    match result {
        Ok(_) => Ok(true),
        Err(Error::Api(error)) if error.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// None where it has just been deleted.
fn may_be_gone<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(written) => Ok(Some(written)),
        Err(Error::Api(error)) if error.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

fn version(object: &Object) -> u64 {
    object.resource_version.parse().unwrap_or_default()
}

/// An event's note may have 1024 bytes, a condition's message 32 KiB.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(900) {
        Some((end, _)) => format!("{} ...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// What an object's conditions are to say.
fn wanted(refused: Option<&String>, programmed: usize, nodes: usize) -> [Condition; 2] {
    let accepted = accepted(refused, "Invalid");
    let (holds, reason) = match (accepted.holds, programmed >= nodes && nodes > 0) {
        (false, _) => (false, "Invalid"),
        (true, true) => (true, "Programmed"),
        (true, false) => (false, "Pending"),
    };
    let message = if accepted.holds {
        format!("in force on {programmed} of {nodes} nodes")
    } else {
        "not in force as it is".to_owned()
    };
    [accepted, Condition { kind: "Programmed", holds, reason, message }]
}

/// Whether agents use it. `otherwise` is the reason why not, as its kind calls it.
fn accepted(refused: Option<&String>, otherwise: &'static str) -> Condition {
    match refused {
        Some(why) => Condition { kind: "Accepted", holds: false, reason: otherwise, message: shortened(why) },
        None => Condition { kind: "Accepted", holds: true, reason: "Accepted", message: String::new() },
    }
}

/// The status that is to be written; none where it is there.
fn status(object: &Object, wanted: &[Condition], programmed: usize, nodes: usize) -> Option<Value> {
    if are_said(&object.status, wanted, object.generation) {
        return None;
    }
    let programmed = if wanted.iter().any(|condition| condition.kind == "Accepted" && condition.holds) {
        programmed
    } else {
        0
    };
    let conditions = said(&object.status, wanted, object.generation);
    Some(json!({"conditions": conditions, "nodes": format!("{programmed}/{nodes}")}))
}

/// Whether these conditions are among those that there are.
fn are_said(there: &Value, wanted: &[Condition], generation: i64) -> bool {
    wanted.iter().all(|condition| {
        known(there, condition.kind).is_some_and(|known| {
            known["status"] == word(condition.holds)
                && known["reason"] == condition.reason
                && known["message"] == condition.message.as_str()
                && known["observedGeneration"] == generation
        })
    })
}

/// The conditions as they are to be written. One that holds as it did keeps its time.
fn said(there: &Value, wanted: &[Condition], generation: i64) -> Value {
    let now = json!(MicroTime(Timestamp::now()).0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let conditions = wanted.iter().map(|Condition { kind, holds, reason, message }| {
        let since = known(there, kind).filter(|known| known["status"] == word(*holds));
        let since = since.and_then(|known| known.get("lastTransitionTime")).unwrap_or(&now);
        json!({
            "type": kind, "status": word(*holds), "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": since,
        })
    });
    conditions.collect()
}

fn known<'a>(there: &'a Value, kind: &str) -> Option<&'a Value> {
    there.as_array().into_iter().flatten().find(|known| known["type"] == kind)
}

fn word(holds: bool) -> &'static str {
    if holds { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::{status, wanted};
    use crate::dialect::KINDS;
    use crate::kubernetes::Object;

    fn object(conditions: &serde_json::Value) -> Object {
        let object = json!({
            "apiVersion": "redial.dev/v1alpha1",
            "kind": "RetryPolicy",
            "metadata": {"name": "a", "namespace": "shop", "generation": 2},
            "spec": {},
            "status": {"conditions": conditions},
        });
        Object::new(&KINDS[0], serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn conditions_say_what_is_wrong_and_where_it_holds() {
        let why = "spec.http.numRetries: expected a whole number, found -1".to_owned();
        let fresh = object(&json!(null));
        let told = |refused, programmed, nodes| {
            let wanted = wanted(refused, programmed, nodes);
            let status = status(&fresh, &wanted, programmed, nodes).unwrap();
            let conditions = status["conditions"].as_array().unwrap();
            let short = |condition: &serde_json::Value| {
                format!("{} {} {}", condition["status"], condition["reason"], condition["message"])
                    .replace('"', "")
            };
            (short(&conditions[0]), short(&conditions[1]), status["nodes"].as_str().unwrap().to_owned())
        };
        assert_eq!(
            told(None, 1, 2),
            (
                "True Accepted ".to_owned(),
                "False Pending in force on 1 of 2 nodes".to_owned(),
                "1/2".to_owned()
            )
        );
        assert_eq!(told(None, 2, 2).1, "True Programmed in force on 2 of 2 nodes");
        assert_eq!(told(None, 0, 0).1, "False Pending in force on 0 of 0 nodes");
        let (accepted, programmed, nodes) = told(Some(&why), 2, 2);
        assert_eq!(accepted, format!("False Invalid {why}"));
        assert_eq!((&*programmed, &*nodes), ("False Invalid not in force as it is", "0/2"));
    }

    #[test]
    fn what_is_there_is_not_written_again_and_keeps_its_time() {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "observedGeneration": 2, "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let there = json!([
            condition("Accepted", "True", "Accepted", ""),
            condition("Programmed", "False", "Pending", "in force on 1 of 2 nodes"),
        ]);
        let mut known = object(&there);
        assert_eq!(status(&known, &wanted(None, 1, 2), 1, 2), None);
        let next = status(&known, &wanted(None, 2, 2), 2, 2).unwrap();
        assert_eq!(next["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_ne!(next["conditions"][1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        known.generation = 3;
        let next = status(&known, &wanted(None, 1, 2), 1, 2).unwrap();
        assert_eq!(next["conditions"][1]["observedGeneration"], 3);
        known.status = Arc::new(json!("odd"));
        assert!(status(&known, &wanted(None, 1, 2), 1, 2).is_some());
    }
}
