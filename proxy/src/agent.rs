//! Puts the parts together for each enrolled workload, and keeps them together: events, reload, take-over, drain.
//!
//! One thread takes connections in and does all that is decided about them; the relay threads move their bytes. What
//! belongs to the intake thread is in [`node::Node`] and never leaves it.

mod clients;
mod engine;
mod enrolment;
mod limits;
mod node;
mod pods;
mod policies;
mod serve;

pub use limits::AtLimit;

use crate::dialect::Loaded;
use crate::kubernetes::{self, KubernetesError};
use crate::policy::Identity;
use crate::retry::BudgetPolicy;
use crate::{
    dialect,
    endpoint::{self, NamesError},
    intercept::{
        Cgroup, CgroupRoot, Event, EventStream, Exclusions, HandshakeMode, InterceptError, NetworkNamespace,
        NetworkNamespaceError, Programs,
    },
    observe::{
        AccessLog, Metrics, Readiness, Status, access_log,
        admin::{self, AdminSocket, Answer, Command},
        server,
    },
};
use enrolment::{Enrolment, Workload};
use node::Node;
use pods::Pods;
use policies::{Fingerprint, Loading};
use std::{
    fs,
    future::pending,
    io,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

/// How often the agent says that it is alive, and looks for changed policy files.
const TICK: Duration = Duration::from_secs(1);
/// How often it looks for what has come and gone in its workloads.
const LOOK: Duration = Duration::from_secs(5);
/// From connect() to its SYN's event takes microseconds; this is what a drain waits for them.
const SETTLE: Duration = Duration::from_millis(200);
/// Where agents are found.
pub const ADMIN_DIRECTORY: &str = "/run/redial";

/// Everything that the command line says about an agent.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Vec<PathBuf>,
    /// How the documents of `config` are read.
    pub dialect: dialect::Options,
    pub handshake: HandshakeMode,
    pub exclusions: Exclusions,
    pub access_log: Option<access_log::Target>,
    pub metrics: Option<SocketAddr>,
    pub resolv_conf: PathBuf,
    pub max_connections: Option<usize>,
    pub max_connections_per_namespace: Option<usize>,
    pub at_limit: AtLimit,
    /// The retry budget of all destinations together.
    pub node_budget: BudgetPolicy,
    /// What is known of the workloads, for policies that ask.
    pub identity: Option<Arc<Identity>>,
    /// How many bytes of requests' bodies may be kept for retries, of all requests together.
    pub max_buffered: usize,
    /// The same, of the requests of one network namespace.
    pub max_buffered_per_namespace: Option<usize>,
    pub drain_timeout: Duration,
    /// The cluster whose node this is, if its pods are to be enrolled.
    pub kubernetes: Option<kubernetes::Settings>,
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Config(#[from] dialect::LoadError),
    #[error(transparent)]
    Intercept(#[from] InterceptError),
    #[error(transparent)]
    Names(#[from] NamesError),
    #[error(transparent)]
    AccessLog(#[from] access_log::Error),
    #[error(transparent)]
    Metrics(#[from] server::BindError),
    #[error(transparent)]
    Admin(#[from] admin::Error),
    #[error(transparent)]
    Namespace(#[from] NetworkNamespaceError),
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    #[error("cannot start the relay threads: {0}")]
    Threads(io::Error),
    #[error("cannot read the kernel's events: {0}")]
    Events(io::Error),
}

/// A running agent. Lives on one thread, inside a `LocalSet`.
pub struct Agent {
    node: Rc<Node>,
    root: CgroupRoot,
    events: EventStream,
    settings: Settings,
    policy_files: Fingerprint,
    readiness: Readiness,
    requests: mpsc::Receiver<Request>,
    ask: mpsc::Sender<Request>,
    /// This node's pods, where it is a cluster's.
    pods: Option<Pods>,
    /// Policies that are being read.
    loading: Option<Loading>,
    /// Workloads whose cgroups are gone: a service that is restarted gets a new one of the same name.
    missing: Vec<Cgroup>,
    serving_metrics: watch::Sender<()>,
    serving_requests: watch::Sender<()>,
}

/// What came in by an admin socket, and where the answer goes.
struct Request {
    /// The cgroup whose socket it was, or none where it was the agent's own.
    cgroup: Option<u64>,
    command: Command,
    answer: oneshot::Sender<Answer>,
}

/// Why [`Agent::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Another agent has taken over every workload.
    TakenOver,
}

impl Agent {
    /// Does everything that can fail, and touches no workload yet.
    pub async fn start(
        settings: Settings,
        root: CgroupRoot,
        workloads: &[Cgroup],
    ) -> Result<Self, AgentError> {
        let policy_files = Fingerprint::of(&settings.config);
        let Loaded { table, notes } = dialect::load_with(&settings.config, settings.dialect)?;
        policies::tell(&notes);
        let resolver = endpoint::resolver(&settings.resolv_conf)?;
        let metrics = match settings.metrics {
            Some(address) => bind_metrics(address, workloads, settings.kubernetes.as_ref()).await?,
            None => None,
        };
        let (programs, events, kernel_counters) = Programs::load(settings.handshake, &settings.exclusions)?;
        let counters = Metrics::new(move || kernel_counters.read());
        let access_log = match settings.access_log.clone() {
            Some(target) => Some(AccessLog::open(target, counters.clone())?),
            None => None,
        };
        let node = Node::new(programs, table, resolver, counters, access_log, &settings)
            .map_err(AgentError::Threads)?;
        let pods = match &settings.kubernetes {
            Some(kubernetes) => Some(Pods::start(kubernetes, root.mount())?),
            None => None,
        };
        let (ask, requests) = mpsc::channel(16);
        let agent = Self {
            node,
            root,
            events,
            settings,
            policy_files,
            readiness: Readiness::default(),
            requests,
            ask,
            pods,
            loading: None,
            missing: Vec::new(),
            serving_metrics: watch::channel(()).0,
            serving_requests: watch::channel(()).0,
        };
        agent.watch_names().await;
        let own = agent.own_path();
        let socket = AdminSocket::bind_replacing(&own)?;
        remove_dead_sockets();
        if agent.pods.is_some() {
            for other in other_agents(&own) {
                // One that enrols no pods says so, which changes nothing.
                let _ = admin::request(&other, Command::TakeOver).await;
            }
        }
        tokio::task::spawn_local(serve_requests(
            socket,
            None,
            agent.ask.clone(),
            agent.serving_requests.subscribe(),
        ));
        agent.serve_metrics(metrics);
        Ok(agent)
    }

    /// Intercepts what the cgroup's processes connect to, in every network namespace that they are in and in
    /// `namespace`. Another agent that does so already is told to hand over while this one runs.
    pub fn enrol(&mut self, cgroup: Cgroup, namespace: NetworkNamespace) -> Result<(), AgentError> {
        let name: Arc<str> = Arc::from(cgroup.name());
        let identity = self.settings.identity.clone();
        let workload = Workload { name: Arc::clone(&name), cgroup: name, identity };
        self.enrol_as(cgroup, workload, namespace).map(drop)
    }

    fn enrol_as(
        &self,
        cgroup: Cgroup,
        workload: Workload,
        namespace: NetworkNamespace,
    ) -> Result<Rc<Enrolment>, AgentError> {
        self.node.beat();
        let (path, id) = (admin_path(&cgroup), cgroup.id());
        let enrolment = Enrolment::new(&self.node, cgroup, workload, namespace)?;
        let workload = enrolment.name();
        self.node.add(Rc::clone(&enrolment));
        let (ask, closing) = (self.ask.clone(), self.serving_requests.subscribe());
        let socket = tokio::task::spawn_local(async move {
            match admin::request(&path, Command::TakeOver).await {
                Ok(_) => tracing::info!(%workload, "took over from another agent"),
                Err(admin::Error::NobodyListens(_)) => {}
                Err(error) => tracing::warn!(%workload, %error, "cannot take over; both agents are attached"),
            }
            match AdminSocket::bind_replacing(&path) {
                Ok(socket) => serve_requests(socket, Some(id), ask, closing).await,
                Err(error) => tracing::error!(%workload, %error, "no later agent will be able to take over"),
            }
        });
        enrolment.keep(socket);
        Ok(enrolment)
    }

    /// Serves metrics and health, as soon as no agent that hands over does.
    fn serve_metrics(&self, bound: Option<TcpListener>) {
        if let Some(address) = self.settings.metrics {
            let closing = self.serving_metrics.subscribe();
            let (metrics, readiness) = (self.node.metrics().clone(), self.readiness.clone());
            tokio::task::spawn_local(async move {
                let listener = match bound {
                    Some(listener) => listener,
                    None => bind_when_free(address).await,
                };
                server::serve(listener, metrics, readiness, closed(closing)).await;
            });
        }
    }

    /// Says that the agent is ready.
    pub fn announce(&mut self) {
        self.readiness.set_ready(true);
        tracing::info!(
            workloads = self.node.workload_count(),
            policies = self.node.policy_count(),
            handshake = %self.settings.handshake.as_str(),
            "ready"
        );
    }

    /// Serves until every workload was taken over. Cancel safe: `run` may be dropped and called again.
    pub async fn run(&mut self) -> Result<Ended, AgentError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                result = self.events.next_batch(|event| handle(&self.node, event)) => {
                    result.map_err(AgentError::Events)?;
                }
                Some(request) = self.requests.recv() => {
                    let was_take_over = request.command == Command::TakeOver;
                    self.answer(request);
                    let has_nothing = self.node.workload_count() == 0 && self.missing.is_empty();
                    // A node's agent stays until it is told to go: the one that took over may fail yet.
                    if was_take_over && has_nothing && self.pods.is_none() {
                        return Ok(Ended::TakenOver);
                    }
                }
                event = pods::next(&mut self.pods) => self.pods_changed(event),
                read = policies::next(&mut self.loading) => self.loaded(read),
                _ = tick.tick() => {
                    self.node.beat();
                    if let Some(pods) = &self.pods {
                        pods.count(self.node.metrics());
                    }
                    self.enrol_missing();
                    if self.policy_files != Fingerprint::of(&self.settings.config) {
                        self.reload();
                    }
                }
                _ = looks.tick() => {
                    let gone = self.node.look();
                    if let Some(pods) = &self.pods {
                        // A pod's cgroup does not come back.
                        if pods.has_stood_down() && other_agents(&self.own_path()).is_empty() {
                            self.stand_up();
                        }
                        continue;
                    }
                    for cgroup in gone {
                        tracing::warn!(workload = cgroup.name(), "the workload's cgroup is gone; waiting for it");
                        self.missing.push(cgroup);
                    }
                }
            }
        }
    }

    /// Enrols again what is there again.
    fn enrol_missing(&mut self) {
        for cgroup in std::mem::take(&mut self.missing) {
            let Ok(there) = self.root.open(cgroup.path()) else {
                self.missing.push(cgroup);
                continue;
            };
            let enrolled = NetworkNamespace::own()
                .map_err(AgentError::from)
                .and_then(|namespace| self.enrol(there, namespace));
            match enrolled {
                Ok(()) => tracing::info!(workload = cgroup.name(), "the workload's cgroup is back"),
                Err(error) => {
                    tracing::warn!(workload = cgroup.name(), %error, "cannot enrol the workload again");
                    self.missing.push(cgroup);
                }
            }
        }
    }

    /// Opens the access log again, after its file was moved away.
    pub fn reopen_access_log(&self) {
        self.node.reopen_access_log();
    }

    /// Takes no new connections, and waits for those that there are, for so long at the most. Says whether all have
    /// ended. Cancel safe.
    pub async fn drain(&mut self, limit: Option<Duration>) -> bool {
        self.readiness.set_ready(false);
        self.node.stop_intake();
        // Another agent may want the address.
        self.serving_metrics = watch::channel(()).0;
        let begun = Instant::now();
        let node = Rc::clone(&self.node);
        tracing::info!(connections = node.active(), "draining");
        loop {
            // A connection that was redirected just now is seen a moment later.
            let settled = sleep_until(begun + SETTLE);
            let idle = async {
                settled.await;
                node.idle().await;
            };
            let limit = async {
                match limit {
                    Some(limit) => sleep_until(begun + limit.max(SETTLE)).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                result = self.events.next_batch(|event| handle(&self.node, event)) => {
                    if result.is_err() {
                        return false;
                    }
                }
                Some(request) = self.requests.recv() => self.answer(request),
                () = idle => return true,
                () = limit => return false,
            }
        }
    }

    /// Ends. What is still there after [`Agent::drain`] is reset.
    pub async fn finish(self, drained: bool) {
        if !drained {
            tracing::warn!(connections = self.node.active(), "resetting what is left");
            self.node.reset_all();
            let _ = timeout(Duration::from_secs(1), self.node.idle()).await;
        }
        self.node.flush_access_log();
    }

    fn status(&self) -> Status {
        let node = self.settings.kubernetes.as_ref().map(|kubernetes| &kubernetes.node);
        let kubernetes = self.pods.as_ref().zip(node).map(|(pods, node)| pods.status(node));
        Status { kubernetes, ..self.node.status(self.readiness.is_ready()) }
    }

    /// Where this agent is asked.
    fn own_path(&self) -> PathBuf {
        match &self.settings.kubernetes {
            Some(kubernetes) => node_agent_path(&kubernetes.agent),
            None => Path::new(ADMIN_DIRECTORY).join(format!("agent-{}.sock", process::id())),
        }
    }

    fn answer(&mut self, request: Request) {
        let Request { cgroup, command, answer } = request;
        let reply = match (command, cgroup) {
            (Command::Status, _) => Answer::Status(Box::new(self.status())),
            (Command::TakeOver, Some(cgroup)) => {
                self.node.hand_over(cgroup);
                Answer::Draining(true)
            }
            (Command::TakeOver, None) if self.stand_down() => Answer::Draining(true),
            (Command::TakeOver, None) => Answer::Error("this is no workload's socket".to_owned()),
        };
        // Whoever asked may have gone.
        let _ = answer.send(reply);
    }
}

/// Passes what an admin socket is asked on to the agent, until the agent has gone.
async fn serve_requests(
    socket: AdminSocket,
    cgroup: Option<u64>,
    ask: mpsc::Sender<Request>,
    closing: watch::Receiver<()>,
) {
    let handler = move |command| {
        let ask = ask.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            let sent = ask.send(Request { cgroup, command, answer }).await.is_ok();
            let nobody = || Answer::Error("the agent is stopping".to_owned());
            if sent { answered.await.unwrap_or_else(|_| nobody()) } else { nobody() }
        }
    };
    admin::serve(socket, handler, closed(closing)).await;
}

/// Where a node's agent of this name is asked.
#[must_use]
pub fn node_agent_path(name: &str) -> PathBuf {
    Path::new(ADMIN_DIRECTORY).join(format!("node-{name}.sock"))
}

/// Where a node's agents are asked that are alive, but for this one.
fn other_agents(own: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(ADMIN_DIRECTORY).into_iter().flatten().filter_map(Result::ok);
    let agents = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("node-") && path != own && UnixStream::connect(path).is_ok()
    });
    agents.collect()
}

/// Removes the sockets that agents which were killed have left.
fn remove_dead_sockets() {
    for entry in fs::read_dir(ADMIN_DIRECTORY).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if path.extension().is_some_and(|end| end == "sock") && UnixStream::connect(&path).is_err_and(refused)
        {
            // Another agent may have done it at the same time.
            let _ = fs::remove_file(path);
        }
    }
}

