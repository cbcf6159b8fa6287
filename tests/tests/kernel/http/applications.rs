//! Whole applications, clients and servers, whose servers fail now and then.

use std::process::Command;

use anyhow::{Result, ensure};
use redial_tests::agent::binary;
use redial_tests::world::{SERVER_V4, World};

use super::{PORT, Server, agent, client, policy, python, run};

/// What the client of `bin_server.py` prints where failures are retried.
const HTTPBIN: &str = "\
GET /status/200 200 
GET /status/404 404 
GET /delay/0.2 200 at last
GET /drip/50 200 **************************************************
stream 2000 line 1999
post 200 True
503 twice 200 execution 3
503 for ever 503 execution 3 3
500 500 execution 1
reset twice 200 execution 3
PUT, reset once 200 execution 2
POST, 503 once 503 execution 1 1
POST, reset once 503 upstream connect error or disconnect/reset before headers. reset reason: connection termination 1
POST with a key, 503 once 200 execution 2
events ['data: 0', 'data: 1', 'data: 2', 'data: 3', 'data: 4']
";

fn bin_server(world: &World) -> Result<Server> {
    let mut command = Command::new(python()?);
    Server::start(
        world,
        command.args([&client("apps/bin_server.py"), &SERVER_V4.to_string(), &PORT.to_string()]),
    )
}

fn url() -> String {
    format!("http://{SERVER_V4}:{PORT}")
}

#[test]
fn httpbin() -> Result<()> {
    let world = World::new("httpbin")?;
    let _server = bin_server(&world)?;
    let agent = agent(&world, "")?;
    let said = run(&world, world.workload(&python()?).args([client("apps/bin_client.py"), url()]))?;
    assert_eq!(said, HTTPBIN);
    let metrics = agent.metrics()?;
    let retries = |condition| metrics.sum("redial_request_retries_total", &[("condition", condition)]);
    // Twice and twice and once more 503; three resets of requests that can be repeated.
    assert_eq!(
        (retries("gateway-error").to_string(), retries("reset").to_string()),
        ("5".into(), "3".into())
    );
    Ok(())
}

#[test]
fn httpbin_under_exec() -> Result<()> {
    let world = World::new("execbin")?;
    let _server = bin_server(&world)?;
    let files = tempfile::tempdir()?;
    let config = files.path().join("policy.yaml");
    std::fs::write(&config, policy(""))?;
    let mut command = Command::new(binary()?);
    command.args(["exec", "--config"]).arg(config).arg("--");
    let said = run(&world, command.arg(python()?).args([client("apps/bin_client.py"), url()]))?;
    assert_eq!(said, HTTPBIN);
    Ok(())
}

#[test]
fn websocket() -> Result<()> {
    let world = World::new("websocket")?;
    let app = |what| -> Vec<String> {
        vec![client("apps/websocket_app.py"), String::from(what), SERVER_V4.to_string(), PORT.to_string()]
    };
    let _server = Server::start(&world, Command::new(python()?).args(app("serve")))?;
    let agent = agent(&world, "")?;
    let said = run(&world, world.workload(&python()?).args(app("call")))?;
    assert_eq!(said, "welcome\n4 True\n1000 True\n80000 True\n3000000 True\npong True\nclosed 1000\n");
    assert_eq!(agent.wait_requests(1)?[0]["status"], 101);
    let record = agent.wait_record(PORT)?;
    ensure!(record.bytes_sent > 3_000_000 && record.reason == "closed", "{record:?}");
    Ok(())
}

#[test]
fn grpc() -> Result<()> {
    let world = World::new("grpc")?;
    let app = |what| vec![client("apps/grpc_app.py"), String::from(what), format!("{SERVER_V4}:{PORT}")];
    let _server = Server::start(&world, Command::new(python()?).args(app("serve")))?;
    let agent = agent(&world, "retryOn: [unavailable, reset, refused-stream], methods: any")?;
    let said = run(&world, world.workload(&python()?).args(app("call")))?;
    assert_eq!(said, GRPC, "{}", agent.log()?);
    let said = run(&world, world.workload(&python()?).args(app("cancel")))?;
    assert_eq!(said, "cancelled True b'yes'\n");
    Ok(())
}

/// Calls that failed twice were executed a third time, and those that always fail as often; what else failed, once.
const GRPC: &str = "\
unary good: b'question', executions ['1']
server-stream good: [b'n0', b'n1', b'n2', b'n3', b'n4'], executions ['1']
client-stream good: b'a,b', executions ['1']
both good: [b'x!', b'y!'], executions ['1']
unary retried: b'question', executions ['3']
server-stream retried: [b'n0', b'n1', b'n2', b'n3', b'n4'], executions ['3']
client-stream retried: b'a,b', executions ['3']
both retried: [b'x!', b'y!'], executions ['3']
unary not retried: NOT_FOUND (as told), executions ['1']
server-stream not retried: NOT_FOUND (as told), executions ['1']
client-stream not retried: NOT_FOUND (as told), executions ['1']
both not retried: NOT_FOUND (as told), executions ['1']
unary lost: UNAVAILABLE (as told), executions ['3']
server-stream lost: UNAVAILABLE (as told), executions ['3']
client-stream lost: UNAVAILABLE (as told), executions ['3']
both lost: UNAVAILABLE (as told), executions ['3']
dialogue 20
large True
deadline: DEADLINE_EXCEEDED (Deadline Exceeded), executions []
the server was told b'yes'
";
