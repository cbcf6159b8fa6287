//! The threads that relay. A connection belongs to one of them from beginning to end, so that nothing about it is
//! shared between threads.

use super::relay::{Moved, prepare, relay, reset};
use crate::{
    observe::{Connection, Timestamp},
    reason::Reason,
};
use std::{
    io, net,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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
    pub upstream: net::TcpStream,
    pub record: Connection,
    pub begun: Instant,
    /// Dropped when the connection has ended and was recorded.
    pub guard: Box<dyn Send>,
}

/// Gets the record of each connection that has ended.
pub type OnEnd = Arc<dyn Fn(Connection) + Send + Sync>;

/// The relay threads. They end when this is dropped and their connections have ended.
pub struct Workers {
    queues: Vec<mpsc::UnboundedSender<Job>>,
    next: AtomicUsize,
    stop: watch::Sender<bool>,
}

impl Workers {
    pub fn start(count: usize, on_end: &OnEnd) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let queues = (0..count.max(1))
            .map(|index| start_worker(index, Arc::clone(on_end), stopped.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self { queues, next: AtomicUsize::new(0), stop })
    }

    /// Hands a connection to the next thread.
    pub fn relay(&self, job: Job) {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        // A worker's queue is open for as long as `self` lives.
        let _ = self.queues[index].send(job);
    }

    /// Resets every connection that is still being relayed.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

fn start_worker(
    index: usize,
    on_end: OnEnd,
    stopped: watch::Receiver<bool>,
) -> io::Result<mpsc::UnboundedSender<Job>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (queue, mut jobs) = mpsc::unbounded_channel::<Job>();
    thread::Builder::new().name(format!("relay-{index}")).spawn(move || {
        let local = LocalSet::new();
        local.spawn_local(async move {
            while let Some(job) = jobs.recv().await {
                tokio::task::spawn_local(run(job, Arc::clone(&on_end), stopped.clone()));
            }
        });
        runtime.block_on(local);
    })?;
    Ok(queue)
}

async fn run(job: Job, on_end: OnEnd, mut stopped: watch::Receiver<bool>) {
    let Job { client, upstream, mut record, begun, guard } = job;
    let moved = Moved::default();
    let streams = TcpStream::from_std(client).and_then(|client| {
        let upstream = TcpStream::from_std(upstream)?;
        prepare(&client, &upstream);
        Ok((client, upstream))
    });
    record.reason = match streams {
        Ok((client, upstream)) => tokio::select! {
            reason = relay(&client, &upstream, &moved) => reason,
            _ = stopped.wait_for(|stopped| *stopped) => {
                reset(&client);
                reset(&upstream);
                Reason::Drained
            }
        },
        Err(error) => {
            tracing::warn!(%error, "cannot relay a connection");
            Reason::Overloaded
        }
    };
    record.bytes_sent = moved.sent.get();
    record.bytes_received = moved.received.get();
    record.duration = begun.elapsed();
    record.time = Timestamp::now();
    on_end(record);
    drop(guard);
}
