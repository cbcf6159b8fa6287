//! The engine of one network namespace: its listeners on loopback, the raw socket for its held handshakes, and the
//! upstream connections that wait for their clients.

use super::{node::Node, serve};
use crate::intercept::{InterceptError, NetworkNamespace, Packet, Programs, RawSocket};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::sleep,
};

/// Clamped by net.core.somaxconn.
const BACKLOG: i32 = 65_535;
/// Above the default range of ephemeral ports, so that no application is handed or wants the engine's.
const PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_535;
const PORT_ATTEMPTS: usize = 32;
/// How long to wait where accept fails for want of descriptors or memory: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Dropping it sends the namespace's connections direct, and closes the listeners.
pub struct Engine {
    namespace: Arc<NetworkNamespace>,
    programs: Rc<RefCell<Programs>>,
    raw: RawSocket,
    released: RefCell<HashMap<SocketAddr, oneshot::Sender<TcpStream>>>,
    acceptors: RefCell<Vec<JoinHandle<()>>>,
    /// For how many looks in a row no process of a workload was in the namespace.
    pub idle_looks: Cell<u32>,
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
    ) -> Result<Rc<Self>, EngineError> {
        let raw = RawSocket::open(&namespace).map_err(EngineError::Raw)?;
        let (v4, v6) = listen(&namespace).map_err(EngineError::Listen)?;
        let address = |listener: &Option<TcpListener>| listener.as_ref().and_then(|l| l.local_addr().ok());
        programs.borrow_mut().set_engine(&namespace, address(&v4), address(&v6))?;
        let engine = Rc::new(Self {
            namespace: Arc::new(namespace),
            programs: Rc::clone(programs),
            raw,
            released: RefCell::default(),
            acceptors: RefCell::default(),
            idle_looks: Cell::new(0),
        });
        let acceptors = [v4, v6].into_iter().flatten().map(|listener| {
            tokio::task::spawn_local(accept(Rc::downgrade(node), Rc::downgrade(&engine), listener))
        });
        engine.acceptors.borrow_mut().extend(acceptors);
        Ok(engine)
    }

    pub fn namespace(&self) -> &Arc<NetworkNamespace> {
        &self.namespace
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

    /// The client at this address is no longer expected.
    pub fn forget(&self, client: SocketAddr) {
        // A later client may have got the same port, and be expected by somebody else.
        self.released.borrow_mut().retain(|address, sender| *address != client || !sender.is_closed());
    }

    fn take_expected(&self, client: SocketAddr) -> Option<oneshot::Sender<TcpStream>> {
        self.released.borrow_mut().remove(&client)
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

async fn accept(node: Weak<Node>, engine: Weak<Engine>, listener: TcpListener) {
    loop {
        let accepted = listener.accept().await;
        let (Some(node), Some(engine)) = (node.upgrade(), engine.upgrade()) else { return };
        match accepted {
            Ok((stream, client)) => match engine.take_expected(client) {
                Some(sender) => {
                    // Where the receiver has gone the stream is dropped, which is all that can be done with it.
                    let _ = sender.send(stream);
                }
                None => serve::accepted(&node, &engine, stream, client),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                drop((node, engine));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Listens on both loopback addresses, on the same port where that is free. A namespace may lack either family.
fn listen(namespace: &NetworkNamespace) -> io::Result<(Option<TcpListener>, Option<TcpListener>)> {
    namespace.run(|| {
        let mut error = io::Error::from(io::ErrorKind::AddrInUse);
        for attempt in 0..=PORT_ATTEMPTS {
            // If nothing is free up there, any port will do.
            let port = if attempt < PORT_ATTEMPTS { fastrand::u16(PORTS) } else { 0 };
            let v4 = match bind((Ipv4Addr::LOCALHOST, port).into()) {
                Ok(listener) => Some(listener),
                Err(failed) if failed.kind() == io::ErrorKind::AddrInUse => continue,
                Err(failed) => {
                    error = failed;
                    None
                }
            };
            let v6 = match bind((Ipv6Addr::LOCALHOST, port).into()) {
                Ok(listener) => Some(listener),
                Err(failed) if failed.kind() == io::ErrorKind::AddrInUse => continue,
                Err(_) => None,
            };
            if v4.is_some() || v6.is_some() {
                return Ok((v4, v6));
            }
        }
        Err(error)
    })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
