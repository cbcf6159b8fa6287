//! What whoever runs redial would notice: other protocols under a policy for requests, slow and dying clients, and
//! agents that come, go and change their minds.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use redial_tests::agent::{Agent, Options};
use redial_tests::dial::Dial;
use redial_tests::firewall::Firewall;
use redial_tests::raw_server::{Answer, RawServer, Then};
use redial_tests::script::{Played, Step};
use redial_tests::upstream::Upstream;
use redial_tests::world::{Family, SERVER_V4, World};

use super::{PORT, Server, agent, client, policy, python, run};

const CLIENTS: usize = 8;

fn dial(script: &[Step]) -> Dial {
    Dial::to(Family::V4.server(PORT)).play(script)
}

fn send(text: &str) -> Step {
    Step::Send(text.to_owned())
}

fn detected(agent: &Agent, protocol: &str) -> Result<String> {
    Ok(agent.metrics()?.sum("redial_protocols_detected_total", &[("protocol", protocol)]).to_string())
}

/// The client says nothing before it has been greeted.
#[test]
fn a_server_that_speaks_first_is_heard() -> Result<()> {
    let world = World::new("greets")?;
    let server = Upstream::start(
        &world.server,
        Family::V4.server(PORT),
        &[send("220 hello\r\n"), Step::ReceiveUntil("\r\n".to_owned()), send("250 GET / HTTP/1.1\r\n\r\n")],
    )?;
    let agent = agent(&world, "")?;
    let script = [
        Step::ReceiveTimeout(10_000),
        Step::ReceiveUntil("\r\n".to_owned()),
        // What would be a request, where one is expected.
        send("GET / HTTP/1.1\r\n"),
        Step::ReceiveAll,
    ];
    let dialled = world.dial(&dial(&script))?;
    assert_eq!(dialled.step(1), Some(&Played::Text("220 hello\r\n".to_owned())));
    assert_eq!(dialled.step(3), Some(&Played::Text("250 GET / HTTP/1.1\r\n\r\n".to_owned())));
    assert_eq!(
        server.wait_played(1)?[0].played.as_ref().and_then(|played| played.get(1)),
        Some(&Played::Text("GET / HTTP/1.1\r\n".to_owned()))
    );
    assert_eq!(detected(&agent, "server-first")?, "1");
    Ok(())
}

#[test]
fn what_is_not_http_is_relayed() -> Result<()> {
    let world = World::new("redis")?;
    let (address, port) = (SERVER_V4.to_string(), PORT.to_string());
    let cli = ["-h", &address, "-p", &port];
    let mut command = Command::new("redis-server");
    command.args(["--port", &port, "--bind", &address, "--save", "", "--protected-mode", "no"]);
    let ping = [&["redis-cli"], &cli[..], &["ping"]].concat();
    let _server = Server::start_until(&world, &mut command, &ping)?;
    let agent = agent(&world, "")?;
    assert_eq!(run(&world, world.workload("redis-cli").args(cli).args(["set", "key", "value"]))?, "OK\n");
    // An inline command of two words, the second of which could be a target.
    let dialled =
        world.dial(&dial(&[send("GET key\r\n"), Step::Receive(11), Step::Shutdown, Step::ReceiveAll]))?;
    assert_eq!(dialled.step(1), Some(&Played::Text("$5\r\nvalue\r\n".to_owned())), "{dialled:?}");
    assert_eq!(agent.requests()?.len(), 0);
    Ok(())
}

