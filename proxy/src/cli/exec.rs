//! `redial exec`: an agent around one command.

use super::complain;
use super::options::{self, Options};
use crate::{
    agent::Agent,
    intercept::{CgroupRoot, NetworkNamespace},
    observe::{access_log::Target, logging},
};
use anyhow::Context as _;
use clap::Args;
use nix::{
    sys::{
        resource::{Resource, getrlimit, rlim_t, setrlimit},
        signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use std::{
    ffi::OsString,
    fs, io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitCode, ExitStatus},
    thread,
    time::Duration,
};
use tokio::{io::unix::AsyncFd, runtime, sync::oneshot, task::LocalSet};
use tracing::Level;

/// What `exec` exits with when redial itself fails, as env(1) and timeout(1) do.
pub const FAILURE: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that ended the command, as shells do.
const SIGNALLED: u8 = 128;

/// Sent to redial alone, these are the command's.
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Run a command with its outbound connections intercepted
///
/// The exit code is the command's; 128+N where signal N ended it; 127 where it was not found, 126 where it could not
/// be run, 125 where redial failed.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,

    /// Where a line of JSON is written for each connection and request: a file, or - for standard output [default: nowhere]
    #[arg(long, value_name = "PATH")]
    access_log: Option<Target>,

    /// How long connections may last after the command has ended, those of processes that it leaves behind included
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = options::duration)]
    drain_timeout: Duration,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Arguments {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        // An agent around a command is quiet unless asked.
        logging::init(self.options.log_format, Level::WARN)?;
        let limits = Limits::of_process()?;
        options::prepare_process()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.serve(limits))
    }

    async fn serve(self, limits: Limits) -> anyhow::Result<ExitCode> {
        let own_mask = SigSet::thread_get_mask()?;
        // Before the agent's threads start, so that none of them takes a signal that is the command's.
        let signals = Signals::block()?;
        let root = CgroupRoot::find()?;
        let settings = self.options.settings(self.access_log, self.drain_timeout)?;
        let mut agent = Agent::start(settings, root.clone(), &[]).await?;
        let cgroup = root.make("redial-exec-")?;
        agent.enrol(cgroup.cgroup().clone(), NetworkNamespace::own()?)?;
        agent.announce();

        let (program, arguments) = self.command.split_first().context("a command is needed")?;
        let procs = cgroup.cgroup().path().join("cgroup.procs");
        let mut command = Command::new(program);
        command.args(arguments);
        let enter = move || {
            fs::write(&procs, "0")?;
            limits.restore()?;
            pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&own_mask), None)?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure writes to a file and sets two of its own process's attributes.
        // `fs::write` allocates for its path, which is safe here: this thread is the only one that forks, and glibc
        // makes its allocator usable in the child.
        #[expect(unsafe_code, reason = "the command has to be in its cgroup before its first instruction")]
        unsafe {
            command.pre_exec(enter);
        }
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Ok(not_started(program, &error)),
        };
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id is out of range")?);
        let mut exited = wait_in_background(child)?;
        let status = loop {
            tokio::select! {
                status = &mut exited => break status.context("lost sight of the command")??,
                signal = signals.next() => forward(&signal?, pid),
                ended = agent.run() => {
                    // Taken over: the command's connections are another agent's business now.
                    ended?;
                    break (&mut exited).await.context("lost sight of the command")??;
                }
            }
        };
        // What the command has sent is still delivered. Whoever does not want to wait for that sends a signal.
        let drained = tokio::select! {
            drained = agent.drain(Some(self.drain_timeout)) => drained,
            () = signals.next_to_stop() => false,
        };
        agent.finish(drained).await;
        drop(cgroup);
        Ok(exit_code(status))
    }
}

fn not_started(program: &OsString, error: &io::Error) -> ExitCode {
    complain(format_args!("redial: cannot run {}: {error}", program.display()));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}

fn wait_in_background(mut child: Child) -> anyhow::Result<oneshot::Receiver<io::Result<ExitStatus>>> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new().name("wait".to_owned()).spawn(move || {
        // Nobody listens any more only when the agent itself is ending.
        let _ = sender.send(child.wait());
    })?;
    Ok(receiver)
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    let signal = status.signal().and_then(|signal| u8::try_from(signal).ok());
    ExitCode::from(code.or(signal.map(|signal| SIGNALLED.saturating_add(signal))).unwrap_or(FAILURE))
}

/// The limits that redial raises for itself, as the command is to have them.
#[derive(Clone, Copy)]
struct Limits {
    open_files: (rlim_t, rlim_t),
    locked_memory: (rlim_t, rlim_t),
}

impl Limits {
    fn of_process() -> anyhow::Result<Self> {
        Ok(Self {
            open_files: getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?,
            locked_memory: getrlimit(Resource::RLIMIT_MEMLOCK)
                .context("cannot read the limit of locked memory")?,
        })
    }

    fn restore(self) -> io::Result<()> {
        setrlimit(Resource::RLIMIT_NOFILE, self.open_files.0, self.open_files.1)?;
        setrlimit(Resource::RLIMIT_MEMLOCK, self.locked_memory.0, self.locked_memory.1)?;
        Ok(())
    }
}

/// The signals that are the command's, as events.
struct Signals(AsyncFd<SignalFd>);

struct Received {
    signal: Signal,
    /// From the terminal, which has sent it to the command as well.
    from_terminal: bool,
}

impl Signals {
    fn block() -> anyhow::Result<Self> {
        let mask: SigSet = FORWARDED.into_iter().collect();
        mask.thread_block()?;
        let descriptor = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // SAFETY: a SignalFd owns its descriptor, and gives the same one for as long as it lives.
        #[expect(unsafe_code, reason = "the only way to wait for a descriptor that is not a socket")]
        let descriptor = unsafe { AsyncFd::register(descriptor)? };
        Ok(Self(descriptor))
    }

    /// Waits for one that tells a program to stop.
    async fn next_to_stop(&self) {
        while let Ok(received) = self.next().await {
            if received.signal != Signal::SIGWINCH {
                return;
            }
        }
    }

    async fn next(&self) -> anyhow::Result<Received> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.get_inner().read_signal()? {
                Some(info) => {
                    let signal = Signal::try_from(i32::try_from(info.ssi_signo)?)?;
                    return Ok(Received { signal, from_terminal: info.ssi_code == nix::libc::SI_KERNEL });
                }
                None => ready.clear_ready(),
            }
        }
    }
}

fn forward(received: &Received, pid: Pid) {
    // A terminal sends its signals to the whole foreground group, but that of its hanging up to the session's leader only.
    if !received.from_terminal || received.signal == Signal::SIGHUP {
        // The command may just have ended.
        let _ = kill(pid, received.signal);
    }
}
