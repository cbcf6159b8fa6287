//! The access log: a line of JSON for each ended connection and request, written by a thread of its own.
//!
//! The data path hands a record over and goes on: it neither serialises nor waits. Where the writer cannot keep up,
//! or the disk is full, lines are lost and counted; a line that is written is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::{Metrics, Record};

/// How many records may wait for the writer.
const QUEUE: usize = 8192;
/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(10);
/// Lines are written together up to about this size.
const BATCH_BYTES: usize = 64 * 1024;
/// How long the end of the agent waits for the last lines: standard output may be a pipe that nobody reads.
const LAST_FLUSH: Duration = Duration::from_secs(5);
/// How often the writer may complain.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);
/// How long a target that was made non-blocking, as terminals are by the programs that share them, may be busy.
const BUSY_MS: u16 = 1000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the access log needs a path, or - for standard output")]
    NoPath,
    #[error("cannot open the access log {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot write the access log to standard output: {0}")]
    Stdout(io::Error),
    #[error("cannot start the access log's thread: {0}")]
    Thread(io::Error),
}

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    File(PathBuf),
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "" => Err(Error::NoPath),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// The handle that the data path has, shared behind an `Arc`. Dropping it writes what is still waiting.
#[derive(Debug)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    reopen: Arc<AtomicBool>,
    metrics: Metrics,
}

enum Message {
    Record(Record),
    /// Look at the flags.
    Wake,
    /// Write what there is, then drop the sender.
    Flush(mpsc::Sender<()>),
}

impl AccessLog {
    /// Opens the target and starts the writer.
    pub fn open(target: Target, metrics: Metrics) -> Result<Self, Error> {
        let output = target.open()?;
        Self::start(target, output, QUEUE, metrics)
    }

    fn start(target: Target, output: File, queue: usize, metrics: Metrics) -> Result<Self, Error> {
        let (sender, records) = mpsc::sync_channel(queue);
        let reopen = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            target,
            output,
            records,
            reopen: Arc::clone(&reopen),
            metrics: metrics.clone(),
            lines: Vec::with_capacity(2 * BATCH_BYTES),
            torn: false,
            complained: None,
        };
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run())
            .map_err(Error::Thread)?;
        Ok(Self { queue: sender, reopen, metrics })
    }

    /// Hands a record to the writer. Never waits: a record for which there is no room is counted as dropped.
    pub fn record(&self, record: impl Into<Record>) {
        if !self.send(Message::Record(record.into())) {
            self.metrics.access_log_dropped(1);
        }
    }

    /// Opens the path again before the next line is written, because somebody moved the file away.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        // Where the queue is full the writer is awake and sees the flag anyway.
        self.send(Message::Wake);
    }

    /// Waits until everything that was recorded so far is written. For the end of the agent.
    pub fn flush(&self) {
        let (written, all_written) = mpsc::channel();
        let deadline = Instant::now() + LAST_FLUSH;
        let mut message = Message::Flush(written);
        while let Err(TrySendError::Full(unsent)) = self.queue.try_send(message) {
            if Instant::now() >= deadline {
                break;
            }
            message = unsent;
            thread::sleep(GATHER);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(RecvTimeoutError::Timeout) = all_written.recv_timeout(left) {
            tracing::warn!("the access log's last lines could not be written within {LAST_FLUSH:?}");
        }
    }

    fn send(&self, message: Message) -> bool {
        self.queue.try_send(message).is_ok()
    }
}

/// Whoever drops the last handle does not leave before the lines are written.
impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Target {
    fn open(&self) -> Result<File, Error> {
        match self {
            Self::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(Error::Stdout),
            Self::File(path) => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(path)
                .map_err(|source| Error::Open { path: path.clone(), source }),
        }
    }
}

/// The writer thread's own.
struct Writer {
    target: Target,
    output: File,
    records: Receiver<Message>,
    reopen: Arc<AtomicBool>,
    metrics: Metrics,
    /// Lines that are not written yet.
    lines: Vec<u8>,
    /// The latest write stopped within a line.
    torn: bool,
    complained: Option<Instant>,
}

