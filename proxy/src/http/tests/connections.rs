//! How connections begin, are used again, and end, on both sides.

use super::rig::{BAD, Ended, GET, OK, Setup, ms, paused, policy};
use crate::policy::HttpPolicy;
use crate::reason::{AttemptOutcome, Reason};
use crate::retry::request::Methods;

const POST: &str = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";

fn defaults() -> HttpPolicy {
    HttpPolicy::default()
}

#[test]
fn the_connection_that_connect_made_is_used_and_used_again() {
    paused(async {
        let (mut rig, mut upstream) = Setup::new(defaults()).start_connected();
        for request in [GET, POST, GET] {
            rig.client.says(request).await;
            upstream.hears(request).await;
            upstream.says(OK).await;
            rig.client.hears(OK).await;
        }
        rig.client.stream.finish();
        upstream.sees_end().await;
        rig.no_dial().await;
        assert_eq!(rig.ended().await, Reason::Closed);
    });
}

#[test]
fn an_upstream_may_close_between_requests() {
    for is_reset in [false, true] {
        paused(async {
            let mut setup = Setup::new(defaults());
            setup.policy.retry.num_retries = 0;
            let (mut rig, upstream) = setup.start_connected();
            tokio::time::sleep(ms(10)).await;
            if is_reset {
                upstream.stream.reset();
            }
            drop(upstream);
            rig.client.hears_nothing_for(ms(1_000)).await;
            for _ in 0..2 {
                rig.client.says(POST).await;
                let mut upstream = rig.accept().await;
                upstream.hears(POST).await;
                upstream.says(OK).await;
                rig.client.hears(OK).await;
                drop(upstream);
            }
            rig.no_dial().await;
        });
    }
}

/// It closes just before the request is there, and the engine sees both at once.
#[test]
fn a_connection_closed_as_the_request_comes_is_no_attempt() {
    paused(async {
        let mut setup = Setup::new(defaults());
        setup.policy.retry.num_retries = 0;
        let (mut rig, upstream) = setup.start_connected();
        drop(upstream);
        rig.client.says(POST).await;
        let mut upstream = rig.accept().await;
        upstream.hears(POST).await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
    });
}

#[test]
fn a_stale_connection_is_made_anew_for_any_method_where_nothing_was_taken() {
    for (request, is_proven, is_retried) in
        [(GET, true, true), (POST, true, true), (GET, false, true), (POST, false, false)]
    {
        paused(async {
            let (mut rig, mut upstream) = Setup::new(defaults()).start_connected();
            rig.client.says(GET).await;
            upstream.hears(GET).await;
            upstream.says(OK).await;
            rig.client.hears(OK).await;
            rig.client.says(request).await;
            upstream.stream.readable().await;
            if is_proven {
                upstream.stream.close_untaken();
            } else {
                upstream.stream.finish();
            }
            if is_retried {
                let mut second = rig.accept().await;
                second.hears(request).await;
                second.says(OK).await;
                rig.client.hears(OK).await;
            } else {
                assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
                assert_eq!(rig.failures(), ["not-repeatable"]);
            }
            rig.no_dial().await;
        });
    }
}

/// Whoever says something has taken something.
#[test]
fn a_part_of_a_head_is_no_stale_connection() {
    paused(async {
        let (mut rig, mut upstream) = Setup::new(defaults()).start_connected();
        rig.client.says(POST).await;
        upstream.stream.readable().await;
        upstream.says("HTTP/1.1 2").await;
        tokio::time::sleep(ms(1)).await;
        upstream.stream.close_untaken();
        assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
        rig.no_dial().await;
    });
}

