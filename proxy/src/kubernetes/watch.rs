//! The thread that watches the API server.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod as Pods};
use kube::api::{ApiResource, ObjectMeta, PartialObjectMeta};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Object;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config};
use serde::{Deserialize, Serialize};
use tokio::runtime;
use tokio::sync::{mpsc, watch};

use super::roster::{Change, Pod, Roster, Word};
use super::{KubernetesError, PodUid, REQUEST_TIMEOUT, Settings};

/// How many changes may wait for the intake thread. The watches wait then, and the API server with them.
const MAX_CHANGES: usize = 1024;
/// The annotation of a static pod with the hash of its manifest.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// What the API says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Pods(Change),
    /// Everything that there was at the beginning has been told.
    Synced,
}

/// How the watches do. A clone is the same.
#[derive(Clone, Debug)]
pub struct Health(watch::Receiver<State>);

#[derive(Clone, Debug, Default)]
struct State {
    failures: u64,
    /// What the latest failure was, of each kind of object whose watch is failing now.
    failing: BTreeMap<&'static str, String>,
}

impl Health {
    /// How often a watch has failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.0.borrow().failures
    }

    /// The kinds whose watch is failing, and why.
    #[must_use]
    pub fn failing(&self) -> BTreeMap<&'static str, String> {
        self.0.borrow().failing.clone()
    }
}

/// The parts of a pod that are needed. Whatever else it has is not kept.
type PodObject = Object<PodSpec, PodStatus>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    host_network: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
}

/// Starts watching. The thread ends when the receiver is dropped.
pub fn start(settings: &Settings) -> Result<(mpsc::Receiver<Event>, Health), KubernetesError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(KubernetesError::Thread)?;
    let client = runtime.block_on(client(settings))?;
    let (events, receiver) = mpsc::channel(MAX_CHANGES);
    let (state, health) = watch::channel(State::default());
    let watches = Watches {
        client,
        node: settings.node.clone(),
        roster: Roster::new(settings.selector.clone()),
        events,
        state,
    };
    thread::Builder::new()
        .name("kubernetes".to_owned())
        .spawn(move || runtime.block_on(watches.run()))
        .map_err(KubernetesError::Thread)?;
    Ok((receiver, Health(health)))
}

async fn client(settings: &Settings) -> Result<Client, KubernetesError> {
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let failed = |source| KubernetesError::Kubeconfig { path: path.clone(), source };
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => Config::infer().await?,
    };
    config.connect_timeout = Some(REQUEST_TIMEOUT);
    config.write_timeout = Some(REQUEST_TIMEOUT);
    Client::try_from(config).map_err(KubernetesError::Client)
}

struct Watches {
    client: Client,
    node: String,
    roster: Roster,
    events: mpsc::Sender<Event>,
    state: watch::Sender<State>,
}

/// What a watch of one kind tells.
enum Told<K> {
    Is(K),
    Gone(K),
    /// The objects of these keys are all that there are.
    All(HashSet<String>),
}

