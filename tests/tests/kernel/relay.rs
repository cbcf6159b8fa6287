//! What goes through an intercepted connection is what was sent, and it ends as the other side ended it.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use redial_tests::agent::{Agent, Options, Record};
use redial_tests::dial::Dial;
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::script::{Played, Step};
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, SERVER_V4, World};

const PORT: u16 = 80;
const GIB: u64 = 1 << 30;

/// Plays one connection through an agent, held and then accepted first, and checks what the client, the server and
/// the agent saw.
fn connection(client: &[Step], server: &[Step], check: impl Fn(&[Played], &[Played], &Record)) -> Result<()> {
    let world = World::new("relay")?;
    for (port, handshake) in [(80, "held"), (81, "eager")] {
        let options = Options { arguments: &["--handshake", handshake], ..Options::default() };
        let agent = Agent::start_with(&[&world.cgroup], &options)?;
        let upstream = Upstream::start(&world.server, Family::V4.server(port), server)?;
        let dialled = world.dial(&Dial::to(Family::V4.server(port)).play(client))?;
        assert_eq!(dialled.errno, None);
        let seen = upstream.wait_played(1)?.remove(0);
        let record = agent.wait_record(port)?;
        assert_eq!(record.handshake, handshake);
        check(&dialled.played, seen.played.as_deref().unwrap_or_default(), &record);
    }
    Ok(())
}

fn send(text: &str) -> Step {
    Step::Send(text.to_owned())
}

/// Bytes that do not come are a failure, and not a test without an end.
fn patience() -> Step {
    Step::ReceiveTimeout(10_000)
}

fn text(text: &str) -> Played {
    Played::Text(text.to_owned())
}

fn failed(errno: &str) -> Played {
    Played::Failed(errno.to_owned())
}

#[test]
fn a_gibibyte_both_ways_at_once_is_unaltered() -> Result<()> {
    connection(&[Step::Exchange(GIB)], &[Step::Exchange(GIB)], |client, server, record| {
        assert_eq!(client, [Played::Bytes(GIB)]);
        assert_eq!(server, [Played::Bytes(GIB)]);
        assert_eq!((record.bytes_sent, record.bytes_received), (GIB, GIB));
        assert_eq!(record.reason, "closed");
    })
}

#[test]
fn a_client_that_is_done_sending_still_receives() -> Result<()> {
    connection(
        &[send("question"), Step::Shutdown, Step::ReceiveAll],
        &[Step::ReceiveAll, send("answer")],
        |client, server, record| {
            assert_eq!(server, [text("question"), Played::Done]);
            assert_eq!(client, [Played::Done, Played::Done, text("answer")]);
            assert_eq!((record.bytes_sent, record.bytes_received), (8, 6));
            assert_eq!(record.reason, "closed");
        },
    )
}

#[test]
fn a_server_that_is_done_sending_still_receives() -> Result<()> {
    connection(
        &[Step::ReceiveAll, send("thanks"), Step::Shutdown],
        &[send("greeting"), Step::Shutdown, Step::ReceiveAll],
        |client, server, record| {
            assert_eq!(client, [text("greeting"), Played::Done, Played::Done]);
            assert_eq!(server, [Played::Done, Played::Done, text("thanks")]);
            assert_eq!(record.reason, "closed");
        },
    )
}

#[test]
fn a_reset_by_the_client_is_a_reset_at_the_server() -> Result<()> {
    connection(
        &[send("x"), Step::Receive(1), Step::Reset],
        &[Step::Receive(1), send("y"), Step::ReceiveAll],
        |_, server, record| {
            assert_eq!(server, [text("x"), Played::Done, failed("ECONNRESET")]);
            assert_eq!(record.reason, "client-reset");
        },
    )
}

#[test]
fn a_reset_by_the_server_is_a_reset_at_the_client() -> Result<()> {
    connection(&[send("x"), Step::ReceiveAll], &[Step::Receive(1), Step::Reset], |client, _, record| {
        assert_eq!(client, [Played::Done, failed("ECONNRESET")]);
        assert_eq!(record.reason, "upstream-reset");
    })
}

/// Data that is still under way when its sender closes arrives before the end does.
#[test]
fn a_close_right_after_much_data_loses_none() -> Result<()> {
    let much = 64 << 20;
    connection(&[Step::Push(much)], &[Step::Sleep(300), Step::PullAll], |client, server, _| {
        assert_eq!(client, [Played::Bytes(much)]);
        assert_eq!(server, [Played::Done, Played::Bytes(much)]);
    })
}

/// A client that has closed its end, and whose kernel has forgotten the connection, does not keep one to a server that says nothing.
#[test]
fn a_client_that_is_gone_leaves_nothing_behind() -> Result<()> {
    let world = World::new("gone")?;
    world.pod.sysctl("net/ipv4/tcp_fin_timeout", "1")?;
    let agent = Agent::start(&[&world.cgroup])?;
    let upstream = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::ReceiveAll, Step::Pause])?;
    world.dial(&Dial::to(Family::V4.server(PORT)).play(&[send("all that there is to say")]))?;
    let record = agent.wait_record(PORT)?;
    assert_eq!((&*record.reason, record.bytes_sent), ("client-reset", 24));
    drop(upstream);
    Ok(())
}

