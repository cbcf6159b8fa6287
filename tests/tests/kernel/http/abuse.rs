//! Clients that mean no good: each is stopped, costs little, and is nobody else's trouble.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use redial_tests::agent::{Agent, Options};
use redial_tests::cluster::until;
use redial_tests::crowd::{Crowd, Deaf, Part};
use redial_tests::exchange::Protocol;
use redial_tests::http_upstream::{HttpUpstream, Port, Reaction};
use redial_tests::world::{Family, SERVER_V4, World};
use serde_json::json;

use super::{PORT, agent, client, policy, python, run};

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

/// Heads and bodies of a pod that come slowly, and do not end, keep what is that pod's share. Another pod's requests are served
/// meanwhile, and their bodies are kept, so that they are sent again.
#[test]
fn slow_heads_and_bodies_are_their_pods_own() -> Result<()> {
    // With what each has beyond the bound they have more than the agent's.
    const SLOW: usize = 250;
    const LENGTH: usize = 512 << 10;
    let (slow, other) = (World::new("abuse-slow")?, World::new("abuse-other")?);
    let deaf = Deaf::start(&slow.server, Family::V4.server(PORT))?;
    let script = [503, 200]
        .into_iter()
        .map(|status| Reaction::try_from(json!({"respond": {"status": status, "body": "well"}})))
        .collect::<Result<_, _>>()?;
    let port = Port { by_path: true, ..Port::new(Family::V4.server(PORT), Protocol::H1, script) };
    let server = HttpUpstream::start(&other.server, vec![port])?;
    let arguments = ["--max-buffered-bodies", "16MiB", "--max-buffered-bodies-per-namespace", "4MiB"];
    let config = policy("retryOn: [gateway-error], methods: any");
    let options = Options { config: Some(&config), arguments: &arguments, ..Options::default() };
    let agent = Agent::start_with(&[&slow.cgroup, &other.cgroup], &options)?;
    let is_retried = |path: &str| -> Result<()> {
        let (url, body) = (format!("http://{SERVER_V4}:{PORT}/{path}"), "x".repeat(100_000));
        let mut curl = other.workload("curl");
        curl.args([
            "-sS",
            "--fail",
            "--noproxy",
            "*",
            "--max-time",
            "20",
            "-H",
            "Expect:",
            "--data-binary",
            &body,
            &url,
        ]);
        let said = run(&other, &mut curl)?;
        ensure!(said == "well", "{said}");
        let attempts = server.attempts(Family::V4.server(PORT));
        let those: Vec<_> = attempts.iter().filter(|one| one.path == format!("/{path}")).collect();
        ensure!(those.len() == 2 && those.iter().all(|one| one.body.len() == body.len()), "{}", those.len());
        Ok(())
    };
    let not_kept = |bound: &str| -> Result<f64> {
        Ok(agent.metrics()?.sum("redial_bodies_not_kept_total", &[("bound", bound)]))
    };
    let parts = vec![
        Part::text("POST / HTTP/1.1\r\nHost: slow.test\r\nX-Hea"),
        Part::text(&format!("d: er\r\nContent-Length: {}\r\n\r\n", LENGTH + 1)),
        Part::Flood(LENGTH),
    ];
    let mut crowd = slow.start_crowd(&Crowd { to: Family::V4.server(PORT), connections: SLOW, parts })?;
    crowd.wait_paused()?;
    is_retried("half-heads")?;
    crowd.resume()?;
    crowd.wait_paused()?;
    is_retried("no-bodies")?;
    crowd.resume()?;
    crowd.wait_paused()?;
    until("the bound of the slow ones", || Ok((not_kept("namespace")? > 0.0).then_some(())))?;
    is_retried("half-bodies")?;
    let metrics = agent.metrics()?;
    assert!(metrics.sum("redial_requests_active", &[]) > 0.0, "they are still there");
    assert!(metrics.sum("redial_buffered_body_bytes", &[]) > f64::from(3 << 20), "and keep what they may");
    assert!(not_kept("agent")? < 0.5, "the agent's own bound was not reached");
    crowd.kill()?;
    drop(deaf);
    until("the end of the connections", || Ok((agent.status()?["connections_active"] == 0).then_some(())))
}
