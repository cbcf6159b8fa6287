//! What a soak stands on: a pod with clients, a server, an agent, and a guest that comes and goes.

use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use redial_tests::agent::{Agent, Options};
use redial_tests::bpf::Objects;
use redial_tests::cgroup::Cgroup;
use redial_tests::load::now;
use redial_tests::netns::Netns;
use redial_tests::soak::Done;
use redial_tests::soak::clients::Clients;
use redial_tests::soak::ledger::Ledger;
use redial_tests::soak::policies;
use redial_tests::soak::server::{How, Server};
use redial_tests::soak::traffic::Traffic;
use redial_tests::world::{SERVER_V4, SERVER_V6, World};

use super::disk::Disk;
use super::faults::{CALM, Fault, Span};
use super::judge::Round;
use super::leaks::{Footprint, objects};

/// How many things are to be done before a fault, and after it.
const AROUND: usize = 150;
/// The ports of the pod's connections: more than there are, redial's own not among them.
pub const PORTS: &str = "10000 60999";
/// How many clients each service has in the pod.
const CLIENTS: usize = 3;
/// Ids are this far apart where somebody else asks.
const IDS: u64 = 1 << 32;
/// How many violations are worth reading.
const SHOWN: usize = 20;

/// The order matters: what stands on something goes before it.
pub struct Rig {
    pub agent: Agent,
    pub server: Option<Server>,
    pub ledger: Arc<Ledger>,
    pub disk: Disk,
    /// A workload's cgroup without anybody in it. It is enrolled like the world's.
    pub guest: Option<Cgroup>,
    pub world: World,
    pub random: Rng,
    /// What the agent has in the kernel, and what those have had that are gone.
    objects: Objects,
    former: Vec<Objects>,
    baseline: Option<Footprint>,
    /// The next ids to be asked for.
    next_id: u64,
    /// What a round's guests did.
    guests: Vec<Done>,
    /// Their networks, where those are still to be there when the server ends its connections.
    networks: Vec<Netns>,
}

impl Rig {
    pub fn new(random: Rng) -> Result<Self> {
        let world = World::new("soak")?;
        // A second's rest for a port, so that none is missing unless one is to be.
        world.pod.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        world.pod.sysctl("net/ipv4/ip_local_port_range", PORTS)?;
        let (disk, guest) = (Disk::new()?, Cgroup::new("soak-guest")?);
        let ledger = Arc::new(Ledger::default());
        let server = Some(Server::start(&world.server, &ledger)?);
        let agent = agent(&world, &guest, &disk)?;
        Ok(Self {
            objects: objects(&agent)?,
            agent,
            server,
            ledger,
            disk,
            guest: Some(guest),
            world,
            random,
            former: Vec::new(),
            baseline: None,
            next_id: IDS,
            guests: Vec::new(),
            networks: Vec::new(),
        })
    }

    /// A round without a fault; what the agent has after it is what it may have after any.
    pub fn warm_up(&mut self) -> Result<String> {
        let said = self.round(&CALM)?;
        // What it will let go of in time is not to be taken for what it needs.
        let mut footprint = Footprint::of(&self.agent)?;
        loop {
            sleep(Duration::from_secs(2));
            let now = Footprint::of(&self.agent)?;
            if now == footprint {
                break;
            }
            footprint = now;
        }
        let said = format!("warm-up: {said}\n{footprint:?}");
        self.baseline = Some(footprint);
        Ok(said)
    }

    /// Traffic, a fault, and whether all was as it may be.
    pub fn round(&mut self, fault: &Fault) -> Result<String> {
        // Its lines are not what is looked at, and its disk is small.
        File::options().write(true).truncate(true).open(self.agent.access_log())?;
        let traffic = self.traffic(vec![SERVER_V4.into(), SERVER_V6.into()], CLIENTS);
        let mut clients = Clients::start(&self.world.pod, &self.world.cgroup, &traffic)?;
        clients.wait_more(AROUND)?;
        let spans = (fault.run)(self, &mut clients)?;
        clients.wait_more(AROUND)?;
        let done = clients.stop()?;
        self.server()?.end_connections(How::Close);
        let (ledger, wrong) = self.ledger.take();
        let round = Round { done, guests: std::mem::take(&mut self.guests), spans, ledger, wrong };
        let violations = round.violations(fault);
        ensure!(
            violations.is_empty(),
            "{}\n{} violations:\n{}\nthe agent's log:\n{}",
            round.summary(),
            violations.len(),
            violations.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n"),
            self.agent.log()?,
        );
        for objects in std::mem::take(&mut self.former) {
            objects.wait_gone().context("of an agent that is gone")?;
        }
        if let Some(baseline) = &self.baseline {
            baseline.wait(&self.agent)?;
        }
        self.networks.clear();
        Ok(round.summary())
    }

    /// Clients that ask as nobody asked before.
    pub fn traffic(&mut self, hosts: Vec<IpAddr>, clients: usize) -> Traffic {
        self.next_id += IDS;
        Traffic { hosts, seed: self.random.u64(..), clients, first_id: self.next_id }
    }

    /// Notes what clients did that had their own ground taken away.
    pub fn guests_did(&mut self, done: Vec<Done>) {
        self.guests.extend(done);
    }

    /// Leaves a guest's network as it is until the round has ended.
    pub fn keep(&mut self, network: Netns) {
        self.networks.push(network);
    }

    pub fn server(&self) -> Result<&Server> {
        self.server.as_ref().context("there is no server now")
    }

    /// Starts another agent beside the one that there is, which is left to the caller.
    pub fn next_agent(&mut self) -> Result<Agent> {
        let guest = self.guest.as_ref().context("there is no guest now")?;
        let next = agent(&self.world, guest, &self.disk)?;
        self.former.push(std::mem::replace(&mut self.objects, objects(&next)?));
        Ok(std::mem::replace(&mut self.agent, next))
    }

    /// Has a fault in force for some time, in which the clients get something done.
    pub fn a_while(&mut self, clients: &mut Clients) -> Result<()> {
        sleep(self.between(500, 2000));
        clients.wait_more(AROUND / 3)
    }

    /// Sets which ports the pod's connections can have.
    pub fn port_range(&self, range: &str) -> Result<()> {
        self.world.pod.sysctl("net/ipv4/ip_local_port_range", range)
    }

    /// So many milliseconds.
    pub fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.u64(least..=most))
    }
}

/// What a piece of work takes, as a span.
pub fn during(work: impl FnOnce() -> Result<()>) -> Result<Vec<Span>> {
    let from = now();
    work()?;
    Ok(vec![Span { from, to: now() }])
}

fn agent(world: &World, guest: &Cgroup, disk: &Disk) -> Result<Agent> {
    let options = Options {
        config: Some(&policies()),
        // What all destinations may retry together is another test's subject.
        arguments: &["--node-budget-percent", "100", "--node-budget-min-per-second", "100000"],
        folder: Some(disk.path()),
        ..Options::default()
    };
    Agent::start_with(&[&world.cgroup, guest], &options)
}