impl Watches {
    async fn run(mut self) {
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let pods: Api<PodObject> = Api::all_with(self.client.clone(), &ApiResource::erase::<Pods>(&()));
        let pods = follow("pods", watcher(pods, of_node), uid, self.state.clone());
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let namespaces = watcher(namespaces, watcher::Config::default());
        let namespaces = follow("namespaces", namespaces, name, self.state.clone());
        let (mut pods, mut namespaces) = (pin!(pods), pin!(namespaces));
        let (mut has_pods, mut has_namespaces, mut is_synced) = (false, false, false);
        loop {
            let changes = tokio::select! {
                Some(told) = pods.next() => {
                    has_pods |= matches!(told, Told::All(_));
                    of_pods(&mut self.roster, told)
                }
                Some(told) = namespaces.next() => {
                    has_namespaces |= matches!(told, Told::All(_));
                    of_namespaces(&mut self.roster, told)
                }
                () = self.events.closed() => return,
            };
            let just_synced = has_pods && has_namespaces && !is_synced;
            is_synced |= just_synced;
            for event in changes.into_iter().map(Event::Pods).chain(just_synced.then_some(Event::Synced)) {
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What a watch tells, for ever: after a failure it begins again, after a pause, and what was known stays known until it
/// has all of it anew.
fn follow<K: Debug>(
    kind: &'static str,
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    key: fn(&K) -> Option<String>,
    state: watch::Sender<State>,
) -> impl Stream<Item = Told<K>> {
    let mut there = HashSet::new();
    let pauses = watcher::DefaultBackoff::default();
    events.backoff(pauses).filter_map(move |event| {
        let told = match event {
            Ok(event) => {
                recovered(&state, kind);
                match event {
                    watcher::Event::Init => {
                        there.clear();
                        None
                    }
                    watcher::Event::InitApply(object) => {
                        there.extend(key(&object));
                        Some(Told::Is(object))
                    }
                    watcher::Event::InitDone => Some(Told::All(std::mem::take(&mut there))),
                    watcher::Event::Apply(object) => Some(Told::Is(object)),
                    watcher::Event::Delete(object) => Some(Told::Gone(object)),
                }
            }
            Err(error) => {
                failed(&state, kind, &error);
                None
            }
        };
        ready(told)
    })
}

fn recovered(state: &watch::Sender<State>, kind: &'static str) {
    state.send_if_modified(|state| {
        let was_failing = state.failing.remove(kind).is_some();
        if was_failing {
            tracing::info!(kind, "the API server answers again");
        }
        was_failing
    });
}

fn failed(state: &watch::Sender<State>, kind: &'static str, error: &watcher::Error) {
    state.send_modify(|state| {
        state.failures += 1;
        if state.failing.insert(kind, error.to_string()).is_none() {
            tracing::warn!(kind, %error, "cannot watch; what is known holds");
        }
    });
}

fn uid(pod: &PodObject) -> Option<String> {
    pod.metadata.uid.clone()
}

fn name(namespace: &PartialObjectMeta<Namespace>) -> Option<String> {
    namespace.metadata.name.clone()
}

fn of_pods(roster: &mut Roster, told: Told<PodObject>) -> Vec<Change> {
    match told {
        Told::Is(object) => match pod(object) {
            // A pod that has ended has no process left, and its name may be another's soon.
            Some((pod, true)) => roster.pod_gone(pod.uid).into_iter().collect(),
            Some((pod, false)) => roster.pod(pod).into_iter().collect(),
            None => Vec::new(),
        },
        Told::Gone(object) => pod(object).and_then(|(pod, _)| roster.pod_gone(pod.uid)).into_iter().collect(),
        Told::All(there) => roster.only_pods(&there.iter().filter_map(|uid| PodUid::parse(uid)).collect()),
    }
}

fn of_namespaces(roster: &mut Roster, told: Told<PartialObjectMeta<Namespace>>) -> Vec<Change> {
    match told {
        Told::Is(PartialObjectMeta { metadata, .. }) => {
            let says = word("namespace", &metadata);
            metadata.name.map(|name| roster.namespace(&name, says)).unwrap_or_default()
        }
        Told::Gone(PartialObjectMeta { metadata, .. }) => {
            metadata.name.map(|name| roster.namespace(&name, Word::Nothing)).unwrap_or_default()
        }
        Told::All(there) => roster.only_namespaces(&there),
    }
}

/// A pod, and whether it has ended. None where the API server sends what is no pod.
fn pod(object: PodObject) -> Option<(Pod, bool)> {
    let PodObject { types: _, metadata, spec, status } = object;
    let says = word("pod", &metadata);
    let hash = metadata.annotations.as_ref().and_then(|annotations| annotations.get(CONFIG_HASH));
    let uid = metadata.uid.as_deref().and_then(PodUid::parse);
    let pod = Pod {
        uid: uid?,
        // A static pod's cgroup is named by the hash of its manifest.
        cgroup: hash.and_then(|hash| PodUid::parse(hash)).or(uid)?,
        namespace: metadata.namespace?.into(),
        name: metadata.name?.into(),
        labels: Arc::new(metadata.labels.unwrap_or_default()),
        host_network: spec.host_network,
        says,
    };
    let phase = status.unwrap_or_default().phase;
    Some((pod, matches!(phase.as_str(), "Succeeded" | "Failed")))
}

fn word(kind: &str, metadata: &ObjectMeta) -> Word {
    Word::of(metadata.labels.as_ref(), metadata.annotations.as_ref()).unwrap_or_else(|error| {
        tracing::warn!(namespace = metadata.namespace, name = metadata.name, "{kind}: {error}");
        Word::No
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Change, PodObject, Roster, Told, Word, of_pods, pod};

    fn object(status: &str) -> PodObject {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "web-0",
                "namespace": "shop",
                "uid": "0c9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4c5",
                "labels": {"app": "web"},
                "annotations": {"redial.dev/enroll": "true"},
            },
            "spec": {"hostNetwork": true, "containers": [{"name": "web"}]},
            "status": {"phase": status, "podIP": "10.0.0.1"},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_is_needed_of_a_pod_is_read() {
        let (pod, has_ended) = pod(object("Pending")).unwrap();
        assert_eq!(pod.to_string(), "shop/web-0");
        assert_eq!(pod.uid, pod.cgroup);
        assert!(pod.host_network && pod.says == Word::Yes && !has_ended);
        assert_eq!(pod.identity().namespace.as_deref(), Some("shop"));
        assert_eq!(pod.identity().labels.get("app").map(|value| &**value), Some("web"));
    }

    #[test]
    fn a_static_pods_cgroup_has_the_hash_of_its_manifest() {
        let mut object = object("Running");
        let hash = "0123456789abcdef0123456789abcdef";
        object.metadata.annotations =
            Some([("kubernetes.io/config.hash".to_owned(), hash.to_owned())].into());
        let (pod, _) = pod(object).unwrap();
        assert_eq!(pod.cgroup, super::PodUid::parse(hash).unwrap());
        assert_ne!(pod.uid, pod.cgroup);
    }

    #[test]
    fn a_pod_that_has_ended_leaves() {
        let mut roster = Roster::default();
        let changes = of_pods(&mut roster, Told::Is(object("Running")));
        assert!(matches!(&changes[..], [Change::Enrol(_)]));
        let changes = of_pods(&mut roster, Told::Is(object("Succeeded")));
        assert!(matches!(&changes[..], [Change::Leave(_)]));
        assert_eq!(of_pods(&mut roster, Told::Gone(object("Succeeded"))), []);
    }
}
