//! Every way a connect can fail, for every kind of client: what `connect()` says and when, and how many attempts the
//! server saw. Each row runs without redial too, which is the oracle for what the row's network does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use redial_tests::agent::{Agent, Options, Record};
use redial_tests::dial::{Dial, Dialled, Wait};
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::router::{Router, Unreachable};
use redial_tests::script::{Played, Step};
use redial_tests::upstream::{FullBacklog, Upstream};
use redial_tests::world::{Family, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refused,
    DroppedSyn,
    /// A router says so.
    HostUnreachable,
    /// Nobody answers to ARP or neighbour discovery.
    NoSuchHost,
    /// A router says so.
    NetworkUnreachable,
    NoRoute,
    FullBacklog,
    UpLater,
    /// Refuses for longer than the patient policy has attempts.
    NeverUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Blocking,
    Epoll,
    ShortTimeout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Held,
    Eager,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    fault: Fault,
    family: Family,
    client: Client,
    way: Way,
    port: u16,
}

/// What must come of a row.
#[derive(Debug)]
struct Expected {
    errno: Option<&'static str>,
    connect_ms: Range<u64>,
    /// Once connected: what receiving the server's greeting comes to.
    receive: Option<Received>,
    /// The outcomes of redial's attempts; `Direct` has none.
    attempts: Attempts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Received {
    Greeting,
    Reset,
    /// The client stopped waiting.
    Nothing,
}

#[derive(Debug)]
enum Attempts {
    /// redial has no part in it: the server sees so many.
    Direct(usize),
    /// So many, each with this outcome.
    All(usize, &'static str),
    /// Fewer than so many with this outcome, and then one with that.
    Until(&'static str, usize, &'static [&'static str]),
}

const FAULTS: [Fault; 9] = [
    Fault::Refused,
    Fault::DroppedSyn,
    Fault::HostUnreachable,
    Fault::NoSuchHost,
    Fault::NetworkUnreachable,
    Fault::NoRoute,
    Fault::FullBacklog,
    Fault::UpLater,
    Fault::NeverUp,
];
const CLIENTS: [Client; 3] = [Client::Blocking, Client::Epoll, Client::ShortTimeout];
const GREETING: &str = "hello\n";

/// How long the client with the short time-out waits: longer than what ends at once takes on a busy machine, shorter
/// than everything that a timer decides.
const SHORT_MS: u64 = 1200;
/// How long the kernel looks for a host that is not there. Such rows have two attempts: from 5 s on an ICMP error would
/// bring the client's last SYN timer forward.
const NEIGHBOUR_MS: u64 = 1450;
const UP_AFTER: Duration = Duration::from_secs(2);
/// Three attempts that time out are less than the client's own timers allow.
const THREE_ATTEMPTS: &str = "
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: three}
spec:
  tcp: {maxConnectAttempts: 3, connectTimeout: 2100ms, backOff: {baseInterval: 25ms, maxInterval: 50ms}}
  budget: {percent: 100, minPerSecond: 1000}
";

/// Before the client's second SYN is answered, with room for a machine that stalls; the median is held to
/// [`MEDIAN_AT_ONCE_MS`].
const AT_ONCE: Range<u64> = 0..1900;
const MEDIAN_AT_ONCE_MS: u64 = 300;
const AT_THE_SHORT_TIMEOUT: Range<u64> = SHORT_MS..3000;
/// The end of the kernel's SYN timers in these worlds.
const AT_THE_LAST_SYN_TIMER: Range<u64> = 6900..10_000;

/// One matrix at a time has work enough for the machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn held() -> Result<()> {
    matrix(Way::Held)
}

#[test]
fn eager() -> Result<()> {
    matrix(Way::Eager)
}

#[test]
fn direct() -> Result<()> {
    matrix(Way::Direct)
}

fn expected(row: Row) -> Expected {
    match row.way {
        Way::Direct => expected_direct(row),
        Way::Held => expected_held(row),
        Way::Eager => expected_eager(row),
    }
}

fn expected_direct(row: Row) -> Expected {
    let failed = |errno, connect_ms| Expected {
        errno: Some(errno),
        connect_ms,
        receive: None,
        attempts: Attempts::Direct(1),
    };
    let short = row.client == Client::ShortTimeout;
    match row.fault {
        Fault::Refused | Fault::UpLater | Fault::NeverUp => failed("ECONNREFUSED", AT_ONCE),
        Fault::HostUnreachable => failed("EHOSTUNREACH", AT_ONCE),
        Fault::NetworkUnreachable => failed("ENETUNREACH", AT_ONCE),
        Fault::NoRoute => Expected { attempts: Attempts::Direct(0), ..failed("ENETUNREACH", AT_ONCE) },
        Fault::NoSuchHost if short => {
            Expected { attempts: Attempts::Direct(0), ..failed("EINPROGRESS", AT_THE_SHORT_TIMEOUT) }
        }
        Fault::NoSuchHost => Expected { attempts: Attempts::Direct(0), ..failed("EHOSTUNREACH", 1400..6900) },
        Fault::DroppedSyn | Fault::FullBacklog if short => failed("EINPROGRESS", AT_THE_SHORT_TIMEOUT),
        Fault::DroppedSyn | Fault::FullBacklog => failed("ETIMEDOUT", AT_THE_LAST_SYN_TIMER),
    }
}

fn expected_held(row: Row) -> Expected {
    let failed =
        |errno, connect_ms, attempts| Expected { errno: Some(errno), connect_ms, receive: None, attempts };
    let gave_up = |attempts| failed("EINPROGRESS", AT_THE_SHORT_TIMEOUT, attempts);
    let short = row.client == Client::ShortTimeout;
    match row.fault {
        Fault::Refused => failed("ECONNREFUSED", AT_ONCE, Attempts::All(3, "refused")),
        Fault::HostUnreachable => failed("EHOSTUNREACH", AT_ONCE, Attempts::All(3, "host-unreachable")),
        Fault::NetworkUnreachable | Fault::NoRoute => {
            failed("ENETUNREACH", AT_ONCE, Attempts::All(3, "network-unreachable"))
        }
        Fault::NoSuchHost | Fault::DroppedSyn | Fault::FullBacklog if short => {
            gave_up(Attempts::All(1, "cancelled"))
        }
        Fault::NoSuchHost => failed("EHOSTUNREACH", 2700..6900, Attempts::All(2, "host-unreachable")),
        Fault::DroppedSyn | Fault::FullBacklog => {
            failed("ETIMEDOUT", AT_THE_LAST_SYN_TIMER, Attempts::All(3, "timeout"))
        }
        Fault::UpLater if short => gave_up(Attempts::Until("refused", 60, &["refused", "cancelled"])),
        Fault::NeverUp if short => gave_up(Attempts::Until("refused", 14, &["refused", "cancelled"])),
        Fault::UpLater => Expected {
            errno: None,
            connect_ms: 1200..6900,
            receive: Some(Received::Greeting),
            attempts: Attempts::Until("refused", 60, &["connected"]),
        },
        Fault::NeverUp => failed("ECONNREFUSED", 1000..6900, Attempts::All(14, "refused")),
    }
}

fn expected_eager(row: Row) -> Expected {
    let connected =
        |receive, attempts| Expected { errno: None, connect_ms: AT_ONCE, receive: Some(receive), attempts };
    // A client that only stops sending is not known to be gone, so the attempts go on.
    let after_timeout = if row.client == Client::ShortTimeout { Received::Nothing } else { Received::Reset };
    match row.fault {
        Fault::Refused => connected(Received::Reset, Attempts::All(3, "refused")),
        Fault::HostUnreachable => connected(Received::Reset, Attempts::All(3, "host-unreachable")),
        Fault::NetworkUnreachable | Fault::NoRoute => {
            connected(Received::Reset, Attempts::All(3, "network-unreachable"))
        }
        Fault::NoSuchHost => connected(after_timeout, Attempts::All(2, "host-unreachable")),
        Fault::DroppedSyn | Fault::FullBacklog => connected(after_timeout, Attempts::All(3, "timeout")),
        Fault::UpLater => connected(
            if row.client == Client::ShortTimeout { Received::Nothing } else { Received::Greeting },
            Attempts::Until("refused", 60, &["connected"]),
        ),
        Fault::NeverUp => connected(after_timeout, Attempts::All(14, "refused")),
    }
}

/// Runs all rows of one way, many at a time, and reports every one that is not as expected.
fn matrix(way: Way) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = rows(way)?;
    let world = World::new("matrix")?;
    world.short_syn_timers()?;
    world.neighbour_timer(NEIGHBOUR_MS)?;
    // Filling a backlog takes connections that the firewall is not to count.
    let _full: Vec<FullBacklog> = of(&rows, Fault::FullBacklog)
        .map(|row| FullBacklog::start(&world.server, row.destination()))
        .collect::<Result<_>>()?;
    let firewall = Firewall::new(&world.server)?;
    for row in of(&rows, Fault::DroppedSyn) {
        firewall.set(row.port, Fate::Drop)?;
    }
    let unreachable: Vec<(u16, Unreachable)> = of(&rows, Fault::HostUnreachable)
        .map(|row| (row.port, Unreachable::Host))
        .chain(of(&rows, Fault::NetworkUnreachable).map(|row| (row.port, Unreachable::Network)))
        .collect();
    let _router = Router::start(&world.server, &firewall, &unreachable)?;
    let config = policies(&rows);
    let agent = match way {
        Way::Direct => None,
        Way::Held => Some(start_agent(&world, &config, "held")?),
        Way::Eager => Some(start_agent(&world, &config, "eager")?),
    };

    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            results.push(run(&world, &firewall, agent.as_ref(), *row).with_context(|| format!("{row:?}")));
        }
        results
    };
    let results: Vec<Result<Option<u64>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..16).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|_| vec![Err(anyhow!("a worker panicked"))]))
            .collect()
    });
    let (mut at_once, mut faults) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(connect_ms) => at_once.extend(connect_ms),
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    ensure!(faults.is_empty(), "these rows are not as expected:\n{}", faults.join("\n"));
    at_once.sort_unstable();
    let median = at_once[at_once.len() / 2];
    ensure!(median < MEDIAN_AT_ONCE_MS, "what is known at once took {median} ms at the median: {at_once:?}");
    Ok(())
}

