//! Workloads that mean no good to the engine, or to each other through it.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread::spawn;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redial_tests::agent::{Agent, Options, admin_socket};
use redial_tests::cluster::until;
use redial_tests::crowd::{Crowd, Deaf, Part};
use redial_tests::dial::Dial;
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::load;
use redial_tests::netns::loopback_listeners;
use redial_tests::script::Step;
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, POD_V4, World};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

const PORT: u16 = 80;
const LONG: u16 = 82;
const REFUSED: u16 = 83;
const SILENT: u16 = 84;

const SYN: u8 = 2;
const ACK: u8 = 16;

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

/// A segment from one port to another on loopback.
fn segment(from: (Ipv4Addr, u16), to: u16, flags: u8, number: u32) -> Vec<u8> {
    let mut segment = [from.1.to_be_bytes(), to.to_be_bytes()].concat();
    segment.extend(number.to_be_bytes());
    segment.extend(number.rotate_left(7).to_be_bytes());
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(from.0, Ipv4Addr::LOCALHOST, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// Packets that a process of the pod makes up, with the right to a raw socket that container runtimes give, open nothing and
/// end nothing.
#[test]
fn forged_packets_open_nothing() -> Result<()> {
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
            let from = (Ipv4Addr::LOCALHOST, port);
            for flags in [SYN, ACK, SYN | ACK] {
                let segment = segment(from, engine.port(), flags, number.wrapping_mul(2_654_435_761));
                raw.send_to(&segment, &engine.into())?;
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

/// How many handshakes with a listener have begun and not ended.
fn half_open(world: &World, port: u16) -> Result<usize> {
    const SYN_RECV: &str = "03";
    let table = world.pod.run(|| Ok(fs::read_to_string("/proc/thread-self/net/tcp")?))?;
    let ours = format!(":{port:04X}");
    let is_one = |line: &&str| {
        let words: Vec<_> = line.split_whitespace().collect();
        matches!(words[..], [_, local, _, SYN_RECV, ..] if local.ends_with(&ours))
    };
    Ok(table.lines().filter(is_one).count())
}

/// A counter of the kernel's for the pod's network.
fn kernel_counter(world: &World, name: &str) -> Result<u64> {
    let table = world.pod.run(|| Ok(fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let lines: Vec<_> = table.lines().collect();
    let mut pairs = lines.chunks(2).flat_map(|pair| {
        let words = |line: &&'_ str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let values = pair.get(1).map(words).unwrap_or_default();
        pair.first().map(words).unwrap_or_default().into_iter().zip(values)
    });
    let (_, value) = pairs.find(|(known, _)| known == name).with_context(|| format!("no counter {name}"))?;
    Ok(value.parse()?)
}

/// Handshakes with an engine that a pod begins and never ends: they fill the queue of its own listener, up to the kernel's bound,
/// none of them comes in, and both pods' connections are still made.
#[test]
fn half_open_handshakes_are_their_pods_own() -> Result<()> {
    const FLOOD: u32 = 12_000;
    let (bad, good) = (World::new("half-bad")?, World::new("half-good")?);
    let _servers = (line_server(&bad)?, line_server(&good)?);
    let agent = Agent::start(&[&bad.cgroup, &good.cgroup])?;
    is_intercepted(&good, &agent)?;
    let engine = engine(&bad)?;
    // Who gets the answers throws them away, where the kernel would have answered for itself with RST.
    let deaf = bad.pod.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        let everything = 0x06;
        socket.attach_filter(&[SockFilter::new(everything, 0, 0, 0)])?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
        socket.listen(1)?;
        Ok(socket)
    })?;
    let port = deaf.local_addr()?.as_socket().context("no address")?.port();
    bad.pod.run(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
        raw.set_header_included_v4(true)?;
        for number in 1..=FLOOD {
            let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number);
            // What the kernel fills in is left out: length, identification and checksum.
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
            packet.extend([from.octets(), Ipv4Addr::LOCALHOST.octets()].concat());
            packet.extend(segment((from, port), engine.port(), SYN, number));
            raw.send_to(&packet, &engine.into())?;
        }
        Ok(())
    })?;
    let bound: usize =
        bad.pod.run(|| Ok(fs::read_to_string("/proc/sys/net/core/somaxconn")?.trim().parse()?))?;
    let waiting = half_open(&bad, engine.port())?;
    assert!((bound / 2..=bound + 1).contains(&waiting), "{waiting} handshakes, and {bound} at most");
    assert!(kernel_counter(&bad, "TCPReqQFullDoCookies")? > 0, "the flood was more than the queue");
    for world in [&good, &bad] {
        is_intercepted(world, &agent)?;
        let dialled = world.dial(&Dial::to(Family::V4.server(PORT)))?;
        ensure!(dialled.errno.is_none(), "{dialled:?}");
    }
    assert!(turned_away(&agent)? < 0.5, "{} came in", turned_away(&agent)?);
    until("the end of both connections", || Ok((agent.records_of(PORT)?.len() == 2).then_some(())))?;
    assert_eq!(agent.status()?["connections_active"], 0);
    Ok(())
}

/// Connects to what never answers are held handshakes: they count for their pod's share, and end with their sockets.
#[test]
fn connects_that_nobody_answers_are_bounded() -> Result<()> {
    const SHARE: u64 = 128;
    let (bad, good) = (World::new("silent-bad")?, World::new("silent-good")?);
    let firewall = Firewall::new(&bad.server)?;
    firewall.set(SILENT, Fate::Drop)?;
    let share = SHARE.to_string();
    let arguments = ["--max-connections-per-namespace", &share];
    let agent = Agent::start_with(
        &[&bad.cgroup, &good.cgroup],
        &Options { arguments: &arguments, ..Options::default() },
    )?;
    let mut command = bad.workload("python3");
    command.args(["-c", CONNECTS, &Family::V4.server(SILENT).ip().to_string(), &SILENT.to_string(), "400"]);
    let mut flood = bad.pod.spawn(&mut command)?;
    let active = || -> Result<u64> {
        let status = agent.status()?;
        let number = |what: &str| status[what].as_u64().with_context(|| format!("no {what}"));
        Ok(number("connections_active")? + number("handshakes_held")?)
    };
    until("the bound", || {
        Ok((agent.metrics()?.sum("redial_interceptions_total", &[("action", "passed_full")]) > 0.0)
            .then_some(()))
    })?;
    for _ in 0..5 {
        is_intercepted(&good, &agent)?;
    }
    let late = SHARE / 16;
    assert!((SHARE - late..=SHARE + late).contains(&active()?), "{} connections", active()?);
    flood.kill()?;
    flood.wait()?;
    until("the end of what was held", || Ok((active()? == 0).then_some(())))?;
    is_intercepted(&bad, &agent)
}

/// Begins so many connections and waits for none.
const CONNECTS: &str = "
import socket, sys, time
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sockets = []
for number in range(count):
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex((host, port))
    sockets.append(one)
    if number % 16 == 0:
        time.sleep(0.02)
time.sleep(600)
";

/// An engine listens on its own namespace's loopback: a neighbour on the network reaches it neither by the pod's address nor by
/// sending packets for 127.0.0.1 to the pod.
#[test]
fn an_engine_is_out_of_a_neighbours_reach() -> Result<()> {
    let world = World::new("neighbour")?;
    let agent = Agent::start(&[&world.cgroup])?;
    is_intercepted(&world, &agent)?;
    let engine = engine(&world)?;
    let connect = |to| world.server.run(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(1))));
    let refused = connect((POD_V4, engine.port()).into())?;
    ensure!(refused.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused), "{refused:?}");

    let seen = Firewall::new(&world.pod)?;
    world.server.ip(&["address", "del", "127.0.0.1/8", "dev", "lo"])?;
    world.server.ip(&["route", "add", "127.0.0.1", "via", &POD_V4.to_string()])?;
    let silent = connect(engine)?;
    ensure!(silent.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut), "{silent:?}");
    assert_eq!(seen.attempts_to(engine.port())?, 1, "it came as far as the pod");
    assert_eq!(half_open(&world, engine.port())?, 0);
    is_intercepted(&world, &agent)?;
    assert!(turned_away(&agent)? < 0.5, "{} came in", turned_away(&agent)?);
    Ok(())
}

