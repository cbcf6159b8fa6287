//! Puts the parts together for each enrolled workload, and keeps them together: events, reload, take-over, drain.
//!
//! One thread takes connections in and does all that is decided about them; the relay threads move their bytes. What
//! belongs to the intake thread is in [`node::Node`] and never leaves it.

mod clients;
mod engine;
mod enrolment;
mod limits;
mod node;
mod serve;

pub use limits::AtLimit;

use crate::retry::BudgetPolicy;
use crate::{
    dialect,
    endpoint::{self, NamesError},
    intercept::{
        Cgroup, Event, EventStream, Exclusions, HandshakeMode, InterceptError, NetworkNamespace, Programs,
    },
    observe::{
        AccessLog, Metrics, Readiness, access_log,
        admin::{self, AdminSocket, Answer, Command},
        server,
    },
};
use enrolment::Enrolment;
use limits::Limits;
use node::Node;
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

/// How often the agent looks for changed policy files, and for what has come and gone in its workloads.
const TICK: Duration = Duration::from_secs(1);
/// How long a new agent waits for the old one's metrics address.
const METRICS_PATIENCE: Duration = Duration::from_secs(2);
/// Where agents are found.
pub const ADMIN_DIRECTORY: &str = "/run/redial";

/// Everything that the command line says about an agent.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Vec<PathBuf>,
    pub handshake: HandshakeMode,
    pub exclusions: Exclusions,
    pub access_log: Option<access_log::Target>,
    pub metrics: Option<SocketAddr>,
    pub resolv_conf: PathBuf,
    pub max_connections: Option<usize>,
    pub at_limit: AtLimit,
    /// The retry budget of all destinations together.
    pub node_budget: BudgetPolicy,
    pub drain_timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{0}")]
    Config(#[from] dialect::LoadError),
    #[error(transparent)]
    Intercept(#[from] InterceptError),
    #[error(transparent)]
    Names(#[from] NamesError),
    #[error(transparent)]
    AccessLog(#[from] access_log::Error),
    #[error("cannot serve metrics: {0}")]
    Metrics(#[from] server::BindError),
    #[error(transparent)]
    Admin(#[from] admin::Error),
    #[error("cannot listen in a workload's network namespace: {0}")]
    Listen(io::Error),
    #[error("cannot start the relay threads: {0}")]
    Threads(io::Error),
    #[error("cannot read the kernel's events: {0}")]
    Events(io::Error),
}

/// A running agent. Lives on one thread, inside a `LocalSet`.
pub struct Agent {
    node: Rc<Node>,
    events: EventStream,
    settings: Settings,
    policy_files: Fingerprint,
    readiness: Readiness,
    requests: mpsc::Receiver<Request>,
    request_sender: mpsc::Sender<Request>,
    /// Closed to end the metrics server and the admin sockets.
    shutdown: watch::Sender<()>,
    closing: watch::Receiver<()>,
}

/// What came in by an admin socket, and where the answer goes.
struct Request {
    workload: Arc<str>,
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
    /// Loads policies and programs. No workload is enrolled yet.
    pub async fn start(settings: Settings) -> Result<Self, AgentError> {
        let policy_files = Fingerprint::of(&settings.config);
        let table = dialect::load(&settings.config)?;
        let (programs, events, kernel_counters) = Programs::load(settings.handshake, &settings.exclusions)?;
        let metrics = Metrics::new(move || kernel_counters.read());
        let access_log = match settings.access_log.clone() {
            Some(target) => Some(AccessLog::open(target, metrics.clone())?),
            None => None,
        };
        let limits = Limits::new(settings.max_connections, settings.at_limit);
        let node = Node::new(
            programs,
            table,
            endpoint::resolver(&settings.resolv_conf)?,
            metrics,
            access_log,
            limits,
            settings.node_budget,
        )
        .map_err(AgentError::Threads)?;
        node.watch_names().await;
        let (shutdown, closing) = watch::channel(());
        let (request_sender, requests) = mpsc::channel(16);
        Ok(Self {
            node,
            events,
            settings,
            policy_files,
            readiness: Readiness::default(),
            requests,
            request_sender,
            shutdown,
            closing,
        })
    }

    /// Intercepts what the cgroup's processes connect to, in every network namespace that they are in and in
    /// `namespace`. Takes over from an agent that does so already.
    pub async fn enrol(&mut self, cgroup: Cgroup, namespace: NetworkNamespace) -> Result<(), AgentError> {
        let path = admin_path(&cgroup);
        let enrolment = Enrolment::new(&self.node, cgroup, namespace)?;
        let workload = enrolment.workload();
        self.node.add(enrolment);
        match admin::request(&path, Command::TakeOver).await {
            Ok(_) => tracing::info!(%workload, "took over from another agent"),
            Err(admin::Error::NobodyListens(_)) => {}
            Err(error) => tracing::warn!(%workload, %error, "cannot take over; both agents are attached"),
        }
        let socket = AdminSocket::bind_replacing(&path)?;
        let requests = self.request_sender.clone();
        let handler = move |command| {
            let (requests, workload) = (requests.clone(), Arc::clone(&workload));
            async move {
                let (answer, answered) = oneshot::channel();
                let sent = requests.send(Request { workload, command, answer }).await.is_ok();
                let nobody = || Answer::Error("the agent is stopping".to_owned());
                if sent { answered.await.unwrap_or_else(|_| nobody()) } else { nobody() }
            }
        };
        let mut closing = self.closing.clone();
        tokio::task::spawn_local(admin::serve(socket, handler, async move {
            let _ = closing.changed().await;
        }));
        Ok(())
    }

    /// Serves metrics, and says that the agent is ready.
    pub async fn announce(&self) -> Result<(), AgentError> {
        if let Some(address) = self.settings.metrics {
            let listener = bind_patiently(address).await?;
            let mut closing = self.closing.clone();
            let shutdown = async move {
                let _ = closing.changed().await;
            };
            let (metrics, readiness) = (self.node.metrics().clone(), self.readiness.clone());
            tokio::task::spawn_local(server::serve(listener, metrics, readiness, shutdown));
        }
        self.readiness.set_ready(true);
        tracing::info!(
            workloads = self.node.workload_count(),
            policies = self.node.policy_count(),
            handshake = ?self.settings.handshake,
            "ready"
        );
        Ok(())
    }

    /// Serves until every workload was taken over. Cancel safe: `run` may be dropped and called again.
    pub async fn run(&mut self) -> Result<Ended, AgentError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                result = self.events.next_batch(|event| handle(&self.node, event)) => {
                    result.map_err(AgentError::Events)?;
                }
                Some(request) = self.requests.recv() => {
                    self.answer(request);
                    if self.node.workload_count() == 0 {
                        return Ok(Ended::TakenOver);
                    }
                }
                _ = tick.tick() => {
                    self.node.housekeeping();
                    if self.policy_files != Fingerprint::of(&self.settings.config) {
                        self.reload().await;
                    }
                }
            }
        }
    }

    /// Reads the policies again. With anything wrong, those in force stay in force.
    pub async fn reload(&mut self) {
        self.policy_files = Fingerprint::of(&self.settings.config);
        match dialect::load(&self.settings.config) {
            Ok(table) => self.node.set_table(table),
            Err(error) => self.node.refuse_table(&error.to_string()),
        }
        self.node.watch_names().await;
    }

    /// Opens the access log again, after its file was moved away.
    pub fn reopen_access_log(&self) {
        self.node.reopen_access_log();
    }

    /// Takes no new connections, and waits for those that there are. What is left after the drain timeout is reset.
    pub async fn drain(mut self) {
        self.readiness.set_ready(false);
        self.node.stop_intake();
        drop(self.shutdown);
        let node = Rc::clone(&self.node);
        tracing::info!(connections = node.active(), "draining");
        let serve_on = async {
            // Handshakes that are held now still need their clients' news.
            while self.events.next_batch(|event| handle(&self.node, event)).await.is_ok() {}
        };
        let drained = tokio::select! {
            drained = timeout(self.settings.drain_timeout, node.idle()) => drained.is_ok(),
            () = serve_on => false,
        };
        if !drained {
            tracing::warn!(connections = node.active(), "the drain timeout ran out: resetting what is left");
            node.reset_all();
            let _ = timeout(Duration::from_secs(1), node.idle()).await;
        }
        node.flush_access_log();
    }

    fn answer(&self, request: Request) {
        let Request { workload, command, answer } = request;
        let reply = match command {
            Command::Status => Answer::Status(Box::new(self.node.status(self.readiness.is_ready()))),
            Command::TakeOver => {
                tracing::info!(%workload, "another agent takes over");
                self.node.hand_over(&workload);
                Answer::Draining(true)
            }
        };
        // Whoever asked may have gone.
        let _ = answer.send(reply);
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
        }
    }
}

/// An agent that is just handing over has the address for a moment longer.
async fn bind_patiently(address: SocketAddr) -> Result<tokio::net::TcpListener, server::BindError> {
    let attempts = async {
        loop {
            match server::bind(address).await {
                Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => {
                    sleep(Duration::from_millis(50)).await;
                }
                result => return result,
            }
        }
    };
    match timeout(METRICS_PATIENCE, attempts).await {
        Ok(result) => result,
        Err(_) => server::bind(address).await,
    }
}

fn admin_path(cgroup: &Cgroup) -> PathBuf {
    Path::new(ADMIN_DIRECTORY).join(format!("cgroup-{}.sock", cgroup.id()))
}

/// What tells one state of the policy files from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fingerprint(Vec<(PathBuf, Option<SystemTime>, u64)>);

impl Fingerprint {
    fn of(paths: &[PathBuf]) -> Self {
        let mut files = Vec::new();
        for path in paths {
            files.push(Self::file(path.clone()));
            let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
            files.extend(entries.map(|entry| Self::file(entry.path())));
        }
        files.sort();
        Self(files)
    }

    fn file(path: PathBuf) -> (PathBuf, Option<SystemTime>, u64) {
        let metadata = fs::metadata(&path).ok();
        let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        (path, modified, metadata.map_or(0, |metadata| metadata.len()))
    }
}
