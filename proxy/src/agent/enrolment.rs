//! An enrolled workload: everything that makes the connections of one cgroup's processes come to the engine. Dropping
//! it undoes all of that.

use super::{
    engine::{Engine, EngineError},
    node::Node,
};
use crate::intercept::{Attachment, Cgroup, InterceptError, NetworkNamespace};
use std::{cell::RefCell, collections::HashSet, rc::Rc, sync::Arc};

/// After this many looks without a process in it, a namespace's engine is closed.
const IDLE_LOOKS: u32 = 30;

pub struct Enrolment {
    /// First, so that it is dropped first: no connection comes in for an engine that has gone.
    attachment: RefCell<Attachment>,
    cgroup: Cgroup,
    workload: Arc<str>,
    engines: RefCell<Vec<Rc<Engine>>>,
    /// The namespace that it was enrolled with, whose engine stays.
    first: u64,
}

impl Enrolment {
    /// Enrols a cgroup. The namespaces of its processes get their engines before the first connection is redirected.
    pub fn new(
        node: &Rc<Node>,
        cgroup: Cgroup,
        namespace: NetworkNamespace,
    ) -> Result<Rc<Self>, InterceptError> {
        let first = namespace.inode();
        let mut engines = Vec::new();
        open_engine(node, &cgroup, namespace, &mut engines)?;
        find_engines(node, &cgroup, &mut engines);
        let attachment = node.attach(&cgroup)?;
        Ok(Rc::new(Self {
            attachment: RefCell::new(attachment),
            workload: Arc::from(cgroup.name()),
            cgroup,
            engines: RefCell::new(engines),
            first,
        }))
    }

    pub fn workload(&self) -> Arc<str> {
        Arc::clone(&self.workload)
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub fn engine(&self, netns_cookie: u64) -> Option<Rc<Engine>> {
        self.engines.borrow().iter().find(|engine| engine.namespace().cookie() == netns_cookie).cloned()
    }

    pub fn namespaces(&self) -> Vec<u64> {
        self.engines.borrow().iter().map(|engine| engine.namespace().cookie()).collect()
    }

    /// Sends new connections past this agent, and serves those that it has.
    pub fn stop_intake(&self) {
        drop(self.attachment.borrow_mut().take_intake());
    }

    /// Opens engines in the namespaces that the cgroup's processes are in now.
    pub fn look(&self, node: &Rc<Node>) {
        find_engines(node, &self.cgroup, &mut self.engines.borrow_mut());
    }

    /// Closes the engines of namespaces where no process of the cgroup is any more. An engine keeps its namespace in
    /// being, which a deleted pod's should not be.
    pub fn close_idle(&self) {
        let used: HashSet<u64> =
            self.cgroup.processes().into_iter().filter_map(NetworkNamespace::inode_of_process).collect();
        self.engines.borrow_mut().retain(|engine| {
            let inode = engine.namespace().inode();
            let looks =
                if used.contains(&inode) || inode == self.first { 0 } else { engine.idle_looks.get() + 1 };
            engine.idle_looks.set(looks);
            looks < IDLE_LOOKS
        });
    }
}

fn find_engines(node: &Rc<Node>, cgroup: &Cgroup, engines: &mut Vec<Rc<Engine>>) {
    let mut known: HashSet<u64> = engines.iter().map(|engine| engine.namespace().inode()).collect();
    for pid in cgroup.processes() {
        let Some(inode) = NetworkNamespace::inode_of_process(pid) else { continue };
        if !known.insert(inode) {
            continue;
        }
        // The process may end, or change its namespace, at any moment: what was opened is what counts.
        let opened = NetworkNamespace::of_process(pid)
            .map_err(|error| error.to_string())
            .and_then(|namespace| open_engine(node, cgroup, namespace, engines).map_err(|e| e.to_string()));
        if let Err(error) = opened {
            tracing::warn!(workload = cgroup.name(), pid, error, "a network namespace has no engine");
        }
    }
}

fn open_engine(
    node: &Rc<Node>,
    cgroup: &Cgroup,
    namespace: NetworkNamespace,
    engines: &mut Vec<Rc<Engine>>,
) -> Result<(), InterceptError> {
    let cookie = namespace.cookie();
    if engines.iter().any(|engine| engine.namespace().cookie() == cookie) {
        return Ok(());
    }
    match node.engine_for(namespace) {
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
