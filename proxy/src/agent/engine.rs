//! The engine of one network namespace: its listeners on loopback, the raw socket for its held handshakes, and the
//! upstream connections that wait for their clients.

use super::{limits::Share, node::Node, serve};
use crate::{
    http::replay::Buffers,
    intercept::{InterceptError, Listener, NetworkNamespace, Packet, Programs, RawSocket},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::{SocketAddr, TcpStream},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, yield_now},
    time::sleep,
};

/// How long to wait where accept fails for want of descriptors or memory: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How many clients are taken in before others have their turn: whoever floods a listener has the thread no longer.
const ACCEPTS: usize = 64;

/// Dropping it sends the namespace's connections direct, and closes the listeners.
pub struct Engine {
    namespace: Arc<NetworkNamespace>,
    programs: Rc<RefCell<Programs>>,
    raw: RawSocket,
    listeners: Vec<Rc<Listener>>,
    released: RefCell<HashMap<SocketAddr, oneshot::Sender<TcpStream>>>,
    acceptors: RefCell<Vec<JoinHandle<()>>>,
    bounds: Bounds,
    /// Whether the programs were told that there is no room for its connections.
    is_full: Cell<bool>,
    /// For how many looks in a row no process of a workload was in the namespace.
    pub idle_looks: Cell<u32>,
}

/// What the connections of a namespace have, and may have no more of.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub share: Share,
    pub buffers: Buffers,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cannot open a raw socket (CAP_NET_RAW is needed): {0}")]
    Raw(io::Error),
    #[error("cannot listen on 127.0.0.1 or [::1]: {0}")]
    Listen(io::Error),
    #[error(transparent)]
    Programs(#[from] InterceptError),
}

impl Engine {
    /// Opens the engine, and tells the programs of it.
    pub fn open(
        node: &Rc<Node>,
        programs: &Rc<RefCell<Programs>>,
        namespace: NetworkNamespace,
        bounds: Bounds,
    ) -> Result<Rc<Self>, EngineError> {
        let raw = RawSocket::open(&namespace).map_err(EngineError::Raw)?;
        let listeners = Listener::bind_both(&namespace).map_err(EngineError::Listen)?;
        programs.borrow_mut().set_engine(&namespace, &listeners)?;
        let listeners: Vec<_> = listeners.into_iter().map(Rc::new).collect();
        let engine = Rc::new(Self {
            namespace: Arc::new(namespace),
            programs: Rc::clone(programs),
            raw,
            listeners: listeners.clone(),
            released: RefCell::default(),
            acceptors: RefCell::default(),
            bounds,
            is_full: Cell::new(false),
            idle_looks: Cell::new(0),
        });
        let acceptors = listeners.into_iter().map(|listener| {
            tokio::task::spawn_local(accept(Rc::downgrade(node), Rc::downgrade(&engine), listener))
        });
        engine.acceptors.borrow_mut().extend(acceptors);
        Ok(engine)
    }

    pub fn namespace(&self) -> &Arc<NetworkNamespace> {
        &self.namespace
    }

    /// The connections that it has.
    pub fn share(&self) -> &Share {
        &self.bounds.share
    }

    /// What is kept of the bodies of its connections' requests.
    pub fn buffers(&self) -> &Buffers {
        &self.bounds.buffers
    }

    pub fn is_full(&self) -> bool {
        self.is_full.get()
    }

    /// Tells the programs whether there is room for the namespace's connections. Says whether that is news.
    pub fn set_full(&self, full: bool) -> bool {
        if full == self.is_full.replace(full) {
            return false;
        }
        if let Err(error) = self.programs.borrow_mut().set_full(&self.namespace, full) {
            tracing::error!(%error, "cannot tell the kernel programs of the bound of connections");
        }
        true
    }

    /// Sends a packet to a client of this namespace.
    pub fn send(&self, packet: &Packet) -> io::Result<()> {
        self.raw.send(packet)
    }

    /// The connection that the client at this address will make is to be handed to whoever holds the receiver.
    pub fn expect(&self, client: SocketAddr) -> oneshot::Receiver<TcpStream> {
        let (sender, receiver) = oneshot::channel();
        self.released.borrow_mut().insert(client, sender);
        receiver
    }

    /// The client at this address is no longer expected by whoever has dropped the receiver.
    pub fn forget(&self, client: SocketAddr) {
        let mut released = self.released.borrow_mut();
        // A later client may have got the same port, and be expected by somebody else.
        if released.get(&client).is_some_and(oneshot::Sender::is_closed) {
            released.remove(&client);
        }
    }

    /// Takes in the client at this address, if it is there by now, and those that came before it: on loopback, one whose SYN
    /// was just released is. Whatever is left is taken in by the acceptors.
    pub fn accept_released(&self, node: &Rc<Node>, client: SocketAddr) {
        let Some(listener) =
            self.listeners.iter().find(|listener| listener.address().is_ipv4() == client.is_ipv4())
        else {
            return;
        };
        for _ in 0..ACCEPTS {
            // What fails here fails again where it is reported.
            let Ok(Some((stream, from))) = listener.accept() else { return };
            self.take_in(node, stream, from);
            if from == client {
                return;
            }
        }
    }

    /// Takes in the clients that are there, up to a bound. False where there may be more.
    fn accept_some(&self, node: &Rc<Node>, listener: &Listener) -> io::Result<bool> {
        for _ in 0..ACCEPTS {
            let Some((stream, client)) = listener.accept()? else { return Ok(true) };
            self.take_in(node, stream, client);
        }
        Ok(false)
    }

    /// Hands a connection to whoever expects it, and serves the others from here.
    fn take_in(&self, node: &Rc<Node>, stream: TcpStream, client: SocketAddr) {
        match self.take_expected(client) {
            Some(sender) => drop(sender.send(stream)),
            None => serve::accepted(node, self, stream, client),
        }
    }

    fn take_expected(&self, client: SocketAddr) -> Option<oneshot::Sender<TcpStream>> {
        self.released.borrow_mut().remove(&client).filter(|sender| !sender.is_closed())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.programs.borrow_mut().remove_engine(&self.namespace);
        for acceptor in self.acceptors.borrow().iter() {
            acceptor.abort();
        }
    }
}

/// Accepts on one of the engine's listeners for as long as the engine lives.
async fn accept(node: Weak<Node>, engine: Weak<Engine>, listener: Rc<Listener>) {
    let (mut failing, mut waits) = (false, true);
    loop {
        let ready = if waits { listener.readable().await } else { Ok(()) };
        let (Some(node), Some(engine)) = (node.upgrade(), engine.upgrade()) else { return };
        match ready.and_then(|()| engine.accept_some(&node, &listener)) {
            Ok(all) => {
                (failing, waits) = (false, all);
                if !all {
                    drop((node, engine));
                    yield_now().await;
                }
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot accept clients; trying again");
                }
                (failing, waits) = (true, false);
                drop((node, engine));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
