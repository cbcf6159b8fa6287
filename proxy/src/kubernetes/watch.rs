//! The thread that watches the API server: pods, namespaces, and policy objects of the kinds that the cluster has.

mod endpoints;
pub mod pods;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::future::ready;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod as Pods, Service as ServiceObject};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, ObjectMeta, PartialObjectMeta};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config, discovery};
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use self::endpoints::{Run, ServiceWatches};
use self::pods::{PodObject, of_namespaces, of_pods, uid};
use super::objects::{Object, Objects};
use super::roster::{Change, Roster};
use super::status::{self, Report};
use super::{KubernetesError, REQUEST_TIMEOUT, Settings};
use crate::dialect::Kind;
use crate::endpoint::Service;
use crate::observe::logging::describe;
use crate::policy::Host;

/// How many changes may wait for the intake thread. The watches wait then, and the API server with them.
const MAX_CHANGES: usize = 1024;
/// Objects that change together, as when they are applied together, are told together.
const SETTLE: Duration = Duration::from_millis(100);
/// How long to wait for a kind that has a CRD already and is not served yet.
const DISCOVERY_PAUSE: Duration = Duration::from_secs(2);
/// How long a watch counts as failing after a failure: it is tried again at least twice as often.
const FAILURE_HOLDS: Duration = Duration::from_secs(90);

/// What the API says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Pods(Change),
    /// All policy objects that there are.
    Objects(Arc<[Object]>),
    /// What names of Services have come to stand for; none: there is no such Service.
    Services(Vec<(Host, Option<Arc<Service>>)>),
    /// Everything that there was at the beginning has been told.
    Synced,
}

/// The cluster, as the intake thread has it.
pub struct Cluster {
    pub events: mpsc::Receiver<Event>,
    pub health: Health,
    /// What has become of the objects, for their status.
    pub reports: watch::Sender<Report>,
    /// The names of Services that policies need to know.
    pub needed: watch::Sender<BTreeSet<Host>>,
}

/// How the watches do. A clone is the same.
#[derive(Clone, Debug)]
pub struct Health(watch::Receiver<State>);

#[derive(Clone, Debug, Default)]
struct State {
    failures: u64,
    /// The latest failure of each kind of object of which nothing was heard since.
    failing: BTreeMap<String, Failure>,
}

#[derive(Clone, Debug)]
struct Failure {
    why: String,
    at: Instant,
}

impl Failure {
    /// A watch of what does not change tells nothing when it works again, but it no longer fails.
    fn is_now(&self) -> bool {
        self.at.elapsed() < FAILURE_HOLDS
    }
}

impl Health {
    /// How often a watch has failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.0.borrow().failures
    }

    /// The kinds whose watch is failing, and why.
    #[must_use]
    pub fn failing(&self) -> BTreeMap<String, String> {
        let state = self.0.borrow();
        let failing = state.failing.iter().filter(|(_, failure)| failure.is_now());
        failing.map(|(kind, failure)| (kind.clone(), failure.why.clone())).collect()
    }
}

