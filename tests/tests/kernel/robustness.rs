//! An agent that dies, restarts, is replaced, or is told something wrong.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use redial_tests::agent::{Agent, Options, binary};
use redial_tests::dial::{Dial, Wait};
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::load::{self, Load, now};
use redial_tests::script::{Played, Step};
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, Running, SERVER_V4, World};
use serde_json::json;

const PORT: u16 = 80;
const DROPPED: u16 = 81;
const LONG: u16 = 82;
const REFUSED: u16 = 83;

fn line_server(world: &World) -> Result<Upstream> {
    Upstream::start(&world.server, Family::V4.server(PORT), &load::server())
}

fn busy() -> Load {
    Load { to: Family::V4.server(PORT), threads: 4, rest_ms: 2, reset: false }
}

fn dial(port: u16) -> Dial {
    Dial::to(Family::V4.server(port))
}

fn policy(attempts: u32) -> String {
    format!(
        "apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {{name: p}}
spec:
  tcp: {{maxConnectAttempts: {attempts}}}
  budget: {{percent: 100, minPerSecond: 1000}}
"
    )
}

#[test]
fn killed_under_load_it_loses_what_was_open_and_nothing_else() -> Result<()> {
    let world = World::new("kill")?;
    let firewall = Firewall::new(&world.server)?;
    firewall.set(DROPPED, Fate::Drop)?;
    let server = line_server(&world)?;
    let long = Upstream::start(
        &world.server,
        Family::V4.server(LONG),
        &[Step::Send("hi".to_owned()), Step::ReceiveAll],
    )?;
    let mut agent = Agent::start(&[&world.cgroup])?;

    // Three connections are open and two are held when the agent dies.
    let mut open: Vec<Running> = Vec::new();
    for _ in 0..3 {
        open.push(world.start_dial(&dial(LONG).play(&[Step::Receive(2), Step::Pause, Step::ReceiveAll]))?);
    }
    for client in &mut open {
        client.wait_paused()?;
    }
    let held = [world.start_dial(&dial(DROPPED))?, world.start_dial(&dial(DROPPED))?];
    while firewall.attempts_to(DROPPED)? < 2 {
        sleep(Duration::from_millis(5));
    }
    let load = world.start_load(&busy())?;
    server.wait_seen(200)?;

    let killed = now();
    agent.kill()?;
    let gone = now();
    let before = server.seen().len();
    server.wait_seen(before + 500)?;
    let report = load.stop_load()?;

    for failure in report.failures() {
        assert!(failure.started_us <= gone, "a connection opened after the end failed: {failure:?}");
        assert!(failure.ended_us >= killed, "a connection ended before the end and failed: {failure:?}");
    }
    // Four threads have at most four connections open at any one moment.
    assert!(report.failures().len() <= 4, "lost: {:?}", report.failures());
    let slowest = report
        .exchanges
        .iter()
        .filter(|exchange| exchange.started_us > gone)
        .map(|exchange| exchange.connected_us - exchange.started_us)
        .max();
    assert!(
        slowest.is_some_and(|slowest| slowest < 900_000),
        "connects afterwards took up to {slowest:?} µs"
    );

    for client in open {
        // The kernel closes a dead process's sockets: with FIN, or with RST where data was unread.
        match client.finish()?.step(2) {
            Some(Played::Text(rest)) if rest.is_empty() => {}
            Some(Played::Failed(errno)) if errno == "ECONNRESET" => {}
            other => panic!("an open connection did not end: {other:?}"),
        }
    }
    assert_eq!(long.wait_played(3)?.len(), 3);
    for client in held {
        // Its SYN goes to the engine's port, where nobody listens any more.
        assert_eq!(client.finish()?.errno.as_deref(), Some("ECONNREFUSED"));
    }
    Ok(())
}

#[test]
fn restarted_it_enrols_again() -> Result<()> {
    let world = World::new("restart")?;
    let firewall = Firewall::new(&world.server)?;
    let mut agent = Agent::start(&[&world.cgroup])?;
    world.dial(&dial(REFUSED))?;
    assert_eq!(firewall.attempts_to(REFUSED)?, 3);
    agent.kill()?;
    world.dial(&dial(REFUSED))?;
    assert_eq!(firewall.attempts_to(REFUSED)?, 4, "nobody is in between");
    let _again = Agent::start(&[&world.cgroup])?;
    world.dial(&dial(REFUSED))?;
    assert_eq!(firewall.attempts_to(REFUSED)?, 7);
    Ok(())
}