#[test]
fn requests_in_one_write_are_answered_in_order_with_a_retry_among_them() {
    paused(async {
        let requests = ["/1", "/2", "/3"].map(|target| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answers =
            ["1", "2", "3"].map(|body| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{body}"));
        let mut rig = Setup::new(defaults()).start();
        rig.client.says(requests.concat()).await;
        let mut first = rig.accept().await;
        first.hears(&requests[0]).await;
        first.says(&answers[0]).await;
        first.hears(&requests[1]).await;
        first.stream.reset();
        let mut second = rig.accept().await;
        second.hears(&requests[1]).await;
        second.says(&answers[1]).await;
        second.hears(&requests[2]).await;
        second.says(&answers[2]).await;
        rig.client.hears(answers.concat()).await;
    });
}

#[test]
fn requests_that_are_not_their_turn_wait_with_the_client() {
    paused(async {
        let mut rig = Setup::new(defaults()).start();
        let count = 20_000;
        rig.client.writes(GET.repeat(count).into_bytes()).stalls().await;
        let mut upstream = rig.accept().await;
        let taken = rig.client.stream.taken_by_peer();
        // A buffer of 64 KiB may double once before it is full.
        assert!(taken <= 192 * 1024, "{taken}");
        for _ in 0..count {
            upstream.hears(GET).await;
            upstream.says(OK).await;
            rig.client.hears(OK).await;
        }
        rig.no_dial().await;
    });
}

/// The end that is seen is that of the last request, not of the first.
#[test]
fn requests_before_the_client_s_end_are_all_tried_as_ever() {
    paused(async {
        let (mut rig, mut first) = Setup::new(defaults()).start_connected();
        rig.client.says([GET, GET, GET].concat()).await;
        rig.client.stream.finish();
        first.hears(GET).await;
        first.says(BAD).await;
        first.hears(GET).await;
        first.says(OK).await;
        first.hears(GET).await;
        first.says(OK).await;
        first.hears(GET).await;
        first.says(OK).await;
        rig.client.hears([OK, OK, OK].concat()).await;
        rig.client.sees_end().await;
        first.sees_end().await;
        rig.no_dial().await;
    });
}

#[test]
fn a_half_closed_client_gets_its_response() {
    paused(async {
        let mut rig = Setup::new(defaults()).start();
        rig.client.says(GET).await;
        rig.client.stream.finish();
        let mut upstream = rig.accept().await;
        upstream.hears(GET).await;
        upstream.sees_end().await;
        tokio::time::sleep(ms(1_000)).await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
        rig.client.sees_end().await;
        assert_eq!(rig.ended().await, Reason::Closed);
    });
}

#[test]
fn close_is_heard_from_either_side() {
    let closing = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let closed = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    for (request, answer) in [(closing, OK), (GET, closed), (closing, closed)] {
        paused(async {
            let mut rig = Setup::new(defaults()).start();
            rig.client.says(request).await;
            let mut upstream = rig.accept().await;
            upstream.hears(request).await;
            upstream.says(answer).await;
            rig.client.hears(answer).await;
            upstream.sees_end().await;
            rig.client.sees_end().await;
        });
    }
}

#[test]
fn http_1_0_closes_unless_both_keep_alive() {
    let plain = "GET /a HTTP/1.0\r\n\r\n";
    let keep = "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let old = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let old_keep = "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok";
    for (request, answer, is_kept) in [
        (plain, old, false),
        (plain, old_keep, false),
        (keep, old, false),
        (keep, old_keep, true),
        (keep, OK, true),
    ] {
        paused(async {
            let mut rig = Setup::new(defaults()).start();
            rig.client.says(request).await;
            let mut upstream = rig.accept().await;
            upstream.hears(request).await;
            upstream.says(answer).await;
            rig.client.hears(answer).await;
            if is_kept {
                rig.client.says(request).await;
                upstream.hears(request).await;
            } else {
                rig.client.sees_end().await;
                upstream.sees_end().await;
            }
        });
    }
}

#[test]
fn a_response_that_ends_with_its_connection_ends_the_client_s() {
    let head = "HTTP/1.1 200 OK\r\nServer: old\r\n\r\n";
    for end in [Ended::Closed, Ended::Reset] {
        paused(async {
            let mut rig = Setup::new(defaults()).start();
            rig.client.says(GET).await;
            let mut upstream = rig.accept().await;
            upstream.hears(GET).await;
            upstream.says(head).await;
            upstream.says("some").await;
            rig.client.hears([head, "some"].concat()).await;
            upstream.says(" more").await;
            rig.client.hears(" more").await;
            match end {
                Ended::Closed => upstream.stream.close(),
                Ended::Reset => upstream.stream.reset(),
            }
            assert_eq!(rig.client.rest().await, (String::new(), end));
            rig.no_dial().await;
        });
    }
}

#[test]
fn a_response_that_breaks_off_breaks_off_in_the_same_way() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel";
    for begun in ["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel", chunked] {
        for end in [Ended::Closed, Ended::Reset] {
            paused(async {
                let mut rig = Setup::new(defaults()).start();
                rig.client.says(GET).await;
                let mut upstream = rig.accept().await;
                upstream.hears(GET).await;
                upstream.says(begun).await;
                rig.client.hears(begun).await;
                match end {
                    Ended::Closed => upstream.stream.close(),
                    Ended::Reset => upstream.stream.reset(),
                }
                assert_eq!(rig.client.rest().await, (String::new(), end));
                assert_eq!(rig.failures(), ["upstream-reset"]);
                rig.no_dial().await;
            });
        }
    }
}

#[test]
fn what_a_closing_upstream_said_last_arrives() {
    paused(async {
        let mut rig = Setup::new(defaults()).start();
        rig.client.says("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc").await;
        let mut upstream = rig.accept().await;
        let answer = "HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno";
        upstream.head().await;
        upstream.says(answer).await;
        upstream.stream.close();
        rig.client.hears(answer).await;
    });
}

#[test]
fn a_client_that_goes_takes_its_attempt_along() {
    paused(async {
        let mut rig = Setup::new(defaults()).start();
        rig.client.says(GET).await;
        let dial = rig.dials.next().await;
        rig.client.stream.reset();
        dial.given_up().await;
        rig.no_dial().await;
    });
    // While it waits, while it sends and while it receives.
    let sending = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc";
    let large = "HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\nabc";
    for (request, answer) in [(GET, ""), (sending, ""), (GET, large)] {
        paused(async {
            let mut rig = Setup::new(defaults()).start();
            rig.client.says(request).await;
            let mut upstream = rig.accept().await;
            upstream.hears(request).await;
            upstream.says(answer).await;
            rig.client.hears(answer).await;
            let gone = tokio::time::Instant::now();
            rig.client.stream.reset();
            upstream.sees_end_after_head().await;
            assert_eq!(gone.elapsed(), ms(0));
            rig.no_dial().await;
            assert_eq!(rig.failures(), [""; 0]);
        });
    }
}

#[test]
fn a_client_that_closes_within_its_body_takes_its_attempt_along() {
    paused(async {
        let mut rig = Setup::new(defaults()).start();
        let sending = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc";
        rig.client.says(sending).await;
        let mut upstream = rig.accept().await;
        upstream.hears(sending).await;
        rig.client.stream.finish();
        upstream.sees_end().await;
        rig.client.sees_end().await;
        rig.no_dial().await;
    });
}

#[test]
fn a_client_that_reads_slowly_holds_the_upstream_back() {
    paused(async {
        let mut rig = Setup::new(defaults()).start();
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        upstream.hears(GET).await;
        let length = 8 << 20;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let mut writing = upstream.writes([head.clone().into_bytes(), vec![b'x'; length]].concat());
        writing.stalls().await;
        assert!(upstream.stream.taken_by_peer() <= 256 * 1024, "{}", upstream.stream.taken_by_peer());
        rig.client.hears(head).await;
        rig.client.hears(vec![b'x'; length]).await;
    });
}

#[test]
fn a_retry_goes_to_another_endpoint_and_back() {
    paused(async {
        let mut setup = Setup::new(policy(|policy| policy.retry.methods = Methods::Any));
        setup.others = vec!["10.0.0.2".parse().unwrap()];
        let mut rig = setup.start();
        rig.client.says(GET).await;
        for endpoint in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"] {
            let dial = rig.dials.next().await;
            assert_eq!(dial.endpoint.to_string(), endpoint);
            let mut upstream = dial.accept();
            upstream.hears(GET).await;
            upstream.says(BAD).await;
        }
        rig.client.hears(BAD).await;
        rig.no_dial().await;
    });
}