/// The same with a server that has not yet read what the client said: it gets all of it.
#[test]
fn what_a_client_said_before_it_was_gone_arrives() -> Result<()> {
    let world = World::new("said")?;
    world.pod.sysctl("net/ipv4/tcp_fin_timeout", "1")?;
    let agent = Agent::start(&[&world.cgroup])?;
    let much = 6 << 20;
    let upstream = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::Pause, Step::PullAll])?;
    world.dial(&Dial::to(Family::V4.server(PORT)).play(&[Step::Push(much)]))?;
    // Longer than it takes to find out that the client is gone.
    sleep(Duration::from_secs(25));
    upstream.resume(0)?;
    let seen = upstream.wait_played(1)?.remove(0);
    assert_eq!(seen.played, Some(vec![Played::Done, Played::Bytes(much)]));
    agent.wait_record(PORT)?;
    Ok(())
}

#[test]
fn an_idle_connection_stays_open() -> Result<()> {
    connection(
        &[send("a"), Step::Sleep(6_000), send("b"), Step::Receive(1)],
        &[Step::Receive(2), send("c"), Step::ReceiveAll],
        |client, server, record| {
            assert_eq!(server, [text("ab"), Played::Done, text("")]);
            assert_eq!(client[3], text("c"));
            assert_eq!(record.reason, "closed");
        },
    )
}

/// It arrives in the stream where it stood, so that a server that reads its stream gets every byte.
#[test]
fn an_urgent_byte_arrives_where_it_stood() -> Result<()> {
    let urgent = || Step::SendUrgent("!".to_owned());
    connection(
        &[patience(), send("before"), urgent(), send("after"), Step::Receive(10), Step::Shutdown],
        &[patience(), Step::Receive(12), send("yes"), urgent(), send("really"), Step::ReceiveAll],
        |client, server, record| {
            assert_eq!(server[1], text("before!after"));
            assert_eq!(client[4], text("yes!really"));
            assert_eq!((record.bytes_sent, record.bytes_received), (12, 10));
            assert_eq!(record.reason, "closed");
        },
    )
}

/// A read stops at an urgent byte. What the client sent after it, before the agent first read, is not left lying.
#[test]
fn an_urgent_byte_that_waits_with_others_holds_nothing_up() -> Result<()> {
    let world = World::new("urgent")?;
    let options = Options { arguments: &["--handshake", "eager"], ..Options::default() };
    let _agent = Agent::start_with(&[&world.cgroup], &options)?;
    let firewall = Firewall::new(&world.server)?;
    firewall.set(PORT, Fate::Drop)?;
    let mut client = world.start_dial(&Dial::to(Family::V4.server(PORT)).play(&[
        send("before"),
        Step::SendUrgent("!".to_owned()),
        send("after"),
        Step::Pause,
        patience(),
        Step::Receive(3),
    ]))?;
    client.wait_paused()?;
    // All of it is with the agent now, which still tries to connect.
    let server = Upstream::start(
        &world.server,
        Family::V4.server(PORT),
        &[patience(), Step::Receive(12), send("yes")],
    )?;
    firewall.clear()?;
    client.resume()?;
    assert_eq!(
        server.wait_played(1)?[0].played,
        Some(vec![Played::Done, text("before!after"), Played::Done])
    );
    assert_eq!(client.finish()?.step(5), Some(&text("yes")));
    Ok(())
}

/// Clients that close right after a few bytes, as those of a log or of a metric do: the connection to the server may not
/// be there yet.
#[test]
fn a_few_bytes_and_a_close_at_once_are_never_lost() -> Result<()> {
    let count = 300;
    let world = World::new("brief")?;
    for (port, handshake) in [(80, "held"), (81, "eager")] {
        let options = Options { arguments: &["--handshake", handshake], ..Options::default() };
        let agent = Agent::start_with(&[&world.cgroup], &options)?;
        let server = Upstream::start(&world.server, Family::V4.server(port), &[Step::ReceiveAll])?;
        let script =
            format!("for i in $(seq {count}); do echo line $i >/dev/tcp/{SERVER_V4}/{port} || exit 1; done");
        let output = world.pod.run(|| Ok(world.workload("bash").args(["-c", &script]).output()?))?;
        assert!(output.status.success(), "{handshake}: {output:?}");
        let received: BTreeSet<_> =
            server.wait_played(count)?.into_iter().map(|seen| format!("{:?}", seen.played)).collect();
        let sent = (1..=count).map(|i| format!("{:?}", Some(vec![text(&format!("line {i}\n"))]))).collect();
        assert_eq!(received, sent, "{handshake}");
        let records = agent.wait_records(port, count)?;
        assert!(records.iter().all(|record| record.reason == "closed"), "{handshake}: {records:?}");
    }
    Ok(())
}

/// A server that does not read stops the client, not the agent's memory.
#[test]
fn a_slow_reader_stops_the_sender() -> Result<()> {
    let world = World::new("slow")?;
    let agent = Agent::start(&[&world.cgroup])?;
    let server = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::Pause, Step::PullAll])?;
    let before = resident_kib(&agent)?;
    let mut client =
        world.start_dial(&Dial::to(Family::V4.server(PORT)).play(&[Step::PushUntilStuck, Step::Pause]))?;
    client.wait_paused()?;
    let grown = resident_kib(&agent)?.saturating_sub(before);
    assert!(grown < 16 * 1024, "the agent took {grown} KiB for one connection");

    server.resume(0)?;
    client.resume()?;
    let dialled = client.finish()?;
    let Some(Played::Bytes(pushed)) = dialled.step(0) else { panic!("{dialled:?}") };
    // What the kernel's buffers on both legs take at most, by far.
    assert!(*pushed < 64 << 20, "nothing stopped the client before {pushed} bytes");
    assert_eq!(server.wait_played(1)?[0].played, Some(vec![Played::Done, Played::Bytes(*pushed)]));
    Ok(())
}

fn resident_kib(agent: &Agent) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
