//! An enrolled workload: everything that makes the connections of one cgroup's processes come to the engine. Dropping
//! it undoes all of that.

use super::{
    engine::{Bounds, Engine, EngineError},
    node::Node,
};
use crate::intercept::{Attachment, Cgroup, InterceptError, NetworkNamespace};
use crate::policy::Identity;
use std::{cell::RefCell, collections::HashSet, rc::Rc, sync::Arc};
use tokio::task::JoinHandle;

/// After this many looks without a process in it, a namespace's engine is closed.
const IDLE_LOOKS: u32 = 6;
/// How many network namespaces of one workload have engines. Connections from others go direct.
const MAX_ENGINES: usize = 64;

/// What an enrolled cgroup is to logs and to policies.
#[derive(Clone, Debug)]
pub struct Workload {
    /// A cgroup's path, or a pod's namespace and name.
    pub name: Arc<str>,
    /// The path of its cgroup below the mount.
    pub cgroup: Arc<str>,
    /// None where nobody said: then every policy's selectors take it.
    pub identity: Option<Arc<Identity>>,
}

pub struct Enrolment {
    /// First, so that it is dropped first: no connection comes in for an engine that has gone.
    attachment: RefCell<Attachment>,
    cgroup: Cgroup,
    workload: RefCell<Workload>,
    engines: RefCell<Vec<Rc<Engine>>>,
    /// Of all namespaces together that it made itself: more of them are not more for it.
    bounds: Bounds,
    /// The namespace that it was enrolled with, whose engine stays.
    first: u64,
    /// Serves the workload's admin socket, and ends with it.
    socket: RefCell<Option<JoinHandle<()>>>,
}

impl Enrolment {
    /// Enrols a cgroup. The namespaces of its processes get their engines before the first connection is redirected.
    pub fn new(
        node: &Rc<Node>,
        cgroup: Cgroup,
        workload: Workload,
        namespace: NetworkNamespace,
    ) -> Result<Rc<Self>, InterceptError> {
        let first = namespace.inode();
        let (mut engines, bounds) = (Vec::new(), node.bounds());
        // This one it may have together with others.
        open_engine(node, &cgroup, namespace, &node.bounds(), &mut engines)?;
        find_engines(node, &cgroup, &bounds, &mut engines);
        let attachment = node.attach(&cgroup)?;
        Ok(Rc::new(Self {
            attachment: RefCell::new(attachment),
            workload: RefCell::new(workload),
            cgroup,
            engines: RefCell::new(engines),
            bounds,
            first,
            socket: RefCell::default(),
        }))
    }

    pub fn workload(&self) -> Workload {
        self.workload.borrow().clone()
    }

    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.workload.borrow().name)
    }

    /// From here on the workload is known by this.
    pub fn identify(&self, identity: Arc<Identity>) {
        self.workload.borrow_mut().identity = Some(identity);
    }

    /// Whether processes of the workload are, or were, in this network namespace.
    pub fn is_in(&self, netns_cookie: u64) -> bool {
        self.engines.borrow().iter().any(|engine| engine.namespace().cookie() == netns_cookie)
    }

    /// Ends this task when the enrolment does.
    pub fn keep(&self, socket: JoinHandle<()>) {
        *self.socket.borrow_mut() = Some(socket);
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub fn namespaces(&self) -> Vec<u64> {
        self.engines.borrow().iter().map(|engine| engine.namespace().cookie()).collect()
    }

    /// Whether its processes are in a network namespace other than the one that it was enrolled with.
    pub fn has_network_of_its_own(&self) -> bool {
        self.engines.borrow().iter().any(|engine| engine.namespace().inode() != self.first)
    }

    /// Sends new connections past this agent, and serves those that it has.
    pub fn stop_intake(&self) {
        self.attachment.borrow_mut().stop_intake();
    }

    /// Opens engines in the namespaces that the cgroup's processes are in now.
    pub fn find_engines(&self, node: &Rc<Node>) {
        find_engines(node, &self.cgroup, &self.bounds, &mut self.engines.borrow_mut());
    }

    /// Opens engines where they are missing, and closes those of namespaces where no process of the cgroup is any more:
    /// an engine keeps its namespace in being, which a deleted pod's should not be.
    pub fn look(&self, node: &Rc<Node>) {
        let mut engines = self.engines.borrow_mut();
        let used = find_engines(node, &self.cgroup, &self.bounds, &mut engines);
        engines.retain(|engine| {
            let inode = engine.namespace().inode();
            let looks =
                if used.contains(&inode) || inode == self.first { 0 } else { engine.idle_looks.get() + 1 };
            engine.idle_looks.set(looks);
            looks < IDLE_LOOKS
        });
    }
}

impl Drop for Enrolment {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.get_mut() {
            socket.abort();
        }
    }
}

/// Opens an engine in each namespace that has a process of the cgroup, and returns the inodes of them all.
fn find_engines(
    node: &Rc<Node>,
    cgroup: &Cgroup,
    bounds: &Bounds,
    engines: &mut Vec<Rc<Engine>>,
) -> HashSet<u64> {
    let mut known: HashSet<u64> = engines.iter().map(|engine| engine.namespace().inode()).collect();
    let mut used = HashSet::new();
    for pid in cgroup.processes() {
        let Some(inode) = NetworkNamespace::inode_of_process(pid) else { continue };
        used.insert(inode);
        if engines.len() >= MAX_ENGINES || !known.insert(inode) {
            continue;
        }
        // The process may end, or change its namespace, at any moment: what was opened is what counts, if its number is
        // not another workload's by now.
        let opened = match NetworkNamespace::of_process(pid) {
            Ok(_) if !cgroup.processes().contains(&pid) => continue,
            Ok(namespace) => {
                open_engine(node, cgroup, namespace, bounds, engines).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = opened {
            tracing::warn!(workload = cgroup.name(), pid, error, "a network namespace has no engine");
        }
    }
    used
}

fn open_engine(
    node: &Rc<Node>,
    cgroup: &Cgroup,
    namespace: NetworkNamespace,
    bounds: &Bounds,
    engines: &mut Vec<Rc<Engine>>,
) -> Result<(), InterceptError> {
    let cookie = namespace.cookie();
    if engines.iter().any(|engine| engine.namespace().cookie() == cookie) {
        return Ok(());
    }
    match node.engine_for(namespace, bounds) {
        Ok(engine) => {
            tracing::debug!(workload = cgroup.name(), netns_cookie = cookie, "engine open");
            engines.push(engine);
            Ok(())
        }
        Err(EngineError::Programs(error)) => Err(error),
        // Without an engine the namespace's connections go direct.
        Err(error @ (EngineError::Raw(_) | EngineError::Listen(_))) => {
            tracing::warn!(workload = cgroup.name(), %error, "a network namespace has no engine");
            Ok(())
        }
    }
}
