//! A node's pods: each is enrolled when both the API has named it and its cgroup is there, whichever comes first.

use super::{
    Agent, AgentError,
    enrolment::{Enrolment, Workload},
    node::Node,
};
use crate::{
    dialect::{ObjectText, Problem},
    intercept::NetworkNamespace,
    kubernetes::{
        self, Change, Cluster, KubernetesError, Object, Pod, PodUid, Report,
        cgroups::{PodCgroups, Seen},
    },
    observe::{Metrics, status::KubernetesStatus},
    policy::Host,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::pending,
    path::Path,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How often a pod that has no process yet, and one that is about to enter its network namespace, is looked at.
const WAIT_FOR_PROCESS: Duration = Duration::from_millis(20);
const WAIT_FOR_NAMESPACE: Duration = Duration::from_millis(2);
/// A sandbox whose processes have not entered a namespace of their own by then has a runtime of its own kind: what it does
/// later is found as any namespace is.
const NAMESPACE_PATIENCE: Duration = Duration::from_secs(30);
const PROCESS_PATIENCE: Duration = Duration::from_mins(10);

/// What is said of an object that was right once, beside what is wrong with it now.
const HOLDS: &str = "; what it said before stays in force";

/// What the API and the cgroups have told of this node's pods.
pub(super) struct Pods {
    cluster: Cluster,
    cgroups: PodCgroups,
    /// The policy objects that the API has.
    objects: Arc<[Object]>,
    /// Why, of each of them that is not in force as it is.
    refused: BTreeMap<Arc<Path>, String>,
    /// What is in force of each of them.
    good: BTreeMap<Arc<Path>, Arc<str>>,
    /// By the name of their cgroups.
    wanted: HashMap<PodUid, Pod>,
    enrolled: HashMap<PodUid, u64>,
    /// When each cgroup was seen that came after the first look.
    appeared: HashMap<PodUid, Instant>,
    is_synced: bool,
    /// Another agent of this node enrols pods in this one's place.
    has_stood_down: bool,
}

/// Something that [`Pods::next`] has seen.
pub(super) enum Event {
    Api(kubernetes::Event),
    Cgroups(Vec<Seen>),
}

impl Pods {
    pub(super) fn start(settings: &kubernetes::Settings, mount: &Path) -> Result<Self, KubernetesError> {
        let cgroups = PodCgroups::watch(mount).map_err(KubernetesError::Cgroups)?;
        Ok(Self {
            cluster: kubernetes::start(settings)?,
            cgroups,
            objects: Arc::default(),
            refused: BTreeMap::new(),
            good: BTreeMap::new(),
            wanted: HashMap::new(),
            enrolled: HashMap::new(),
            appeared: HashMap::new(),
            is_synced: false,
            has_stood_down: false,
        })
    }

    pub(super) fn status(&self, node: &str) -> KubernetesStatus {
        let failing = self.cluster.health.failing().into_iter();
        KubernetesStatus {
            node: node.to_owned(),
            synced: self.is_synced,
            stood_down: self.has_stood_down,
            failing: failing.collect(),
            refused: self
                .refused
                .iter()
                .map(|(place, why)| (place.display().to_string(), why.clone()))
                .collect(),
        }
    }

    /// The policy objects as documents.
    pub(super) fn documents(&self) -> Vec<ObjectText> {
        let text = |object: &Object| ObjectText {
            place: Arc::clone(&object.place),
            text: Arc::clone(&object.text),
            good: self.good.get(&object.place).map(Arc::clone),
        };
        self.objects.iter().map(text).collect()
    }

    pub(super) fn objects(&self) -> &Arc<[Object]> {
        &self.objects
    }

    /// These objects were looked at, this is what is wrong with some of them, and this is in force.
    pub(super) fn report(
        &mut self,
        objects: Arc<[Object]>,
        problems: Vec<Problem>,
        good: BTreeMap<Arc<Path>, Arc<str>>,
    ) {
        let mut refused = BTreeMap::<_, String>::new();
        for Problem { file, line: _, field, message } in problems {
            let why = field.map_or_else(|| message.clone(), |field| format!("{field}: {message}"));
            let all = refused.entry(file).or_default();
            if !all.is_empty() {
                all.push_str("; ");
            }
            all.push_str(&why);
        }
        for (_, why) in refused.iter_mut().filter(|(place, _)| good.contains_key(*place)) {
            why.push_str(HOLDS);
        }
        for (place, why) in refused.iter().filter(|(place, why)| self.refused.get(*place) != Some(*why)) {
            tracing::warn!(object = %place.display(), error = why, "this object is not in force as it is");
        }
        self.refused.clone_from(&refused);
        self.good = good;
        self.cluster.reports.send_replace(Report { objects, refused });
    }

    /// These names of Services are what policies need to know.
    pub(super) fn need(&self, services: BTreeSet<Host>) {
        self.cluster.needed.send_replace(services);
    }

    /// Tells the metrics how the watches do.
    pub(super) fn count(&self, metrics: &Metrics) {
        let held = self.refused.keys().filter(|place| self.good.contains_key(*place)).count();
        metrics.objects_refused(self.refused.len(), held);
        metrics.watches_failing(self.cluster.health.failing().len(), self.cluster.health.failures());
    }

    pub(super) fn has_stood_down(&self) -> bool {
        self.has_stood_down
    }

    /// What there is next. Cancel safe.
    async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            seen = self.cgroups.next() => match seen {
                Ok(seen) => Event::Cgroups(seen),
                Err(error) => {
                    tracing::error!(%error, "cannot read what has become of cgroups; looking again");
                    sleep(Duration::from_secs(1)).await;
                    Event::Cgroups(self.cgroups.look())
                }
            },
            Some(event) = self.cluster.events.recv() => Event::Api(event),
        }
    }
}

