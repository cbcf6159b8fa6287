//! Messages of all shapes go through as they came.

use super::rig::{BAD, GET, OK, Setup, ms, paused, policy};
use super::stream::Size;
use crate::policy::HttpPolicy;
use crate::reason::AttemptOutcome;
use crate::retry::request::Methods;

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
const EXPECTING: &str = "PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";

fn retried() -> HttpPolicy {
    policy(|policy| policy.retry.methods = Methods::Any)
}

#[test]
fn heads_and_bodies_go_through_byte_for_byte() {
    let odd = "gEt /a?b=%20#c HTTP/1.1\r\nhOsT:   a\r\nX-Empty:\r\nx-twice: 1\r\nX-TWICE:2  \r\nx-late: \t\u{e9}\r\n\r\n";
    let absolute = "GET http://a.example:81/x?y HTTP/1.1\r\nHost: b\r\n\r\n";
    let star = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n";
    let before = "\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let answers = [
        "HTTP/1.1 200\r\ncontent-LENGTH:2\r\nX-a: 1\r\nx-A:2\r\n\r\nok",
        "HTTP/1.1 200 Very  Good\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\no\r\n01\r\nk\r\n000\r\nA: b\r\n\r\n",
        "HTTP/1.1 299 \r\nServer: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    ];
    for request in [odd, absolute, star, before] {
        for answer in answers {
            paused(async {
                let mut rig = Setup::new(retried()).start();
                for round in 0..2 {
                    rig.client.says(request).await;
                    let mut upstream = rig.accept().await;
                    upstream.hears(request).await;
                    upstream.stream.reset();
                    let mut upstream = rig.accept().await;
                    upstream.hears(request).await;
                    upstream.says(answer).await;
                    rig.client.hears(answer).await;
                    drop(upstream);
                    rig.client.hears_nothing_for(ms(round + 1)).await;
                }
            });
        }
    }
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let head_answer = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n";
    let chunked_head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let no_content = "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n";
    let not_modified = "HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n";
    for (method, answer) in
        [("HEAD", head_answer), ("HEAD", chunked_head), ("GET", no_content), ("GET", not_modified)]
    {
        paused(async {
            let request = format!("{method} /a HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut rig = Setup::new(retried()).start();
            rig.client.says(request.repeat(2)).await;
            let mut upstream = rig.accept().await;
            upstream.hears(&request).await;
            upstream.says(answer).await;
            upstream.hears(&request).await;
            upstream.says(answer).await;
            rig.client.hears(answer.repeat(2)).await;
            rig.no_dial().await;
        });
    }
}

#[test]
fn a_head_request_is_answered_without_a_body() {
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        for _ in 0..3 {
            rig.dials.next().await.fail(AttemptOutcome::Refused);
        }
        assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
        rig.client.hears_nothing().await;
    });
}

#[test]
fn a_client_that_waits_for_100_gets_it_and_its_request_may_still_be_retried() {
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(EXPECTING).await;
        let mut first = rig.accept().await;
        first.hears(EXPECTING).await;
        first.says(CONTINUE).await;
        rig.client.hears(CONTINUE).await;
        rig.client.says("body").await;
        first.hears("body").await;
        first.stream.reset();
        let mut second = rig.accept().await;
        second.hears([EXPECTING, "body"].concat()).await;
        // The client has had its 100.
        second.says([CONTINUE, OK].concat()).await;
        rig.client.hears(OK).await;
    });
}

#[test]
fn a_client_that_waits_for_100_does_not_wait_for_ever() {
    // The final response at once.
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(EXPECTING).await;
        let mut upstream = rig.accept().await;
        upstream.hears(EXPECTING).await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
        rig.client.says("body").await;
        upstream.hears("body").await;
        rig.client.says(GET).await;
        upstream.hears(GET).await;
    });
    // The body before the 100.
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says([EXPECTING, "body"].concat()).await;
        let mut upstream = rig.accept().await;
        upstream.hears([EXPECTING, "body"].concat()).await;
        upstream.says(CONTINUE).await;
        rig.client.hears(CONTINUE).await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
    });
    // The 100 and the response in one.
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(EXPECTING).await;
        let mut upstream = rig.accept().await;
        upstream.hears(EXPECTING).await;
        upstream.says([CONTINUE, OK].concat()).await;
        rig.client.hears([CONTINUE, OK].concat()).await;
        rig.client.says("body").await;
        upstream.hears("body").await;
    });
    // A bad response instead of the 100.
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(EXPECTING).await;
        let mut upstream = rig.accept().await;
        upstream.hears(EXPECTING).await;
        upstream.says(BAD).await;
        let mut upstream = rig.accept().await;
        upstream.hears(EXPECTING).await;
        upstream.says(CONTINUE).await;
        rig.client.hears(CONTINUE).await;
        rig.client.says("body").await;
        upstream.hears("body").await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
    });
    // No upstream at all.
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(EXPECTING).await;
        for _ in 0..3 {
            rig.dials.next().await.fail(AttemptOutcome::Refused);
        }
        let head = rig.client.head().await;
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("connection: close"), "{head}");
    });
}