#[test]
fn a_second_agent_takes_over_without_a_failed_connection() -> Result<()> {
    let world = World::new("takeover")?;
    let server = line_server(&world)?;
    let long =
        Upstream::start(&world.server, Family::V4.server(LONG), &[Step::Send("hi".to_owned()), Step::Echo])?;
    let config = policy(1000);
    let options = || Options { config: Some(&config), ..Options::default() };
    let mut first = Agent::start_with(&[&world.cgroup], &options())?;
    let script = [Step::Receive(2), Step::Pause, Step::Send("still".to_owned()), Step::Receive(5)];
    let mut open = world.start_dial(&dial(LONG).play(&script))?;
    open.wait_paused()?;
    let held = world.start_dial(&dial(REFUSED))?;
    let load = world.start_load(&busy())?;
    server.wait_seen(200)?;

    let second = Agent::start_with(&[&world.cgroup], &options())?;
    server.wait_seen(server.seen().len() + 200)?;
    if first.is_running()? {
        first.signal(Signal::SIGTERM)?;
    }
    server.wait_seen(server.seen().len() + 500)?;
    let report = load.stop_load()?;
    assert_eq!(report.failures().len(), 0, "{:?}", report.failures());
    assert!(second.records_of(PORT)?.len() >= 500, "the second agent has the connections now");

    // The first drains: what it had open or held goes on to its own end.
    let _up = Upstream::start(&world.server, Family::V4.server(REFUSED), &[Step::ReceiveAll])?;
    assert_eq!(held.finish()?.errno, None);
    open.resume()?;
    assert_eq!(open.finish()?.step(3), Some(&Played::Text("still".to_owned())));
    long.wait_played(1)?;
    assert!(first.wait_exit()?.success());
    Ok(())
}

/// The drain timeout is for an agent that is told to stop, not for one that is replaced.
#[test]
fn what_is_open_at_a_take_over_stays_open() -> Result<()> {
    let world = World::new("stays")?;
    let _long =
        Upstream::start(&world.server, Family::V4.server(LONG), &[Step::Send("hi".to_owned()), Step::Echo])?;
    let _server = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::ReceiveAll])?;
    let options = || Options { arguments: &["--drain-timeout", "1s"], ..Options::default() };
    let mut first = Agent::start_with(&[&world.cgroup], &options())?;
    let script = [Step::Receive(2), Step::Pause, Step::Send("still".to_owned()), Step::Receive(5)];
    let mut open = world.start_dial(&dial(LONG).play(&script))?;
    open.wait_paused()?;

    let second = Agent::start_with(&[&world.cgroup], &options())?;
    first.wait_log("draining")?;
    assert_eq!(world.dial(&dial(PORT))?.errno, None);
    second.wait_record(PORT)?;
    // Thrice the drain timeout.
    sleep(Duration::from_secs(3));
    assert!(first.is_running()?, "{}", first.log()?);
    let state = |agent: &Agent| -> Result<_> {
        let status = agent.status()?;
        Ok(["ready", "draining", "connections_active"].map(|what| status[what].clone()))
    };
    assert_eq!(state(&first)?, [json!(false), json!(true), json!(1)]);
    assert_eq!(state(&second)?, [json!(true), json!(false), json!(0)]);
    open.resume()?;
    assert_eq!(open.finish()?.step(3), Some(&Played::Text("still".to_owned())));
    assert!(first.wait_exit()?.success());
    assert_eq!(first.wait_record(LONG)?.reason, "closed");
    assert_eq!(first.records_of(PORT)?.len(), 0);
    Ok(())
}

