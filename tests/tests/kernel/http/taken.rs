//! What was taken by a server is not sent again, and what was not is.
//!
//! The server keeps a ledger of whole requests. Its link is slow, so that a client can send a request on a connection
//! that the server has closed already.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use redial_tests::agent::Agent;
use redial_tests::dial::Dial;
use redial_tests::raw_server::{Answer, RawServer, Request, Then};
use redial_tests::script::{Played, Step};
use redial_tests::slow_link::{self, SlowLink};
use redial_tests::world::World;

use super::{PORT, agent};

/// One way, so that an answer has come after this, and the request that follows it after twice this.
const DELAY: Duration = Duration::from_millis(300);
/// How long after its answer a server closes: before it can have the next request. The client has as long to send that in
/// ignorance.
const RESTS: Duration = Duration::from_millis(500);

/// What came of a client's requests, each sent as soon as the one before was answered.
struct Came {
    /// The status of each answer.
    statuses: Vec<String>,
    /// The methods in the server's ledger.
    ledger: Vec<String>,
    /// How many connections the server had requests on.
    connections: usize,
    agent: Agent,
}

fn ask(methods: &[&str], answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Result<Came> {
    ask_from_afar(Duration::ZERO, methods, answer)
}

fn ask_from_afar(
    delay: Duration,
    methods: &[&str],
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> Result<Came> {
    let world = World::new("taken")?;
    let _link = SlowLink::new(&world.pod, &world.server, delay)?;
    let address = SocketAddr::from((slow_link::RIGHT, PORT));
    let server = RawServer::start(&world.server, address, answer)?;
    let agent = agent(&world, "")?;
    let mut script = vec![Step::ReceiveTimeout(10_000)];
    for (number, method) in (1..).zip(methods) {
        script.push(Step::Send(format!("{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")));
        script.push(Step::ReceiveUntil("\r\n\r\n".to_owned()));
        // The answers that are read to their end have no body.
        script.extend((number == methods.len()).then_some(Step::Shutdown));
    }
    script.push(Step::ReceiveAll);
    let dialled = world.dial(&Dial::to(address).play(&script))?;
    let statuses = dialled.played.iter().filter_map(|played| match played {
        Played::Text(text) if text.starts_with("HTTP/1.1 ") => text.get(9..12).map(str::to_owned),
        Played::Failed(errno) => Some(errno.clone()),
        _ => None,
    });
    let requests = server.requests();
    let mut connections: Vec<_> = requests.iter().map(|request| request.connection).collect();
    connections.dedup();
    Ok(Came {
        statuses: statuses.collect(),
        ledger: requests.iter().map(|request| request.method().to_owned()).collect(),
        connections: connections.len(),
        agent,
    })
}

fn good() -> Answer {
    Answer::status(200, "")
}

fn is_first_post(request: &Request) -> bool {
    request.method() == "POST" && request.connection == 0
}

#[test]
fn a_request_that_a_server_took_before_it_reset_is_not_repeated() -> Result<()> {
    for answered in [vec![], vec!["GET"]] {
        let methods = [answered, vec!["POST"]].concat();
        let came = ask(&methods, |request| match request.method() {
            "POST" => Answer::default().then(Then::Reset),
            _ => good(),
        })?;
        assert_eq!(came.ledger, methods);
        assert_eq!(came.statuses.last().map(String::as_str), Some("503"), "{:?}", came.statuses);
    }
    Ok(())
}

#[test]
fn a_request_that_a_server_took_before_it_closed_is_not_repeated() -> Result<()> {
    let came = ask(&["GET", "POST"], |request| match request.method() {
        "POST" => Answer::default().then(Then::Close),
        _ => good(),
    })?;
    assert_eq!(came.ledger, ["GET", "POST"]);
    assert_eq!(came.statuses, ["200", "503"]);
    Ok(())
}

#[test]
fn one_that_may_be_repeated_is() -> Result<()> {
    for then in [Then::Reset, Then::Close] {
        let came = ask(&["PUT"], move |request| match request.connection {
            0 => Answer::default().then(then),
            _ => good(),
        })?;
        assert_eq!(came.ledger, ["PUT", "PUT"], "{then:?}");
        assert_eq!(came.statuses, ["200"], "{then:?}");
    }
    Ok(())
}

/// The server closes after its first answer. The client's second request meets a closed socket.
#[test]
fn a_request_that_came_after_the_server_had_closed_is_sent_again() -> Result<()> {
    for method in ["GET", "POST"] {
        let came = ask_from_afar(DELAY, &["GET", method], |request| match request.connection {
            0 => good().rest(RESTS).then(Then::Close),
            _ => good(),
        })?;
        assert_eq!(came.ledger, ["GET", method], "each was executed once");
        assert_eq!(came.statuses, ["200", "200"], "{method}");
        assert_eq!(came.connections, 2);
        // It was not known beforehand that the connection was gone.
        let requests = came.agent.wait_requests(2)?;
        assert_eq!(requests[1]["attempts"][0]["outcome"], "connection-lost", "{requests:?}");
    }
    Ok(())
}

/// Its end of stream comes before any answer, and everything that was sent is taken all the same.
#[test]
fn a_request_that_a_half_closed_server_took_is_not_repeated() -> Result<()> {
    let came = ask_from_afar(DELAY, &["GET", "POST"], |request| {
        if is_first_post(request) { Answer::default() } else { good().rest(RESTS).then(Then::HalfClose) }
    })?;
    assert_eq!(came.ledger, ["GET", "POST"]);
    assert_eq!(came.statuses, ["200", "503"]);
    Ok(())
}