#[test]
fn after_an_interim_response_nothing_is_tried_again() {
    for is_answered in [true, false] {
        paused(async {
            let mut rig = Setup::new(retried()).start();
            rig.client.says(GET).await;
            let mut upstream = rig.accept().await;
            upstream.hears(GET).await;
            upstream.says(HINTS).await;
            rig.client.hears(HINTS).await;
            upstream.says(HINTS).await;
            rig.client.hears(HINTS).await;
            if is_answered {
                upstream.says(BAD).await;
                rig.client.hears(BAD).await;
            } else {
                upstream.stream.reset();
                assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
                assert_eq!(rig.failures(), ["not-retriable"]);
            }
            rig.no_dial().await;
        });
    }
}

#[test]
fn interim_responses_without_end_are_a_bad_gateway() {
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        upstream.hears(GET).await;
        // The client reads none of them.
        upstream.writes_or_fails(HINTS.repeat(100_000).into_bytes());
        upstream.sees_end().await;
        assert!(upstream.stream.taken_by_peer() <= 256 * 1024, "{}", upstream.stream.taken_by_peer());
        let count = 60 * 1024 / HINTS.len();
        rig.client.hears(HINTS.repeat(count)).await;
        assert!(rig.client.head().await.starts_with("HTTP/1.1 502 "));
        rig.no_dial().await;
    });
}

#[test]
fn an_upgraded_connection_is_a_tunnel() {
    let upgrade = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let connect = "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    let connected = "HTTP/1.1 200 Connection established\r\n\r\n";
    for (request, answer) in [(upgrade, switched), (connect, connected)] {
        paused(async {
            let mut rig = Setup::new(retried()).start();
            // Both sides are in a hurry, and one fails first.
            rig.client.says([request, "early\r\n\r\n"].concat()).await;
            let mut first = rig.accept().await;
            first.hears(request).await;
            first.says(BAD).await;
            first.hears(request).await;
            first.says([answer, "hasty"].concat()).await;
            rig.client.hears([answer, "hasty"].concat()).await;
            first.hears("early\r\n\r\n").await;
            rig.client.says("GET / HTTP/1.1\r\n\r\n").await;
            first.hears("GET / HTTP/1.1\r\n\r\n").await;
            first.says("HTTP/1.1 503 No\r\n\r\n").await;
            rig.client.hears("HTTP/1.1 503 No\r\n\r\n").await;
            rig.client.stream.finish();
            first.sees_end().await;
            first.says("last").await;
            drop(first);
            rig.client.hears("last").await;
            rig.client.sees_end().await;
            rig.no_dial().await;
        });
    }
}

#[test]
fn an_upgrade_that_is_refused_is_a_request_like_any_other() {
    let upgrade = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(upgrade).await;
        let mut upstream = rig.accept().await;
        upstream.hears(upgrade).await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
        rig.client.says(GET).await;
        upstream.hears(GET).await;
    });
}

#[test]
fn a_stream_of_events_is_not_held_back() {
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        upstream.hears(GET).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        upstream.says(head).await;
        rig.client.hears(head).await;
        for _ in 0..100 {
            upstream.says("9\r\ndata: 1\n\n\r\n").await;
            rig.client.hears("9\r\ndata: 1\n\n\r\n").await;
            tokio::time::sleep(ms(60_000)).await;
        }
        upstream.says("0\r\n\r\n").await;
        rig.client.hears("0\r\n\r\n").await;
        rig.client.says(GET).await;
        upstream.hears(GET).await;
    });
}

#[test]
fn a_tunnel_begins_after_the_whole_request() {
    paused(async {
        let mut setup = Setup::new(policy(|_| {}));
        setup.size = Size { room: 1024, stride: usize::MAX };
        let mut rig = setup.start();
        let head = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 6000\r\n\r\n";
        let switched = "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
        let body = "b".repeat(6000);
        rig.client.writes([head, &body, "tunnelled"].concat().into_bytes());
        let mut upstream = rig.accept().await;
        upstream.hears(head).await;
        upstream.says(switched).await;
        rig.client.hears(switched).await;
        upstream.hears(body).await;
        upstream.hears("tunnelled").await;
    });
}
