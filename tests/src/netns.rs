//! Network namespaces and the veth pairs between them.
//!
//! A namespace is entered by a thread, never by the process: [`Netns::run`] lends a thread to a closure, and what that
//! closure spawns (threads, processes, sockets) stays in the namespace.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use crate::unique;

/// A network namespace with its loopback up; deleted with its interfaces on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn new(role: &str) -> Result<Self> {
        let name = unique(role);
        ip(&["netns", "add", &name])?;
        let netns = Self { name };
        netns.ip(&["link", "set", "lo", "up"])?;
        // An address that is still looking for duplicates cannot be bound, and no test wants to wait for it.
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        // One destination answers many clients at once here; its ICMP errors are not to be thinned out.
        netns.sysctl("net/ipv4/icmp_ratelimit", "0")?;
        netns.sysctl("net/ipv6/icmp/ratelimit", "0")?;
        Ok(netns)
    }

    /// Joins two namespaces by a veth pair called `device` at both ends, each end with its addresses
    /// (`10.1.0.1/24`, `fd00:1::1/64`).
    pub fn join(device: &str, left: (&Self, &[&str]), right: (&Self, &[&str])) -> Result<()> {
        Self::connect((left.0, device), (right.0, device))?;
        for (netns, addresses) in [left, right] {
            for address in addresses {
                let mut add = vec!["address", "add", address, "dev", device];
                if address.contains(':') {
                    add.push("nodad");
                }
                netns.ip(&add)?;
            }
            netns.ip(&["link", "set", device, "up"])?;
        }
        Ok(())
    }

    /// Joins two namespaces by a veth pair, each end with a name of its own, neither up.
    pub fn connect(left: (&Self, &str), right: (&Self, &str)) -> Result<()> {
        let mut add = vec!["link", "add", left.1, "netns", &left.0.name, "type", "veth"];
        add.extend(["peer", "name", right.1, "netns", &right.0.name]);
        ip(&add)
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread of its own inside this namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = File::open(self.path()).context("opening the network namespace")?;
                setns(file, CloneFlags::CLONE_NEWNET)
                    .context("entering a network namespace; these tests need root")?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread inside the network namespace panicked"))?
        })
    }

    /// Starts a process inside this namespace.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.run(|| command.spawn().with_context(|| format!("starting {}", command.get_program().display())))
    }

    /// Sets a sysctl of this namespace, named by its path under /proc/sys.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| {
            fs::write(PathBuf::from("/proc/sys").join(key), value)
                .with_context(|| format!("setting {key} to {value}"))
        })
    }

    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut inside = vec!["-n", &self.name];
        inside.extend(arguments);
        ip(&inside)
    }

    /// Adds to this namespace's nftables, or takes from them.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut nft = self.spawn(&mut command).context("`cargo xtask setup` installs nftables")?;
        nft.stdin.take().context("nft has no input")?.write_all(ruleset.as_bytes())?;
        let output = nft.wait_with_output()?;
        ensure!(
            output.status.success(),
            "nft refused a rule: {}\n{ruleset}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Sets what happens to packets that a device of this namespace sends, in the words of `tc qdisc`.
    pub fn qdisc(&self, arguments: &[&str]) -> Result<()> {
        let mut tc = Command::new("tc");
        tc.arg("-n").arg(&self.name).arg("qdisc").args(arguments).stdin(Stdio::null());
        let output = tc.output().context("running tc; `cargo xtask setup` installs iproute2")?;
        ensure!(
            output.status.success(),
            "tc qdisc {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The interfaces go first: a process or socket that is still around keeps the namespace itself alive.
        drop(self.ip(&["link", "del", "eth0"]));
        drop(ip(&["netns", "del", &self.name]));
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("running ip; `cargo xtask setup` installs iproute2")?;
    ensure!(
        output.status.success(),
        "ip {}: {} (these tests need root)",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The ports on 127.0.0.1 that somebody listens on, in the network of a task of /proc.
pub fn loopback_listeners(task: &str) -> Result<Vec<u16>> {
    let path = format!("/proc/{task}/net/tcp");
    let table = fs::read_to_string(&path).context(path)?;
    let port = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, local, _, "0A", ..] = words[..] else { return None };
        u16::from_str_radix(local.strip_prefix("0100007F:")?, 16).ok()
    };
    Ok(table.lines().filter_map(port).collect())
}
