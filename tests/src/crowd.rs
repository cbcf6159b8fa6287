//! Many connections that say only so much and read nothing: the clients are the `crowd` program, whose arguments are
//! here, and so is a server that reads nothing either.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{Shutdown, shutdown};
use serde::{Deserialize, Serialize};
use socket2::Socket;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use crate::netns::Netns;
use crate::upstream::listen;

/// How many connections are being made at a time.
const AT_ONCE: usize = 64;
/// Between one drip and the next: the other side is to see each by itself.
const APART: Duration = Duration::from_millis(10);

/// What the `crowd` program is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Crowd {
    pub to: SocketAddr,
    pub connections: usize,
    /// What each connection says. After each part the program pauses.
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Part {
    Bytes(Vec<u8>),
    /// So many bytes, one by one.
    Drips(usize),
    /// So many bytes, as far as they are taken: nobody waits for that. To be the last part.
    Flood(usize),
}

impl Part {
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

impl Crowd {
    /// Makes all connections, and has them all say each part before the next. `pause` is called after each; the
    /// connections stay open for as long as the future's runtime.
    pub async fn run(self, mut pause: impl FnMut() -> io::Result<()>) -> Result<()> {
        most_descriptors()?;
        let (turn, turns) = watch::channel(0);
        let making = Arc::new(Semaphore::new(AT_ONCE));
        let said = Arc::new(Semaphore::new(0));
        let crowd = Arc::new(self);
        for _ in 0..crowd.connections {
            let place = Arc::clone(&making).acquire_owned().await?;
            let (crowd, said, turns) = (Arc::clone(&crowd), Arc::clone(&said), turns.clone());
            tokio::spawn(async move {
                let stream = TcpStream::connect(crowd.to).await?;
                drop(place);
                crowd.talk(stream, &said, turns).await
            });
        }
        for part in 1..=crowd.parts.len() {
            turn.send(part)?;
            // A connection that failed is never done, and whoever waits for the pause sees why in the agent's log.
            said.acquire_many(u32::try_from(crowd.connections)?).await?.forget();
            pause()?;
        }
        Ok(())
    }

    async fn talk(
        &self,
        mut stream: TcpStream,
        said: &Semaphore,
        mut turns: watch::Receiver<usize>,
    ) -> Result<()> {
        stream.set_nodelay(true)?;
        for (index, part) in self.parts.iter().enumerate() {
            turns.wait_for(|turn| *turn > index).await?;
            match part {
                Part::Bytes(bytes) => stream.write_all(bytes).await?,
                Part::Drips(count) => {
                    for _ in 0..*count {
                        stream.write_all(b"x").await?;
                        sleep(APART).await;
                    }
                }
                Part::Flood(count) => {
                    said.add_permits(1);
                    stream.write_all(&vec![b'x'; *count]).await?;
                    continue;
                }
            }
            said.add_permits(1);
        }
        std::future::pending().await
    }
}

/// Lets this process have as many descriptors as it may, and says how many those are.
pub fn most_descriptors() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of open files")?;
    Ok(hard)
}

/// A server that takes every connection and reads nothing. Drop closes all of them.
#[derive(Debug)]
pub struct Deaf {
    listener: Arc<Socket>,
    kept: Arc<Mutex<Vec<Socket>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Deaf {
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let listener = Arc::new(listen(netns, address, 4096)?);
        // What the kernel takes for a connection is the kernel's memory: little of it, so that the rest is the agent's.
        listener.set_recv_buffer_size(4096)?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (theirs, keeping) = (Arc::clone(&listener), Arc::clone(&kept));
        let accepting = Some(thread::spawn(move || {
            while let Ok((socket, _)) = theirs.accept() {
                keeping.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
            }
        }));
        Ok(Self { listener, kept, accepting })
    }

    /// How many connections it has taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        // Wakes accept(), which a close would not.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}
