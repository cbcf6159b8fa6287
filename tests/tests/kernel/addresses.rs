//! Everybody sees the addresses that they would see without redial.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use redial_tests::agent::{Agent, Options};
use redial_tests::dial::Dial;
use redial_tests::script::Step;
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, World};

#[test]
fn held() -> Result<()> {
    let world = World::new("addresses")?;
    let agent = Agent::start(&[&world.cgroup])?;
    for (port, family) in (80..).zip(Family::ALL) {
        let server = Upstream::start(&world.server, family.server(port), &[Step::ReceiveAll])?;
        let client = world.dial(&Dial::to(family.said(family.server(port))))?;
        let seen = server.wait_played(1)?.remove(0);
        let record = agent.wait_record(port)?;

        assert_eq!(client.errno, None, "{family:?}");
        assert_eq!(client.peer, Some(family.said(family.server(port))), "getpeername, {family:?}");
        assert_eq!(client.local, Some(family.said(seen.peer)), "getsockname, {family:?}");
        assert_eq!(seen.peer.ip(), family.pod(), "the server's peer, {family:?}");
        assert_eq!(seen.local, family.server(port), "the server's own address, {family:?}");
        assert_eq!(record.source, Some(seen.peer), "{family:?}");
        assert_eq!(record.original_destination, family.server(port), "{family:?}");
        assert_eq!(record.endpoint, Some(family.server(port)), "{family:?}");
        assert_eq!(record.handshake, "held");
    }
    Ok(())
}

/// Accept-first cannot know the upstream connection's port when `connect()` returns; all else is the same.
#[test]
fn eager() -> Result<()> {
    let world = World::new("addresses")?;
    let options = Options { arguments: &["--handshake", "eager"], ..Options::default() };
    let agent = Agent::start_with(&[&world.cgroup], &options)?;
    for (port, family) in (80..).zip(Family::ALL) {
        let script = [Step::Send("hello\n".to_owned()), Step::ReceiveAll];
        let server = Upstream::start(&world.server, family.server(port), &script)?;
        let client = world.dial(&Dial::to(family.said(family.server(port))).play(&[Step::Receive(6)]))?;
        let seen = server.wait_played(1)?.remove(0);
        let record = agent.wait_record(port)?;

        assert_eq!(client.errno, None, "{family:?}");
        assert_eq!(client.peer, Some(family.said(family.server(port))), "getpeername, {family:?}");
        assert_eq!(seen.peer.ip(), family.pod(), "the server's peer, {family:?}");
        assert_eq!(seen.local, family.server(port), "the server's own address, {family:?}");
        assert_eq!(record.source, Some(seen.peer), "{family:?}");
        assert_eq!(record.original_destination, family.server(port), "{family:?}");
        assert_eq!(record.handshake, "eager");
    }
    Ok(())
}

/// A pod may reach itself by its own address, which is not a loopback one.
#[test]
fn of_the_pod_itself() -> Result<()> {
    let world = World::new("self")?;
    let agent = Agent::start(&[&world.cgroup])?;
    for (port, family) in (80..).zip(Family::ALL) {
        let own = SocketAddr::new(family.pod(), port);
        let server = Upstream::start(&world.pod, own, &[Step::ReceiveAll])?;
        let client = world.dial(&Dial::to(family.said(own)))?;
        let seen = server.wait_played(1)?.remove(0);
        assert_eq!(client.errno, None, "{family:?}");
        assert_eq!(client.peer, Some(family.said(own)), "{family:?}");
        assert_eq!(client.local, Some(family.said(seen.peer)), "{family:?}");
        assert_eq!(seen.peer.ip(), own.ip(), "{family:?}");
        assert_eq!(agent.wait_record(port)?.source, Some(seen.peer), "{family:?}");
    }
    Ok(())
}

/// Linux lets a socket whose `connect()` failed connect again, to another place.
#[test]
fn of_a_second_connect_on_the_same_socket() -> Result<()> {
    let world = World::new("again")?;
    let agent = Agent::start(&[&world.cgroup])?;
    for (port, family) in (80..).zip(Family::ALL) {
        let (refused, works) = (family.server(port + 100), family.server(port));
        let server = Upstream::start(&world.server, works, &[Step::ReceiveAll])?;
        let dial = Dial { otherwise: Some(family.said(works)), ..Dial::to(family.said(refused)) };
        let client = world.dial(&dial)?;
        let seen = server.wait_played(1)?.remove(0);
        assert_eq!(client.errno, None, "{family:?}");
        assert_eq!(client.peer, Some(family.said(works)), "{family:?}");
        assert_eq!(client.local, Some(family.said(seen.peer)), "{family:?}");
        assert_eq!(agent.wait_record(port + 100)?.reason, "attempts-exhausted");
        assert_eq!(agent.wait_record(port)?.reason, "closed");

        // From one that is intercepted to one that is not.
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if family == Family::V4 {
            let server = Upstream::start(&world.pod, local, &[Step::ReceiveAll])?;
            let client = world.dial(&Dial { otherwise: Some(local), ..Dial::to(refused) })?;
            assert_eq!((client.errno, client.peer), (None, Some(local)));
            assert_eq!(client.local, Some(server.wait_played(1)?[0].peer));
        }
    }
    Ok(())
}