#[test]
fn tls_is_relayed() -> Result<()> {
    let world = World::new("tls")?;
    let files = tempfile::tempdir()?;
    let (certificate, key) = (files.path().join("certificate"), files.path().join("key"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tls.test"]);
    openssl
        .args(["-addext", "subjectAltName=DNS:tls.test"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    let made = openssl.output().context("running openssl; `cargo xtask setup` installs it")?;
    ensure!(made.status.success(), "{made:?}");
    let mut command = Command::new(python()?);
    command.args([&client("apps/tls_server.py"), &SERVER_V4.to_string(), &PORT.to_string()]);
    let _server = Server::start(&world, command.arg(&certificate).arg(&key))?;

    let agent = agent(&world, "")?;
    let mut curl = world.workload("curl");
    curl.args(["-sS", "--noproxy", "*", "--cacert"]).arg(&certificate);
    curl.args(["--resolve", &format!("tls.test:{PORT}:{SERVER_V4}"), &format!("https://tls.test:{PORT}/")]);
    assert_eq!(run(&world, &mut curl)?, "behind TLS\n");
    assert_eq!(detected(&agent, "tls")?, "1");
    agent.wait_record(PORT)?;
    assert_eq!(agent.requests()?.len(), 0);
    Ok(())
}

/// The first attempt at each request is answered with 503, so that all that came bit by bit is sent once more.
#[test]
fn many_clients_that_send_byte_by_byte_are_served() -> Result<()> {
    let count = 200;
    let world = World::new("slow")?;
    let server = RawServer::start(&world.server, Family::V4.server(PORT), |request| {
        if request.position == 0 && request.connection % 2 == 0 {
            return Answer::status(503, "");
        }
        Answer::status(200, "whole\n")
    })?;
    let agent = agent(&world, "methods: any, numRetries: 30")?;
    let mut command = world.workload(&python()?);
    let arguments =
        [client("apps/slow_clients.py"), SERVER_V4.to_string(), PORT.to_string(), count.to_string()];
    assert_eq!(
        run(&world, command.args(arguments))?,
        format!("{count} answered\n"),
        "{:?}",
        agent.requests()?.iter().find(|request| request["status"] != 200)
    );
    let requests = server.requests();
    assert!(requests.len() > count, "none was tried again");
    let (head, body) = (requests[0].head.clone(), requests[0].body.clone());
    assert!(body.starts_with(b"5;x=y\r\nhello\r\n") && body.ends_with(b"X-Trailer: t\r\n\r\n"));
    assert!(requests.iter().all(|request| request.head == head && request.body == body));
    Ok(())
}

#[test]
fn a_killed_clients_request_ends_at_the_server() -> Result<()> {
    let world = World::new("gone")?;
    let server = Upstream::start(
        &world.server,
        Family::V4.server(PORT),
        &[Step::ReceiveUntil("\r\n\r\n".to_owned()), Step::ReceiveAll],
    )?;
    let agent = agent(&world, "")?;
    let mut waiting = world.start_dial(&dial(&[send("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), Step::Pause]))?;
    waiting.wait_paused()?;
    while agent.metrics()?.sum("redial_requests_active", &[]) < 1.0 {
        sleep(Duration::from_millis(5));
    }
    waiting.kill()?;
    // The request came, and then the end of the stream.
    let played = server.wait_played(1)?.remove(0).played.unwrap_or_default();
    assert!(
        matches!(played.as_slice(), [Played::Text(_), Played::Text(rest)] if rest.is_empty())
            || matches!(played.as_slice(), [Played::Text(_), Played::Failed(errno)] if errno == "ECONNRESET"),
        "{played:?}"
    );
    assert_eq!(agent.wait_requests(1)?[0]["reason"], "client-gone");
    Ok(())
}

/// Clients with kept connections, until they are stopped.
struct Load(Child);

impl Load {
    fn start(world: &World) -> Result<Self> {
        let mut command = world.workload(&python()?);
        let url = format!("http://{SERVER_V4}:{PORT}/load");
        command.args([&client("apps/keepalive.py"), &url, &CLIENTS.to_string(), "0", "4", "GET", "POST"]);
        Ok(Self(world.pod.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?))
    }

    /// Every failure.
    fn stop(mut self) -> Result<Vec<String>> {
        drop(self.0.stdin.take());
        let mut said = String::new();
        self.0.stdout.take().context("no stdout")?.read_to_string(&mut said)?;
        ensure!(self.0.wait()?.success() && said.contains("good "), "{said}");
        Ok(said.lines().filter(|line| line.starts_with("failed")).map(str::to_owned).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wait_for_requests(server: &RawServer, more: usize) -> Result<()> {
    let (before, deadline) = (server.requests().len(), Instant::now() + Duration::from_secs(30));
    while server.requests().len() < before + more {
        ensure!(Instant::now() < deadline, "the load has come to a stop");
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Closes every connection after some requests, so that new ones are always being made.
fn closing_now_and_then(world: &World) -> Result<RawServer> {
    RawServer::start(&world.server, Family::V4.server(PORT), |request| {
        let answer = Answer::bytes("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        if request.position < 10 { Answer::status(200, "kept") } else { answer.then(Then::Close) }
    })
}

#[test]
fn a_take_over_loses_no_request() -> Result<()> {
    let world = World::new("takeover")?;
    let server = closing_now_and_then(&world)?;
    let mut first = agent(&world, "")?;
    let load = Load::start(&world)?;
    wait_for_requests(&server, 300)?;
    let second = agent(&world, "")?;
    wait_for_requests(&server, 600)?;
    assert_eq!(load.stop()?, Vec::<String>::new());
    assert!(first.wait_exit()?.success());
    assert!(second.requests()?.len() > 100, "the second agent has the requests now");
    Ok(())
}

/// Stopped in order, it answers what it has and lets go of connections between requests.
#[test]
fn a_restart_loses_no_request() -> Result<()> {
    let world = World::new("restart")?;
    let server = closing_now_and_then(&world)?;
    let mut first = agent(&world, "")?;
    let load = Load::start(&world)?;
    wait_for_requests(&server, 300)?;
    assert!(first.terminate()?.success());
    wait_for_requests(&server, 300)?;
    let second = agent(&world, "")?;
    wait_for_requests(&server, 600)?;
    assert_eq!(load.stop()?, Vec::<String>::new());
    assert!(second.requests()?.len() > 100, "the second agent has the requests now");
    Ok(())
}

#[test]
fn killed_it_loses_at_most_what_was_under_way() -> Result<()> {
    let world = World::new("kill")?;
    let server = closing_now_and_then(&world)?;
    let mut agent = agent(&world, "")?;
    let load = Load::start(&world)?;
    wait_for_requests(&server, 300)?;
    agent.kill()?;
    wait_for_requests(&server, 600)?;
    let failed = load.stop()?;
    // A client may connect anew while the agent is half gone.
    assert!(failed.len() <= 2 * CLIENTS, "{failed:?}");
    Ok(())
}

#[test]
fn a_changed_policy_applies_to_new_connections() -> Result<()> {
    let world = World::new("reload")?;
    let server = RawServer::start(&world.server, Family::V4.server(PORT), |_| Answer::status(503, "always"))?;
    let agent = agent(&world, "numRetries: 1")?;
    let get = || -> Result<usize> {
        let before = server.requests().len();
        let url = format!("http://{SERVER_V4}:{PORT}/");
        let said = run(&world, world.workload("curl").args(["-sS", "--noproxy", "*", &url]))?;
        assert_eq!(said, "always");
        Ok(server.requests().len() - before)
    };
    assert_eq!(get()?, 2);
    for attempts in [5, 1] {
        agent.write_config(&policy(&format!("numRetries: {}", attempts - 1)))?;
        agent.signal(Signal::SIGHUP)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while get()? != attempts {
            ensure!(Instant::now() < deadline, "the new policy did not come into force:\n{}", agent.log()?);
        }
    }
    Ok(())
}

#[test]
fn an_upstream_that_cannot_be_reached_is_an_error_or_a_503() -> Result<()> {
    let world = World::new("unreached")?;
    let firewall = Firewall::new(&world.server)?;
    for (setting, code) in
        [("", Some(7)), ("onConnectFailure: errno", Some(7)), ("onConnectFailure: '503'", Some(0))]
    {
        let config = policy(&["numRetries: 1", setting].join(if setting.is_empty() { "" } else { ", " }));
        let options = Options { config: Some(&config), ..Options::default() };
        let agent = Agent::start_with(&[&world.cgroup], &options)?;
        let before = firewall.attempts_to(PORT)?;
        let mut curl = world.workload("curl");
        curl.args(["-sS", "--noproxy", "*", "-i", &format!("http://{SERVER_V4}:{PORT}/")]);
        let output = world.pod.run(|| Ok(curl.stdin(Stdio::null()).output()?))?;
        assert_eq!(output.status.code(), code, "{setting}: {output:?}");
        assert_eq!(firewall.attempts_to(PORT)? - before, 2, "{setting}");
        let said = String::from_utf8_lossy(&output.stdout);
        if code == Some(0) {
            assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
            assert!(said.contains("upstream connect error"), "{said}");
            assert_eq!(agent.wait_requests(1)?[0]["status"], 503);
        }
    }
    Ok(())
}
