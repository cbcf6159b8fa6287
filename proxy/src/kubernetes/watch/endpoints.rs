//! The watches of the Services that policies name, and of their endpoints: in the namespaces that have one, and no others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service as ServiceObject};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::super::services::{SERVICE_NAME, Services};
use super::{DISCOVERY_PAUSE, Event, Input, State, Told, failed, follow, forward, recovered};
use crate::policy::Host;

/// The label of a node that says which zone it is in.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Up to so many Services of a namespace are asked for by name, so that the requests stay short.
const MAX_SELECTED: usize = 32;
const NODES: &str = "nodes";

pub(super) struct ServiceWatches {
    client: Client,
    state: watch::Sender<State>,
    input: mpsc::Sender<Input>,
    services: Services,
    /// What was asked for last.
    hosts: BTreeSet<Host>,
    namespaces: HashMap<String, Watched>,
    runs: u64,
}

struct Watched {
    names: BTreeSet<String>,
    run: Run,
    tasks: [AbortHandle; 2],
}

/// One watch of a namespace: what an earlier one had sent says nothing of what a later one is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    namespace: Arc<str>,
    number: u64,
}

impl ServiceWatches {
    pub(super) fn new(
        client: Client,
        node: String,
        state: watch::Sender<State>,
        input: mpsc::Sender<Input>,
    ) -> Self {
        tokio::spawn(find_zone(client.clone(), node.clone(), state.clone(), input.clone()));
        Self {
            client,
            state,
            input,
            services: Services::new(node),
            hosts: BTreeSet::new(),
            namespaces: HashMap::new(),
            runs: 0,
        }
    }

    /// The names of these Services are needed from now on.
    pub(super) fn need(&mut self, hosts: BTreeSet<Host>) -> Option<Event> {
        let names = self.services.need(&hosts);
        self.hosts = hosts;
        self.watch(names);
        self.changes()
    }

    /// The node's zone says which endpoints are meant for it.
    pub(super) fn is_in_zone(&mut self, zone: String) {
        tracing::info!(zone, "the zone of this node");
        self.services.is_in_zone(zone);
        let names = self.services.need(&self.hosts);
        // They are told once more.
        self.watch(BTreeMap::new());
        self.watch(names);
    }

    pub(super) fn of_services(&mut self, run: &Run, told: Told<ServiceObject>) -> Option<Event> {
        if self.is_current(run) {
            match told {
                Told::Is(object) => self.services.is(&object),
                Told::Gone(object) => self.services.gone(&object),
                Told::All(there) => self.services.only(&run.namespace, &there),
                Told::Failed => {}
            }
        }
        self.changes()
    }

    pub(super) fn of_slices(&mut self, run: &Run, told: Told<EndpointSlice>) -> Option<Event> {
        if self.is_current(run) {
            match told {
                Told::Is(object) => self.services.is_slice(&object),
                Told::Gone(object) => self.services.slice_gone(&object),
                Told::All(there) => self.services.only_slices(&run.namespace, &there),
                Told::Failed => {}
            }
        }
        self.changes()
    }

    fn changes(&mut self) -> Option<Event> {
        let changes = self.services.take_changes();
        (!changes.is_empty()).then_some(Event::Services(changes))
    }

    fn is_current(&self, run: &Run) -> bool {
        self.namespaces.get(&*run.namespace).is_some_and(|watched| watched.run == *run)
    }

    /// Watches these Services, by namespace, and no others.
    fn watch(&mut self, names: BTreeMap<String, BTreeSet<String>>) {
        self.namespaces.retain(|namespace, watched| {
            let keep = names.get(namespace) == Some(&watched.names);
            if !keep {
                for (task, kind) in watched.tasks.iter().zip(kinds(namespace)) {
                    task.abort();
                    recovered(&self.state, &kind);
                }
            }
            keep
        });
        for (namespace, names) in names {
            if !self.namespaces.contains_key(&namespace) {
                self.runs += 1;
                let run = Run { namespace: Arc::from(&*namespace), number: self.runs };
                let tasks = self.start(&run, &names);
                self.namespaces.insert(namespace, Watched { names, run, tasks });
            }
        }
    }

    fn start(&self, run: &Run, names: &BTreeSet<String>) -> [AbortHandle; 2] {
        let (mut of_services, mut of_slices) = (watcher::Config::default(), watcher::Config::default());
        if names.len() <= MAX_SELECTED {
            let list: Vec<_> = names.iter().map(String::as_str).collect();
            of_slices = of_slices.labels(&format!("{SERVICE_NAME} in ({})", list.join(",")));
            // There is no such list of names themselves.
            if let [name] = &*list {
                of_services = of_services.fields(&format!("metadata.name={name}"));
            }
        }
        let [services_kind, slices_kind] = kinds(&run.namespace);
        let services: Api<ServiceObject> = Api::namespaced(self.client.clone(), &run.namespace);
        let services = watcher(services, of_services);
        let services = follow(services_kind, services, |one| one.metadata.name.clone(), self.state.clone());
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &run.namespace);
        let slices = watcher(slices, of_slices);
        let slices = follow(slices_kind, slices, |one| one.metadata.name.clone(), self.state.clone());
        let (one, other) = (run.clone(), run.clone());
        let services =
            forward(services, move |told| Input::Services(one.clone(), Box::new(told)), self.input.clone());
        let slices =
            forward(slices, move |told| Input::Slices(other.clone(), Box::new(told)), self.input.clone());
        [tokio::spawn(services).abort_handle(), tokio::spawn(slices).abort_handle()]
    }
}

/// What the health of a namespace's watches goes by.
fn kinds(namespace: &str) -> [String; 2] {
    ["services", "endpointslices"].map(|kind| format!("{kind} in {namespace}"))
}

/// A node does not move to another zone.
async fn find_zone(client: Client, node: String, state: watch::Sender<State>, input: mpsc::Sender<Input>) {
    let nodes: Api<Node> = Api::all(client);
    loop {
        match nodes.get_metadata(&node).await {
            Ok(node) => {
                recovered(&state, NODES);
                let zone = node.metadata.labels.and_then(|mut labels| labels.remove(ZONE));
                if let Some(zone) = zone {
                    // Nobody listens when the agent ends.
                    let _ = input.send(Input::Zone(zone)).await;
                }
                return;
            }
            Err(error) => failed(&state, NODES, &error),
        }
        sleep(DISCOVERY_PAUSE).await;
    }
}
