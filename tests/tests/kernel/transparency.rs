//! What redial leaves alone, and the kinds of TCP that it must not break.
//!
//! A refused port tells who connected: a direct connection is one attempt, an intercepted one is three.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use redial_tests::agent::{Agent, Options};
use redial_tests::dial::{Dial, Dialled};
use redial_tests::firewall::Firewall;
use redial_tests::script::{Played, Step};
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, POD_V4, POD_V6, SERVER_V4, World};

const PORT: u16 = 80;

#[test]
fn an_enrolled_workload_is_intercepted_and_so_are_its_child_cgroups() -> Result<()> {
    let world = World::new("enrolled")?;
    let firewall = Firewall::new(&world.server)?;
    let _agent = Agent::start(&[&world.cgroup])?;
    assert_refused(&world.dial(&Dial::to(Family::V4.server(PORT)))?);
    assert_eq!(firewall.attempts_to(PORT)?, 3);

    let child = world.cgroup.child("child")?;
    let client = world.start_dial_in(&child, &Dial::to(Family::V4.server(PORT + 1)))?.finish()?;
    assert_refused(&client);
    assert_eq!(firewall.attempts_to(PORT + 1)?, 3);
    Ok(())
}

#[test]
fn other_cgroups_are_left_alone() -> Result<()> {
    let world = World::new("others")?;
    let firewall = Firewall::new(&world.server)?;
    let agent = Agent::start(&[&world.cgroup])?;
    assert_refused(&world.dial_direct(&Dial::to(Family::V4.server(PORT)))?);
    assert_eq!(firewall.attempts_to(PORT)?, 1);
    assert_eq!(agent.records()?.len(), 0);
    Ok(())
}

#[test]
fn loopback_is_left_alone() -> Result<()> {
    let world = World::new("loopback")?;
    let agent = Agent::start(&[&world.cgroup])?;
    for local in ["127.0.0.1:80", "127.8.8.8:80", "[::1]:80"] {
        let local: SocketAddr = local.parse()?;
        let server = Upstream::start(&world.pod, local, &[Step::ReceiveAll])?;
        let client = world.dial(&Dial::to(local))?;
        assert_eq!(client.errno, None);
        assert_eq!(client.peer, Some(local));
        assert_eq!(client.local, Some(server.wait_played(1)?[0].peer), "no one is in between");
    }
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:81".parse()?;
    assert_refused(&world.dial(&Dial::to(mapped))?);
    assert_eq!(agent.records()?.len(), 0);
    Ok(())
}

#[test]
fn udp_is_left_alone() -> Result<()> {
    let world = World::new("udp")?;
    let agent = Agent::start(&[&world.cgroup])?;
    let echo = world.server.run(|| Ok(UdpSocket::bind((SERVER_V4, PORT))?))?;
    echo.set_read_timeout(Some(Duration::from_secs(10)))?;
    let echoing = thread::spawn(move || -> std::io::Result<SocketAddr> {
        let mut datagram = [0; 64];
        let (length, from) = echo.recv_from(&mut datagram)?;
        echo.send_to(&datagram[..length], from)?;
        Ok(from)
    });
    // bash's /dev/udp connects its socket, as resolvers do.
    let script = format!("exec 3<>/dev/udp/{SERVER_V4}/{PORT} && echo ping >&3 && timeout 10 head -n 1 <&3");
    let output = world.pod.run(|| Ok(world.workload("bash").args(["-c", &script]).output()?))?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ping\n");
    let from = echoing.join().ok().context("the echo panicked")??;
    assert_eq!(from.ip(), POD_V4);
    assert_eq!(agent.records()?.len(), 0);
    Ok(())
}

#[test]
fn excluded_ports_and_ranges_are_left_alone() -> Result<()> {
    let world = World::new("excluded")?;
    let firewall = Firewall::new(&world.server)?;
    world.server.ip(&["address", "add", "10.1.0.3/24", "dev", "eth0"])?;
    world.server.ip(&["address", "add", "fd00:1::3/64", "dev", "eth0", "nodad"])?;
    let excluded =
        ["--exclude-port", "4001", "--exclude-cidr", "10.1.0.3/32", "--exclude-cidr", "fd00:1::3/128"];
    let agent = Agent::start_with(&[&world.cgroup], &Options { arguments: &excluded, ..Options::default() })?;
    for (destination, attempts) in [
        ("10.1.0.2:4001", 1),
        ("10.1.0.3:4002", 1),
        ("[::ffff:10.1.0.3]:4003", 1),
        ("[fd00:1::3]:4004", 1),
        ("10.1.0.2:4005", 3),
        ("[fd00:1::2]:4006", 3),
    ] {
        let to: SocketAddr = destination.parse()?;
        assert_refused(&world.dial(&Dial::to(to))?);
        assert_eq!(firewall.attempts_to(to.port())?, attempts, "{destination}");
    }
    agent.wait_records(4006, 1)?;
    assert_eq!(agent.records()?.len(), 2);
    Ok(())
}

