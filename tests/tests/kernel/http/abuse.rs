//! Clients that mean no good: each is stopped, costs little, and is nobody else's trouble.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use redial_tests::agent::Agent;
use redial_tests::exchange::Protocol;
use redial_tests::http_upstream::{HttpUpstream, Port, Reaction};
use redial_tests::world::{Family, SERVER_V4, World};
use serde_json::json;

use super::{PORT, agent, client, python, run};

const HTTP2: u16 = 82;
/// What an attack on one connection may cost the agent while it lasts: HTTP/2's windows are the most of it.
const COST: usize = 48 << 20;

fn upstream(world: &World) -> Result<HttpUpstream> {
    let port = |number: u16, protocol| -> Result<Port> {
        let script = vec![Reaction::try_from(json!({"respond": {"status": 200, "body": "well"}}))?];
        Ok(Port::new(Family::V4.server(number), protocol, script))
    };
    HttpUpstream::start(&world.server, vec![port(PORT, Protocol::H1)?, port(HTTP2, Protocol::H2)?])
}

fn is_served(world: &World) -> Result<()> {
    let url = format!("http://{SERVER_V4}:{PORT}/");
    let said = run(world, world.workload("curl").args(["-sS", "--noproxy", "*", "--max-time", "20", &url]))?;
    ensure!(said == "well", "{said}");
    Ok(())
}

/// What became of an attacker, and how much more memory the agent had by then.
fn attack(world: &World, agent: &Agent, mode: &str, port: u16) -> Result<(String, usize)> {
    let before = agent.resident()?;
    let mut command = world.workload(&python()?);
    command.args([&client("abuse.py"), mode, &SERVER_V4.to_string(), &port.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = world.pod.spawn(&mut command)?;
    let mut said = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut said)?;
    let grown = agent.resident()?.saturating_sub(before);
    is_served(world)?;
    // Those that wait to be told so leave now.
    let _ = child.stdin.take().context("no input")?.write_all(b"\n");
    ensure!(child.wait()?.success(), "{mode}: {said}");
    Ok((said.trim().to_owned(), grown))
}

#[test]
fn a_flood_of_http2_ends_its_own_connection_only() -> Result<()> {
    let world = World::new("abuse-h2")?;
    let server = upstream(&world)?;
    let agent = agent(&world, "")?;
    is_served(&world)?;
    // 11 is ENHANCE_YOUR_CALM (RFC 9113, section 7).
    for (mode, allowed) in [
        ("rapid-reset", &["goaway 11"][..]),
        ("continuation", &["goaway 11"]),
        ("small-continuation", &["goaway 11"]),
        // The head is refused, with 431 or a reset, and the connection may stay.
        ("hpack-bomb", &["answered", "reset 1", "goaway 11"]),
        // As many as one likes; what is owed for them is not kept.
        ("settings", &["sent", "blocked"]),
        ("pings", &["sent", "blocked"]),
    ] {
        let before = server.attempts(Family::V4.server(HTTP2)).len();
        let (outcome, grown) = attack(&world, &agent, mode, HTTP2)?;
        assert!(allowed.contains(&outcome.as_str()), "{mode}: {outcome}");
        assert!(grown < COST, "{mode}: {grown} bytes");
        // Of 50,000 requests that were reset at once few were begun, and of unfinished or refused heads none.
        let began = server.attempts(Family::V4.server(HTTP2)).len() - before;
        assert!(began <= if mode == "rapid-reset" { 2_000 } else { 0 }, "{mode}: {began} requests");
    }
    Ok(())
}

#[test]
fn a_flood_of_headers_is_refused() -> Result<()> {
    let world = World::new("abuse-h1")?;
    let server = upstream(&world)?;
    let agent = agent(&world, "")?;
    is_served(&world)?;
    for (mode, expected) in [("headers", "431"), ("chunk-extensions", "400")] {
        let (outcome, grown) = attack(&world, &agent, mode, PORT)?;
        assert_eq!(outcome, expected, "{mode}");
        assert!(grown < COST, "{mode}: {grown} bytes");
    }
    let complete = server.attempts(Family::V4.server(PORT)).into_iter().filter(|attempt| attempt.complete);
    assert!(complete.into_iter().all(|attempt| attempt.method == "GET"), "curl's only");
    assert!(agent.metrics()?.sum("redial_malformed_requests_total", &[]) >= 2.0);
    Ok(())
}