#[test]
fn a_retry_stays_where_the_policy_does_not_avoid_it() {
    paused(async {
        let mut setup = Setup::new(policy(|policy| policy.retry.hosts.avoid_previous = false));
        setup.others = vec!["10.0.0.2".parse().unwrap()];
        let mut rig = setup.start();
        rig.client.says(GET).await;
        for _ in 0..3 {
            let dial = rig.dials.next().await;
            assert_eq!(dial.endpoint.to_string(), "10.0.0.1:80");
            let mut upstream = dial.accept();
            upstream.hears(GET).await;
            upstream.stream.reset();
        }
        assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
        rig.no_dial().await;
    });
}

#[test]
fn connects_that_failed_before_the_request_count() {
    use crate::http::exchange::Prior;
    for (failed, left) in [(0, 2), (1, 1), (2, 0)] {
        paused(async {
            let prior = Prior { failed, gave_up: None };
            let (mut rig, upstream) = Setup { prior, ..Setup::new(defaults()) }.start_connected();
            rig.client.says(GET).await;
            upstream.stream.readable().await;
            upstream.stream.reset();
            for _ in 0..left {
                rig.dials.next().await.fail(AttemptOutcome::Refused);
            }
            assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
            rig.no_dial().await;
        });
    }
}

#[test]
fn connects_that_were_given_up_are_answered_with_503() {
    use crate::http::exchange::Prior;
    paused(async {
        let prior = Prior { failed: 3, gave_up: Some(AttemptOutcome::Refused) };
        let mut rig = Setup { prior, ..Setup::new(defaults()) }.start();
        rig.client.says(GET).await;
        let head = rig.client.head().await;
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        let text = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: \
                    remote connection failure";
        rig.client.hears(text).await;
        assert_eq!(rig.failures(), ["attempts-exhausted"]);
        // The client was not told that the connection ends, so it does not.
        assert!(!head.contains("close"), "{head}");
        rig.client.hears_nothing_for(ms(10_000)).await;
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        upstream.hears(GET).await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
    });
}

#[test]
fn what_is_cut_off_ends_with_a_reset() {
    paused(async {
        let mut rig = Setup::new(policy(|_| {})).start();
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        upstream.hears(GET).await;
        upstream.says("HTTP/1.1 200 OK\r\n\r\nwithout a length").await;
        rig.client.hears("HTTP/1.1 200 OK\r\n\r\nwithout a length").await;
        rig.stop.send_replace(true);
        rig.client.sees_reset().await;
        assert_eq!(rig.ended().await, Reason::Drained);
    });
}
