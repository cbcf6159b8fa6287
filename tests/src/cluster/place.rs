//! Where a node or the control plane lives: a network, mount and cgroup namespace, and a cgroup that its processes
//! never leave.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::subtree::Subtree;
use super::{PATIENCE, POLL, run_by};
use crate::netns::Netns;

/// What a place's processes see as their own, in memory: gone with the last of them.
pub(super) const RUN: &str = "/run/node";

/// What kubelet sets on the machine that it runs on, and is to believe it has set.
const SYSCTLS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Drop ends every process that was ever started here.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) netns: Netns,
    holder: Child,
    daemons: Mutex<Vec<Daemon>>,
    subtree: Subtree,
}

#[derive(Debug)]
struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Keeps the namespaces. It ends everything when its input ends, so also when the tests' process is killed.
const HOLDER: &str = r#"
    exec 3>"$1"; shift
    while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit; shift; done; shift
    exec unshare --mount --cgroup -- sh -c '
        for root do echo 0 >"$root/system/cgroup.procs" || exit; done
        echo ready; read -r _; echo 1 >&3' sh "$@"
"#;

/// Enters cgroups, then runs a command.
const ENTER: &str = r#"
    while [ "$1" != -- ]; do echo 0 >"$1/system/cgroup.procs" || exit; shift; done; shift
    exec "$@"
"#;

impl Place {
    pub(super) fn new(role: &str) -> Result<Self> {
        let (netns, subtree) = (Netns::new(role)?, Subtree::new(role)?);
        let roots = || subtree.roots().map(|(_, root)| root);
        let mut holder = Command::new("sh");
        holder.args(["-c", HOLDER, "sh"]).arg(subtree.unified().join("cgroup.kill"));
        holder.args(roots()).arg("--").args(roots());
        holder.stdin(Stdio::piped()).stdout(Stdio::piped());
        let holder = netns.spawn(&mut holder)?;
        let mut place = Self { netns, holder, daemons: Mutex::default(), subtree };
        let mut ready = [0; 6];
        let said = place.holder.stdout.as_mut().context("no stdout")?.read_exact(&mut ready);
        said.context("entering namespaces; these tests need root")?;
        place.subtree.enable_controllers()?;
        place.run(|| place.mount())?;
        Ok(place)
    }

    /// The root of its cgroups, where cgroup2 is mounted.
    pub(super) fn cgroup(&self) -> PathBuf {
        self.subtree.unified()
    }

    /// Runs `work` on a thread of its own among this place's mounts.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(format!("/proc/{}/ns/mnt", self.holder.id()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS)?;
                setns(namespace, CloneFlags::CLONE_NEWNS).context("entering a mount namespace")?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread inside the mount namespace panicked"))?
        })
    }

    /// The words before a command that has it run here.
    pub(super) fn entry(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["sh", "-c", ENTER, "sh"].map(OsString::from).into();
        words.extend(self.subtree.roots().map(|(_, root)| root.into()));
        let holder = self.holder.id().to_string();
        words.extend(["--", "nsenter", "--mount", "--cgroup", "--target", &holder].map(OsString::from));
        words.extend([format!("--net={}", self.netns.path().display()).into(), "--".into()]);
        words
    }

    /// A command that runs here.
    pub(super) fn command(&self, program: impl AsRef<Path>) -> Command {
        run_by(&self.entry(), program)
    }

    /// Sends a signal to what was started under this name.
    pub(super) fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let daemons = self.daemons.lock().map_err(|_| anyhow!("a thread panicked"))?;
        let daemon = daemons.iter().find(|daemon| daemon.name == name).context("no such program")?;
        Ok(kill(Pid::from_raw(i32::try_from(daemon.child.id())?), signal)?)
    }

    /// Leaves a command running here, with a file for what it says.
    pub(super) fn start(&self, name: &str, mut command: Command, log: &Path) -> Result<()> {
        let file = File::create(log)?;
        let child = command
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let mut daemons = self.daemons.lock().map_err(|_| anyhow!("poisoned"))?;
        daemons.push(Daemon { name: name.to_owned(), child, log: log.to_owned() });
        Ok(())
    }

    /// Ends every process that was started here, and what they have started, and removes the cgroups that these had. The
    /// namespaces stay.
    pub(super) fn end_all(&self) -> Result<()> {
        let mut daemons = self.daemons.lock().map_err(|_| anyhow!("poisoned"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            for cgroup in self.subtree.below()? {
                let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
                for process in processes.lines().filter(|process| **process != *self.holder.id().to_string())
                {
                    // One that has just ended is none.
                    let _ = kill(Pid::from_raw(process.parse()?), Signal::SIGKILL);
                }
            }
            daemons.retain_mut(|daemon| matches!(daemon.child.try_wait(), Ok(None)));
            if daemons.is_empty() && self.subtree.is_empty()? {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "there are processes that do not end");
            thread::sleep(POLL);
        }
    }

    /// Fails where something that was started has ended, with the last that it said.
    pub(super) fn check(&self) -> Result<()> {
        for daemon in self.daemons.lock().map_err(|_| anyhow!("poisoned"))?.iter_mut() {
            if let Some(status) = daemon.child.try_wait()? {
                let said = fs::read_to_string(&daemon.log)?;
                let lines: Vec<_> = said.lines().collect();
                let last = lines[lines.len().saturating_sub(20)..].join("\n");
                bail!("{} has ended ({status}):\n{last}", daemon.name);
            }
        }
        Ok(())
    }

    /// Hides what is the machine's own behind what is this place's.
    fn mount(&self) -> Result<()> {
        let none = None::<&str>;
        // Pods see mounts that come later where they ask to.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
        for (mounted, root) in self.subtree.roots() {
            bind(&root, mounted)?;
        }
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("mounting a tmpfs")?;
        let run = Path::new(RUN);
        for folder in ["sysctl", "var", "var.work"] {
            fs::create_dir_all(run.join(folder))?;
        }
        let var = format!("lowerdir=/var,upperdir={RUN}/var,workdir={RUN}/var.work");
        mount(Some("overlay"), "/var", Some("overlay"), MsFlags::empty(), Some(var.as_str()))
            .context("mounting an overlay over /var")?;
        for (name, value) in SYSCTLS {
            let (copy, own) =
                (run.join("sysctl").join(name.replace('/', ".")), Path::new("/proc/sys").join(name));
            fs::write(&copy, value)?;
            if own.exists() {
                bind(&copy, &own)?;
            }
        }
        Ok(())
    }
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mounting {} over {}", from.display(), to.display()))
}

impl Drop for Place {
    fn drop(&mut self) {
        // All at once, before anybody starts anything anew; and again, since what was just started may not have been in its
        // cgroup yet. What then is left of the cgroups goes with the subtree.
        let kill = self.cgroup().join("cgroup.kill");
        drop(self.holder.stdin.take());
        let daemons = self.daemons.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut left: Vec<_> = daemons.iter_mut().map(|daemon| &mut daemon.child).collect();
        left.push(&mut self.holder);
        loop {
            drop(fs::write(&kill, "1"));
            left.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            if left.is_empty() {
                return;
            }
            thread::sleep(POLL);
        }
    }
}