/// The admin socket is root's. Whoever is root and floods it has the few connections that there are, and the agent goes on.
#[test]
fn a_flood_of_the_admin_socket_is_bounded() -> Result<()> {
    const CONNECTIONS: usize = 300;
    /// Of which the agent serves so many at a time.
    const SERVED: usize = 16;
    let world = World::new("admin-flood")?;
    let agent = Agent::start(&[&world.cgroup])?;
    is_intercepted(&world, &agent)?;
    let socket = admin_socket(&world.cgroup)?;
    let connect = "import socket, sys; print(socket.socket(socket.AF_UNIX).connect_ex(sys.argv[1]))";
    let said = Command::new("python3").args(["-c", connect]).arg(&socket).uid(65_534).gid(65_534).output()?;
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "13", "EACCES: {said:?}");

    let (descriptors, resident) = (agent.descriptors()?.len(), agent.resident()?);
    let mut flood = Vec::new();
    for number in 0..CONNECTIONS {
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_nonblocking(true)?;
        let says: &[u8] = match number % 3 {
            // Half a request, many requests whose answers nobody reads, and a line without end.
            0 => b"{\"command\":",
            1 => &b"{\"command\":\"status\"}\n".repeat(4_000),
            _ => &b"x".repeat(1 << 17),
        };
        // What is not taken is not said.
        let _ = stream.write(says);
        flood.push(stream);
    }
    for _ in 0..5 {
        is_intercepted(&world, &agent)?;
        let (now, grown) = (agent.descriptors()?.len(), agent.resident()?.saturating_sub(resident));
        assert!(now <= descriptors + SERVED + 8, "{now} descriptors, and {descriptors} before");
        assert!(grown <= 16 << 20, "{grown} bytes more");
    }
    drop(flood);
    agent.status()?;
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
    until("the end of its connection", || Ok((agent.status()?["connections_active"] == 0).then_some(())))?;
    assert_eq!(greedy.dial(&dial())?.errno, None);
    Ok(())
}
