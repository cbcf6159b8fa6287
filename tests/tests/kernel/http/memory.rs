//! Memory: what clients that are slow, and servers that do not read, may cost the agent.

use std::io::{Write, stderr};
use std::net::TcpListener;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Response;
use redial_tests::agent::{Agent, Options};
use redial_tests::crowd::{Crowd, Deaf, Part, most_descriptors};
use redial_tests::raw_server::{Answer, RawServer};
use redial_tests::world::{Family, Running, SERVER_V4, World};

use super::{PORT, policy, run};

const HEALTHY: u16 = 81;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What a connection may cost beside what is kept of its request: its task, which is large in a debug build, and what was
/// read, in room that is not larger.
const CONNECTION: usize = 32 * KIB;
/// How much a request may keep once all together keep what they may: what is read ahead then, and one read.
const SLACK: usize = (4 + 64) * KIB;
/// How much data of HTTP/2 a connection to an upstream takes before it is passed on, and how much of a stream is on its
/// way to a client.
const WINDOW: usize = 32 * MIB;
const SEND_BUFFER: usize = 64 * KIB;

/// What an agent has when it has nothing to do.
struct Rest {
    resident: usize,
    descriptors: usize,
}

fn start(world: &World, http: &str, arguments: &[&str]) -> Result<(Agent, RawServer, Rest)> {
    most_descriptors()?;
    // What the kernel buffers for a sender is not the agent's memory: little of it, so that the rest is.
    world.pod.sysctl("net/ipv4/tcp_wmem", "4096 16384 16384")?;
    let healthy =
        RawServer::start(&world.server, Family::V4.server(HEALTHY), |_| Answer::status(200, "well"))?;
    let config = policy(http);
    let options = Options { config: Some(&config), arguments, ..Options::default() };
    let agent = Agent::start_with(&[&world.cgroup], &options)?;
    serves(world)?;
    agent.wait_record(HEALTHY)?;
    let rest = Rest { resident: agent.resident()?, descriptors: agent.descriptors()?.len() };
    Ok((agent, healthy, rest))
}

/// A client that means well is served.
fn serves(world: &World) -> Result<()> {
    let url = format!("http://{SERVER_V4}:{HEALTHY}/");
    let said = run(world, world.workload("curl").args(["-sS", "--noproxy", "*", "--max-time", "10", &url]))?;
    ensure!(said == "well", "{said}");
    Ok(())
}

fn sum(agent: &Agent, metric: &str) -> Result<String> {
    Ok(agent.metrics()?.sum(metric, &[]).to_string())
}

fn kept(agent: &Agent) -> Result<usize> {
    Ok(sum(agent, "redial_buffered_body_bytes")?.parse()?)
}

