//! What an agent has when it has nothing to do.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData, loaded_maps};
use nix::unistd::Pid;
use redial_tests::agent::Agent;
use redial_tests::bpf::Objects;

/// How long it may take to let go. Upstream connections that clients share wait a minute for the next of them, where no FIN comes
/// because their network has gone.
const PATIENCE: Duration = Duration::from_secs(90);
/// By how much memory may differ: the allocator keeps some of what was freed.
const SPARE: usize = 96 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// By what they are.
    descriptors: BTreeMap<String, usize>,
    programs: usize,
    maps: usize,
    links: usize,
    /// The entries of each map that has some for each connection or namespace.
    entries: BTreeMap<String, usize>,
    /// What `redial status` says of it.
    active: [u64; 2],
    namespaces: usize,
    resident: usize,
}

impl Footprint {
    pub fn of(agent: &Agent) -> Result<Self> {
        let mut descriptors = BTreeMap::new();
        for kind in agent.descriptors()? {
            *descriptors.entry(kind).or_default() += 1;
        }
        let objects = objects(agent)?;
        let status = agent.status()?;
        let count = |what: &str| status[what].as_u64().with_context(|| format!("no {what} in {status}"));
        let workloads = status["workloads"].as_array().context("no workloads")?;
        Ok(Self {
            descriptors,
            programs: objects.programs.len(),
            maps: objects.maps.len(),
            links: objects.links.len(),
            entries: entries(&objects)?,
            active: [count("connections_active")?, count("handshakes_held")?],
            namespaces: workloads
                .iter()
                .filter_map(|workload| workload["network_namespaces"].as_array())
                .map(Vec::len)
                .sum(),
            resident: agent.resident()?,
        })
    }

    /// Waits until an agent has no more than this.
    pub fn wait(&self, agent: &Agent) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Self::of(agent)?;
            let is_same = Self { resident: 0, ..now.clone() } == Self { resident: 0, ..self.clone() };
            if is_same && now.resident <= self.resident + SPARE {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "left behind: {now:?}\nand was {self:?}\n{}", agent.log()?);
            sleep(Duration::from_millis(50));
        }
    }
}

/// What an agent has in the kernel.
pub fn objects(agent: &Agent) -> Result<Objects> {
    let mut objects = Objects::default();
    objects.add(Pid::from_raw(i32::try_from(agent.pid())?))?;
    Ok(objects)
}

/// Counts the entries of the maps that have keys of their own.
fn entries(objects: &Objects) -> Result<BTreeMap<String, usize>> {
    let mut entries = BTreeMap::new();
    for info in loaded_maps() {
        let info = info?;
        if !objects.maps.contains(&info.id()) {
            continue;
        }
        let name = info.name_as_str().unwrap_or_default().to_owned();
        let map = || Ok::<_, anyhow::Error>(Map::HashMap(MapData::from_id(info.id())?));
        let count = match name.as_str() {
            "ENGINES" => HashMap::<_, [u8; 8], [u8; 8]>::try_from(map()?)?.keys().count(),
            "VERDICTS" => HashMap::<_, [u8; 8], [u8; 32]>::try_from(map()?)?.keys().count(),
            "ORIGINALS" => HashMap::<_, [u8; 16], [u8; 48]>::try_from(map()?)?.keys().count(),
            _ => continue,
        };
        entries.insert(name, count);
    }
    ensure!(entries.len() == 3, "the maps are called otherwise now: {entries:?}");
    Ok(entries)
}