/// What can fail comes before the take-over.
#[test]
fn a_second_agent_that_cannot_start_leaves_the_first_in_place() -> Result<()> {
    let world = World::new("cannot")?;
    let _server = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::ReceiveAll])?;
    let mut first = Agent::start(&[&world.cgroup])?;
    let missing = world.cgroup.path().with_extension("missing");
    let run = || -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(["run", "--cgroup"]).arg(world.cgroup.path());
        Ok(command)
    };
    let mut unbindable = run()?;
    // Of a range for documentation: no machine has it.
    unbindable.args(["--metrics", "192.0.2.77:9"]);
    let mut half = run()?;
    half.arg("--cgroup").arg(missing);
    let mut unlogged = run()?;
    unlogged.args(["--access-log", "/proc/nowhere"]);
    for (count, (mut second, complaint)) in
        (1..).zip([(unbindable, "192.0.2.77:9"), (half, "missing"), (unlogged, "/proc/nowhere")])
    {
        let output = second.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(complaint), "{output:?}");
        assert!(first.is_running()?, "{}", first.log()?);
        assert_eq!(world.dial(&dial(PORT))?.errno, None);
        first.wait_records(PORT, count)?;
        assert_eq!(first.status()?["draining"], json!(false));
    }
    Ok(())
}

/// Of the agent that it replaces, as a rule. The kernel does not say whose an address is.
#[test]
fn a_second_agent_waits_for_a_metrics_address_that_is_taken() -> Result<()> {
    let world = World::new("metrics")?;
    let _server = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::ReceiveAll])?;
    let mut first = Agent::start(&[&world.cgroup])?;
    let at = |address| Options { metrics: Some(address), ..Options::default() };
    let mut second = Agent::start_with(&[&world.cgroup], &at(first.metrics_address()))?;
    assert!(first.wait_exit()?.success());
    serves(&world, &second)?;

    let stranger = TcpListener::bind("127.0.0.1:0")?;
    let mut third = Agent::start_with(&[&world.cgroup], &at(stranger.local_addr()?))?;
    assert!(second.wait_exit()?.success());
    third.wait_log("cannot listen on")?;
    assert!(third.is_running()?, "{}", third.log()?);
    drop(stranger);
    serves(&world, &third)
}

/// Makes the agent's first connection, and waits for the metrics to tell of it.
fn serves(world: &World, agent: &Agent) -> Result<()> {
    assert_eq!(world.dial(&dial(PORT))?.errno, None);
    agent.wait_record(PORT)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let metrics = loop {
        match agent.metrics() {
            Ok(metrics) => break metrics,
            Err(error) => ensure!(Instant::now() < deadline, "{error:#}\n{}", agent.log()?),
        }
        sleep(Duration::from_millis(20));
    };
    assert_eq!(metrics.sum("redial_connections_total", &[("reason", "closed")]).to_string(), "1");
    Ok(())
}

/// An agent that is stopped, as one that hangs, does not take the workload with it.
#[test]
fn a_hung_agent_is_passed_by() -> Result<()> {
    let world = World::new("hung")?;
    let firewall = Firewall::new(&world.server)?;
    let server = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::ReceiveAll])?;
    let agent = Agent::start(&[&world.cgroup])?;
    assert_eq!(attempts(&world, &firewall, REFUSED)?, 3);
    {
        let _stopped = Stopped::new(&agent)?;
        // Until its silence is noticed, connections wait for it.
        let deadline = Instant::now() + Duration::from_secs(30);
        let direct = loop {
            let client = world.dial(&Dial { wait: Wait::AtMost(500), ..dial(PORT) })?;
            if client.errno.is_none() {
                break client;
            }
            ensure!(Instant::now() < deadline, "connections go on waiting: {client:?}");
        };
        assert_eq!(direct.local, Some(server.wait_played(1)?[0].peer));
        assert_eq!(attempts(&world, &firewall, REFUSED)?, 1);
    }
    until_attempts(&world, &firewall, REFUSED, 3)?;
    let metrics = agent.metrics()?;
    let passed = metrics.sum("redial_interceptions_total", &[("action", "passed_hung_agent")]);
    assert!(passed >= 2.0, "{passed} passed");
    assert_eq!(server.seen().len(), 1, "nobody connects for a client that has given up");
    Ok(())
}

/// A stopped agent, until this is dropped.
struct Stopped<'a>(&'a Agent);

