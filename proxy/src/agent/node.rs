//! What the intake thread knows: the programs, the policies in force, the workloads, and what happened so far.

use super::{
    Settings,
    clients::{Client, Clients},
    engine::{Bounds, Engine, EngineError},
    enrolment::{Enrolment, Workload},
    limits::{Limits, Share, Slot},
};
use crate::{
    endpoint::Names,
    http::replay::Buffers,
    intercept::{Attachment, Cgroup, InterceptError, NetworkNamespace, Original, Programs},
    observe::{
        AccessLog, Connection, Metrics, Observer, Status,
        status::{PolicyStatus, WorkloadStatus},
    },
    policy::{Host, Identity, Table},
    retry::Budgets,
    tcp::{Job, Workers},
};
use hickory_resolver::TokioResolver;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::SocketAddr,
    process,
    rc::{Rc, Weak},
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How many cgroups are remembered as belonging to a workload.
const MAX_KNOWN_CGROUPS: usize = 16_384;
/// At most one search for an unknown namespace in this time: it reads the state of every process of a workload.
const SEARCH_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is looked whether there is room again, while there is none.
const ROOM_INTERVAL: Duration = Duration::from_millis(10);

pub struct Node {
    programs: Rc<RefCell<Programs>>,
    is_full: Cell<bool>,
    /// Somebody looks whether there is room again.
    is_waiting_for_room: Cell<bool>,
    draining: Cell<bool>,
    table: RefCell<Arc<Table>>,
    config_error: RefCell<Option<String>>,
    names: Names,
    resolver: Rc<TokioResolver>,
    budgets: Budgets,
    identity: Option<Arc<Identity>>,
    epoch: Instant,
    clients: Clients,
    workloads: RefCell<Vec<Rc<Enrolment>>>,
    /// Workloads that are no longer enrolled here: their last connections are still served.
    handed_over: RefCell<Vec<Rc<Enrolment>>>,
    engines: RefCell<HashMap<u64, Weak<Engine>>>,
    known_cgroups: RefCell<HashMap<u64, Weak<Enrolment>>>,
    last_search: Cell<Option<Instant>>,
    limits: Limits,
    buffers: Buffers,
    /// How many bytes of bodies the requests of one network namespace may keep.
    most_buffered_of_namespace: usize,
    workers: Workers,
    observer: Observer,
}

impl Node {
    pub fn new(
        programs: Programs,
        table: Table,
        resolver: Rc<TokioResolver>,
        metrics: Metrics,
        access_log: Option<AccessLog>,
        settings: &Settings,
    ) -> io::Result<Rc<Self>> {
        let observer = Observer::new(metrics, access_log);
        let buffers = Buffers::new(settings.max_buffered);
        observer.metrics().watch_bodies({
            let buffers = buffers.clone();
            move || buffers.used()
        });
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        observer.metrics().policies_in_force(table.policies().count());
        Ok(Rc::new(Self {
            programs: Rc::new(RefCell::new(programs)),
            is_full: Cell::new(false),
            is_waiting_for_room: Cell::new(false),
            draining: Cell::new(false),
            table: RefCell::new(Arc::new(table)),
            config_error: RefCell::default(),
            names: Names::default(),
            resolver,
            budgets: Budgets::new(settings.node_budget),
            identity: settings.identity.clone(),
            epoch: Instant::now(),
            clients: Clients::default(),
            workloads: RefCell::default(),
            handed_over: RefCell::default(),
            engines: RefCell::default(),
            known_cgroups: RefCell::default(),
            last_search: Cell::new(None),
            limits: Limits::new(
                settings.max_connections,
                settings.max_connections_per_namespace,
                settings.kubernetes.is_some(),
                settings.at_limit,
            ),
            buffers,
            most_buffered_of_namespace: settings.max_buffered_per_namespace.unwrap_or({
                // As with connections: pods that are strangers to each other do not live off one another.
                if settings.kubernetes.is_some() { settings.max_buffered / 4 } else { settings.max_buffered }
            }),
            workers: Workers::start(threads, &observer)?,
            observer,
        }))
    }