#[test]
fn bound_sockets_are_left_alone() -> Result<()> {
    let world = World::new("bound")?;
    let firewall = Firewall::new(&world.server)?;
    let agent = Agent::start(&[&world.cgroup])?;
    let to = |family: Family, port| Dial::to(family.server(port));
    let any = |port| Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    for dial in [
        Dial { bind: Some((POD_V4, 0).into()), ..to(Family::V4, 4001) },
        Dial { bind: Some((POD_V6, 0).into()), ..to(Family::V6, 4002) },
        Dial { bind: any(5003), ..to(Family::V4, 4003) },
        Dial { bind: Some((POD_V4, 5004).into()), ..to(Family::V4, 4004) },
        Dial { device: Some("eth0".to_owned()), ..to(Family::V4, 4005) },
    ] {
        assert_refused(&world.dial(&dial)?);
        assert_eq!(firewall.attempts_to(dial.to.port())?, 1, "{dial:?}");
    }

    let server = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::ReceiveAll])?;
    let client = world.dial(&Dial { bind: any(5005), ..to(Family::V4, PORT) })?;
    assert_eq!(client.errno, None);
    assert_eq!(server.wait_played(1)?[0].peer, SocketAddr::from((POD_V4, 5005)));
    assert_eq!(agent.records()?.len(), 0);
    Ok(())
}

#[test]
fn link_local_ipv6_is_left_alone() -> Result<()> {
    let world = World::new("linklocal")?;
    let firewall = Firewall::new(&world.server)?;
    let agent = Agent::start(&[&world.cgroup])?;
    world.pod.ip(&["address", "add", "fe80::1/64", "dev", "eth0", "nodad"])?;
    world.server.ip(&["address", "add", "fe80::2/64", "dev", "eth0", "nodad"])?;
    let scope = world.pod.run(|| Ok(if_nametoindex("eth0")?))?;
    let to = SocketAddrV6::new("fe80::2".parse()?, PORT, 0, scope);
    assert_refused(&world.dial(&Dial::to(to.into()))?);
    assert_eq!(firewall.attempts_to(PORT)?, 1);
    assert_eq!(agent.records()?.len(), 0);
    Ok(())
}

#[test]
fn fast_open_works() -> Result<()> {
    let world = World::new("fastopen")?;
    let agent = Agent::start(&[&world.cgroup])?;
    let script = [Step::Receive(4), Step::Send("pong".to_owned()), Step::ReceiveAll];
    let server = Upstream::fast_open(&world.server, Family::V4.server(PORT), &script)?;
    let dial = Dial { fast_open: true, ..Dial::to(Family::V4.server(PORT)) }
        .play(&[Step::Send("ping".to_owned()), Step::Receive(4)]);
    // 1: the client may use Fast Open. 4: it sends data with its first SYN without having a cookie.
    for (connections, client_mode) in (1..).zip(["1", "1", "5", "5"]) {
        world.pod.sysctl("net/ipv4/tcp_fastopen", client_mode)?;
        let client = world.dial(&dial)?;
        assert_eq!(client.errno, None);
        assert_eq!(client.step(1), Some(&Played::Text("pong".to_owned())), "connection {connections}");
        server.wait_played(connections)?;
        let records = agent.wait_records(PORT, connections)?;
        assert_eq!(records[connections - 1].bytes_sent, 4, "{records:?}");
    }
    Ok(())
}

/// Fast Open reports a failed connect from the first `send()`.
#[test]
fn fast_open_fails_as_without_redial() -> Result<()> {
    let world = World::new("fastopen")?;
    let firewall = Firewall::new(&world.server)?;
    let _agent = Agent::start(&[&world.cgroup])?;
    world.pod.sysctl("net/ipv4/tcp_fastopen", "5")?;
    let dial = |port| {
        Dial { fast_open: true, ..Dial::to(Family::V4.server(port)) }.play(&[Step::Send("ping".to_owned())])
    };
    let (direct, held) = (world.dial_direct(&dial(PORT))?, world.dial(&dial(PORT + 1))?);
    assert_eq!(direct.played, vec![Played::Failed("ECONNREFUSED".to_owned())]);
    assert_eq!(held.played, direct.played);
    assert_eq!(held.errno, direct.errno);
    assert_eq!(firewall.attempts_to(PORT + 1)?, 3);
    Ok(())
}

#[test]
fn multipath_tcp_works() -> Result<()> {
    let world = World::new("mptcp")?;
    let _agent = Agent::start(&[&world.cgroup])?;
    for (port, family) in (PORT..).zip([Family::V4, Family::V6]) {
        let script = [Step::Receive(4), Step::Send("pong".to_owned()), Step::ReceiveAll];
        let server = Upstream::start(&world.server, family.server(port), &script)?;
        let dial = Dial { multipath: true, ..Dial::to(family.server(port)) }
            .play(&[Step::Send("ping".to_owned()), Step::Receive(4)]);
        let client = world.dial(&dial)?;
        assert_eq!(client.errno, None);
        assert_eq!(client.step(1), Some(&Played::Text("pong".to_owned())));
        assert_eq!(client.peer, Some(family.server(port)));
        assert_eq!(server.wait_played(1)?[0].peer.ip(), family.pod());
    }
    Ok(())
}

#[track_caller]
fn assert_refused(client: &Dialled) {
    assert_eq!(client.errno.as_deref(), Some("ECONNREFUSED"));
}
