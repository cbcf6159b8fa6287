//! A soak: mixed traffic, round after round, and in each round something goes wrong.
//!
//! A round has one fault, so that what a workload may see in it is what docs/semantics.md says of that fault, and nothing
//! else. Whatever the fault, no byte may be wrong, nothing may be executed more often than its policy allows, and the
//! agent has in the end what it had in the beginning.
//!
//! By itself it goes once through all faults that this machine can make. `REDIAL_SOAK_SECONDS` has it go on for so long,
//! `REDIAL_SOAK_SEED` repeats a run, and `REDIAL_SOAK_FAULTS` names the faults, with commas between.

mod disk;
mod faults;
mod judge;
mod leaks;
mod rig;

use std::env;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use fastrand::Rng;

use faults::Fault;
use rig::Rig;

/// What one run is told.
struct Plan {
    seed: u64,
    /// Without one, every fault has one round.
    length: Option<Duration>,
    faults: Vec<&'static Fault>,
    /// Those that this machine cannot make, and why.
    without: Vec<String>,
}

#[test]
fn mixed_traffic_under_faults() -> Result<()> {
    let Plan { seed, length, mut faults, without } = Plan::read()?;
    for fault in without {
        println!("without {fault}");
    }
    let names = faults.iter().map(|fault| fault.name).collect::<Vec<_>>().join(",");
    println!("REDIAL_SOAK_SEED={seed} REDIAL_SOAK_FAULTS={names}");
    let mut random = Rng::with_seed(seed);
    let mut rig = Rig::new(random.fork())?;
    println!("{}", rig.warm_up()?);
    let (begun, mut rounds) = (Instant::now(), 0);
    loop {
        random.shuffle(&mut faults);
        for fault in &faults {
            rounds += 1;
            let what = || format!("round {rounds}, {} (REDIAL_SOAK_SEED={seed})", fault.name);
            let said = rig.round(fault).with_context(what)?;
            println!("{:>5} s  {}: {said}", begun.elapsed().as_secs(), what());
            if length.is_some_and(|length| begun.elapsed() >= length) {
                return Ok(());
            }
        }
        if length.is_none() {
            return Ok(());
        }
    }
}

impl Plan {
    fn read() -> Result<Self> {
        let (faults, without) = match set::<String>("REDIAL_SOAK_FAULTS")? {
            None => faults::possible(),
            Some(names) => (names.split(',').map(faults::named).collect::<Result<_>>()?, Vec::new()),
        };
        ensure!(!faults.is_empty(), "no faults");
        Ok(Self {
            seed: set("REDIAL_SOAK_SEED")?.unwrap_or_else(|| fastrand::u64(..)),
            length: set("REDIAL_SOAK_SECONDS")?.map(Duration::from_secs),
            faults,
            without,
        })
    }
}

/// What a variable of the environment says.
fn set<T: FromStr>(name: &str) -> Result<Option<T>> {
    let Ok(text) = env::var(name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| anyhow!("{name}={text} cannot be read"))
}