/// Waits until the sender has gone.
async fn closed(mut closing: watch::Receiver<()>) {
    while closing.changed().await.is_ok() {}
}

/// Binds the metrics address. `None` where it is taken and one of the workloads has an agent already, whose it will be.
async fn bind_metrics(
    address: SocketAddr,
    workloads: &[Cgroup],
    kubernetes: Option<&kubernetes::Settings>,
) -> Result<Option<TcpListener>, server::BindError> {
    let taken = match server::bind(address).await {
        Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => error,
        bound => return bound.map(Some),
    };
    if kubernetes.is_some_and(|node| !other_agents(&node_agent_path(&node.agent)).is_empty()) {
        return Ok(None);
    }
    for cgroup in workloads {
        if admin::request(&admin_path(cgroup), Command::Status).await.is_ok() {
            return Ok(None);
        }
    }
    Err(taken)
}

/// Binds the metrics address as soon as the agent that hands over has left it.
async fn bind_when_free(address: SocketAddr) -> TcpListener {
    let mut attempts = 0_u32;
    loop {
        match server::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if attempts % 100 == 99 => tracing::warn!("{error}; trying on"),
            Err(_) => {}
        }
        attempts = attempts.wrapping_add(1);
        sleep(Duration::from_millis(50)).await;
    }
}

fn handle(node: &Rc<Node>, event: Event) {
    match event {
        Event::Handshake(handshake) => serve::held(node, &handshake),
        Event::Gone { socket_cookie } => node.client_gone(socket_cookie),
        Event::UnknownNetns { netns_cookie, cgroup_id } => node.find_namespace(netns_cookie, cgroup_id),
        Event::Unreadable { socket_cookie } => {
            tracing::warn!(socket_cookie, "a held handshake could not be read");
            node.metrics().events_lost(1);
            node.timed_out(socket_cookie);
        }
    }
}

fn admin_path(cgroup: &Cgroup) -> PathBuf {
    Path::new(ADMIN_DIRECTORY).join(format!("cgroup-{}.sock", cgroup.id()))
}
