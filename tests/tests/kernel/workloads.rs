//! Several workloads under one agent: none is mistaken for another.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redial_tests::agent::{Agent, Options, admin_socket};
use redial_tests::cgroup::Cgroup;
use redial_tests::dial::Dial;
use redial_tests::netns::Netns;
use redial_tests::script::{Played, Step};
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, World};

const PORT: u16 = 80;

#[test]
fn two_pods_with_the_same_port_pair_at_once_held() -> Result<()> {
    same_port_pair("held")
}

#[test]
fn two_pods_with_the_same_port_pair_at_once_eager() -> Result<()> {
    same_port_pair("eager")
}

/// Two pods with the same addresses whose clients can only have the same source port, both connected at once.
fn same_port_pair(handshake: &str) -> Result<()> {
    let worlds = [World::new("twin-a")?, World::new("twin-b")?];
    for world in &worlds {
        world.pod.sysctl("net/ipv4/ip_local_port_range", "40000 40000")?;
    }
    let agent = Agent::start_with(
        &[&worlds[0].cgroup, &worlds[1].cgroup],
        &Options { arguments: &["--handshake", handshake], ..Options::default() },
    )?;
    let greet = |name: &str| [Step::Send(name.to_owned()), Step::ReceiveAll];
    let servers = [
        Upstream::start(&worlds[0].server, Family::V4.server(PORT), &greet("a"))?,
        Upstream::start(&worlds[1].server, Family::V4.server(PORT), &greet("b"))?,
    ];
    let dial = Dial::to(Family::V4.server(PORT)).play(&[Step::Receive(1), Step::Pause]);
    let mut clients = [worlds[0].start_dial(&dial)?, worlds[1].start_dial(&dial)?];
    for client in &mut clients {
        client.wait_paused()?;
    }
    for (client, name) in clients.into_iter().zip(["a", "b"]) {
        let dialled = client.finish()?;
        assert_eq!(dialled.step(0), Some(&Played::Text(name.to_owned())), "the other pod's server answered");
    }
    for server in &servers {
        let seen = server.wait_played(1)?;
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].peer, (Family::V4.pod(), 40000).into());
    }
    assert_eq!(agent.wait_records(PORT, 2)?.len(), 2);
    Ok(())
}

#[test]
fn a_cgroup_enrolled_with_its_parent_is_intercepted_once() -> Result<()> {
    let world = World::new("overlap")?;
    let child = world.cgroup.child("child")?;
    world.pause(&child)?;
    let agent = Agent::start(&[&world.cgroup, &child])?;
    let server = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::ReceiveAll])?;
    let client = world.start_dial_in(&child, &Dial::to(Family::V4.server(PORT)))?.finish()?;
    assert_eq!(client.errno, None);
    assert_eq!(client.peer, Some(Family::V4.server(PORT)));
    assert_eq!(client.local, Some(server.wait_played(1)?[0].peer));
    agent.wait_record(PORT)?;
    assert_eq!(agent.records()?.len(), 1);
    Ok(())
}

/// The agent learns of a network namespace that it did not know from the first connection there, which goes direct.
#[test]
fn a_namespace_that_comes_later_is_served_too() -> Result<()> {
    let world = World::new("later")?;
    let agent = Agent::start(&[&world.cgroup])?;
    let late = World {
        pod: Netns::new("late")?,
        server: Netns::new("late-server")?,
        cgroup: world.cgroup.child("late")?,
    };
    Netns::join("eth0", (&late.pod, &["10.1.0.1/24"]), (&late.server, &["10.1.0.2/24"]))?;
    late.pause(&late.cgroup)?;
    let server = Upstream::start(&late.server, Family::V4.server(PORT), &[Step::ReceiveAll])?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut connections = 0;
    while agent.records()?.is_empty() {
        ensure!(Instant::now() < deadline, "{connections} connections went direct:\n{}", agent.log()?);
        assert_eq!(late.dial(&Dial::to(Family::V4.server(PORT)))?.errno, None);
        connections += 1;
        server.wait_played(connections)?;
    }
    Ok(())
}

