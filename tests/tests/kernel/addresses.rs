//! Everybody sees the addresses that they would see without redial.

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
