//! What redial leaves alone, and the kinds of TCP that it must not break.
//!
//! A refused port tells who connected: a direct connection is one attempt, an intercepted one is three.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
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

/// IPv4 destinations are not part of `::/0`, also where a client writes them as IPv6 addresses.
#[test]
fn a_range_of_one_family_leaves_the_other_intercepted() -> Result<()> {
    for (range, excluded) in [("::/0", Family::V6), ("0.0.0.0/0", Family::V4)] {
        let world = World::new("family")?;
        let firewall = Firewall::new(&world.server)?;
        let options = Options { arguments: &["--exclude-cidr", range], ..Options::default() };
        let _agent = Agent::start_with(&[&world.cgroup], &options)?;
        for (port, family) in (PORT..).zip(Family::ALL) {
            let to = family.said(family.server(port));
            assert_refused(&world.dial(&Dial::to(to))?);
            let is_excluded = family.server(port).is_ipv6() == (excluded == Family::V6);
            let attempts = if is_excluded { 1 } else { 3 };
            assert_eq!(firewall.attempts_to(port)?, attempts, "{to} with {range} excluded");
        }
    }
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

/// `IP_TRANSPARENT` by itself changes nothing; what it is for, an address that is not this host's, is left alone.
#[test]
fn transparent_sockets_are_left_alone_where_they_are_bound() -> Result<()> {
    let world = World::new("transparent")?;
    let firewall = Firewall::new(&world.server)?;
    let agent = Agent::start(&[&world.cgroup])?;
    let to = |family: Family, port| Dial { transparent: true, ..Dial::to(family.server(port)) };
    let elsewhere: [(Family, IpAddr); 2] =
        [(Family::V4, "10.9.0.1".parse()?), (Family::V6, "fd00:9::1".parse()?)];
    receive_for(&world, &elsewhere.map(|(_, address)| address))?;
    for ((family, address), port) in elsewhere.into_iter().zip([PORT, PORT + 1]) {
        let server = Upstream::start(&world.server, family.server(port), &[Step::ReceiveAll])?;
        let client = world.dial(&to(family, port))?;
        assert_eq!(client.errno, None);
        assert_eq!(client.peer, Some(family.server(port)));
        let seen = server.wait_played(1)?.remove(0).peer;
        assert_eq!((client.local, seen.ip()), (Some(seen), family.pod()));
        agent.wait_record(port)?;
        assert_refused(&world.dial(&to(family, port + 4000))?);
        assert_eq!(firewall.attempts_to(port + 4000)?, 3);

        let bound = Dial { bind: Some((address, 0).into()), ..to(family, port) };
        let client = world.dial(&bound)?;
        assert_eq!(client.errno, None);
        let seen = server.wait_played(2)?.remove(1).peer;
        assert_eq!((client.local, seen.ip()), (Some(seen), address));
        let ordinary = world.pod.run(|| Ok(TcpListener::bind((address, 0)).map_err(|error| error.kind())))?;
        assert_eq!(ordinary.err(), Some(ErrorKind::AddrNotAvailable), "{address} is the pod's own");
        assert_refused(&world.dial(&Dial { to: family.server(port + 5000), ..bound })?);
        assert_eq!(firewall.attempts_to(port + 5000)?, 1);
    }
    // One connection and one refusal of each family either way.
    let metrics = agent.metrics()?;
    let kernel = |action| metrics.sum("redial_interceptions_total", &[("action", action)]).to_string();
    assert_eq!((kernel("redirected"), kernel("passed_bound")), ("4".to_owned(), "4".to_owned()));
    Ok(())
}

/// Lets sockets of the pod have addresses that are not the pod's, as a transparent proxy's host is set up.
fn receive_for(world: &World, addresses: &[IpAddr]) -> Result<()> {
    let firewall = Firewall::new(&world.pod)?;
    for address in addresses {
        let (family, pod) =
            if address.is_ipv4() { ("-4", IpAddr::from(POD_V4)) } else { ("-6", POD_V6.into()) };
        firewall.mark_received(*address, 1)?;
        world.pod.ip(&[family, "rule", "add", "fwmark", "1", "lookup", "100"])?;
        world.pod.ip(&[family, "route", "add", "local", "default", "dev", "lo", "table", "100"])?;
        world.server.ip(&[family, "route", "add", &address.to_string(), "via", &pod.to_string()])?;
    }
    Ok(())
}

#[test]
fn the_upstream_socket_has_the_clients_mark_and_class() -> Result<()> {
    let world = World::new("mark")?;
    let firewall = Firewall::new(&world.pod)?;
    for (base, handshake) in [(4000, "held"), (5000, "eager")] {
        let options = Options { arguments: &["--handshake", handshake], ..Options::default() };
        let agent = Agent::start_with(&[&world.cgroup], &options)?;
        for (port, family) in (base..).zip(Family::ALL) {
            let name = |what| format!("{what}{port}");
            let dscp = if family == Family::V6 { "ip6 dscp" } else { "ip dscp" };
            firewall.count_sent(&name("all"), port, "")?;
            firewall.count_sent(&name("marked"), port, "meta mark 0x2a")?;
            firewall.count_sent(&name("expedited"), port, &format!("{dscp} ef"))?;
            let to = family.said(family.server(port));
            // Expedited forwarding, 46, above the two bits of congestion notification.
            let set = Dial { mark: Some(0x2a), traffic_class: Some(46 << 2), ..Dial::to(to) };
            let counts = || -> Result<[u64; 3]> {
                Ok([
                    firewall.counted(&name("all"))?,
                    firewall.counted(&name("marked"))?,
                    firewall.counted(&name("expedited"))?,
                ])
            };
            world.dial(&set)?;
            agent.wait_records(port, 1)?;
            // Only the SYN tells the class, and that of an eager connection is not seen by the agent.
            let classed = if handshake == "held" { 3 } else { 0 };
            assert_eq!(counts()?, [3, 3, classed], "{handshake} {family:?}");
            // Another client's socket has neither.
            world.dial(&Dial::to(to))?;
            agent.wait_records(port, 2)?;
            assert_eq!(counts()?, [6, 3, classed], "{handshake} {family:?}");
        }
    }
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

/// Before Linux 5.19 it is intercepted, as it cannot be told: it falls back to TCP, and ends at the engine's address.
#[test]
fn multipath_tcp_works() -> Result<()> {
    let told = redial_tests::kernel()? >= (5, 19);
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
        assert_eq!(client.peer.map(|peer| peer == family.server(port)), Some(told), "{:?}", client.peer);
        assert_eq!(server.wait_played(1)?[0].peer.ip(), family.pod());
    }
    Ok(())
}

#[track_caller]
fn assert_refused(client: &Dialled) {
    assert_eq!(client.errno.as_deref(), Some("ECONNREFUSED"));
}