/// What an agent has for a workload goes with the workload's cgroup.
#[test]
fn a_workload_that_goes_leaves_nothing_in_the_agent() -> Result<()> {
    let stays = World::new("stays")?;
    let alone = {
        let agent = Agent::start(&[&stays.cgroup])?;
        use_once(&stays, &agent, 1)?;
        agent.descriptors()?
    };
    let goes = World::new("goes")?;
    let agent = Agent::start(&[&stays.cgroup, &goes.cgroup])?;
    use_once(&stays, &agent, 1)?;
    use_once(&goes, &agent, 2)?;
    let workloads = || -> Result<String> { Ok(agent.metrics()?.sum("redial_workloads", &[]).to_string()) };
    assert_eq!(workloads()?, "2");
    assert!(agent.descriptors()?.len() > alone.len());
    let socket = admin_socket(&goes.cgroup)?;
    assert!(socket.exists(), "{}", socket.display());
    drop(goes);
    until("one workload less", || Ok(workloads()? == "1"))?;
    until_descriptors(&agent, &alone)?;
    assert!(!socket.exists(), "{} stays behind", socket.display());
    use_once(&stays, &agent, 3)
}

/// As a service does when it is restarted: its cgroup has the same path then and is another one.
#[test]
fn a_cgroup_that_is_made_again_is_enrolled_again() -> Result<()> {
    for at_once in [false, true] {
        let mut world = World::new("again")?;
        let mut agent = Agent::start(&[&world.cgroup])?;
        use_once(&world, &agent, 1)?;
        let path = world.cgroup.path().to_owned();
        drop(world.cgroup);
        if !at_once {
            agent.wait_log("cgroup is gone")?;
            assert_eq!(agent.status()?["workloads"], serde_json::json!([]));
            assert!(agent.is_running()?, "{}", agent.log()?);
        }
        world.cgroup = Cgroup::at(&path)?;
        world.pause(&world.cgroup)?;
        let server = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::ReceiveAll])?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut connections = 0;
        while agent.records()?.len() < 2 {
            ensure!(Instant::now() < deadline, "{connections} went direct:\n{}", agent.log()?);
            assert_eq!(world.dial(&Dial::to(Family::V4.server(PORT)))?.errno, None);
            connections += 1;
            server.wait_played(connections)?;
        }
        assert_eq!(agent.status()?["workloads"][0]["cgroup"], serde_json::json!(path));
        assert!(agent.is_running()?);
    }
    Ok(())
}

/// As the namespaces of pods do, under the one cgroup that all pods are in.
#[test]
fn a_namespace_that_goes_leaves_nothing_in_the_agent() -> Result<()> {
    let world = World::new("comes")?;
    let agent = Agent::start(&[&world.cgroup])?;
    use_once(&world, &agent, 1)?;
    let before = agent.descriptors()?;
    let later = World {
        pod: Netns::new("goes")?,
        server: Netns::new("goes-server")?,
        cgroup: world.cgroup.child("goes")?,
    };
    Netns::join("eth0", (&later.pod, &["10.1.0.1/24"]), (&later.server, &["10.1.0.2/24"]))?;
    later.pause(&later.cgroup)?;
    until("an engine", || Ok(agent.descriptors()?.len() > before.len()))?;
    use_once(&later, &agent, 2)?;
    drop(later);
    until_descriptors(&agent, &before)
}

/// Makes one connection by way of the agent, its `nth`.
fn use_once(world: &World, agent: &Agent, nth: usize) -> Result<()> {
    let server = Upstream::start(&world.server, Family::V4.server(PORT), &[Step::ReceiveAll])?;
    assert_eq!(world.dial(&Dial::to(Family::V4.server(PORT)))?.errno, None);
    server.wait_played(1)?;
    assert_eq!(agent.wait_records(PORT, nth)?.len(), nth);
    Ok(())
}

/// The engine of a namespace that nobody is in is kept for half a minute.
fn until_descriptors(agent: &Agent, expected: &[String]) -> Result<()> {
    until("the same descriptors", || Ok(agent.descriptors()? == expected))
        .with_context(|| format!("there were {expected:#?}\nand are {:#?}", agent.descriptors()))
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !is_so()? {
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}