/// What there is next of a node's pods, if it is a node's; else nothing, ever.
pub(super) async fn next(pods: &mut Option<Pods>) -> Event {
    match pods {
        Some(pods) => pods.next().await,
        None => pending().await,
    }
}

impl Agent {
    pub(super) fn pods_changed(&mut self, event: Event) {
        let Some(pods) = &mut self.pods else { return };
        match event {
            Event::Api(kubernetes::Event::Synced) => {
                pods.is_synced = true;
                tracing::info!(enrolled = pods.enrolled.len(), "this node's pods are known");
                self.announce_node();
            }
            Event::Api(kubernetes::Event::Objects(objects)) => {
                pods.objects = objects;
                self.reload();
            }
            Event::Api(kubernetes::Event::Services(changes)) => {
                for (host, service) in changes {
                    self.node.names().learn_service(&host, service);
                }
            }
            Event::Api(kubernetes::Event::Pods(Change::Enrol(pod))) => {
                if let Some(cgroup) = pods.enrolled.get(&pod.cgroup) {
                    self.node.identify(*cgroup, Arc::new(pod.identity()));
                }
                let uid = pod.cgroup;
                pods.wanted.insert(uid, pod);
                self.enrol_pod(uid);
            }
            Event::Api(kubernetes::Event::Pods(Change::Leave(uid))) => {
                let cgroup = pods.wanted.values().find(|pod| pod.uid == uid).map(|pod| pod.cgroup);
                let Some(pod) = cgroup.and_then(|cgroup| pods.wanted.remove(&cgroup)) else { return };
                if let Some(cgroup) = pods.enrolled.remove(&pod.cgroup) {
                    tracing::info!(%pod, "no longer enrolled");
                    self.node.hand_over(cgroup);
                }
            }
            Event::Cgroups(seen) => {
                for seen in seen {
                    self.cgroup_changed(seen);
                }
            }
        }
    }

    fn cgroup_changed(&mut self, seen: Seen) {
        let Some(pods) = &mut self.pods else { return };
        match seen {
            Seen::Appeared(uid) => {
                if pods.is_synced {
                    pods.appeared.insert(uid, Instant::now());
                }
                self.enrol_pod(uid);
            }
            Seen::Gone(uid) => {
                pods.appeared.remove(&uid);
                pods.enrolled.remove(&uid);
                drop(self.node.forget_gone());
            }
        }
    }

