//! Requests with bodies: streamed, kept, sent again byte for byte, and not kept past the bounds.

use super::rig::{BAD, OK, Peer, Rig, Setup, ms, paused, policy};
use super::stream::Size;
use crate::http::replay::Buffers;
use crate::policy::HttpPolicy;
use crate::reason::AttemptOutcome;
use crate::retry::request::Methods;

const KIB: usize = 1024;

fn retried() -> HttpPolicy {
    policy(|policy| policy.retry.methods = Methods::Any)
}

fn kept(bound: usize) -> HttpPolicy {
    HttpPolicy { max_buffered_body: bound, ..retried() }
}

fn put(length: usize) -> String {
    format!("PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
}

const CHUNKED: &str = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";

/// Bytes that show where they come from.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| b'a' + u8::try_from(index % 23).unwrap()).collect()
}

#[test]
fn a_body_is_sent_while_it_comes_and_again_as_it_came() {
    let chunks = "5;a=\"b\"\r\nhello\r\n1\r\n!\r\n00A\r\n0123456789\r\n0\r\nX-Sum: 7\r\nx-b:c\r\n\r\n";
    let bodies = [(put(10), "0123456789"), (CHUNKED.to_owned(), chunks)];
    for (head, body) in bodies {
        for stride in [1, 2, 7, usize::MAX] {
            paused(async {
                let size = Size { stride, ..Size::default() };
                let mut rig = Setup { size, ..Setup::new(retried()) }.start();
                rig.client.says(&head).await;
                let mut first = rig.accept().await;
                first.hears(&head).await;
                for byte in body.as_bytes() {
                    rig.client.says([*byte]).await;
                    first.hears([*byte]).await;
                }
                // The whole answer has come with its head: its connection is used again.
                first.says("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
                first.hears(&head).await;
                first.hears(body).await;
                first.stream.reset();
                let mut third = rig.accept().await;
                third.hears(&head).await;
                third.hears(body).await;
                third.says(OK).await;
                rig.client.hears(OK).await;
            });
        }
    }
}

#[test]
fn a_body_that_is_still_coming_is_sent_again_from_its_beginning() {
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(put(6)).await;
        rig.client.says("abc").await;
        let mut first = rig.accept().await;
        first.hears(put(6)).await;
        first.hears("abc").await;
        first.stream.reset();
        let mut second = rig.accept().await;
        second.hears(put(6)).await;
        second.hears("abc").await;
        rig.client.says("def").await;
        second.hears("def").await;
        assert!(rig.buffers.used() >= 6, "{}", rig.buffers.used());
        second.says(OK).await;
        rig.client.hears(OK).await;
        assert_eq!(rig.buffers.used(), 0);
    });
}

/// The next request is not a part of this one's body.
#[test]
fn what_follows_a_body_is_not_sent_again_with_it() {
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(put(3) + "abc" + &put(3) + "def").await;
        let mut first = rig.accept().await;
        first.hears(put(3) + "abc").await;
        first.stream.reset();
        let mut second = rig.accept().await;
        second.hears(put(3) + "abc").await;
        second.says(OK).await;
        second.hears(put(3) + "def").await;
        second.says(OK).await;
        rig.client.hears([OK, OK].concat()).await;
    });
}

/// Sends a body that is more than the bound, to an upstream that reads all of it.
async fn beyond_the_bound(rig: &mut Rig, length: usize) -> Peer {
    rig.client.says(put(length)).await;
    let mut upstream = rig.accept().await;
    upstream.hears(put(length)).await;
    for piece in bytes(length).chunks(KIB) {
        rig.client.says(piece).await;
        upstream.hears(piece).await;
        assert!(rig.buffers.used() <= 128 * KIB, "{}", rig.buffers.used());
    }
    upstream
}

#[test]
fn a_body_beyond_the_bound_is_streamed_and_not_retried() {
    paused(async {
        let mut rig = Setup::new(kept(64 * KIB)).start();
        let upstream = beyond_the_bound(&mut rig, 1 << 20).await;
        upstream.stream.reset();
        assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
        rig.no_dial().await;
        assert_eq!(rig.failures(), ["not-replayable"]);
        assert_eq!(rig.buffers.used(), 0);
    });
}

#[test]
fn a_bad_answer_to_a_body_beyond_the_bound_is_the_client_s() {
    paused(async {
        let mut rig = Setup::new(kept(64 * KIB)).start();
        let mut upstream = beyond_the_bound(&mut rig, 1 << 20).await;
        upstream.says(BAD).await;
        rig.client.hears(BAD).await;
        upstream.hears_nothing().await;
        rig.no_dial().await;
    });
}

#[test]
fn a_body_of_just_the_bound_is_retried() {
    for (length, is_retried) in [(5_000, true), (5_001, false)] {
        paused(async {
            let mut rig = Setup::new(kept(5_000)).start();
            let upstream = beyond_the_bound(&mut rig, length).await;
            upstream.stream.reset();
            if is_retried {
                let mut second = rig.accept().await;
                second.hears(put(length)).await;
                second.hears(bytes(length)).await;
                second.says(OK).await;
                rig.client.hears(OK).await;
            } else {
                assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
                rig.no_dial().await;
            }
        });
    }
}

