//! The program `traffic`, running as a workload.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::Done;
use super::traffic::Traffic;
use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::world::helper;

/// How long they may take for anything: longer than the most patient of them waits.
const PATIENCE: Duration = Duration::from_mins(4);

/// Drop kills them.
#[derive(Debug)]
pub struct Clients {
    child: Child,
    input: Option<ChildStdin>,
    count: Arc<AtomicUsize>,
    reading: Option<JoinHandle<Result<Vec<Done>>>>,
}

impl Clients {
    pub fn start(netns: &Netns, cgroup: &Cgroup, traffic: &Traffic) -> Result<Self> {
        let mut command = cgroup.command(helper("traffic")?);
        command.arg(serde_json::to_string(traffic)?).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = netns.spawn(&mut command)?;
        let output = child.stdout.take().context("no stdout")?;
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let reading = thread::spawn(move || read(output, &counted));
        Ok(Self { input: child.stdin.take(), child, count, reading: Some(reading) })
    }

    /// Waits until they have done so many things more.
    pub fn wait_more(&mut self, more: usize) -> Result<()> {
        let (wanted, deadline) = (self.count.load(Ordering::Relaxed) + more, Instant::now() + PATIENCE);
        while self.count.load(Ordering::Relaxed) < wanted {
            if let Some(status) = self.child.try_wait()? {
                return Err(anyhow!("the clients have ended: {status}"));
            }
            ensure!(Instant::now() < deadline, "the clients get nothing done");
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Has them end what they have begun, and returns all that they did.
    pub fn stop(mut self) -> Result<Vec<Done>> {
        drop(self.input.take());
        let status = self.wait()?;
        ensure!(status.success(), "the clients failed: {status}");
        self.told()
    }

    /// Waits for the end of clients that somebody else ends, and returns what they had told of.
    pub fn gone(mut self) -> Result<Vec<Done>> {
        self.wait()?;
        self.told()
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the clients do not come to their end");
            sleep(Duration::from_millis(5));
        }
    }

    fn told(&mut self) -> Result<Vec<Done>> {
        let reading = self.reading.take().context("they were read already")?;
        reading.join().map_err(|_| anyhow!("the thread that read them panicked"))?
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read(output: ChildStdout, count: &AtomicUsize) -> Result<Vec<Done>> {
    let mut all = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        // The last line of one that was killed may be half written.
        let Ok(done) = serde_json::from_slice(&line?) else { break };
        all.push(done);
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(all)
}
