//! Workloads that mean no good to the engine, or to each other through it.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread::spawn;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redial_tests::agent::{Agent, Options};
use redial_tests::cluster::until;
use redial_tests::crowd::{Crowd, Deaf, Part};
use redial_tests::dial::Dial;
use redial_tests::load;
use redial_tests::netns::loopback_listeners;
use redial_tests::script::Step;
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, World};
use socket2::{Domain, Protocol, Socket, Type};

const PORT: u16 = 80;
const LONG: u16 = 82;
const REFUSED: u16 = 83;

/// Where the engine of a pod listens: nobody else does there.
fn engine(world: &World) -> Result<SocketAddr> {
    let ports = world.pod.run(|| loopback_listeners("thread-self"))?;
    Ok((Ipv4Addr::LOCALHOST, *ports.first().context("no listener")?).into())
}

fn turned_away(agent: &Agent) -> Result<f64> {
    Ok(agent.metrics()?.sum("redial_connections_total", &[("reason", "no-original-destination")]))
}

fn line_server(world: &World) -> Result<Upstream> {
    Upstream::start(&world.server, Family::V4.server(PORT), &load::server())
}

/// A connection of this world is made, and by the agent.
fn is_intercepted(world: &World, agent: &Agent) -> Result<()> {
    let before = agent.records_of(REFUSED)?.len();
    let dialled = world.dial(&Dial::to(Family::V4.server(REFUSED)))?;
    ensure!(dialled.errno.as_deref() == Some("ECONNREFUSED"), "{dialled:?}");
    // How often it was tried is the budget's affair.
    let records = agent.wait_records(REFUSED, before + 1)?;
    ensure!(records.last().is_some_and(|record| !record.attempts.is_empty()), "{records:?}");
    Ok(())
}

/// Connecting to an engine's own port gets nobody anywhere, and costs other pods nothing but a moment.
#[test]
fn who_floods_an_engine_is_turned_away_and_others_are_served() -> Result<()> {
    const THREADS: usize = 4;
    const EACH: usize = 2_000;
    let (bad, good) = (World::new("flood-bad")?, World::new("flood-good")?);
    let _server = line_server(&good)?;
    let agent = Agent::start(&[&bad.cgroup, &good.cgroup])?;
    is_intercepted(&good, &agent)?;
    let descriptors = agent.descriptors()?.len();
    let engine = engine(&bad)?;
    let flood: Vec<_> = bad.pod.run(|| {
        Ok((0..THREADS)
            .map(|_| {
                spawn(move || -> Result<()> {
                    for _ in 0..EACH {
                        let mut stream = match TcpStream::connect(engine) {
                            Ok(stream) => stream,
                            // It was reset before connect() returned.
                            Err(error) if error.kind() == ErrorKind::ConnectionReset => continue,
                            Err(error) => return Err(error.into()),
                        };
                        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                        let read = stream.read(&mut [0]);
                        let reset =
                            read.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
                        ensure!(reset, "{read:?}");
                    }
                    Ok(())
                })
            })
            .collect())
    })?;
    let mut rounds = 0;
    while rounds == 0 || flood.iter().any(|one| !one.is_finished()) {
        is_intercepted(&good, &agent)?;
        rounds += 1;
    }
    for one in flood {
        one.join().ok().context("a thread panicked")??;
    }
    is_intercepted(&bad, &agent)?;
    let expected = f64::from(u32::try_from(THREADS * EACH)?);
    assert!((turned_away(&agent)? - expected).abs() < 0.5, "{} of {expected}", turned_away(&agent)?);
    until("the end of the flood's descriptors", || {
        let left = agent.descriptors()?;
        ensure!(left.len() <= descriptors, "{left:?}");
        Ok(Some(()))
    })
}

/// The sum of RFC 1071, as TCP has it over IPv4.
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend([0, 6]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(segment);
    let sum = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default()
}