/// Starts watching. The thread ends when the receiver of events is dropped.
pub fn start(settings: &Settings) -> Result<Cluster, KubernetesError> {
    let (events, receiver) = mpsc::channel(MAX_CHANGES);
    let (state, health) = watch::channel(State::default());
    let (reports, report) = watch::channel(Report::default());
    let (needed, needs) = watch::channel(BTreeSet::new());
    let (started, has_started) = sync_channel(1);
    let settings = settings.clone();
    let run = move |runtime: runtime::Runtime| {
        runtime.block_on(async {
            // Nothing is sent yet: what fails here is what the configuration says.
            let client = match client(&settings).await {
                Ok(client) => client,
                Err(error) => return drop(started.send(Err(error))),
            };
            drop(started.send(Ok(())));
            tokio::spawn(status::write(client.clone(), settings.clone(), report));
            Watches::new(client, settings, events, state, needs).run().await;
        });
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(KubernetesError::Thread)?;
    let thread = thread::Builder::new().name("kubernetes".to_owned());
    thread.spawn(move || run(runtime)).map_err(KubernetesError::Thread)?;
    has_started.recv().map_err(|error| KubernetesError::Thread(io::Error::other(error)))??;
    Ok(Cluster { events: receiver, health: Health(health), reports, needed })
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

/// What a watch of one kind tells.
#[derive(Debug)]
pub enum Told<K> {
    Is(K),
    Gone(K),
    /// The objects of these keys are all that there are.
    All(HashSet<String>),
    /// It cannot be watched now.
    Failed,
}

/// What the watches tell.
enum Input {
    Pods(Told<PodObject>),
    Namespaces(Told<PartialObjectMeta<Namespace>>),
    Crds(Told<PartialObjectMeta<CustomResourceDefinition>>),
    Objects(&'static Kind, Told<DynamicObject>),
    Services(Run, Box<Told<ServiceObject>>),
    Slices(Run, Box<Told<EndpointSlice>>),
    /// The zone that the node is in.
    Zone(String),
}

struct Watches {
    client: Client,
    settings: Settings,
    events: mpsc::Sender<Event>,
    state: watch::Sender<State>,
    input: mpsc::Sender<Input>,
    inputs: mpsc::Receiver<Input>,
    roster: Roster,
    objects: Objects,
    services: ServiceWatches,
    needs: watch::Receiver<BTreeSet<Host>>,
    /// When the objects are told, where they have changed.
    tell_objects: Option<Instant>,
    /// The kinds that are watched.
    kinds: HashMap<String, AbortHandle>,
    /// What has not been told for the first time yet.
    pending: HashSet<String>,
    is_synced: bool,
}

const PODS: &str = "pods";
const NAMESPACES: &str = "namespaces";
const CRDS: &str = "customresourcedefinitions";

impl Watches {
    fn new(
        client: Client,
        settings: Settings,
        events: mpsc::Sender<Event>,
        state: watch::Sender<State>,
        needs: watch::Receiver<BTreeSet<Host>>,
    ) -> Self {
        let (input, inputs) = mpsc::channel(MAX_CHANGES);
        Self {
            services: ServiceWatches::new(
                client.clone(),
                settings.node.clone(),
                state.clone(),
                input.clone(),
            ),
            needs,
            client,
            roster: Roster::new(settings.selector.clone()),
            settings,
            events,
            state,
            input,
            inputs,
            objects: Objects::default(),
            tell_objects: None,
            kinds: HashMap::new(),
            pending: [PODS, NAMESPACES, CRDS].map(str::to_owned).into(),
            is_synced: false,
        }
    }

    async fn run(mut self) {
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", self.settings.node));
        let pods: Api<PodObject> = Api::all_with(self.client.clone(), &ApiResource::erase::<Pods>(&()));
        let pods = follow(PODS, watcher(pods, of_node), uid, self.state.clone());
        tokio::spawn(forward(pods, Input::Pods, self.input.clone()));
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let namespaces = watcher(namespaces, watcher::Config::default());
        let namespaces = follow(NAMESPACES, namespaces, |one| one.metadata.name.clone(), self.state.clone());
        tokio::spawn(forward(namespaces, Input::Namespaces, self.input.clone()));
        let crds: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(self.client.clone());
        let crds = watcher(crds, watcher::Config::default());
        let crds = follow(CRDS, crds, |one| one.metadata.name.clone(), self.state.clone());
        tokio::spawn(forward(crds, Input::Crds, self.input.clone()));
        loop {
            let settled = self.tell_objects.unwrap_or_else(Instant::now);
            let events = tokio::select! {
                Some(input) = self.inputs.recv() => self.take(input),
                () = sleep_until(settled), if self.tell_objects.is_some() => {
                    self.tell_objects = None;
                    vec![Event::Objects(self.objects.all())]
                }
                Ok(()) = self.needs.changed() => {
                    let needed = self.needs.borrow_and_update().clone();
                    self.services.need(needed).into_iter().collect()
                }
                () = self.events.closed() => return,
            };
            for event in events {
                if self.events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What the intake thread is told of this.
    fn take(&mut self, input: Input) -> Vec<Event> {
        let mut events = match input {
            Input::Pods(told) => {
                // Without its pods a node has nothing to do, so this is waited for.
                self.told_first(PODS, matches!(told, Told::All(_)));
                of_pods(&mut self.roster, told).into_iter().map(Event::Pods).collect()
            }
            Input::Namespaces(told) => {
                self.told_first(NAMESPACES, matches!(told, Told::All(_) | Told::Failed));
                of_namespaces(&mut self.roster, told).into_iter().map(Event::Pods).collect()
            }
            Input::Crds(told) => {
                let is_first = matches!(told, Told::All(_) | Told::Failed);
                self.of_crds(told);
                self.told_first(CRDS, is_first);
                Vec::new()
            }
            Input::Objects(kind, told) => {
                self.told_first(&kind.full_name(), matches!(told, Told::All(_) | Told::Failed));
                // What a watch had sent before its kind went does not count.
                if self.kinds.contains_key(&kind.full_name()) && self.of_objects(kind, told) {
                    self.tell_objects.get_or_insert_with(|| Instant::now() + SETTLE);
                }
                Vec::new()
            }
            Input::Services(run, told) => self.services.of_services(&run, *told).into_iter().collect(),
            Input::Slices(run, told) => self.services.of_slices(&run, *told).into_iter().collect(),
            Input::Zone(zone) => {
                self.services.is_in_zone(zone);
                Vec::new()
            }
        };
        if self.pending.is_empty() && !self.is_synced {
            self.is_synced = true;
            self.tell_objects = None;
            events.extend([Event::Objects(self.objects.all()), Event::Synced]);
        }
        if !self.is_synced {
            // All that there is at the beginning is told at once.
            self.tell_objects = None;
        }
        events
    }

    fn told_first(&mut self, kind: &str, has_told: bool) {
        if has_told {
            self.pending.remove(kind);
        }
    }

    fn of_crds(&mut self, told: Told<PartialObjectMeta<CustomResourceDefinition>>) {
        let wanted = |name: &str| Kind::of_crd(name).filter(|kind| self.settings.wants(kind));
        match told {
            Told::Is(crd) => {
                if let Some(kind) = crd.metadata.name.as_deref().and_then(wanted) {
                    self.watch(kind);
                }
            }
            Told::Gone(crd) => {
                if let Some(kind) = crd.metadata.name.as_deref().and_then(wanted) {
                    self.leave(kind);
                }
            }
            Told::All(there) => {
                let there: HashSet<_> =
                    there.iter().filter_map(|name| wanted(name)).map(Kind::full_name).collect();
                for kind in Kind::watched().filter(|kind| !there.contains(&kind.full_name())) {
                    self.leave(kind);
                }
            }
            Told::Failed => {}
        }
    }

    fn watch(&mut self, kind: &'static Kind) {
        let name = kind.full_name();
        if self.kinds.contains_key(&name) {
            return;
        }
        tracing::info!(kind = name, "policies of this kind are read");
        if !self.is_synced {
            self.pending.insert(name.clone());
        }
        let watch = watch_kind(self.client.clone(), kind, self.state.clone(), self.input.clone());
        self.kinds.insert(name, tokio::spawn(watch).abort_handle());
    }

    fn leave(&mut self, kind: &'static Kind) {
        let name = kind.full_name();
        let Some(watch) = self.kinds.remove(&name) else { return };
        tracing::info!(kind = name, "the cluster has no such kind any more");
        watch.abort();
        recovered(&self.state, &name);
        self.pending.remove(&name);
        if self.objects.only(kind, &HashSet::new()) {
            self.tell_objects.get_or_insert_with(|| Instant::now() + SETTLE);
        }
    }

    /// Says whether policies change by it.
    fn of_objects(&mut self, kind: &'static Kind, told: Told<DynamicObject>) -> bool {
        match told {
            Told::Is(object) => Object::new(kind, object).is_some_and(|object| self.objects.is(object)),
            Told::Gone(object) => {
                Object::new(kind, object).is_some_and(|object| self.objects.gone(&object.place))
            }
            Told::All(there) => self.objects.only(kind, &there),
            Told::Failed => false,
        }
    }
}

/// Watches the objects of a kind, as soon as it is served.
async fn watch_kind(
    client: Client,
    kind: &'static Kind,
    state: watch::Sender<State>,
    input: mpsc::Sender<Input>,
) {
    let name = kind.full_name();
    let resource = loop {
        match discovery::group(&client, kind.group).await {
            Ok(group) => {
                if let Some((resource, _)) = group.recommended_kind(kind.kind) {
                    recovered(&state, &name);
                    break resource;
                }
            }
            Err(error) => failed(&state, &name, &error),
        }
        if input.send(Input::Objects(kind, Told::Failed)).await.is_err() {
            return;
        }
        sleep(DISCOVERY_PAUSE).await;
    };
    let objects: Api<DynamicObject> = Api::all_with(client, &resource);
    let place = move |object: &DynamicObject| {
        let ObjectMeta { name, namespace, .. } = &object.metadata;
        let place = kind.place(namespace.as_deref().unwrap_or_default(), name.as_deref()?);
        Some(place.to_string_lossy().into_owned())
    };
    let objects = follow(&name, watcher(objects, watcher::Config::default()), place, state);
    forward(objects, move |told| Input::Objects(kind, told), input).await;
}

async fn forward<K>(
    told: impl Stream<Item = Told<K>>,
    wrap: impl Fn(Told<K>) -> Input,
    input: mpsc::Sender<Input>,
) {
    let mut told = pin!(told);
    while let Some(told) = told.next().await {
        if input.send(wrap(told)).await.is_err() {
            return;
        }
    }
}

/// What a watch tells, for ever: after a failure it begins again, after a pause, and what was known stays known until it
/// has all of it anew.
fn follow<K: Debug, E: Stream<Item = Result<watcher::Event<K>, watcher::Error>>>(
    kind: impl Into<String>,
    events: E,
    key: impl Fn(&K) -> Option<String>,
    state: watch::Sender<State>,
) -> impl Stream<Item = Told<K>> {
    let (mut there, kind) = (HashSet::new(), kind.into());
    let pauses = watcher::DefaultBackoff::default();
    events.backoff(pauses).filter_map(move |event| {
        let told = match event {
            Ok(event) => {
                recovered(&state, &kind);
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
                failed(&state, &kind, &error);
                Some(Told::Failed)
            }
        };
        ready(told)
    })
}

fn recovered(state: &watch::Sender<State>, kind: &str) {
    state.send_if_modified(|state| {
        let was_failing = state.failing.remove(kind).is_some_and(|failure| failure.is_now());
        if was_failing {
            tracing::info!(kind, "the API server answers again");
        }
        was_failing
    });
}

fn failed(state: &watch::Sender<State>, kind: &str, error: &(impl std::error::Error + 'static)) {
    state.send_modify(|state| {
        state.failures += 1;
        let failure = Failure { why: describe(error), at: Instant::now() };
        let before = state.failing.insert(kind.to_owned(), failure);
        if !before.is_some_and(|before| before.is_now()) {
            tracing::warn!(kind, error = describe(error), "cannot watch; what is known holds");
        }
    });
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::sync::watch;
    use tokio::time::advance;

    use super::{FAILURE_HOLDS, Health, State, failed, recovered};

    #[tokio::test(start_paused = true)]
    async fn a_watch_fails_until_it_tells_something_or_fails_no_more() {
        let (state, receiver) = watch::channel(State::default());
        let health = Health(receiver);
        let fail = |kind| failed(&state, kind, &io::Error::other("no answer"));
        fail("pods");
        fail("namespaces");
        assert_eq!(health.failing().into_keys().collect::<Vec<_>>(), ["namespaces", "pods"]);
        recovered(&state, "pods");
        assert_eq!(health.failing().into_keys().collect::<Vec<_>>(), ["namespaces"]);
        advance(FAILURE_HOLDS / 2).await;
        fail("pods");
        advance(FAILURE_HOLDS / 2).await;
        assert_eq!(health.failing()["pods"], "no answer");
        assert_eq!((health.failing().len(), health.failures()), (1, 3));
        advance(FAILURE_HOLDS / 2).await;
        assert_eq!(health.failing().len(), 0);
    }
}