    /// Says that a node's agent is ready: when it knows the pods, and the policies that there were by then.
    pub(super) fn announce_node(&mut self) {
        let is_synced = self.pods.as_ref().is_some_and(|pods| pods.is_synced);
        if is_synced && self.loading.is_none() && !self.readiness.is_ready() {
            self.announce();
        }
    }

    /// Enrols the pod of this cgroup, if there is both and nobody else does.
    fn enrol_pod(&mut self, uid: PodUid) {
        let Some(pods) = &self.pods else { return };
        let (Some(pod), Some(path)) = (pods.wanted.get(&uid), pods.cgroups.get(uid)) else { return };
        if pods.has_stood_down || pods.enrolled.contains_key(&uid) {
            return;
        }
        let (pod, appeared) = (pod.clone(), pods.appeared.get(&uid).copied());
        let Ok(cgroup) = self.root.open(path) else { return };
        let id = cgroup.id();
        let had_processes = !cgroup.processes().is_empty();
        let workload = Workload {
            name: Arc::from(pod.to_string()),
            cgroup: Arc::from(cgroup.name()),
            identity: Some(Arc::new(pod.identity())),
        };
        let enrolled = NetworkNamespace::own()
            .map_err(AgentError::from)
            .and_then(|namespace| self.enrol_as(cgroup, workload, namespace));
        match enrolled {
            Ok(enrolment) => {
                self.node.metrics().pod_enrolled(appeared.map(|at| at.elapsed()), had_processes);
                tracing::info!(%pod, had_processes, "enrolled");
                if let Some(pods) = &mut self.pods {
                    pods.enrolled.insert(uid, id);
                }
                if !pod.host_network {
                    tokio::task::spawn_local(find_network(
                        Rc::downgrade(&self.node),
                        Rc::downgrade(&enrolment),
                    ));
                }
            }
            // Its connections go direct. The next change of the pod, or of its cgroup, tries again.
            Err(error) => tracing::error!(%pod, %error, "cannot enrol"),
        }
    }

    /// Another agent of this node enrols from now on. What this one has it serves until each is taken over.
    pub(super) fn stand_down(&mut self) -> bool {
        match &mut self.pods {
            Some(pods) => {
                pods.has_stood_down = true;
                tracing::info!("another agent of this node enrols its pods from now on");
                true
            }
            None => false,
        }
    }

    /// The other agent is not there any more.
    pub(super) fn stand_up(&mut self) {
        let Some(pods) = &mut self.pods else { return };
        pods.has_stood_down = false;
        let ids = self.node.enrolled_cgroups();
        pods.enrolled.retain(|_, id| ids.contains(id));
        tracing::warn!("the agent that took over is gone; enrolling again");
        for uid in pods.wanted.keys().copied().collect::<Vec<_>>() {
            self.enrol_pod(uid);
        }
    }
}

/// Opens the engine in a pod's network namespace as soon as its sandbox is in it: before a container starts.
async fn find_network(node: Weak<Node>, enrolment: Weak<Enrolment>) {
    let begun = Instant::now();
    let mut populated: Option<Instant> = None;
    loop {
        {
            let (Some(node), Some(enrolment)) = (node.upgrade(), enrolment.upgrade()) else { return };
            if enrolment.cgroup().is_populated() {
                enrolment.find_engines(&node);
                if enrolment.has_network_of_its_own() {
                    return;
                }
                populated.get_or_insert_with(Instant::now);
            }
        }
        let patience = populated.map_or(begun + PROCESS_PATIENCE, |at| at + NAMESPACE_PATIENCE);
        if Instant::now() >= patience {
            return;
        }
        sleep(if populated.is_some() { WAIT_FOR_NAMESPACE } else { WAIT_FOR_PROCESS }).await;
    }
}