impl<'a> Stopped<'a> {
    fn new(agent: &'a Agent) -> Result<Self> {
        agent.signal(Signal::SIGSTOP)?;
        Ok(Self(agent))
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        drop(self.0.signal(Signal::SIGCONT));
    }
}

/// The name server has got the question and will not answer: until that is noticed, connections are made.
#[test]
fn a_reload_that_waits_for_dns_holds_no_connection_up() -> Result<()> {
    const UNRESOLVED: &str = "cannot resolve";
    let world = World::new("silentdns")?;
    let _server = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::ReceiveAll])?;
    let silent = world.server.run(|| Ok(UdpSocket::bind((SERVER_V4, 53))?))?;
    silent.set_read_timeout(Some(Duration::from_secs(30)))?;
    let files = tempfile::tempdir()?;
    let resolv_conf = files.path().join("resolv.conf");
    std::fs::write(&resolv_conf, format!("nameserver {SERVER_V4}\noptions timeout:1 attempts:1\n"))?;
    let arguments = ["--resolv-conf", resolv_conf.to_str().unwrap_or_default()];
    let options = Options {
        config: Some(&policy(2)),
        arguments: &arguments,
        netns: Some(&world.pod),
        ..Options::default()
    };
    let mut agent = Agent::start_with(&[&world.cgroup], &options)?;

    agent.write_config(&policy(4).replace("spec:", "spec:\n  to: [{hosts: [db.test]}]"))?;
    agent.signal(Signal::SIGHUP)?;
    silent.recv_from(&mut [0; 512])?;
    assert_eq!(world.dial(&dial(PORT))?.errno, None);
    let log = agent.log()?;
    assert!(!log.contains(UNRESOLVED), "the connection waited for the resolver:\n{log}");
    agent.wait_record(PORT)?;
    agent.wait_log(UNRESOLVED)
}

#[test]
fn terminated_it_drains() -> Result<()> {
    let world = World::new("drain")?;
    let firewall = Firewall::new(&world.server)?;
    let server = Upstream::start(&world.server, Family::V4.server(LONG), &[Step::Echo])?;
    let mut agent = Agent::start(&[&world.cgroup])?;
    let script = [Step::Pause, Step::Send("still".to_owned()), Step::Receive(5)];
    let mut open = world.start_dial(&dial(LONG).play(&script))?;
    open.wait_paused()?;
    agent.signal(Signal::SIGTERM)?;

    // New connections go direct as soon as it has heard.
    let mut before = firewall.attempts_to(REFUSED)?;
    loop {
        world.dial(&dial(REFUSED))?;
        let after = firewall.attempts_to(REFUSED)?;
        if after - before == 1 {
            break;
        }
        before = after;
    }
    assert!(agent.is_running()?, "a connection is still open");
    open.resume()?;
    assert_eq!(open.finish()?.step(2), Some(&Played::Text("still".to_owned())));
    server.wait_played(1)?;
    assert!(agent.wait_exit()?.success());
    assert_eq!(agent.wait_record(LONG)?.reason, "closed");
    Ok(())
}

#[test]
fn the_drain_timeout_ends_what_is_left() -> Result<()> {
    let world = World::new("draintimeout")?;
    let server = Upstream::start(&world.server, Family::V4.server(LONG), &[Step::ReceiveAll])?;
    let options = Options { arguments: &["--drain-timeout", "1s"], ..Options::default() };
    let mut agent = Agent::start_with(&[&world.cgroup], &options)?;
    let mut open = world.start_dial(&dial(LONG).play(&[Step::Pause, Step::ReceiveAll]))?;
    open.wait_paused()?;
    agent.terminate()?;
    assert!(matches!(open.finish()?.step(1), Some(Played::Failed(errno)) if errno == "ECONNRESET"));
    assert_eq!(server.wait_played(1)?[0].played, Some(vec![Played::Failed("ECONNRESET".to_owned())]));
    assert_eq!(agent.wait_record(LONG)?.reason, "drained");
    Ok(())
}

