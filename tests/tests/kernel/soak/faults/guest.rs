//! What happens to another workload of the same agent. The pod's own is not to see anything of it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use redial_tests::cgroup::{Cgroup, mount};
use redial_tests::netns::Netns;
use redial_tests::soak::clients::Clients;

use super::{Fault, Span, always, nothing};
use crate::soak::rig::Rig;

pub const ALL: &[Fault] = &[
    Fault { name: "cgroup-removed", can: always, run: cgroup_removed, may: nothing },
    Fault { name: "netns-removed", can: always, run: netns_removed, may: nothing },
    Fault { name: "out-of-memory", can: has_memory_limits, run: out_of_memory, may: nothing },
];

/// The server's address for guests.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);

/// Starts clients in the guest's cgroup and in a network namespace of its own, and waits until they are at it.
fn enter(rig: &mut Rig) -> Result<(Netns, Clients)> {
    let netns = Netns::new("soak-guest")?;
    Netns::connect((&netns, "eth0"), (&rig.world.server, "guest0"))?;
    for (end, device, address) in
        [(&netns, "eth0", "10.3.0.1/24"), (&rig.world.server, "guest0", "10.3.0.2/24")]
    {
        end.ip(&["address", "add", address, "dev", device])?;
        end.ip(&["link", "set", device, "up"])?;
    }
    let traffic = rig.traffic(vec![IpAddr::from(HOST)], 2);
    let cgroup = rig.guest.as_ref().context("there is no guest")?;
    let mut clients = Clients::start(&netns, cgroup, &traffic)?;
    clients.wait_more(100)?;
    Ok((netns, clients))
}

/// Kills all that is in the guest's cgroup and removes it; makes another of the same name.
fn renew_cgroup(rig: &mut Rig) -> Result<()> {
    let cgroup = rig.guest.take().context("there is no guest")?;
    let path = cgroup.path().to_owned();
    drop(cgroup);
    rig.guest = Some(Cgroup::at(&path)?);
    Ok(())
}

/// All at once, as a container runtime does that is told not to wait.
fn cgroup_removed(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let (netns, guests) = enter(rig)?;
    renew_cgroup(rig)?;
    rig.keep(netns);
    rig.guests_did(guests.gone()?);
    clients.wait_more(50)?;
    Ok(Vec::new())
}

/// Its network goes first, while it sends.
fn netns_removed(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let (netns, guests) = enter(rig)?;
    drop(netns);
    clients.wait_more(100)?;
    renew_cgroup(rig)?;
    rig.guests_did(guests.gone()?);
    Ok(Vec::new())
}

/// The kernel kills it for want of memory, which it says nothing of to anybody.
fn out_of_memory(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let (netns, guests) = enter(rig)?;
    let cgroup = rig.guest.as_ref().context("there is no guest")?.path();
    let limited = Path::new(FIRST).join(cgroup.file_name().context("a cgroup without a name")?);
    if Path::new(FIRST).is_dir() {
        fs::create_dir(&limited)?;
        fs::write(limited.join("memory.limit_in_bytes"), TOO_LITTLE)?;
        fs::write(limited.join("cgroup.procs"), guests.pid().to_string())?;
    } else {
        fs::write(mount()?.join("cgroup.subtree_control"), "+memory")?;
        fs::write(cgroup.join("memory.max"), TOO_LITTLE)?;
    }
    rig.guests_did(guests.gone()?);
    if limited.is_dir() {
        fs::remove_dir(limited)?;
    }
    renew_cgroup(rig)?;
    rig.keep(netns);
    clients.wait_more(50)?;
    Ok(Vec::new())
}

/// Where memory is limited on machines that do so by cgroups of the first version.
const FIRST: &str = "/sys/fs/cgroup/memory";
/// So many bytes are soon used up.
const TOO_LITTLE: &str = "65536";

fn has_memory_limits() -> Result<()> {
    let second = fs::read_to_string(mount()?.join("cgroup.controllers"))?;
    let has = Path::new(FIRST).is_dir() || second.split_whitespace().any(|controller| controller == "memory");
    ensure!(has, "no cgroups here limit memory");
    Ok(())
}
