//! Scripted servers inside a namespace, on plain threads.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{Shutdown, shutdown};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::Netns;
use crate::script::{Played, Step, play};

/// A server that plays one script for every connection. Drop closes its port; connections that are still playing end
/// when their clients do.
#[derive(Debug)]
pub struct Upstream {
    listener: Arc<Socket>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// One accepted connection.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Who connected, as this server sees it.
    pub peer: SocketAddr,
    /// What was dialled, as this server sees it.
    pub local: SocketAddr,
    /// The outcome of each step, once the script has ended.
    pub played: Option<Vec<Played>>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
    /// Wakes the scripts that pause, by connection.
    resume: Mutex<Vec<Sender<()>>>,
}

impl Upstream {
    /// Listens in `netns` and plays `script` for each connection.
    pub fn start(netns: &Netns, address: SocketAddr, script: &[Step]) -> Result<Self> {
        Self::with_socket(netns, listen(netns, address, 1024)?, script)
    }

    /// Like [`start`](Self::start), for clients that use Fast Open.
    pub fn fast_open(netns: &Netns, address: SocketAddr, script: &[Step]) -> Result<Self> {
        netns.sysctl("net/ipv4/tcp_fastopen", "1027")?;
        Self::start(netns, address, script)
    }

    fn with_socket(netns: &Netns, socket: Socket, script: &[Step]) -> Result<Self> {
        let listener = Arc::new(socket);
        let shared = Arc::new(Shared::default());
        let (theirs, accepted_by, script) = (Arc::clone(&listener), Arc::clone(&shared), script.to_vec());
        let accepting =
            netns.run(move || Ok(thread::spawn(move || accept(&theirs, &accepted_by, &script))))?;
        Ok(Self { listener, shared, accepting: Some(accepting) })
    }

    /// Every connection so far, in the order of their arrival.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Waits until the scripts of `count` connections have ended.
    pub fn wait_played(&self, count: usize) -> Result<Vec<Seen>> {
        self.wait(|seen| seen.iter().filter(|one| one.played.is_some()).count() >= count)
            .with_context(|| format!("waiting for {count} connections to end"))
    }

    /// Waits until `count` connections have been accepted.
    pub fn wait_seen(&self, count: usize) -> Result<Vec<Seen>> {
        self.wait(|seen| seen.len() >= count).with_context(|| format!("waiting for {count} connections"))
    }

    /// Lets the script of one connection go on after a pause; before the pause, it will not pause.
    pub fn resume(&self, connection: usize) -> Result<()> {
        lock(&self.shared.resume).get(connection).context("no such connection")?.send(())?;
        Ok(())
    }

    fn wait(&self, done: impl Fn(&[Seen]) -> bool) -> Result<Vec<Seen>> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut seen = lock(&self.shared.seen);
        while !done(&seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("this is all that came: {seen:?}");
            }
            seen = self.shared.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(seen.clone())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Wakes accept(), which a close would not.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

fn accept(listener: &Socket, shared: &Arc<Shared>, script: &[Step]) {
    while let Ok((socket, peer)) = listener.accept() {
        let local = socket.local_addr().ok().and_then(|local| local.as_socket());
        let (Some(peer), Some(local)) = (peer.as_socket(), local) else { continue };
        let (resume, paused) = channel();
        let index = {
            let mut seen = lock(&shared.seen);
            lock(&shared.resume).push(resume);
            seen.push(Seen { peer, local, played: None });
            seen.len() - 1
        };
        shared.changed.notify_all();
        let (shared, script) = (Arc::clone(shared), script.to_vec());
        thread::spawn(move || {
            let played = play(TcpStream::from(socket), &script, || {
                let _ = paused.recv();
            });
            if let Some(seen) = lock(&shared.seen).get_mut(index) {
                seen.played = Some(played);
            }
            shared.changed.notify_all();
        });
    }
}

/// A listener whose accept queue is full and stays so: the kernel drops further SYNs.
#[derive(Debug)]
pub struct FullBacklog {
    _listener: Socket,
    _fillers: Vec<Socket>,
}

impl FullBacklog {
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let listener = listen(netns, address, 0)?;
        // The queue is full when it holds more than its backlog of none; the second filler gets no answer, which
        // proves it.
        let fillers = netns.run(|| {
            let mut fillers = Vec::new();
            loop {
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
                match socket.connect_timeout(&SockAddr::from(address), Duration::from_millis(300)) {
                    Ok(()) => fillers.push(socket),
                    Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(fillers),
                    Err(error) => return Err(error).context("filling the backlog"),
                }
            }
        })?;
        Ok(Self { _listener: listener, _fillers: fillers })
    }
}

pub(crate) fn listen(netns: &Netns, address: SocketAddr, backlog: i32) -> Result<Socket> {
    netns.run(|| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&SockAddr::from(address)).with_context(|| format!("binding {address}"))?;
        socket.listen(backlog)?;
        Ok(socket)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
