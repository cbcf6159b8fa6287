//! Upstream connections that clients share.

use std::collections::HashSet;

use anyhow::Result;
use redial_tests::agent::{Agent, Options};
use redial_tests::cgroup::Cgroup;
use redial_tests::dial::Dial;
use redial_tests::exchange::Protocol;
use redial_tests::http_upstream::{HttpUpstream, Port, Reaction};
use redial_tests::script::{Played, Step};
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, World};
use serde_json::json;

const POLICY: &str = "---\napiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {name: p}\nspec:\n  http: {upstream: pool}\n  tcp: {maxConnectAttempts: 2, backOff: {baseInterval: 1ms, maxInterval: 1ms}}\n";
const CLIENTS: usize = 20;

fn agent(cgroups: &[&Cgroup]) -> Result<Agent> {
    // Each relay thread has a pool of its own.
    Agent::start_with(cgroups, &Options { config: Some(POLICY), ..Options::default() })
}

/// A server that answers whatever it is asked.
fn server(world: &World) -> Result<HttpUpstream> {
    let answer = Reaction::try_from(json!({"respond": {"status": 200, "body": "ok"}}))?;
    let port = Port::new(Family::V4.server(80), Protocol::H1, vec![answer]);
    HttpUpstream::start(&world.server, vec![port])
}

fn request() -> Dial {
    let request = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned();
    Dial::to(Family::V4.server(80)).play(&[Step::Send(request), Step::ReceiveAll])
}

fn is_answered(played: Option<&Played>) -> bool {
    matches!(played, Some(Played::Text(text)) if text.starts_with("HTTP/1.1 200 ") && text.ends_with("ok"))
}

#[test]
fn short_connections_share_a_few_and_workloads_share_none() -> Result<()> {
    let world = World::new("pool")?;
    let other = Cgroup::new("pool-other")?;
    world.pause(&other)?;
    let server = server(&world)?;
    let agent = agent(&[&world.cgroup, &other])?;
    let made = |cgroup| -> Result<usize> {
        let before = server.connections(Family::V4.server(80));
        for _ in 0..CLIENTS {
            let client = world.start_dial_in(cgroup, &request())?.finish()?;
            assert!(is_answered(client.step(1)), "{client:?}\n{}", agent.log()?);
        }
        Ok(server.connections(Family::V4.server(80)) - before)
    };
    let (first, second) = (made(&world.cgroup)?, made(&other)?);
    assert_eq!(server.attempts(Family::V4.server(80)).len(), 2 * CLIENTS);
    // One for each thread, and another where a client is slow to ask, or the one before it has not been let go of yet.
    for connections in [first, second] {
        assert!((1..=CLIENTS / 2).contains(&connections), "{connections} connections for {CLIENTS} clients");
    }
    Ok(())
}

/// The handshake does not wait for the server, so its failure is one of the request.
#[test]
fn a_server_that_is_not_there_is_told_of_in_http() -> Result<()> {
    let world = World::new("pool-503")?;
    let _agent = agent(&[&world.cgroup])?;
    let client = world.dial(&request())?;
    assert_eq!(client.errno, None);
    assert!(
        matches!(client.step(1), Some(Played::Text(text)) if text.starts_with("HTTP/1.1 503 ")),
        "{client:?}"
    );
    Ok(())
}

#[test]
fn what_is_no_http_has_connections_of_its_own() -> Result<()> {
    let world = World::new("pool-tcp")?;
    let agent = agent(&[&world.cgroup])?;
    let greets = Upstream::start(
        &world.server,
        Family::V4.server(25),
        &[Step::Send("220 hello\r\n".to_owned()), Step::Receive(6), Step::Send("221 bye\r\n".to_owned())],
    )?;
    let echoes = Upstream::start(&world.server, Family::V4.server(7), &[Step::Echo])?;
    for _ in 0..2 {
        let talk = [Step::Receive(11), Step::Send("QUIT\r\n".to_owned()), Step::ReceiveAll];
        let client = world.dial(&Dial::to(Family::V4.server(25)).play(&talk))?;
        assert_eq!(client.step(0), Some(&Played::Text("220 hello\r\n".to_owned())), "{}", agent.log()?);
        assert_eq!(client.step(2), Some(&Played::Text("221 bye\r\n".to_owned())));
        let spoken = [Step::Send("\u{1}binary".to_owned()), Step::Shutdown, Step::ReceiveAll];
        let client = world.dial(&Dial::to(Family::V4.server(7)).play(&spoken))?;
        assert_eq!(client.step(2), Some(&Played::Text("\u{1}binary".to_owned())));
    }
    for server in [&greets, &echoes] {
        let peers: HashSet<_> = server.wait_played(2)?.iter().map(|seen| seen.peer).collect();
        assert_eq!(peers.len(), 2);
    }
    for port in [25, 7] {
        let records = agent.wait_records(port, 2)?;
        assert!(records.iter().all(|record| record.outcomes() == ["connected"]), "{records:?}");
    }
    // Nobody listens there: the policy's attempts to connect are made, and the client is reset.
    let silent = world.dial(&Dial::to(Family::V4.server(26)).play(&[Step::ReceiveAll]))?;
    assert_eq!(silent.step(0), Some(&Played::Failed("ECONNRESET".to_owned())));
    assert_eq!(agent.wait_record(26)?.outcomes(), ["refused", "refused"]);
    Ok(())
}
