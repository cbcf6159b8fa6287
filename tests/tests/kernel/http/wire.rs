//! The bytes that go through redial are the bytes that came, both ways.
//!
//! Each client asks for the same once outside the workload and once inside. Compared are what the server received and
//! what the client received, all of it, connection by connection; and inside the workload also both sides of redial.

use std::io::{Seek, Write};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use redial_tests::capture::{Capture, Connection};
use redial_tests::raw_server::{Answer, RawServer, Request, Then};
use redial_tests::world::{Family, World};

use super::{PORT, Server, agent, client, libraries, python, run};

/// What the server says to a request, chosen for what somebody might want to tidy up.
fn answer(request: &Request) -> Answer {
    let path = request.path().split('?').next().unwrap_or_default();
    let path = path.trim_start_matches("http://absolute.test");
    let head = |head: &str| head.replace('\n', "\r\n").into_bytes();
    let plain = "HTTP/1.1 200 Fine, thank you\nserver: x\nX-ODD-Case: 1\nSet-Cookie: a=1\nx-odd-case: 2\nVary: b\n\
         set-cookie: c=2\nX-Empty:\nX-Spaces: \t several   spaces  \nvia: 1.1 nobody\nKeep-Alive: timeout=60\n";
    match path {
        _ if request.method() == "HEAD" => {
            Answer::bytes([head(plain), head("Content-Length: 123456789\n\n")].concat())
        }
        "/chunked" => Answer {
            pieces: vec![
                head("HTTP/1.1 200 \nTransfer-Encoding: Chunked\ntrailer: X-Unsent\n\n5;ext=1\nhel"),
                head("lo\n00000A\n0123456789\n1"),
                head("\n"),
                b"\n\r\n".to_vec(),
                head("000\n\n"),
            ],
            ..Answer::default()
        },
        "/extensions" => Answer::bytes(head(
            "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n03; ext=1 ;name=\"a; b\"\nabc\n0;last\n\n",
        )),
        "/trailers" => Answer::bytes(head(
            "HTTP/1.1 200 OK\nTrailer: X-Trailer\ntransfer-encoding: chunked\n\n3\nabc\n0\nX-Trailer: t\nx-other: u\n\n",
        )),
        "/early" => Answer {
            pieces: vec![
                head("HTTP/1.1 103 Early Hints\nLink: </style.css>; rel=preload\n\n"),
                [head(plain), head("Content-Length: 5\n\n"), b"early".to_vec()].concat(),
            ],
            ..Answer::default()
        },
        "/continue" => Answer {
            at_head: head("HTTP/1.1 100 Go on\nX-Interim: 1\n\n"),
            ..Answer::bytes([head(plain), head("Content-Length: 4\n\n"), b"went".to_vec()].concat())
        },
        "/none" => Answer::bytes(head("HTTP/1.1 204 No Content\nX-None: really\n\n")),
        "/old" => {
            Answer::bytes(head("HTTP/1.0 200 OK\nx-old: 1\n\nto the end of the connection")).then(Then::Close)
        }
        "/old-kept" => {
            Answer::bytes(head("HTTP/1.0 200 OK\nConnection: Keep-Alive\ncontent-length: 4\n\nkept"))
        }
        "/large" => {
            let head = head("HTTP/1.1 200 OK\nContent-Length: 4194304\n\n");
            Answer::bytes([head, pattern(4_194_304)].concat())
        }
        "/large-chunked" => {
            let mut bytes = head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n");
            let content = pattern(1_000_000);
            // Sizes that no buffer has.
            for chunk in content.chunks(13_337) {
                bytes.extend(format!("{:X}\r\n", chunk.len()).into_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            Answer::bytes(bytes)
        }
        _ => Answer::bytes([head(plain), head("Content-length:6\n\n"), b"hello\n".to_vec()].concat()),
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| b"0123456789abcdef"[(at ^ (at / 251)) & 15]).collect()
}

/// Runs a client both ways. `command` makes it from how its program is to be started.
fn is_transparent(least: usize, command: impl Fn(Program<'_>, &str) -> Command) -> Result<()> {
    is_transparent_under("", least, command)
}

/// The same under a policy of which this is the `http` section.
fn is_transparent_under(
    policy: &str,
    least: usize,
    command: impl Fn(Program<'_>, &str) -> Command,
) -> Result<()> {
    let world = World::new("wire")?;
    let server = RawServer::start(&world.server, Family::V4.server(PORT), answer)?;
    let url = format!("http://{}", Family::V4.server(PORT));

    let capture = Capture::start(&world.pod)?;
    let said_direct = run(&world, &mut command(&|program| Command::new(program), &url))?;
    let direct = capture.finish()?;
    let asked = server.requests().len();
    ensure!(asked >= least, "the client made {asked} requests only:\n{said_direct}");

    let agent = agent(&world, policy)?;
    let capture = Capture::start(&world.pod)?;
    let said = run(&world, &mut command(&|program| world.workload(program), &url))?;
    let (before, behind) = sides(capture)?;
    assert_eq!(said, said_direct);
    assert_same("client and server, in one run", &before, &behind);
    assert_same("the server, without and with redial", &direct, &behind);
    assert_eq!(server.requests().len(), 2 * asked);
    let read = agent.metrics()?.sum("redial_requests_total", &[]);
    assert_eq!(read.to_string(), asked.to_string(), "redial read every request");
    Ok(())
}

type Program<'a> = &'a dyn Fn(&str) -> Command;

/// The workload's connections, which are with the engine, and the engine's with the server.
fn sides(capture: Capture) -> Result<(Vec<Connection>, Vec<Connection>)> {
    Ok(capture.finish()?.into_iter().partition(|connection| connection.client.ip().is_loopback()))
}

/// Panics at the first byte that differs.
fn assert_same(what: &str, left: &[Connection], right: &[Connection]) {
    assert_eq!(left.len(), right.len(), "{what}: connections");
    for (number, (left, right)) in left.iter().zip(right).enumerate() {
        for (direction, left, right) in
            [("sent", &left.sent, &right.sent), ("received", &left.received, &right.received)]
        {
            let differs = left.iter().zip(right).position(|(left, right)| left != right);
            let differs =
                differs.or_else(|| (left.len() != right.len()).then(|| left.len().min(right.len())));
            let Some(at) = differs else { continue };
            let shown = |bytes: &[u8]| {
                let end = bytes.len().min(at + 200);
                String::from_utf8_lossy(&bytes[at.saturating_sub(200)..end]).into_owned()
            };
            panic!(
                "{what}: connection {number}, {direction}, byte {at} of {} and {}:\n{}\n-- and --\n{}",
                left.len(),
                right.len(),
                shown(left),
                shown(right)
            );
        }
    }
}

#[test]
fn curl() -> Result<()> {
    is_transparent(26, |start, url| {
        let mut command = start("sh");
        command.args([&client("wire/curl.sh"), url]);
        command
    })
}

/// An offer of h2c goes through where nothing would be tried again.
#[test]
fn curl_with_an_offer_of_h2c() -> Result<()> {
    is_transparent_under("numRetries: 0", 2, |start, url| {
        let mut command = start("sh");
        command.args([&client("wire/curl.sh"), url, "h2c"]);
        command
    })
}

#[test]
fn requests() -> Result<()> {
    let python = python()?;
    is_transparent(15, |start, url| {
        let mut command = start(&python);
        command.args([&client("wire/requests_client.py"), url]);
        command
    })
}

#[test]
fn httpx() -> Result<()> {
    let python = python()?;
    is_transparent(17, |start, url| {
        let mut command = start(&python);
        command.args([&client("wire/httpx_client.py"), url]);
        command
    })
}

#[test]
fn go() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let program = super::go_program(&client("wire/client.go"), directory.path())?;
    is_transparent(17, |start, url| {
        let mut command = start(&program);
        command.env_remove("http_proxy").arg(url);
        command
    })
}

#[test]
fn java() -> Result<()> {
    is_transparent(13, |start, url| {
        let mut command = start("java");
        command.args([&client("wire/Wire.java"), url, "HTTP_1_1"]);
        command
    })
}

/// As it comes it offers h2c.
#[test]
fn java_with_an_offer_of_h2c() -> Result<()> {
    is_transparent_under("numRetries: 0", 13, |start, url| {
        let mut command = start("java");
        command.args([&client("wire/Wire.java"), url, "HTTP_2"]);
        command
    })
}

#[test]
fn node_fetch() -> Result<()> {
    is_transparent(16, |start, url| {
        let mut command = start("node");
        command.args([&client("wire/client.mjs"), "fetch", url]);
        command
    })
}

#[test]
fn undici() -> Result<()> {
    let folder = libraries("node")?;
    let folder = folder.to_str().context("not UTF-8")?;
    is_transparent(16, |start, url| {
        let mut command = start("node");
        command.args([&client("wire/client.mjs"), "undici", url, folder]);
        command
    })
}

/// Over HTTP/2 each hop has frames of its own; what the streams say is the same.
#[test]
fn grpcio() -> Result<()> {
    let world = World::new("grpcwire")?;
    let app =
        |what| vec![client("apps/grpc_app.py"), String::from(what), Family::V4.server(PORT).to_string()];
    let _server = Server::start(&world, Command::new(python()?).args(app("serve")))?;
    let agent = agent(&world, "numRetries: 0")?;
    let capture = Capture::start(&world.pod)?;
    let said = run(&world, world.workload(&python()?).args(app("good")))?;
    let (before, behind) = sides(capture)?;
    let ([before], [behind]) = (before.as_slice(), behind.as_slice()) else {
        panic!("{} connections and {}", before.len(), behind.len());
    };
    assert_ne!(before.sent, behind.sent, "it was not read, but relayed");
    let sent = frames(&before.sent)?;
    for (before, behind) in [(&before.sent, &behind.sent), (&before.received, &behind.received)] {
        let (before, behind) = (frames(before)?, frames(behind)?);
        for (number, (before, behind)) in before.lines().zip(behind.lines()).enumerate() {
            assert_eq!(before, behind, "line {number}");
        }
        assert_eq!(before, behind);
    }
    let calls = sent.matches("(':path', '/apps.Echo/").count();
    assert_eq!(calls, 6, "{said}{sent}");
    assert_eq!(agent.wait_requests(calls)?.len(), calls);
    Ok(())
}

/// What one side says on its streams.
fn frames(bytes: &[u8]) -> Result<String> {
    let mut input = tempfile::tempfile()?;
    input.write_all(bytes)?;
    input.rewind()?;
    let output = Command::new(python()?).arg(client("wire/frames.py")).stdin(input).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
