//! What can go wrong, each with what a workload may see of it. A new one is a line in a table.

mod agent;
mod clock;
mod guest;
mod network;
mod server;

use anyhow::{Context, Result};
use redial_tests::soak::clients::Clients;
use redial_tests::soak::{Done, Failure, Kind, Service};

use super::rig::Rig;

/// Something that goes wrong for a while, and is over when `run` returns.
pub struct Fault {
    pub name: &'static str,
    /// Whether this machine can make it; why not, where not.
    pub can: fn() -> Result<()>,
    /// Makes it, and says when it was in force.
    pub run: fn(&mut Rig, &mut Clients) -> Result<Vec<Span>>,
    /// Whether a client may see this of it: what docs/semantics.md says.
    pub may: fn(&Done, &Failure) -> bool,
}

/// A part of a round, in the clients' own time.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: i64,
    pub to: i64,
}

/// Nothing goes wrong.
pub const CALM: Fault = Fault { name: "calm", can: always, run: calm, may: nothing };

fn all() -> impl Iterator<Item = &'static Fault> {
    [&CALM]
        .into_iter()
        .chain(agent::ALL)
        .chain(server::ALL)
        .chain(network::ALL)
        .chain(guest::ALL)
        .chain(clock::ALL)
}

/// Those that this machine can make, and the others, each with the reason why it cannot.
pub fn possible() -> (Vec<&'static Fault>, Vec<String>) {
    let (mut possible, mut others) = (Vec::new(), Vec::new());
    for fault in all() {
        match (fault.can)() {
            Ok(()) => possible.push(fault),
            Err(error) => others.push(format!("{}: {error:#}", fault.name)),
        }
    }
    (possible, others)
}

/// One by its name.
pub fn named(name: &str) -> Result<&'static Fault> {
    let known = || all().map(|fault| fault.name).collect::<Vec<_>>().join(", ");
    let fault = all().find(|fault| fault.name == name);
    let fault = fault.with_context(|| format!("no fault is called `{name}`; there are {}", known()))?;
    (fault.can)().with_context(|| format!("this machine cannot make {name}"))?;
    Ok(fault)
}

impl Span {
    /// Whether the time from one moment to another has part of it.
    pub fn meets(&self, from: i64, to: i64) -> bool {
        from <= self.to && self.from <= to
    }
}

fn calm(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    rig.a_while(clients)?;
    Ok(Vec::new())
}

#[expect(clippy::unnecessary_wraps, reason = "others can fail")]
fn always() -> Result<()> {
    Ok(())
}

/// The fault is redial's to hide.
fn nothing(_: &Done, _: &Failure) -> bool {
    false
}

/// Connections that the upstream resets are reset for those that are relayed. A request that may be repeated is, and
/// nothing is seen of it, unless its answer had begun. Another is answered by redial. With a stream of HTTP/2 that is reset, what
/// was not yet sent of it goes, an answer's head too.
fn an_upstream_that_resets(done: &Done, failure: &Failure) -> bool {
    match failure {
        Failure::Broken(what) => {
            done.service == Service::Stream || done.service == Service::H2 && what.contains("INTERNAL_ERROR")
        }
        Failure::Cut(_) => true,
        Failure::Status(503) => done.kind == Kind::Post && done.service != Service::Any,
        _ => false,
    }
}
