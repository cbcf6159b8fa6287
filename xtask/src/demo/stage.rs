//! The demo itself, in the client's network namespace: what is said and done, in this order.

use super::network::{self, CLIENT, NOBODY, Network, SERVER};
use super::table::{HEADER, Measured, REQUESTS_HEADER, Request, shown};
use super::{Files, POLICY, client};
use anyhow::{Context as _, Result, ensure};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A server in some trouble, and the requests that it gets.
struct Case {
    server: &'static str,
    address: (Ipv4Addr, u16),
    down_for: Duration,
    /// What the server's namespace does to this port's SYNs.
    rule: &'static str,
    /// How many of a hundred requests the server fails.
    fails: u32,
    requests: u32,
    every: Duration,
    /// When the client gives up connecting.
    patience: Duration,
}

const HEALTHY: Case = Case {
    server: "healthy",
    address: (SERVER, 8000),
    down_for: Duration::ZERO,
    rule: "",
    fails: 0,
    requests: 200,
    every: Duration::from_millis(5),
    patience: Duration::from_secs(20),
};

const LATE: Case = Case {
    server: "down for its first 2 s",
    address: (SERVER, 8001),
    down_for: Duration::from_secs(2),
    requests: 15,
    every: Duration::from_millis(200),
    ..HEALTHY
};

const REFUSING: Case = Case {
    server: "refuses 1 connect in 3",
    address: (SERVER, 8002),
    rule: "tcp dport 8002 tcp flags & (syn | ack) == syn numgen inc mod 3 == 0 reject with tcp reset",
    requests: 30,
    every: Duration::from_millis(80),
    ..HEALTHY
};

const LOSING: Case = Case {
    server: "drops 1 SYN in 3",
    address: (SERVER, 8003),
    rule: "tcp dport 8003 tcp flags & (syn | ack) == syn numgen inc mod 3 == 0 drop",
    requests: 30,
    every: Duration::from_millis(100),
    patience: Duration::from_millis(500),
    ..HEALTHY
};

const NEVER: Case = Case {
    server: "never there",
    address: (NOBODY, 8004),
    requests: 5,
    every: Duration::from_millis(100),
    ..HEALTHY
};

const FAILING: Case = Case {
    server: "30 % 503s and resets",
    address: (SERVER, 8005),
    fails: 30,
    requests: 300,
    every: Duration::from_millis(10),
    ..HEALTHY
};

/// Shows everything.
pub(super) fn run(files: &Files) -> Result<()> {
    let network = Network::new()?;
    let (redial, policy) = (files.redial.display(), files.policy.display());
    println!("Two network namespaces, joined by a veth pair: a client, {CLIENT}, and a server, {SERVER}.");
    println!("They go when this ends. {policy} has a policy for each of three of the server's ports;");
    println!("redial's default is for all others: up to 3 attempts.\n");
    for line in POLICY.lines() {
        println!("    {line}");
    }

    println!("\n1. curl asks a server that is down for its first two seconds.\n");
    let url = format!("http://{}:{}/", LATE.address.0, LATE.address.1);
    curl(&network, &format!("curl -sS {url}"))?;
    curl(&network, &format!("{redial} exec --config {policy} -- curl -sS {url}"))?;

    println!("2. A plain client program, without redial and under `redial exec`, in half a minute.\n");
    println!("{HEADER}");
    let added = measure(&network, files, &HEALTHY)?;
    for case in [&LATE, &REFUSING, &LOSING, &NEVER] {
        measure(&network, files, case)?;
    }
    println!();
    let notes = [
        ("attempts", "connections that left the client's namespace, as nftables counted them".to_owned()),
        (HEALTHY.server, format!("redial added {added} to the median connect()")),
        (LATE.server, format!("a request every {}, during those seconds and after", shown(Some(LATE.every)))),
        (LOSING.server, format!("this client waits {} for a connection;", shown(Some(LOSING.patience)))),
        ("", "Linux repeats a lost SYN after 1 s, redial as soon as the policy says".to_owned()),
        (
            NEVER.server,
            "nobody has this address: after redial's last attempt, and so later, the client".to_owned(),
        ),
        ("", "gets the network's own error".to_owned()),
    ];
    for (what, note) in notes {
        println!("{what:<25}{note}");
    }
    println!(
        "\n3. The same client and a server that fails requests: the policy's `http` retries those too.\n"
    );
    println!("{REQUESTS_HEADER}");
    for (redial, files) in [("without", None), ("with", Some(files))] {
        let measured = requests(&network, files, &FAILING)?;
        println!("{}", measured.requests_row(if files.is_some() { "" } else { FAILING.server }, redial));
    }
    println!(
        "\n{} has a line for each of redial's connections and requests, with its attempts.",
        files.access_log.display()
    );
    println!("To go on, as root:");
    println!("    {redial} exec -- curl https://one.of.your.services/");
    println!("    {redial} run --config FOLDER --cgroup system.slice/YOUR.service");
    println!("docs/policies.md says what a policy can do.");
    Ok(())
}