impl Writer {
    /// Ends when the handle is gone and the queue is empty.
    fn run(mut self) {
        while let Ok(message) = self.records.recv() {
            self.take(message);
            // To wake this thread for each line would cost its senders a system call each.
            thread::sleep(GATHER);
            while let Ok(message) = self.records.try_recv() {
                self.take(message);
                if self.lines.len() >= BATCH_BYTES {
                    self.flush();
                }
            }
            self.flush();
        }
    }

    fn take(&mut self, message: Message) {
        if self.reopen.swap(false, Ordering::Acquire) {
            self.flush();
            match self.target.open() {
                Ok(output) => {
                    self.output = output;
                    self.torn = false;
                }
                Err(error) => tracing::error!("{error}; the lines go where they went"),
            }
        }
        match message {
            Message::Record(record) => {
                let end = self.lines.len();
                match serde_json::to_writer(&mut self.lines, &record) {
                    Ok(()) => self.lines.push(b'\n'),
                    Err(error) => {
                        self.lines.truncate(end);
                        self.lost(1, &error.into());
                    }
                }
            }
            Message::Wake => {}
            Message::Flush(written) => {
                self.flush();
                drop(written);
            }
        }
    }

    fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let mut lines = std::mem::take(&mut self.lines);
        if let Err((unwritten, error)) = self.write(&lines) {
            let lost = unwritten.split_inclusive(|byte| *byte == b'\n').count();
            self.lost(u64::try_from(lost).unwrap_or(u64::MAX), &error);
        }
        lines.clear();
        self.lines = lines;
    }

    /// What was not written is given back with the error.
    fn write<'a>(&mut self, lines: &'a [u8]) -> Result<(), (&'a [u8], io::Error)> {
        if self.torn {
            write_all(&self.output, b"\n").map_err(|(_, error)| (lines, error))?;
            self.torn = false;
        }
        write_all(&self.output, lines).inspect_err(|(unwritten, _)| {
            let written = lines.len() - unwritten.len();
            self.torn = written.checked_sub(1).is_some_and(|last| lines.get(last) != Some(&b'\n'));
        })
    }

    fn lost(&mut self, lines: u64, error: &io::Error) {
        self.metrics.access_log_dropped(lines);
        if self.complained.is_none_or(|then| then.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::error!(%error, lines, "cannot write the access log; lines are lost until it works again");
        }
    }
}

