//! What the server does.

use std::thread::sleep;

use anyhow::Result;
use redial_tests::soak::clients::Clients;
use redial_tests::soak::server::{How, Server};
use redial_tests::soak::{Done, Failure, Service};

use super::{Fault, Span, always, an_upstream_that_resets};
use crate::soak::rig::{Rig, during};

pub const ALL: &[Fault] = &[
    Fault { name: "mischief", can: always, run: mischief, may: an_upstream_that_resets },
    Fault { name: "upstream-resets", can: always, run: resets, may: an_upstream_that_resets },
    Fault { name: "upstream-closes", can: always, run: closes, may: an_upstream_that_resets },
    Fault { name: "flapping", can: always, run: flapping, may: a_server_that_is_away },
];

/// A request that finds no server is retried no longer than its policy says. A connect is, until there is one again.
fn a_server_that_is_away(done: &Done, failure: &Failure) -> bool {
    let is_answer = *failure == Failure::Status(503) && done.service != Service::Stream;
    is_answer || an_upstream_that_resets(done, failure)
}

/// Requests get 503, a reset instead of an answer, or half of one; some were executed all the same.
fn mischief(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    during(|| {
        rig.ledger.set_mischievous(true);
        rig.a_while(clients)?;
        rig.ledger.set_mischievous(false);
        Ok(())
    })
}

fn resets(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    end_connections(rig, clients, How::Reset)
}

fn closes(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    end_connections(rig, clients, How::Close)
}

/// Time and again all connections end.
fn end_connections(rig: &mut Rig, clients: &mut Clients, how: How) -> Result<Vec<Span>> {
    during(|| {
        for _ in 0..rig.random.u8(1..=RESETS) {
            rig.server()?.end_connections(how);
            sleep(rig.between(0, 300));
            clients.wait_more(50)?;
        }
        Ok(())
    })
}

/// Less than the attempts that a request has, and things are done in between.
const RESETS: u8 = 4;

/// The server ends, with all its connections, and comes back.
fn flapping(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    during(|| {
        for _ in 0..rig.random.u8(1..=4) {
            rig.server = None;
            sleep(rig.between(0, 1500));
            rig.server = Some(Server::start(&rig.world.server, &rig.ledger)?);
            clients.wait_more(50)?;
        }
        Ok(())
    })
}