fn start_agent(world: &World, config: &str, handshake: &str) -> Result<Agent> {
    // The node's budget is not to get in the way of the policies here.
    let arguments =
        ["--handshake", handshake, "--node-budget-percent", "100", "--node-budget-min-per-second", "1000"];
    let options = Options { config: Some(config), arguments: &arguments, ..Options::default() };
    Agent::start_with(&[&world.cgroup], &options)
}

fn rows(way: Way) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for fault in FAULTS {
        for family in Family::ALL {
            for client in CLIENTS {
                let port = 2000 + u16::try_from(rows.len())?;
                rows.push(Row { fault, family, client, way, port });
            }
        }
    }
    Ok(rows)
}

fn of(rows: &[Row], fault: Fault) -> impl Iterator<Item = &Row> {
    rows.iter().filter(move |row| row.fault == fault)
}

/// Three attempts, but more for the destinations that are down for longer.
fn policies(rows: &[Row]) -> String {
    let ports = |fault| of(rows, fault).map(|row| row.port.to_string()).collect::<Vec<_>>().join(", ");
    format!(
        "---
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {{name: up-later}}
spec:
  to: [{{ports: [{}]}}]
  tcp: {{maxConnectAttempts: 60, backOff: {{baseInterval: 100ms, maxInterval: 150ms}}}}
  budget: {{percent: 100, minPerSecond: 1000}}
---
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {{name: never-up}}
spec:
  to: [{{ports: [{}]}}]
  tcp: {{maxConnectAttempts: 14, backOff: {{baseInterval: 500ms, maxInterval: 500ms}}}}
  budget: {{percent: 100, minPerSecond: 1000}}
---
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {{name: no-such-host}}
spec:
  to: [{{ports: [{}]}}]
  tcp: {{maxConnectAttempts: 2, backOff: {{baseInterval: 25ms, maxInterval: 50ms}}}}
  budget: {{percent: 100, minPerSecond: 1000}}
---{THREE_ATTEMPTS}",
        ports(Fault::UpLater),
        ports(Fault::NeverUp),
        ports(Fault::NoSuchHost)
    )
}

