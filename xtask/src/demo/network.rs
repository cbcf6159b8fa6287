//! The demo's network: the client's namespace, which is this process's own, joined by veth to the server's.
//!
//! Neither has a default route, so nothing that the demo sends can leave them.

use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// On the server's network, and nobody's.
pub(super) const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);

/// The server's namespace, held by a process that ends when we do.
#[derive(Debug)]
pub(super) struct Network {
    holder: Process,
}

/// A process that ends with this value.
#[derive(Debug)]
pub(super) struct Process(Child);

impl Network {
    /// Makes and joins the namespaces.
    pub(super) fn new() -> Result<Self> {
        let devices = fs::read_to_string("/proc/self/net/dev").context("cannot read /proc/self/net/dev")?;
        let others = devices.lines().skip(2).any(|device| !device.trim_start().starts_with("lo:"));
        ensure!(!others, "this network namespace is in use: `cargo xtask demo` makes the one that is needed");

        let mut unshare = Command::new("unshare");
        let holder = Process::start(unshare.args(["--net", "--", "sh", "-c", "echo ready; exec cat"]), true)?;
        let network = Self { holder };
        let pid = network.holder.0.id().to_string();
        let here = |words: &str| run(Command::new("ip").args(words.split(' ')));
        let there = |words: &str| run(network.at_server("ip").args(words.split(' ')));
        here(&format!("link add eth0 type veth peer name eth0 netns {pid}"))?;
        here(&format!("address add {CLIENT}/24 dev eth0"))?;
        there(&format!("address add {SERVER}/24 dev eth0"))?;
        for device in ["lo", "eth0"] {
            here(&format!("link set {device} up"))?;
            there(&format!("link set {device} up"))?;
        }
        Ok(network)
    }

    /// Starts a server. One that is not down at first listens when this returns.
    pub(super) fn serve(&self, address: SocketAddr, down_for: Duration, fails: u32) -> Result<Process> {
        let this = std::env::current_exe().context("cannot tell where this program is")?;
        let mut server = self.at_server("env");
        server.arg(this).args(["demo", "server"]).arg(address.to_string());
        server.args([down_for.as_millis().to_string(), fails.to_string()]);
        Process::start(&mut server, down_for.is_zero())
    }

    /// Has the server's namespace do this, and nothing else, with SYNs.
    pub(super) fn server_does(&self, rule: &str) -> Result<()> {
        let chain = format!("chain input {{ type filter hook input priority filter; {rule}\n}}");
        nft(&mut self.at_server("nft"), &chain)
    }

    /// A command that runs in the server's namespace.
    fn at_server(&self, program: &str) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.arg(format!("--net=/proc/{}/ns/net", self.holder.0.id())).args(["--", program]);
        nsenter
    }
}

/// From here on counts the connections that leave the client's namespace. Each has a source port of its own, and a SYN
/// that is sent again counts once. What a program sends to redial itself stays on loopback and does not count.
pub(super) fn count_attempts() -> Result<()> {
    nft(
        &mut Command::new("nft"),
        "set seen { type inet_service; flags dynamic; size 65535; }
         counter attempts { }
         chain output {
             type filter hook output priority filter;
             oifname eth0 tcp flags & (syn | ack) == syn tcp sport != @seen add @seen { tcp sport } counter name attempts
         }",
    )
}

/// How many there were.
pub(super) fn attempts() -> Result<u64> {
    let output = Command::new("nft").args(["list", "counter", "ip", "demo", "attempts"]).output();
    let text = String::from_utf8(output.context("cannot start nft")?.stdout).context("nft's answer")?;
    let count = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    count.context("nft lost the counter")?.parse().context("nft's answer")
}

impl Process {
    /// Its standard input lasts as long as this process, and is how it learns of our end. Can wait for the line that
    /// says that it is ready.
    fn start(command: &mut Command, wait: bool) -> Result<Self> {
        let program = command.get_program().display().to_string();
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = Self(spawned.with_context(|| format!("cannot start {program}"))?);
        if wait {
            let mut line = String::new();
            let output = process.0.stdout.as_mut().context("no standard output")?;
            BufReader::new(output)
                .read_line(&mut line)
                .with_context(|| format!("cannot read from {program}"))?;
            ensure!(!line.is_empty(), "{program} ended at once");
        }
        Ok(process)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Replaces the demo's table in the namespace of this nft.
fn nft(nft: &mut Command, table: &str) -> Result<()> {
    let spawned = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn();
    let mut process = spawned.context("cannot start nft")?;
    let script = format!("table ip demo\ndelete table ip demo\ntable ip demo {{\n{table}\n}}\n");
    process.stdin.take().context("nft has no input")?.write_all(script.as_bytes())?;
    ensure!(process.wait()?.success(), "nft refused {table}");
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
