//! The clients whose handshakes are held, by socket cookie, so that each can be told when its client has gone.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};
use tokio::sync::oneshot;

/// Every client that waits. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Clients(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: RefCell<HashMap<u64, Entry>>,
    next_id: Cell<u64>,
}

#[derive(Debug)]
struct Entry {
    /// Tells a client from the next one with the same socket, which may call connect() again at once.
    id: u64,
    gone: oneshot::Sender<()>,
}

/// One waiting client. Dropping it forgets the client.
#[derive(Debug)]
pub struct Client {
    clients: Clients,
    socket_cookie: u64,
    id: u64,
    gone: oneshot::Receiver<()>,
}

impl Clients {
    pub fn wait(&self, socket_cookie: u64) -> Client {
        let id = self.0.next_id.get();
        self.0.next_id.set(id.wrapping_add(1));
        let (sender, gone) = oneshot::channel();
        self.0.waiting.borrow_mut().insert(socket_cookie, Entry { id, gone: sender });
        Client { clients: self.clone(), socket_cookie, id, gone }
    }

    /// The client no longer waits.
    pub fn gone(&self, socket_cookie: u64) {
        if let Some(entry) = self.0.waiting.borrow_mut().remove(&socket_cookie) {
            // Whoever held the handshake may just have finished with it.
            let _ = entry.gone.send(());
        }
    }
}

impl Client {
    /// Waits until the client no longer waits. Cancel safe, and ready for ever after.
    pub async fn gone(&mut self) {
        if !self.gone.is_terminated() {
            // A sender that is dropped makes room for the same socket's next handshake: this one has ended too.
            let _ = (&mut self.gone).await;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut waiting = self.clients.0.waiting.borrow_mut();
        if waiting.get(&self.socket_cookie).is_some_and(|entry| entry.id == self.id) {
            waiting.remove(&self.socket_cookie);
        }
    }
}