impl Row {
    /// What is dialled, without the mapping.
    fn destination(self) -> SocketAddr {
        let host = self.port % 200;
        let ip: IpAddr = match (self.fault, self.family) {
            // A neighbour of its own for each row: the kernel remembers one that was not there.
            (Fault::NoSuchHost, Family::V4 | Family::Mapped) => {
                Ipv4Addr::from_bits(0x0a01_0032 + u32::from(host)).into()
            }
            (Fault::NoSuchHost, Family::V6) => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 1, host).into(),
            (Fault::NoRoute, Family::V4 | Family::Mapped) => Ipv4Addr::new(192, 0, 2, 1).into(),
            (Fault::NoRoute, Family::V6) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            (_, family) => return family.server(self.port),
        };
        SocketAddr::new(ip, self.port)
    }
}

/// Runs one row; returns how long `connect()` took where it is to end at once.
fn run(world: &World, firewall: &Firewall<'_>, agent: Option<&Agent>, row: Row) -> Result<Option<u64>> {
    let wait = match row.client {
        Client::Blocking => Wait::Blocking,
        Client::Epoll => Wait::Epoll,
        Client::ShortTimeout => Wait::AtMost(SHORT_MS),
    };
    let patience = if row.client == Client::ShortTimeout { SHORT_MS } else { 10_000 };
    let dial = Dial { wait, ..Dial::to(row.family.said(row.destination())) }
        .play(&[Step::ReceiveTimeout(patience), Step::Receive(GREETING.len())]);
    let client =
        if row.way == Way::Direct { world.start_dial_direct(&dial)? } else { world.start_dial(&dial)? };
    let up = || Upstream::start(&world.server, row.destination(), &[Step::Send(GREETING.to_owned())]);
    let (dialled, _up) = match (row.fault, row.client) {
        // Up too late for this client, however slow the machine is.
        (Fault::UpLater, Client::ShortTimeout) => (client.finish()?, Some(up()?)),
        (Fault::UpLater, Client::Blocking | Client::Epoll) => {
            thread::sleep(UP_AFTER);
            let up = up()?;
            (client.finish()?, Some(up))
        }
        _ => (client.finish()?, None),
    };
    let expected = expected(row);
    let record = agent.map(|agent| agent.wait_record(row.port)).transpose()?;
    let seen = firewall.attempts_to(row.port)?;
    check_client(row.way, &dialled, &expected)
        .and_then(|()| check_attempts(row, &expected.attempts, record.as_ref(), seen))
        .with_context(|| format!("{dialled:?}; the server saw {seen}; the log says {record:?}"))?;
    Ok((expected.connect_ms == AT_ONCE).then_some(dialled.connect_ms))
}