fn wait(agent: &Agent, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done()? {
        ensure!(Instant::now() < deadline, "no {what}; the agent's log:\n{}", agent.log()?);
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn wait_sum(agent: &Agent, metric: &str, expected: usize) -> Result<()> {
    wait(agent, &format!("{metric} of {expected}"), || Ok(sum(agent, metric)? == expected.to_string()))
}

/// The agent has grown by no more than this.
fn assert_costs(agent: &Agent, rest: &Rest, bound: usize) -> Result<()> {
    let grown = agent.resident()?.saturating_sub(rest.resident);
    assert!(grown <= bound, "{grown} bytes more, and not {bound}");
    Ok(())
}

/// Waits until the agent has taken in all that it will. Returns the most memory and the most bytes of bodies meanwhile.
fn settles(agent: &Agent) -> Result<(usize, usize)> {
    let (mut most, mut most_kept, mut calm) = (0, 0, 0);
    while calm < 20 {
        let (resident, kept) = (agent.resident()?, kept(agent)?);
        calm = if resident > most || kept > most_kept { 0 } else { calm + 1 };
        (most, most_kept) = (most.max(resident), most_kept.max(kept));
        sleep(Duration::from_millis(25));
    }
    Ok((most, most_kept))
}

/// The clients leave, and so does what they cost.
fn recovers(agent: &Agent, clients: Running, rest: &Rest) -> Result<()> {
    clients.kill()?;
    wait(agent, "end of the connections", || Ok(agent.status()?["connections_active"] == 0))?;
    wait(agent, "end of the descriptors", || Ok(agent.descriptors()?.len() <= rest.descriptors))?;
    assert_eq!((kept(agent)?, sum(agent, "redial_requests_active")?), (0, "0".to_owned()));
    Ok(())
}

#[test]
fn slow_clients_cost_little() -> Result<()> {
    let hard = most_descriptors()?;
    let fitting = usize::try_from(hard.saturating_sub(512) / 2)?.saturating_sub(64);
    let count = fitting.min(10_000);
    if count < 10_000 {
        writeln!(stderr(), "{count} clients and not 10,000: a process may have {hard} descriptors here")?;
    }
    let world = World::new("slow")?;
    let deaf = Deaf::start(&world.server, Family::V4.server(PORT))?;
    let (agent, _healthy, rest) = start(&world, "", &[])?;
    let mut body = b"d: er\r\nContent-Length: 100000\r\n\r\n".to_vec();
    body.resize(body.len() + 1000, b'x');
    let parts = vec![Part::text("POST / HTTP/1.1\r\nHost: slow.test\r\nX-Hea"), Part::Bytes(body)];
    let crowd = Crowd { to: Family::V4.server(PORT), connections: count, parts };
    // The allocator may keep what it got, so that is not less after a crowd. But it is there for the next one.
    for round in 1..=2 {
        let detected = || agent.metrics().map(|all| all.sum("redial_protocols_detected_total", &[]));
        let before = detected()?;
        let mut clients = world.start_crowd(&crowd)?;
        clients.wait_paused()?;
        wait(&agent, "half heads", || Ok(detected()? - before >= f64::from(u32::try_from(count)?)))?;
        serves(&world)?;
        assert_costs(&agent, &rest, count * CONNECTION)?;

        clients.resume()?;
        clients.wait_paused()?;
        wait_sum(&agent, "redial_requests_active", count)?;
        wait(&agent, "bodies", || Ok(kept(&agent)? >= count * 1000))?;
        serves(&world)?;
        assert_costs(&agent, &rest, count * CONNECTION + kept(&agent)?)?;
        assert_eq!(deaf.taken(), round * count, "every client has a connection to the server");
        recovers(&agent, clients, &rest)?;
    }
    Ok(())
}

#[test]
fn large_bodies_stay_within_the_agents_bound() -> Result<()> {
    let (count, bound) = (500, 16 * MIB);
    let world = World::new("large")?;
    let deaf = Deaf::start(&world.server, Family::V4.server(PORT))?;
    let (agent, _healthy, rest) = start(&world, "", &["--max-buffered-bodies", "16MiB"])?;
    let head = format!("POST / HTTP/1.1\r\nHost: large.test\r\nContent-Length: {}\r\n\r\n", 2 * MIB);
    let parts = vec![Part::text(&head), Part::Flood(2 * MIB)];
    let mut clients = world.start_crowd(&Crowd { to: Family::V4.server(PORT), connections: count, parts })?;
    clients.wait_paused()?;
    clients.resume()?;
    clients.wait_paused()?;
    wait_sum(&agent, "redial_requests_active", count)?;
    let (most, most_kept) = settles(&agent)?;
    // The bound is what stopped them.
    let over = agent.metrics()?.sum("redial_bodies_not_kept_total", &[("bound", "agent")]);
    assert!(over > 0.0 && most_kept > bound - MIB, "{over} over the bound, {most_kept} bytes");
    assert!(most_kept <= bound + count * SLACK, "{most_kept} bytes are kept");
    let grown = most.saturating_sub(rest.resident);
    assert!(grown <= bound + count * (SLACK + CONNECTION), "{grown} bytes");
    serves(&world)?;
    // What a client says last of all waits behind a body that nobody reads.
    drop(deaf);
    recovers(&agent, clients, &rest)
}

#[test]
fn bodies_in_drips_cost_what_they_say() -> Result<()> {
    let (count, drips) = (100, 200);
    let world = World::new("drips")?;
    let _deaf = Deaf::start(&world.server, Family::V4.server(PORT))?;
    let (agent, _healthy, rest) = start(&world, "", &[])?;
    let parts = vec![
        Part::text("POST / HTTP/1.1\r\nHost: drips.test\r\nContent-Length: 100000\r\n\r\n"),
        Part::Drips(drips),
    ];
    let mut clients = world.start_crowd(&Crowd { to: Family::V4.server(PORT), connections: count, parts })?;
    clients.wait_paused()?;
    wait_sum(&agent, "redial_requests_active", count)?;
    clients.resume()?;
    clients.wait_paused()?;
    wait(&agent, "bodies", || Ok(kept(&agent)? >= count * drips))?;
    // A little that is kept does not keep what it was read into.
    assert_costs(&agent, &rest, 4 * kept(&agent)? + count * CONNECTION)?;
    recovers(&agent, clients, &rest)
}

/// A server of HTTP/2 that says 1 MiB to each request.
fn talkative(world: &World) -> Result<()> {
    let listener = world.server.run(|| Ok(TcpListener::bind((SERVER_V4, PORT))?))?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (stream, _) = listener.accept().await?;
            let mut builder = h2::server::Builder::new();
            let mut connection = builder.max_concurrent_streams(2000).handshake(stream).await?;
            let body = Bytes::from(vec![b'x'; MIB]);
            while let Some(request) = connection.accept().await {
                let (_, mut respond) = request?;
                respond.send_response(Response::new(()), false)?.send_data(body.clone(), true)?;
            }
            anyhow::Ok(())
        })
    });
    Ok(())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(payload.len())?.to_be_bytes();
    Ok([&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat())
}

/// All windows of the client's are open, and it does not read.
#[test]
fn a_client_that_does_not_read_its_streams_is_not_read_for() -> Result<()> {
    let streams = 1000;
    let world = World::new("streams")?;
    talkative(&world)?;
    let (agent, _healthy, rest) = start(&world, "", &[])?;
    let window = [&[0, 4], &0x7fff_ffff_u32.to_be_bytes()[..]].concat();
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(frame(4, 0, 0, &window)?);
    said.extend(frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes())?);
    for stream in 0..streams {
        // GET http://a/, and END_STREAM | END_HEADERS.
        said.extend(frame(1, 5, 2 * stream + 1, b"\x82\x86\x84\x41\x01a")?);
    }
    let parts = vec![Part::Bytes(said)];
    let mut client = world.start_crowd(&Crowd { to: Family::V4.server(PORT), connections: 1, parts })?;
    client.wait_paused()?;
    wait_sum(&agent, "redial_requests_active", usize::try_from(streams)?)?;
    let (most, _) = settles(&agent)?;
    let (grown, streams) = (most.saturating_sub(rest.resident), usize::try_from(streams)?);
    assert!(grown <= WINDOW + streams * (SEND_BUFFER + CONNECTION), "{grown} bytes");
    serves(&world)?;
    recovers(&agent, client, &rest)
}
