//! What the network between pod and server does.

use std::thread::sleep;

use anyhow::Result;
use redial_tests::netns::Netns;
use redial_tests::soak::clients::Clients;
use redial_tests::soak::{Done, Failure, Service};

use super::{Fault, Span, always, an_upstream_that_resets, nothing};
use crate::soak::rig::{PORTS, Rig, during};

pub const ALL: &[Fault] = &[
    Fault { name: "drops", can: always, run: drops, may: a_server_that_is_not_reached },
    Fault { name: "refusals", can: always, run: refusals, may: a_server_that_is_not_reached },
    Fault { name: "unreachable", can: always, run: unreachable, may: a_server_that_is_not_reached },
    Fault { name: "resets", can: always, run: resets, may: an_upstream_that_resets },
    Fault { name: "mtu", can: always, run: mtu, may: nothing },
    Fault { name: "ports", can: always, run: ports, may: a_lack_of_ports },
    Fault { name: "netem-loss", can: has_netem, run: loss, may: nothing },
    Fault { name: "netem-delay", can: has_netem, run: delay, may: nothing },
    Fault { name: "netem-reorder", can: has_netem, run: reorder, may: nothing },
    Fault { name: "netem-corrupt", can: has_netem, run: corrupt, may: nothing },
    Fault { name: "netem-duplicate", can: has_netem, run: duplicate, may: nothing },
    Fault { name: "netem-all", can: has_netem, run: all, may: nothing },
];

/// A connect is tried until it succeeds. Of a shared upstream connection it is an attempt at the request, of which there are no more
/// than its policy says.
fn a_server_that_is_not_reached(done: &Done, failure: &Failure) -> bool {
    done.service == Service::Pool && *failure == Failure::Status(503)
}

/// A workload's own connect() may find no port on the way to the engine, redial's none on the way to the server.
fn a_lack_of_ports(done: &Done, failure: &Failure) -> bool {
    match failure {
        Failure::Connect(errno) => errno == "EADDRNOTAVAIL" || errno == "EHOSTUNREACH",
        Failure::Status(503) => done.service != Service::Stream,
        _ => false,
    }
}

/// Puts this before what comes in at the server, for a while.
fn at_the_server(rig: &mut Rig, clients: &mut Clients, rule: &str) -> Result<Vec<Span>> {
    rig.world.server.nft(&format!(
        "table inet soak {{
             chain input {{ type filter hook input priority filter; {rule}; }}
         }}"
    ))?;
    let spans = during(|| rig.a_while(clients))?;
    rig.world.server.nft("delete table inet soak")?;
    Ok(spans)
}

const SYN: &str = "tcp flags & (syn|ack) == syn";

/// Any packet may be lost.
fn drops(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let percent = rig.random.u8(1..=8);
    at_the_server(rig, clients, &format!("meta l4proto tcp numgen random mod 100 < {percent} drop"))
}

/// Connects are refused, most of them.
fn refusals(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let percent = rig.random.u8(20..=60);
    let rule = format!("{SYN} numgen random mod 100 < {percent} reject with tcp reset");
    at_the_server(rig, clients, &rule)
}

/// Connects meet an ICMP error.
fn unreachable(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let percent = rig.random.u8(20..=60);
    let rule = format!("{SYN} numgen random mod 100 < {percent} reject with icmpx host-unreachable");
    at_the_server(rig, clients, &rule)
}

/// Any packet may be answered with a reset, of which the server learns nothing.
fn resets(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let rule = "meta l4proto tcp numgen random mod 1000 < 5 reject with tcp reset";
    at_the_server(rig, clients, rule)
}

/// Packets may be longer or must be shorter from now on.
fn mtu(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    for mtu in ["1280", "9000", "1400", "1500"] {
        for netns in [&rig.world.pod, &rig.world.server] {
            netns.ip(&["link", "set", "eth0", "mtu", mtu])?;
        }
        sleep(rig.between(100, 400));
        clients.wait_more(30)?;
    }
    Ok(Vec::new())
}

/// The pod has a handful of ports left.
fn ports(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let spans = during(|| {
        rig.port_range("60000 60007")?;
        sleep(rig.between(500, 2000));
        rig.port_range(PORTS)
    })?;
    clients.wait_more(50)?;
    Ok(spans)
}

/// Whether the kernel has the module.
fn has_netem() -> Result<()> {
    Netns::new("netem")?.qdisc(&["add", "dev", "lo", "root", "netem", "delay", "1ms"])
}

/// Has both ends of the link do this, for a while.
fn netem(rig: &mut Rig, clients: &mut Clients, what: &[&str]) -> Result<Vec<Span>> {
    let device = ["dev", "eth0", "root", "netem"];
    for netns in [&rig.world.pod, &rig.world.server] {
        netns.qdisc(&[&["add"], &device[..], what].concat())?;
    }
    rig.a_while(clients)?;
    for netns in [&rig.world.pod, &rig.world.server] {
        netns.qdisc(&["del", "dev", "eth0", "root"])?;
    }
    Ok(Vec::new())
}

fn loss(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let percent = format!("{}%", rig.random.u8(1..=8));
    netem(rig, clients, &["loss", &percent])
}

fn delay(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    netem(rig, clients, &["delay", "20ms", "15ms", "distribution", "normal"])
}

fn reorder(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    netem(rig, clients, &["delay", "10ms", "reorder", "30%", "50%"])
}

fn corrupt(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    netem(rig, clients, &["corrupt", "2%"])
}

fn duplicate(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    netem(rig, clients, &["duplicate", "10%"])
}

fn all(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let what = ["loss", "1%", "delay", "8ms", "4ms", "reorder", "10%", "corrupt", "1%", "duplicate", "2%"];
    netem(rig, clients, &what)
}