fn check_client(way: Way, dialled: &Dialled, expected: &Expected) -> Result<()> {
    let Expected { errno, connect_ms, receive, attempts: _ } = expected;
    ensure!(connect_ms.contains(&dialled.connect_ms), "expected it in {connect_ms:?} ms");
    // Accept-first, then reset: a client that looks late sees only the reset.
    let reset_at_once = way == Way::Eager && dialled.errno.as_deref() == Some("ECONNRESET");
    if reset_at_once && *receive == Some(Received::Reset) {
        return Ok(());
    }
    ensure!(dialled.errno.as_deref() == *errno, "expected {errno:?}");
    let received = match dialled.step(1) {
        None => None,
        Some(Played::Text(text)) if text == GREETING => Some(Received::Greeting),
        Some(Played::Failed(errno)) if errno == "ECONNRESET" => Some(Received::Reset),
        Some(Played::Failed(errno)) if errno == "EAGAIN" => Some(Received::Nothing),
        Some(other) => bail!("unexpected: {other:?}"),
    };
    ensure!(received == *receive, "expected {receive:?}");
    Ok(())
}

fn check_attempts(row: Row, expected: &Attempts, record: Option<&Record>, seen: usize) -> Result<()> {
    let outcomes = record.map(Record::outcomes).unwrap_or_default();
    match expected {
        Attempts::Direct(count) => {
            ensure!(seen == *count, "expected {count} attempts");
            return Ok(());
        }
        Attempts::All(count, outcome) => {
            ensure!(outcomes == vec![*outcome; *count], "expected {count} times {outcome}");
        }
        Attempts::Until(outcome, bound, last) => {
            let (end, before) = outcomes.split_last().context("no attempt")?;
            ensure!(before.iter().all(|one| one == outcome), "expected only {outcome} before the last");
            ensure!(outcomes.len() < *bound && last.contains(end), "expected at last one of {last:?}");
        }
    }
    // Attempts that never leave the pod are known to the log alone.
    let visible = !matches!(row.fault, Fault::NoSuchHost | Fault::NoRoute);
    let logged = outcomes.len() + record.map_or(0, |record| record.attempts_omitted);
    ensure!(!visible || seen == logged, "the server and the log do not agree");
    Ok(())
}