/// Runs the command as it is shown, and shows what it says.
fn curl(network: &Network, line: &str) -> Result<()> {
    let _server = network.serve(LATE.address.into(), LATE.down_for, 0)?;
    println!("    $ {line}");
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null());
    for proxy in ["http_proxy", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    let start = Instant::now();
    let output = command.output().with_context(|| format!("cannot start {line}"))?;
    let took = shown(Some(start.elapsed()));
    for line in [output.stdout, output.stderr].iter().flat_map(|text| text.split(|byte| *byte == b'\n')) {
        if !line.is_empty() {
            println!("    {}", String::from_utf8_lossy(line));
        }
    }
    println!("    ({}, after {took})\n", output.status);
    Ok(())
}

/// Shows the case's two rows as they are measured, and says how much longer the median connect took with redial.
fn measure(network: &Network, files: &Files, case: &Case) -> Result<String> {
    let without = requests(network, None, case)?;
    println!("{}", without.row(case.server, "without"));
    let with = requests(network, Some(files), case)?;
    println!("{}", with.row("", "with"));
    let difference = |with: Duration, without| with.checked_sub(without);
    let added = with.median().zip(without.median()).and_then(|(with, without)| difference(with, without));
    Ok(added.map_or_else(|| "nothing measurable".to_owned(), |added| shown(Some(added))))
}

fn requests(network: &Network, redial: Option<&Files>, case: &Case) -> Result<Measured> {
    network.server_does(case.rule)?;
    network::count_attempts()?;
    let to = SocketAddr::from(case.address);
    let serve = || network.serve((SERVER, case.address.1).into(), case.down_for, case.fails);
    let healthy = if case.down_for.is_zero() { Some(serve()?) } else { None };

    let this = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = if let Some(files) = redial {
        let mut exec = Command::new(&files.redial);
        exec.args(["exec", "--config"]).arg(&files.policy).arg("--access-log").arg(&files.access_log);
        exec.arg("--").arg(this);
        exec
    } else {
        Command::new(this)
    };
    command.args(["demo", "client"]).arg(to.to_string()).arg(case.requests.to_string());
    command.args([case.every, case.patience].map(|duration| duration.as_millis().to_string()));
    let mut client =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start it")?;
    let mut lines = BufReader::new(client.stdout.take().context("the client says nothing")?).lines();

    let first = lines.next().context("the client ended at once")??;
    ensure!(first == client::BEGINS, "the client said {first}");
    // The first seconds of a server that is down begin with the first request.
    let _server = if let Some(healthy) = healthy { healthy } else { serve()? };
    let requests: Vec<Request> = lines.map(|line| line?.parse()).collect::<Result<_>>()?;
    let status = client.wait()?;
    ensure!(status.success(), "the client failed: {status}");
    Ok(Measured { requests, attempts: network::attempts()? })
}