fn segment(from: SocketAddr, to: SocketAddr, flags: u8, number: u32) -> Vec<u8> {
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    segment.extend(number.to_be_bytes());
    segment.extend(number.rotate_left(7).to_be_bytes());
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// Packets that a process of the pod makes up, with the right to a raw socket that container runtimes give, open nothing and
/// end nothing.
#[test]
fn forged_packets_open_nothing() -> Result<()> {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let world = World::new("forged")?;
    let _server = line_server(&world)?;
    let long = Upstream::start(
        &world.server,
        Family::V4.server(LONG),
        &[Step::Send("hi".to_owned()), Step::ReceiveAll],
    )?;
    let agent = Agent::start(&[&world.cgroup])?;
    let mut open =
        world.start_dial(&Dial::to(Family::V4.server(LONG)).play(&[Step::Receive(2), Step::Pause]))?;
    open.wait_paused()?;
    let engine = engine(&world)?;
    world.pod.run(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
        for number in 0..5_000_u32 {
            let port = 1_024 + u16::try_from(number % 60_000)?;
            let from = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            for flags in [SYN, ACK, SYN | ACK] {
                raw.send_to(
                    &segment(from, engine, flags, number.wrapping_mul(2_654_435_761)),
                    &engine.into(),
                )?;
            }
        }
        Ok(())
    })?;
    is_intercepted(&world, &agent)?;
    assert!(turned_away(&agent)? < 0.5, "{} came in", turned_away(&agent)?);
    assert_eq!(agent.status()?["connections_active"], 1, "the one that was open");
    open.finish()?;
    let record = agent.wait_record(LONG)?;
    assert_eq!((record.reason.as_str(), record.bytes_received), ("closed", 2));
    drop(long);
    Ok(())
}

/// A pod that opens more connections than it may leaves the others their interception.
#[test]
fn a_pod_that_hoards_has_its_own_share_only() -> Result<()> {
    // A sixteenth more may come in before the programs know: as many as the crowd makes at a time.
    const SHARE: usize = 1_024;
    const CROWD: usize = 1_200;
    let (greedy, other) = (World::new("greedy")?, World::new("other")?);
    let deaf = Deaf::start(&greedy.server, Family::V4.server(LONG))?;
    let arguments = ["--max-connections", "1400", "--max-connections-per-namespace", "1024"];
    let options = Options { arguments: &arguments, ..Options::default() };
    let mut agent = Agent::start_with(&[&greedy.cgroup, &other.cgroup], &options)?;
    let parts = vec![Part::text("hoard")];
    let mut crowd = greedy.start_crowd(&Crowd { to: Family::V4.server(LONG), connections: CROWD, parts })?;
    crowd.wait_paused()?;
    until("the whole crowd, nobody refused", || Ok((deaf.taken() == CROWD).then_some(())))?;
    let active = agent.status()?["connections_active"].as_u64().context("no number")?;
    let late = SHARE / 16;
    assert!((SHARE..=SHARE + late).contains(&usize::try_from(active)?), "{active} connections");
    assert!(agent.metrics()?.sum("redial_interceptions_total", &[("action", "passed_full")]) > 0.0);
    for _ in 0..5 {
        is_intercepted(&other, &agent)?;
    }
    crowd.kill()?;
    // Clients that only close are half of an end.
    drop(deaf);
    until("the end of its connections", || Ok((agent.status()?["connections_active"] == 0).then_some(())))?;
    agent.wait_log("--max-connections-per-namespace full=false")?;
    is_intercepted(&greedy, &agent)
}

/// The same where what is too much is to be refused.
#[test]
fn a_pod_that_hoards_is_refused_alone() -> Result<()> {
    let (greedy, other) = (World::new("refused")?, World::new("served")?);
    let _server = Upstream::start(&greedy.server, Family::V4.server(LONG), &[Step::ReceiveAll])?;
    let arguments = ["--max-connections-per-namespace", "1", "--at-limit", "refuse"];
    let options = Options { arguments: &arguments, ..Options::default() };
    let agent = Agent::start_with(&[&greedy.cgroup, &other.cgroup], &options)?;
    let dial = || Dial::to(Family::V4.server(LONG));
    let mut open = greedy.start_dial(&dial().play(&[Step::Pause]))?;
    open.wait_paused()?;
    assert_eq!(greedy.dial(&dial())?.errno.as_deref(), Some("ECONNREFUSED"));
    is_intercepted(&other, &agent)?;
    open.finish()?;
    agent.wait_record(LONG)?;
    assert_eq!(greedy.dial(&dial())?.errno, None);
    Ok(())
}
