//! The smallest world a test needs: a pod and a server, each in its network namespace, joined by veth, and the cgroup
//! of the pod's workload.
//!
//! Every world has the same addresses: worlds are apart, and an agent that mixes two up is caught.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cgroup::Cgroup;
use crate::crowd::Crowd;
use crate::dial::{Dial, Dialled, mapped};
use crate::load::{Load, Report};
use crate::netns::Netns;

pub const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);

/// How a client names its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    /// An IPv4 address on an IPv6 socket.
    Mapped,
}

impl Family {
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    /// The server's address, as it listens on it.
    #[must_use]
    pub fn server(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 | Self::Mapped => SocketAddr::from((SERVER_V4, port)),
            Self::V6 => SocketAddr::from((SERVER_V6, port)),
        }
    }

    /// The pod's address, as the server sees it.
    #[must_use]
    pub fn pod(self) -> IpAddr {
        match self {
            Self::V4 | Self::Mapped => POD_V4.into(),
            Self::V6 => POD_V6.into(),
        }
    }

    /// An address as this family's client says it.
    #[must_use]
    pub fn said(self, address: SocketAddr) -> SocketAddr {
        match self {
            Self::V4 | Self::V6 => address,
            Self::Mapped => mapped(address),
        }
    }
}

#[derive(Debug)]
pub struct World {
    pub pod: Netns,
    pub server: Netns,
    pub cgroup: Cgroup,
}

impl World {
    pub fn new(name: &str) -> Result<Self> {
        let (pod, server) = (Netns::new(&format!("{name}-pod"))?, Netns::new(&format!("{name}-server"))?);
        Netns::join(
            "eth0",
            (&pod, &["10.1.0.1/24", "fd00:1::1/64"]),
            (&server, &["10.1.0.2/24", "fd00:1::2/64"]),
        )?;
        let world = Self { pod, server, cgroup: Cgroup::new(name)? };
        world.pause(&world.cgroup)?;
        Ok(world)
    }

    /// Makes all addresses of a network the server's.
    pub fn lead_to_server(&self, network: &str) -> Result<()> {
        self.server.ip(&["route", "add", "local", network, "dev", "lo"])?;
        self.pod.ip(&["route", "add", network, "via", &SERVER_V4.to_string()])
    }

    /// Leaves a process in a cgroup and the pod's namespace: see [`pause`].
    pub fn pause(&self, cgroup: &Cgroup) -> Result<()> {
        pause(&self.pod, cgroup)
    }

    /// Makes SYN timers give up after 7 s (repeats after 1 s and 3 s) instead of two minutes, for everybody in the pod.
    ///
    /// One repeat less would be quicker, but a late ICMP error may bring a repeat forward (RFC 6069), and where that
    /// is one too many Linux says ETIMEDOUT instead of the error.
    pub fn short_syn_timers(&self) -> Result<()> {
        self.pod.sysctl("net/ipv4/tcp_syn_retries", "2")?;
        let linear = "net/ipv4/tcp_syn_linear_timeouts";
        // Kernels before 6.5 have no linear phase.
        if Path::new("/proc/sys").join(linear).exists() { self.pod.sysctl(linear, "0") } else { Ok(()) }
    }

    /// Makes the kernel find out in so many milliseconds, instead of 3 s, that nobody has an address.
    pub fn neighbour_timer(&self, milliseconds: u64) -> Result<()> {
        for family in ["ipv4", "ipv6"] {
            self.pod.sysctl(&format!("net/{family}/neigh/eth0/mcast_solicit"), "1")?;
            self.pod
                .sysctl(&format!("net/{family}/neigh/eth0/retrans_time_ms"), &milliseconds.to_string())?;
        }
        Ok(())
    }

    /// Dials as the workload.
    pub fn dial(&self, dial: &Dial) -> Result<Dialled> {
        self.start_dial(dial)?.finish()
    }

    /// Dials as the workload and leaves it running: for scripts that pause.
    pub fn start_dial(&self, dial: &Dial) -> Result<Running> {
        self.start_dial_in(&self.cgroup, dial)
    }

    /// Dials as the workload of another cgroup of the same pod.
    pub fn start_dial_in(&self, cgroup: &Cgroup, dial: &Dial) -> Result<Running> {
        Running::start(&self.pod, cgroup.command(helper("dial")?), dial)
    }

    /// Dials from the pod's network but from no workload's cgroup: what happens without redial.
    pub fn dial_direct(&self, dial: &Dial) -> Result<Dialled> {
        self.start_dial_direct(dial)?.finish()
    }

    pub fn start_dial_direct(&self, dial: &Dial) -> Result<Running> {
        Running::start(&self.pod, Command::new(helper("dial")?), dial)
    }

    /// Puts load on a server, as the workload, until the returned handle is finished.
    pub fn start_load(&self, load: &Load) -> Result<Running> {
        Running::start(&self.pod, self.cgroup.command(helper("load")?), load)
    }

    /// Starts many connections, as the workload, and leaves them: they pause after each part.
    pub fn start_crowd(&self, crowd: &Crowd) -> Result<Running> {
        Running::start(&self.pod, self.cgroup.command(helper("crowd")?), crowd)
    }

    /// A command to run as the workload.
    #[must_use]
    pub fn workload(&self, program: &str) -> Command {
        self.cgroup.command(program)
    }
}

/// Leaves a process in a cgroup and a namespace, as every pod has one: the agent finds a workload's
/// namespace through its processes. It ends with its cgroup.
pub fn pause(netns: &Netns, cgroup: &Cgroup) -> Result<()> {
    let mut command = cgroup.command("sleep");
    let mut started = netns.spawn(command.arg("infinity").stdin(Stdio::null()).stderr(Stdio::piped()))?;
    let mut failure = String::new();
    // The shell that enters the cgroup says nothing and becomes the process, or fails and says why.
    if let Some(status) = started.try_wait()? {
        started.stderr.take().context("no stderr")?.read_to_string(&mut failure)?;
        anyhow::bail!("entering a cgroup: {status}: {failure}");
    }
    let procs = cgroup.path().join("cgroup.procs");
    while !std::fs::read_to_string(&procs)?.lines().any(|pid| pid == started.id().to_string()) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

/// A client that runs as a workload. Drop kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(netns: &Netns, mut command: Command, argument: &impl Serialize) -> Result<Self> {
        command.arg(serde_json::to_string(argument)?).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = netns.spawn(&mut command)?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, input, output })
    }

    /// Waits until the client's script pauses. Fails if it ended without.
    pub fn wait_paused(&mut self) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line == "paused\n", "the client did not get as far as its pause: {line}");
        Ok(())
    }

    /// Lets a paused script go on.
    pub fn resume(&mut self) -> Result<()> {
        Ok(self.input.as_mut().context("finished")?.write_all(b"go on\n")?)
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the client: the kernel closes its socket.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the client to end, and reads what it saw.
    pub fn finish(self) -> Result<Dialled> {
        self.result()
    }

    /// Ends a load.
    pub fn stop_load(self) -> Result<Report> {
        self.result()
    }

    fn result<T: DeserializeOwned>(mut self) -> Result<T> {
        drop(self.input.take());
        let mut output = String::new();
        self.output.read_to_string(&mut output)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the client failed: {status}: {output}");
        let last = output.lines().last().context("the client said nothing")?;
        serde_json::from_str(last).with_context(|| format!("reading what the client said: {output}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One of this package's programs, which cargo puts beside or one above the test's own.
pub fn helper(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    test.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("no `{name}` near {}; run these tests with `cargo test -p redial-tests`", test.display())
        })
}
