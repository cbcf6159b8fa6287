//! What happens to the agent.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use redial_tests::load::now;
use redial_tests::soak::clients::Clients;
use redial_tests::soak::{Done, Failure, Service, policies};

use super::{Fault, Span, always, nothing};
use crate::soak::rig::{Rig, during};

pub const ALL: &[Fault] = &[
    Fault { name: "kill", can: always, run: kill, may: what_a_dead_agent_had },
    Fault { name: "hang", can: always, run: hang, may: nothing },
    Fault { name: "upgrade", can: always, run: upgrade, may: what_drains },
    Fault { name: "take-over", can: always, run: take_over, may: what_drains },
    Fault { name: "reload-storm", can: always, run: reload_storm, may: nothing },
    Fault { name: "full-disk", can: always, run: full_disk, may: nothing },
];

/// What it relayed ends, what it held is refused.
fn what_a_dead_agent_had(_: &Done, failure: &Failure) -> bool {
    match failure {
        Failure::Connect(errno) => errno == "ECONNREFUSED" || errno == "ECONNRESET",
        Failure::Broken(_) | Failure::Closed(_) | Failure::Cut(_) => true,
        _ => false,
    }
}

/// A connection of HTTP/2 is told to take no more requests. What was asked is answered.
fn what_drains(done: &Done, failure: &Failure) -> bool {
    done.service == Service::H2 && matches!(failure, Failure::Closed(_))
}

/// SIGKILL, and after a while another.
fn kill(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    for _ in 0..rig.random.u8(1..=3) {
        let from = now();
        rig.agent.kill()?;
        spans.push(Span { from, to: now() });
        sleep(rig.between(0, 1000));
        rig.next_agent()?;
        clients.wait_more(50)?;
    }
    Ok(spans)
}

/// Stopped for longer than its silence is borne.
fn hang(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    rig.agent.signal(Signal::SIGSTOP)?;
    sleep(rig.between(1000, 8000));
    rig.agent.signal(Signal::SIGCONT)?;
    clients.wait_more(50)?;
    Ok(Vec::new())
}

/// SIGTERM, and another one starts: connections go direct in between.
fn upgrade(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    during(|| {
        rig.agent.signal(Signal::SIGTERM)?;
        sleep(rig.between(0, 1000));
        let mut old = rig.next_agent()?;
        clients.wait_more(50)?;
        ensure!(old.wait_exit()?.success(), "{}", old.log()?);
        Ok(())
    })
}

/// One after the other starts beside the one that there is.
fn take_over(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    during(|| {
        let mut old = Vec::new();
        for _ in 0..rig.random.u8(1..=4) {
            old.push(rig.next_agent()?);
            clients.wait_more(10)?;
        }
        for mut agent in old {
            ensure!(agent.wait_exit()?.success(), "{}", agent.log()?);
        }
        Ok(())
    })
}

/// The file changes all the time, also into what is none, and signals say so.
fn reload_storm(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    let good = policies();
    let torn = &good[..good.len() / 2];
    let worse = good.replace("maxConnectAttempts: 10000", "maxConnectAttempts: 0");
    let longer = good.replace("connectTimeout: 1s", "connectTimeout: 2s");
    for _ in 0..rig.random.u8(20..=120) {
        let text = [good.as_str(), torn, &worse, &longer][rig.random.usize(0..4)];
        rig.agent.write_config(text)?;
        if rig.random.bool() {
            rig.agent.signal(Signal::SIGHUP)?;
        }
        sleep(rig.between(0, 40));
    }
    rig.agent.write_config(&good)?;
    rig.agent.signal(Signal::SIGHUP)?;
    clients.wait_more(50)?;
    Ok(Vec::new())
}

/// There is no room for the access log, nor for what the agent says.
fn full_disk(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    rig.disk.fill()?;
    sleep(Duration::from_millis(500));
    clients.wait_more(200)?;
    rig.disk.make_room()?;
    Ok(Vec::new())
}