#[test]
fn an_upstream_that_does_not_read_holds_the_client_back() {
    for bound in [0, 16 * KIB, 1 << 20] {
        paused(async {
            let mut rig = Setup::new(kept(bound)).start();
            let length = 8 << 20;
            let mut writing = rig.client.writes([put(length).into_bytes(), bytes(length)].concat());
            let mut upstream = rig.accept().await;
            writing.stalls().await;
            let held = 64 * KIB;
            let read = rig.client.stream.taken_by_peer();
            // The stream to the upstream holds some, and a read takes up to 64 KiB at once.
            assert!(read <= bound.max(held) + 3 * held, "{bound}: {read}");
            assert!(rig.buffers.used() <= bound.max(held) + held, "{bound}: {}", rig.buffers.used());
            upstream.hears(put(length)).await;
            upstream.hears(bytes(length)).await;
            upstream.says(OK).await;
            rig.client.hears(OK).await;
        });
    }
}

#[test]
fn a_failed_connect_is_retried_whatever_the_body_is() {
    paused(async {
        let mut rig = Setup::new(kept(16 * KIB)).start();
        let length = 1 << 20;
        let mut writing = rig.client.writes([put(length).into_bytes(), bytes(length)].concat());
        let dial = rig.dials.next().await;
        writing.stalls().await;
        // 64 KiB, a read of as much again, and what keeping the pieces costs.
        assert!(rig.buffers.used() <= 129 * KIB, "{}", rig.buffers.used());
        dial.fail(AttemptOutcome::Refused);
        let dial = rig.dials.next().await;
        writing.stalls().await;
        dial.fail(AttemptOutcome::Timeout);
        let mut upstream = rig.accept().await;
        upstream.hears(put(length)).await;
        upstream.hears(bytes(length)).await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
    });
}

#[test]
fn the_agent_s_bound_is_for_all_requests_together() {
    paused(async {
        let buffers = Buffers::new(8 * KIB);
        let start = || Setup { buffers: buffers.clone(), ..Setup::new(kept(1 << 20)) }.start();
        let (mut one, mut other) = (start(), start());
        let first = beyond_the_bound(&mut one, 6 * KIB).await;
        let second = beyond_the_bound(&mut other, 6 * KIB).await;
        // The first was within the bound when it came, and the second let go of its own.
        assert!(buffers.used() <= 8 * KIB, "{}", buffers.used());
        first.stream.reset();
        second.stream.reset();
        assert!(other.client.head().await.starts_with("HTTP/1.1 503 "));
        other.no_dial().await;
        assert_eq!(other.failures(), ["not-replayable"]);
        let mut again = one.accept().await;
        again.hears(put(6 * KIB)).await;
        again.hears(bytes(6 * KIB)).await;
        again.says(OK).await;
        one.client.hears(OK).await;
        assert_eq!(buffers.used(), 0);
    });
}

#[test]
fn a_namespace_s_bound_is_its_own() {
    paused(async {
        let agent = Buffers::new(64 * KIB);
        let start =
            |buffers: &Buffers| Setup { buffers: buffers.clone(), ..Setup::new(kept(1 << 20)) }.start();
        let (greedy, other) = (agent.of_namespace(8 * KIB), agent.of_namespace(8 * KIB));
        let (mut one, mut two, mut three) = (start(&greedy), start(&greedy), start(&other));
        let first = beyond_the_bound(&mut one, 6 * KIB).await;
        let second = beyond_the_bound(&mut two, 6 * KIB).await;
        let third = beyond_the_bound(&mut three, 6 * KIB).await;
        assert_eq!(agent.used(), greedy.used() + other.used());
        second.stream.reset();
        assert!(two.client.head().await.starts_with("HTTP/1.1 503 "));
        assert_eq!(two.failures(), ["not-replayable"]);
        for (rig, failed) in [(&mut one, first), (&mut three, third)] {
            failed.stream.reset();
            let mut again = rig.accept().await;
            again.hears(put(6 * KIB)).await;
            again.hears(bytes(6 * KIB)).await;
            again.says(OK).await;
            rig.client.hears(OK).await;
        }
        assert_eq!((agent.used(), greedy.used(), other.used()), (0, 0, 0));
    });
}

#[test]
fn an_early_response_goes_to_the_client_while_the_body_comes() {
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(put(6) + "abc").await;
        let mut upstream = rig.accept().await;
        upstream.hears(put(6) + "abc").await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
        rig.client.says("def").await;
        upstream.hears("def").await;
        // And both connections are still good.
        rig.client.says(put(1) + "x").await;
        upstream.hears(put(1) + "x").await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
    });
}

/// A reset would take the response away from a client that has not read it yet.
#[test]
fn an_early_response_that_closes_reaches_a_client_that_still_sends() {
    let refusal = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(put(600) + "abc").await;
        let mut upstream = rig.accept().await;
        upstream.hears(put(600) + "abc").await;
        upstream.says(refusal).await;
        upstream.stream.close();
        tokio::time::sleep(ms(500)).await;
        rig.client.says("more").await;
        rig.client.hears(refusal).await;
        rig.client.sees_end().await;
    });
}

#[test]
fn an_early_bad_response_is_retried_with_what_has_come() {
    paused(async {
        let mut rig = Setup::new(retried()).start();
        rig.client.says(put(6) + "abc").await;
        let mut first = rig.accept().await;
        first.hears(put(6) + "abc").await;
        first.says(BAD).await;
        first.sees_end().await;
        let mut second = rig.accept().await;
        second.hears(put(6) + "abc").await;
        rig.client.says("def").await;
        second.hears("def").await;
        second.says(OK).await;
        rig.client.hears(OK).await;
    });
}