    pub fn metrics(&self) -> &Metrics {
        self.observer.metrics()
    }

    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.borrow())
    }

    /// What retries to a destination may cost.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Where the budgets' clock starts.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Fresh bounds: those of one network namespace.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            share: Share::default(),
            buffers: self.buffers.of_namespace(self.most_buffered_of_namespace),
        }
    }

    // Workloads.

    pub fn attach(&self, cgroup: &Cgroup) -> Result<Attachment, InterceptError> {
        self.programs.borrow_mut().attach(cgroup)
    }

    pub fn add(&self, enrolment: Rc<Enrolment>) {
        // One that comes back has its last connections served by what is new.
        let id = enrolment.cgroup().id();
        self.handed_over.borrow_mut().retain(|one| one.cgroup().id() != id);
        self.workloads.borrow_mut().push(enrolment);
        self.metrics().workloads_enrolled(self.workload_count());
    }

    pub fn workload_count(&self) -> usize {
        self.workloads.borrow().len()
    }

    pub fn policy_count(&self) -> usize {
        self.table.borrow().policies().count()
    }

    /// The ids of the cgroups that are enrolled.
    pub fn enrolled_cgroups(&self) -> HashSet<u64> {
        self.workloads.borrow().iter().map(|enrolment| enrolment.cgroup().id()).collect()
    }

    /// A workload is known by this from now on.
    pub fn identify(&self, cgroup_id: u64, identity: Arc<Identity>) {
        if let Some(one) = self.workloads.borrow().iter().find(|one| one.cgroup().id() == cgroup_id) {
            one.identify(identity);
        }
    }

    /// Leaves a workload to another agent, or alone, and serves the connections that it has here.
    pub fn hand_over(&self, cgroup_id: u64) {
        let mut workloads = self.workloads.borrow_mut();
        if let Some(index) = workloads.iter().position(|enrolment| enrolment.cgroup().id() == cgroup_id) {
            let enrolment = workloads.remove(index);
            enrolment.stop_intake();
            self.handed_over.borrow_mut().push(enrolment);
        }
        self.metrics().workloads_enrolled(workloads.len());
    }

    /// Sends new connections of every workload past this agent.
    pub fn stop_intake(&self) {
        self.draining.set(true);
        self.workers.drain();
        for enrolment in self.workloads.borrow().iter() {
            enrolment.stop_intake();
        }
    }

    /// The engine of a namespace: the one that there is, or a new one with these bounds.
    pub fn engine_for(
        self: &Rc<Self>,
        namespace: NetworkNamespace,
        bounds: &Bounds,
    ) -> Result<Rc<Engine>, EngineError> {
        let cookie = namespace.cookie();
        if let Some(engine) = self.engine(cookie) {
            return Ok(engine);
        }
        let engine = Engine::open(self, &self.programs, namespace, bounds.clone())?;
        self.engines.borrow_mut().insert(cookie, Rc::downgrade(&engine));
        if self.is_full.get() {
            engine.set_full(true);
        }
        Ok(engine)
    }

    pub fn engine(&self, netns_cookie: u64) -> Option<Rc<Engine>> {
        self.engines.borrow().get(&netns_cookie)?.upgrade()
    }

    /// A process connected from a namespace without an engine: opens one, if it can still be found.
    pub fn find_namespace(self: &Rc<Self>, netns_cookie: u64, cgroup_id: u64) {
        // The programs report a namespace again while there is no engine, so that nothing is missed for good.
        if self.last_search.get().is_some_and(|last| last.elapsed() < SEARCH_INTERVAL) {
            return;
        }
        self.last_search.set(Some(Instant::now()));
        let owner = self.owner(cgroup_id, netns_cookie);
        let workload = owner.as_ref().map(|owner| owner.name());
        tracing::debug!(netns_cookie, ?workload, "a connection went direct: its namespace was not known yet");
        if let Some(owner) = owner {
            owner.find_engines(self);
        }
    }

    /// The workload whose connection this is: the one that the cgroup belongs to, or, where the cgroup is gone already, the
    /// only one that has been in the namespace. Nobody's connection is another workload's.
    pub fn workload(&self, cgroup_id: u64, netns_cookie: u64) -> Workload {
        let owner = self.owner(cgroup_id, netns_cookie);
        owner.map_or_else(
            || Workload { name: Arc::from(""), cgroup: Arc::from(""), identity: self.identity.clone() },
            |owner| owner.workload(),
        )
    }

    fn owner(&self, cgroup_id: u64, netns_cookie: u64) -> Option<Rc<Enrolment>> {
        if let Some(owner) = self.known_cgroups.borrow().get(&cgroup_id).and_then(Weak::upgrade) {
            return Some(owner);
        }
        let (workloads, handed_over) = (self.workloads.borrow(), self.handed_over.borrow());
        let all = || workloads.iter().chain(handed_over.iter());
        if let Some(owner) = all().find(|enrolment| enrolment.cgroup().ids().contains(&cgroup_id)) {
            let mut known = self.known_cgroups.borrow_mut();
            if known.len() >= MAX_KNOWN_CGROUPS {
                known.clear();
            }
            known.insert(cgroup_id, Rc::downgrade(owner));
            return Some(Rc::clone(owner));
        }
        let mut owners = all().filter(|enrolment| enrolment.is_in(netns_cookie));
        let first = owners.next()?;
        owners.next().is_none().then(|| Rc::clone(first))
    }

    /// Looks at what has come and gone. Returns the workloads whose cgroups are gone, which are no longer enrolled.
    pub fn look(self: &Rc<Self>) -> Vec<Cgroup> {
        let gone = self.forget_gone();
        for enrolment in self.workloads.borrow().iter().chain(self.handed_over.borrow().iter()) {
            enrolment.look(self);
        }
        self.engines.borrow_mut().retain(|_, engine| engine.strong_count() > 0);
        gone
    }

    /// Lets go of workloads whose cgroups are gone, and returns those that were enrolled.
    pub fn forget_gone(&self) -> Vec<Cgroup> {
        let all = self.workloads.take();
        let (there, gone): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.cgroup().exists());
        *self.workloads.borrow_mut() = there;
        self.handed_over.borrow_mut().retain(|one| one.cgroup().exists());
        self.metrics().workloads_enrolled(self.workload_count());
        gone.iter().map(|enrolment| enrolment.cgroup().clone()).collect()
    }

    /// Tells the programs that this thread turns.
    pub fn beat(&self) {
        if let Err(error) = self.programs.borrow_mut().beat() {
            tracing::error!(%error, "connections will go direct");
        }
    }

    // Policies.

    pub fn set_table(&self, table: Table) {
        self.metrics().config_reloaded();
        self.metrics().policies_in_force(table.policies().count());
        *self.table.borrow_mut() = Arc::new(table);
        *self.config_error.borrow_mut() = None;
        tracing::info!(policies = self.policy_count(), "policies reloaded");
    }

    pub fn refuse_table(&self, error: &str) {
        self.metrics().config_refused();
        tracing::error!(error, "the policies were not reloaded; the last good ones stay in force");
        *self.config_error.borrow_mut() = Some(error.to_owned());
    }

    /// Follows the addresses of these names. The future waits a moment for the first answers.
    pub fn watch_names(
        &self,
        hosts: Vec<Host>,
        services: &BTreeSet<Host>,
    ) -> impl Future<Output = ()> + use<> {
        self.names.watch(&self.resolver, hosts, services)
    }

    // Connections.

    /// Takes a slot for a connection of this engine, if there is one, and tells the programs where that was the last.
    pub fn take_slot(self: &Rc<Self>, engine: &Engine) -> Option<Slot> {
        let slot = self.limits.take(engine.share());
        let is_news = !engine.is_full() && self.has_no_room(engine) && self.follow_limits();
        if is_news && !self.is_waiting_for_room.replace(true) {
            let node = Rc::clone(self);
            tokio::task::spawn_local(async move {
                sleep(ROOM_INTERVAL).await;
                while node.follow_limits() {
                    sleep(ROOM_INTERVAL).await;
                }
                node.is_waiting_for_room.set(false);
            });
        }
        slot
    }

    pub fn active(&self) -> usize {
        self.limits.active()
    }

    /// Waits until no connection is held or relayed.
    pub async fn idle(&self) {
        self.limits.idle().await;
    }

    pub fn wait_for(&self, socket_cookie: u64) -> Client {
        self.clients.wait(socket_cookie)
    }

    pub fn client_gone(&self, socket_cookie: u64) {
        self.clients.gone(socket_cookie);
    }

    /// Tells the programs about an upstream connection: what getsockname() answers, and that SYNs pass.
    pub fn connected(&self, socket_cookie: u64, local: SocketAddr) {
        if let Err(error) = self.programs.borrow_mut().connected(socket_cookie, local) {
            tracing::warn!(%error, "getsockname() will answer with the engine's address");
        }
    }

    /// Tells the programs that a client's connect() is to end with ETIMEDOUT.
    pub fn timed_out(&self, socket_cookie: u64) {
        if let Err(error) = self.programs.borrow_mut().timed_out(socket_cookie) {
            tracing::warn!(%error, "a client waits for its own timeout");
        }
    }

    pub fn take_original(&self, engine: &Engine, client: SocketAddr) -> Option<Original> {
        self.programs.borrow_mut().take_original(engine.namespace(), client)
    }

    pub fn relay(&self, job: Job) {
        self.workers.relay(job);
    }

    /// A connection ended without having been relayed.
    pub fn ended(&self, record: Connection) {
        self.observer.connection_ended(record);
    }

    /// Resets everything that is still relayed.
    pub fn reset_all(&self) {
        self.workers.stop();
    }

    // What operators see.

    /// Waits until the access log has what was recorded so far.
    pub fn flush_access_log(&self) {
        self.observer.flush_access_log();
    }

    pub fn reopen_access_log(&self) {
        self.observer.reopen_access_log();
    }

    pub fn status(&self, ready: bool) -> Status {
        let workloads = self.workloads.borrow();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            started: self.metrics().started().unix_seconds(),
            ready,
            draining: self.draining.get(),
            kubernetes: None,
            workloads: workloads
                .iter()
                .map(|enrolment| WorkloadStatus {
                    name: enrolment.name().to_string(),
                    cgroup: enrolment.cgroup().path().to_owned(),
                    network_namespaces: enrolment.namespaces(),
                })
                .collect(),
            policies: self
                .table()
                .policies()
                .map(|policy| PolicyStatus {
                    name: policy.name.to_string(),
                    origin: policy.origin.to_string(),
                    routes: policy.routes.len(),
                })
                .collect(),
            totals: self.metrics().totals(),
            last_config_error: self.config_error.borrow().clone(),
            last_give_ups: self.observer.give_ups(),
        }
    }

    /// Tells the programs for which namespaces there is room. Says whether there is none for some.
    fn follow_limits(&self) -> bool {
        let is_full = self.limits.sends_direct(self.is_full.get());
        if is_full != self.is_full.replace(is_full) {
            tracing::warn!(full = is_full, connections = self.active(), "--max-connections");
        }
        let engines: Vec<_> = self.engines.borrow().values().filter_map(Weak::upgrade).collect();
        let mut is_some_full = is_full;
        for engine in engines {
            let full = self.has_no_room(&engine);
            is_some_full |= full;
            if engine.set_full(full) && !is_full {
                let (netns_cookie, connections) = (engine.namespace().cookie(), engine.share().active());
                tracing::info!(full, netns_cookie, connections, "--max-connections-per-namespace");
            }
        }
        is_some_full
    }

    fn has_no_room(&self, engine: &Engine) -> bool {
        self.limits.sends_direct(self.is_full.get())
            || self.limits.sends_share_direct(engine.share(), engine.is_full())
    }
}