#[test]
fn a_changed_policy_applies_and_a_bad_one_does_not() -> Result<()> {
    let world = World::new("reload")?;
    let firewall = Firewall::new(&world.server)?;
    let mut agent =
        Agent::start_with(&[&world.cgroup], &Options { config: Some(&policy(2)), ..Options::default() })?;
    assert_eq!(attempts(&world, &firewall, REFUSED)?, 2);

    agent.write_config(&policy(4))?;
    agent.signal(Signal::SIGHUP)?;
    until_attempts(&world, &firewall, REFUSED, 4)?;

    // By a file change alone.
    agent.write_config(&policy(5))?;
    until_attempts(&world, &firewall, REFUSED, 5)?;

    agent.write_config(&policy(0))?;
    agent.signal(Signal::SIGHUP)?;
    agent.wait_log("maxConnectAttempts")?;
    assert_eq!(attempts(&world, &firewall, REFUSED)?, 5, "the last good policy stays in force");
    assert!(agent.is_running()?);
    Ok(())
}

#[test]
fn it_does_not_start_with_a_bad_policy() -> Result<()> {
    let world = World::new("badstart")?;
    let started =
        Agent::start_with(&[&world.cgroup], &Options { config: Some(&policy(0)), ..Options::default() });
    let Err(error) = started else { panic!("it started") };
    assert!(format!("{error:#}").contains("maxConnectAttempts"), "{error:#}");
    Ok(())
}

/// At the bound, connections go direct by default.
#[test]
fn at_its_bound_connections_go_direct_or_are_refused() -> Result<()> {
    for (action, expected) in [("direct", None), ("refuse", Some("ECONNREFUSED"))] {
        let world = World::new("bound")?;
        let server = Upstream::start(&world.server, Family::V4.server(LONG), &[Step::ReceiveAll])?;
        let arguments = ["--max-connections", "1", "--at-limit", action];
        let agent =
            Agent::start_with(&[&world.cgroup], &Options { arguments: &arguments, ..Options::default() })?;
        let mut open = world.start_dial(&dial(LONG).play(&[Step::Pause]))?;
        open.wait_paused()?;
        let second = world.dial(&dial(LONG))?;
        assert_eq!(second.errno.as_deref(), expected, "{action}");
        if expected.is_none() {
            let seen: Vec<SocketAddr> = server.wait_played(1)?.iter().map(|seen| seen.peer).collect();
            assert!(second.local.is_some_and(|local| seen.contains(&local)), "{action}");
        }
        open.finish()?;
        agent.wait_record(LONG)?;
    }
    Ok(())
}

fn attempts(world: &World, firewall: &Firewall<'_>, port: u16) -> Result<usize> {
    let before = firewall.attempts_to(port)?;
    world.dial(&dial(port))?;
    Ok(firewall.attempts_to(port)? - before)
}

fn until_attempts(world: &World, firewall: &Firewall<'_>, port: u16, expected: usize) -> Result<()> {
    for _ in 0..100 {
        if attempts(world, firewall, port)? == expected {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    panic!("the new policy with {expected} attempts did not come into force");
}

/// Of root's capabilities an agent keeps those that it works with, and no program that it would start could bring more.
#[test]
fn what_it_has_no_use_for_it_gives_up() -> Result<()> {
    let world = World::new("caps")?;
    let agent = Agent::start(&[&world.cgroup])?;
    for task in std::fs::read_dir(format!("/proc/{}/task", agent.pid()))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).unwrap_or_default().to_owned()
        };
        assert_eq!(field("NoNewPrivs"), "1");
        for set in ["CapEff", "CapPrm", "CapBnd", "CapInh"] {
            let held = u64::from_str_radix(&field(set), 16)?;
            // CAP_CHOWN, CAP_KILL, CAP_SETUID, CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_BOOT, CAP_SYS_TIME, CAP_MKNOD.
            for capability in [0, 5, 7, 16, 17, 22, 25, 27] {
                assert_eq!(held >> capability & 1, 0, "{set} has {capability} in {status}");
            }
        }
        let effective = u64::from_str_radix(&field("CapEff"), 16)?;
        // CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_PTRACE, CAP_SYS_ADMIN.
        assert!([12, 13, 19, 21].iter().all(|capability| effective >> capability & 1 == 1), "{status}");
    }
    Ok(())
}
