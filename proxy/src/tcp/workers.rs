//! The threads that relay. A connection belongs to one of them from beginning to end, so that nothing about it is
//! shared between threads.

use super::relay::{Moved, Stopped, prepare_upstream, relay_until, reset};
use crate::{
    http::{
        connection::{self, Http},
        pool::Pool,
    },
    observe::{Connection, Observer, Timestamp},
    reason::Reason,
};
use std::{
    io, net,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};
use tokio::{
    net::TcpStream,
    runtime,
    sync::{mpsc, watch},
    task::LocalSet,
};

/// A connection to relay: both of its sides, and the record that its end completes.
pub struct Job {
    pub client: net::TcpStream,
    /// None: no attempt made a connection, and the policy has the client told by HTTP.
    pub upstream: Option<net::TcpStream>,
    /// What serving HTTP takes, where the policy has something to say about it.
    pub http: Option<Box<Http>>,
    pub record: Connection,
    pub begun: Instant,
    /// Dropped when the connection has ended and was recorded.
    pub guard: Box<dyn Send>,
}

/// The relay threads. They end when this is dropped and their connections have ended.
pub struct Workers {
    queues: Vec<mpsc::UnboundedSender<Job>>,
    next: AtomicUsize,
    stop: watch::Sender<bool>,
    drain: watch::Sender<bool>,
}

/// What the threads are told while they serve.
#[derive(Clone)]
pub struct Signals {
    /// Every connection is to end at once.
    pub stopped: Stopped,
    /// Connections are to end when their clients can do without them.
    pub draining: Stopped,
}

impl Workers {
    pub fn start(count: usize, observer: &Observer) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (drain, draining) = watch::channel(false);
        let signals = Signals { stopped, draining };
        let queues = (0..count.max(1))
            .map(|index| start_worker(index, observer.clone(), signals.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self { queues, next: AtomicUsize::new(0), stop, drain })
    }

    /// Hands a connection to the next thread.
    pub fn relay(&self, job: Job) {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        // A worker's queue is open for as long as `self` lives.
        let _ = self.queues[index].send(job);
    }

    /// Asks the clients of connections that can be told to make new ones.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Resets every connection that is still being relayed.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

fn start_worker(
    index: usize,
    observer: Observer,
    signals: Signals,
) -> io::Result<mpsc::UnboundedSender<Job>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (queue, mut jobs) = mpsc::unbounded_channel::<Job>();
    thread::Builder::new().name(format!("relay-{index}")).spawn(move || {
        let local = LocalSet::new();
        local.spawn_local(async move {
            let pool = Pool::default();
            while let Some(job) = jobs.recv().await {
                tokio::task::spawn_local(run(job, observer.clone(), signals.clone(), pool.clone()));
            }
        });
        runtime.block_on(local);
    })?;
    Ok(queue)
}

async fn run(job: Job, observer: Observer, signals: Signals, pool: Pool<TcpStream>) {
    let Job { client, upstream, http, mut record, begun, guard } = job;
    let moved = Moved::default();
    let streams = TcpStream::from_std(client)
        .and_then(|client| Ok((client, upstream.map(TcpStream::from_std).transpose()?)));
    record.reason = match streams {
        Ok((client, upstream)) => {
            upstream.iter().for_each(prepare_upstream);
            serve(client, upstream, http, &moved, &mut record, signals, &pool).await
        }
        Err(error) => {
            tracing::warn!(%error, "cannot relay a connection");
            Reason::Overloaded
        }
    };
    record.bytes_sent = moved.sent.get();
    record.bytes_received = moved.received.get();
    record.duration = begun.elapsed();
    record.time = Timestamp::now();
    observer.connection_ended(record);
    drop(guard);
}

async fn serve(
    client: TcpStream,
    upstream: Option<TcpStream>,
    http: Option<Box<Http>>,
    moved: &Moved,
    record: &mut Connection,
    signals: Signals,
    pool: &Pool<TcpStream>,
) -> Reason {
    match (http, upstream) {
        (Some(http), upstream) => {
            connection::serve(client, upstream, *http, moved, record, signals, pool).await
        }
        (None, Some(upstream)) => relay_until(&client, &upstream, moved, signals.stopped).await,
        (None, None) => {
            reset(&client);
            Reason::AttemptsExhausted
        }
    }
}
