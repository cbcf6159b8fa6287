//! The agent in a container, beside containers that are workloads.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::utsname::uname;
use redial_tests::agent::binary;
use redial_tests::container::{Container, Inside};
use redial_tests::dial::{Dial, Dialled};
use redial_tests::firewall::{Fate, Firewall};
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, World, helper};

const PORT: u16 = 80;

/// What docs/operations.md says that an agent's container needs.
const PRIVILEGES: &[&str] = &["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE"];
const WITHOUT_NET_ADMIN: &[&str] = &["CAP_SYS_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE"];

/// Every container is in a cgroup of its own, every pod in a network of its own; what is not enrolled is left alone.
#[test]
fn an_agent_in_a_container_serves_others() -> Result<()> {
    let worlds = [World::new("one")?, World::new("two")?];
    let clients = [workload(&worlds[0])?, workload(&worlds[1])?];
    let apart = workload(&worlds[0])?;
    let _agent = serve(PRIVILEGES, &[], &clients)?;
    for (world, client) in worlds.iter().zip(&clients) {
        let (local, seen) = is_served(world, client)?;
        assert_eq!(local, seen);
    }
    let refused = PORT + 1;
    let firewall = Firewall::new(&worlds[0].server)?;
    firewall.set(refused, Fate::Refuse)?;
    assert_eq!(dial(&apart, refused)?.errno.as_deref(), Some("ECONNREFUSED"));
    assert_eq!(firewall.attempts_to(refused)?, 1);
    Ok(())
}

/// Before Linux 6.9 a held handshake takes CAP_NET_ADMIN, and an eager one does not.
#[test]
fn without_net_admin_it_serves_or_says_what_lacks() -> Result<()> {
    let world = World::new("caps")?;
    let clients = [workload(&world)?];
    let kernel = uname()?.release().to_string_lossy().into_owned();
    let arguments: &[&str] = if redial_tests::kernel()? < (6, 9) {
        let mut agent = agent(WITHOUT_NET_ADMIN, &[], &clients)?;
        let (status, said) = (agent.wait()?, agent.said()?);
        ensure!(status.code() == Some(1), "{status}: {said}");
        let error =
            said.lines().find_map(|line| line.strip_prefix("redial: ")).with_context(|| said.clone())?;
        for part in ["CAP_NET_ADMIN", &kernel, "Linux 6.9", "`--handshake eager` does without"] {
            ensure!(error.contains(part), "{error} says nothing of {part}");
        }
        &["--handshake", "eager"]
    } else {
        &[]
    };
    let _agent = serve(WITHOUT_NET_ADMIN, arguments, &clients)?;
    let (_, seen) = is_served(&world, &clients[0])?;
    assert_eq!(seen.ip(), Family::V4.pod());
    Ok(())
}

fn workload(world: &World) -> Result<Container> {
    let program = helper("dial")?;
    let inside = Inside { network: Some(&world.pod), capabilities: &[], programs: &[&program] };
    let mut container =
        Container::start("workload", &inside, &["/bin/sh", "-c", "echo up; exec sleep infinity"])?;
    container.wait_said("up")?;
    Ok(container)
}

fn agent(privileges: &[&str], arguments: &[&str], clients: &[Container]) -> Result<Container> {
    let program = binary()?;
    let cgroups = clients.iter().map(Container::cgroup).collect::<Result<Vec<_>>>()?;
    let cgroups =
        cgroups.iter().map(|cgroup| cgroup.to_str().context("an odd path")).collect::<Result<Vec<_>>>()?;
    let mut command = vec!["/redial", "run"];
    command.extend(arguments);
    command.extend(cgroups.iter().flat_map(|cgroup| ["--cgroup", cgroup]));
    let programs: &[&Path] = &[&program];
    Container::start("agent", &Inside { network: None, capabilities: privileges, programs }, &command)
}

fn serve(privileges: &[&str], arguments: &[&str], clients: &[Container]) -> Result<Container> {
    let mut agent = agent(privileges, arguments, clients)?;
    agent.wait_said("ready")?;
    Ok(agent)
}

/// Dials a server that refuses twice. Gives what the client takes for its address, and what the server does.
fn is_served(world: &World, client: &Container) -> Result<(SocketAddr, SocketAddr)> {
    let server = Upstream::start(&world.server, Family::V4.server(PORT), &[])?;
    let firewall = Firewall::new(&world.server)?;
    firewall.set(PORT, Fate::RefuseFirst(2, 1_000_000))?;
    let dialled = dial(client, PORT)?;
    assert_eq!(dialled.errno, None);
    assert_eq!(dialled.peer, Some(Family::V4.server(PORT)));
    assert_eq!(firewall.attempts_to(PORT)?, 3);
    Ok((dialled.local.context("no address")?, server.wait_played(1)?[0].peer))
}

fn dial(client: &Container, port: u16) -> Result<Dialled> {
    let dial = serde_json::to_string(&Dial::to(Family::V4.server(port)))?;
    let said = client.exec(&["/dial", &dial])?.stdout;
    serde_json::from_slice(&said).with_context(|| String::from_utf8_lossy(&said).into_owned())
}