/// As [`Write::write_all`], but says what was left and waits for a busy non-blocking target.
fn write_all<'a>(mut output: &File, mut bytes: &'a [u8]) -> Result<(), (&'a [u8], io::Error)> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err((bytes, io::ErrorKind::WriteZero.into())),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLOUT)], BUSY_MS) {
                    Ok(0) => return Err((bytes, error)),
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err((bytes, errno.into())),
                }
            }
            Err(error) => return Err((bytes, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{self, BufRead, BufReader};
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::thread;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::{AccessLog, Error, QUEUE, Target};
    use crate::observe::Connection;
    use crate::observe::metrics::tests::metrics;
    use crate::observe::record::tests::connection;
    use crate::reason::{AttemptOutcome, Reason};

    fn record(number: u64) -> Connection {
        let mut record = connection(Reason::Closed, &[AttemptOutcome::Connected]);
        record.bytes_sent = number;
        record
    }

    /// The `bytes_sent` of each line; fails where a line is not whole.
    fn numbers(lines: impl BufRead) -> Vec<u64> {
        lines
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
                line["bytes_sent"].as_u64().unwrap()
            })
            .collect()
    }

    fn numbers_in(path: &Path) -> Vec<u64> {
        numbers(BufReader::new(File::open(path).unwrap()))
    }

    #[test]
    fn dropping_the_handle_writes_everything_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        fs::write(&path, "{\"bytes_sent\":7}\n").unwrap();
        let metrics = metrics();
        let log = AccessLog::open(Target::File(path.clone()), metrics.clone()).unwrap();
        let written: Vec<u64> = (0..u64::try_from(QUEUE).unwrap()).collect();
        for number in &written {
            log.record(record(*number));
        }
        drop(log);
        assert_eq!(numbers_in(&path), [&[7], written.as_slice()].concat());
        assert_eq!(metrics.totals().access_log_dropped, 0);
    }

    #[test]
    fn a_new_file_is_for_the_owner_and_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        drop(AccessLog::open(Target::File(path.clone()), metrics()).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !0o640, 0);
    }

    #[test]
    fn after_reopen_lines_go_to_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let rotated = folder.path().join("access.log.1");
        let log = AccessLog::open(Target::File(path.clone()), metrics()).unwrap();
        log.record(record(1));
        // A line that still waits when the file is moved belongs in the new one.
        while numbers_in(&path).is_empty() {
            thread::yield_now();
        }
        fs::rename(&path, &rotated).unwrap();
        log.reopen();
        while !path.exists() {
            thread::yield_now();
        }
        log.record(record(2));
        drop(log);
        assert_eq!(numbers_in(&rotated), [1]);
        assert_eq!(numbers_in(&path), [2]);
    }

    #[test]
    fn a_path_that_cannot_be_opened_again_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs").join("access.log");
        fs::create_dir(folder.path().join("logs")).unwrap();
        let log = AccessLog::open(Target::File(path.clone()), metrics()).unwrap();
        fs::rename(folder.path().join("logs"), folder.path().join("moved")).unwrap();
        log.reopen();
        log.record(record(1));
        drop(log);
        assert_eq!(numbers_in(&folder.path().join("moved/access.log")), [1]);
    }

    #[test]
    fn a_full_disk_is_counted_and_not_fatal() {
        let metrics = metrics();
        let log = AccessLog::open(Target::File("/dev/full".into()), metrics.clone()).unwrap();
        for number in 0..100 {
            log.record(record(number));
        }
        drop(log);
        assert_eq!(metrics.totals().access_log_dropped, 100);
    }

    fn over_a_pipe(write_end_flags: OFlag) {
        const SENT: u64 = 5_000;
        let (reader, writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(write_end_flags)).unwrap();
        let metrics = metrics();
        let log = AccessLog::start(Target::Stdout, OwnedFd::from(writer).into(), 8, metrics.clone()).unwrap();
        // Nobody reads yet, and the pipe holds far less than this.
        for number in 0..SENT {
            log.record(record(number));
        }
        let dropped = metrics.totals().access_log_dropped;
        assert!(dropped > 0);

        let received = thread::spawn(move || numbers(BufReader::new(reader)));
        drop(log);
        let received = received.join().unwrap();
        assert!(received.is_sorted());
        assert_eq!(u64::try_from(received.len()).unwrap() + metrics.totals().access_log_dropped, SENT);
    }

    #[test]
    fn a_reader_that_does_not_keep_up_costs_lines_but_no_time() {
        over_a_pipe(OFlag::empty());
    }

    #[test]
    fn a_busy_non_blocking_target_is_waited_for() {
        over_a_pipe(OFlag::O_NONBLOCK);
    }

    #[test]
    fn a_reader_that_went_away_is_counted_and_not_fatal() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let metrics = metrics();
        let log = AccessLog::start(Target::Stdout, OwnedFd::from(writer).into(), 8, metrics.clone()).unwrap();
        log.record(record(1));
        drop(log);
        assert_eq!(metrics.totals().access_log_dropped, 1);
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let error = AccessLog::open(Target::File("/nonexistent/access.log".into()), metrics()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/access.log"), "{error}");
        assert!(matches!("".parse::<Target>(), Err(Error::NoPath)));
        assert_eq!("-".parse::<Target>().unwrap(), Target::Stdout);
        assert_eq!("./-".parse::<Target>().unwrap(), Target::File("./-".into()));
    }
}
