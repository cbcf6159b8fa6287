//! What time does to a request at each of its stages.

use std::time::Duration;

use tokio::time::Instant;

use super::rig::{BAD, GET, OK, Rig, Setup, ms, paused, policy};
use crate::policy::HttpPolicy;
use crate::reason::AttemptOutcome;
use crate::retry::Backoff;

const TIMED_OUT: &str = "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 24\r\ncontent-type: text/plain\r\n\r\n\
     upstream request timeout";

fn timeout(timeout: u64) -> HttpPolicy {
    HttpPolicy { timeout: Some(ms(timeout)), ..HttpPolicy::default() }
}

fn per_try(timeout: u64) -> HttpPolicy {
    policy(|policy| policy.retry.per_try_timeout = Some(ms(timeout)))
}

/// Backoffs that end far beyond every timeout here.
fn patient(mut policy: HttpPolicy) -> HttpPolicy {
    policy.retry.backoff = Backoff::try_new(Duration::from_hours(1), None).unwrap();
    policy
}

/// The client is told that time is up when so many milliseconds are over.
async fn times_out(rig: &mut Rig, begun: Instant, after: u64) {
    rig.client.hears(TIMED_OUT).await;
    assert_within(begun.elapsed(), ms(after));
    assert_eq!(rig.failures(), ["timed-out"]);
    rig.no_dial().await;
}

fn assert_within(elapsed: Duration, expected: Duration) {
    assert!(elapsed >= expected && elapsed <= expected + ms(2), "{elapsed:?} and not {expected:?}");
}

#[test]
fn the_request_s_time_ends_while_it_waits_for_a_connection() {
    paused(async {
        let mut rig = Setup::new(timeout(1_000)).start();
        let begun = Instant::now();
        rig.client.says(GET).await;
        let dial = rig.dials.next().await;
        times_out(&mut rig, begun, 1_000).await;
        dial.given_up().await;
    });
}

#[test]
fn the_request_s_time_ends_while_it_waits_for_a_response() {
    paused(async {
        let mut rig = Setup::new(timeout(1_000)).start();
        let begun = Instant::now();
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        upstream.hears(GET).await;
        times_out(&mut rig, begun, 1_000).await;
        upstream.sees_end().await;
    });
}

#[test]
fn the_request_s_time_ends_in_a_backoff() {
    paused(async {
        let mut rig = Setup::new(patient(timeout(1_000))).start();
        let begun = Instant::now();
        rig.client.says(GET).await;
        rig.dials.next().await.fail(AttemptOutcome::Refused);
        times_out(&mut rig, begun, 1_000).await;
    });
}

#[test]
fn the_request_s_time_ends_within_the_response() {
    paused(async {
        let mut rig = Setup::new(timeout(1_000)).start();
        let begun = Instant::now();
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        upstream.hears(GET).await;
        upstream.says(&OK[..OK.len() - 1]).await;
        rig.client.hears(&OK[..OK.len() - 1]).await;
        rig.client.sees_reset().await;
        assert_within(begun.elapsed(), ms(1_000));
        assert_eq!(rig.failures(), ["timed-out"]);
    });
}

#[test]
fn the_request_s_time_is_for_all_attempts_together() {
    paused(async {
        let mut rig = Setup::new(HttpPolicy { timeout: Some(ms(900)), ..per_try(400) }).start();
        let begun = Instant::now();
        rig.client.says(GET).await;
        let mut connections = Vec::new();
        for _ in 0..3 {
            connections.push(rig.accept().await);
        }
        times_out(&mut rig, begun, 900).await;
    });
}

#[test]
fn the_request_s_time_begins_at_its_end() {
    paused(async {
        let mut rig = Setup::new(HttpPolicy { timeout: Some(ms(1_000)), ..per_try(700) }).start();
        rig.client.says("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na").await;
        let mut upstream = rig.accept().await;
        tokio::time::sleep(ms(5_000)).await;
        let begun = Instant::now();
        rig.client.says("b").await;
        upstream.sees_end_after_head().await;
        assert_within(begun.elapsed(), ms(700));
        let _second = rig.accept().await;
        times_out(&mut rig, begun, 1_000).await;
    });
}

#[test]
fn the_per_try_timeout_begins_with_the_connection_and_ends_with_the_head() {
    paused(async {
        let mut rig = Setup::new(per_try(1_000)).start();
        rig.client.says(GET).await;
        let dial = rig.dials.next().await;
        tokio::time::sleep(ms(5_000)).await;
        let begun = Instant::now();
        let mut first = dial.accept();
        first.hears(GET).await;
        first.sees_end().await;
        assert_within(begun.elapsed(), ms(1_000));
        let mut second = rig.accept().await;
        second.hears(GET).await;
        second.says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await;
        tokio::time::sleep(ms(5_000)).await;
        second.says("ok").await;
        rig.client.hears(OK).await;
    });
}

#[test]
fn a_per_try_timeout_that_is_not_shorter_than_the_request_s_is_none() {
    for shorter in [0, 1] {
        paused(async {
            let policy = HttpPolicy { timeout: Some(ms(1_000)), ..per_try(1_000 - shorter) };
            let mut rig = Setup::new(patient(policy)).start();
            let begun = Instant::now();
            rig.client.says(GET).await;
            let mut upstream = rig.accept().await;
            upstream.hears(GET).await;
            upstream.sees_end().await;
            assert_within(begun.elapsed(), ms(1_000 - shorter));
            times_out(&mut rig, begun, 1_000).await;
        });
    }
}

#[test]
fn the_last_per_try_timeout_is_the_request_s_end() {
    paused(async {
        let mut rig = Setup::new(per_try(1_000)).start();
        rig.client.says(GET).await;
        for _ in 0..3 {
            let mut upstream = rig.accept().await;
            upstream.hears(GET).await;
            upstream.sees_end().await;
        }
        rig.client.hears(TIMED_OUT).await;
        rig.no_dial().await;
        assert_eq!(rig.failures(), ["attempts-exhausted"]);
    });
}

#[test]
fn a_try_that_says_nothing_for_long_is_given_up() {
    paused(async {
        let policy = policy(|policy| policy.retry.per_try_idle_timeout = Some(ms(1_000)));
        let mut rig = Setup::new(policy).start();
        rig.client.says(GET).await;
        let mut first = rig.accept().await;
        first.hears(GET).await;
        let begun = Instant::now();
        for _ in 0..4 {
            tokio::time::sleep(ms(900)).await;
            first.says("HTTP/1.1 200 OK\r\nX-Part: of a head\r\n").await;
        }
        first.sees_end().await;
        assert_within(begun.elapsed(), ms(4_600));
        // It goes on through the response.
        let mut second = rig.accept().await;
        second.hears(GET).await;
        second.says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").await;
        for _ in 0..4 {
            tokio::time::sleep(ms(900)).await;
            second.says("x").await;
        }
        rig.client.hears("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxxxx").await;
        let last = Instant::now();
        rig.client.sees_reset().await;
        assert_within(last.elapsed(), ms(1_000));
        rig.no_dial().await;
    });
}

#[test]
fn an_idle_client_is_told_so() {
    paused(async {
        let policy = HttpPolicy { idle_timeout: Some(ms(1_000)), ..HttpPolicy::default() };
        let mut rig = Setup::new(policy).start();
        rig.client.says("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n").await;
        let mut upstream = rig.accept().await;
        let begun = Instant::now();
        for _ in 0..4 {
            tokio::time::sleep(ms(900)).await;
            rig.client.says("x").await;
        }
        let head = rig.client.head().await;
        assert_within(begun.elapsed(), ms(4_600));
        assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
        rig.client.hears("stream timeout").await;
        upstream.sees_end_after_head().await;
    });
}

#[test]
fn an_idle_upstream_is_told_of() {
    paused(async {
        let policy = HttpPolicy { idle_timeout: Some(ms(1_000)), ..HttpPolicy::default() };
        let mut rig = Setup::new(policy).start();
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        upstream.hears(GET).await;
        let head = rig.client.head().await;
        assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
        rig.client.hears("stream timeout").await;
        upstream.sees_end().await;
        // And a connection that nothing is asked on is not a request that idles.
        rig.client.hears_nothing_for(ms(100_000)).await;
    });
}

/// A timer of one request is not one of the next.
#[test]
fn requests_of_one_connection_have_their_own_time() {
    paused(async {
        let mut rig = Setup::new(HttpPolicy { timeout: Some(ms(1_000)), ..per_try(600) }).start();
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        for pause in [500, 1, 590, 2_000, 10] {
            upstream.hears(GET).await;
            tokio::time::sleep(ms(pause.min(590))).await;
            upstream.says(OK).await;
            rig.client.hears(OK).await;
            tokio::time::sleep(ms(pause)).await;
            rig.client.says(GET).await;
        }
        let begun = Instant::now();
        upstream.hears(GET).await;
        upstream.sees_end().await;
        assert_within(begun.elapsed(), ms(600));
        let mut second = rig.accept().await;
        second.hears(GET).await;
        second.says(OK).await;
        rig.client.hears(OK).await;
    });
}

#[test]
fn backoffs_are_within_their_range_and_use_it() {
    paused(async {
        let policy = policy(|policy| {
            policy.retry.num_retries = 5;
            policy.retry.backoff = Backoff::try_new(ms(1_000), Some(ms(6_000))).unwrap();
        });
        let ceilings = [1_000, 2_000, 4_000, 6_000, 6_000];
        let mut means = [Duration::ZERO; 5];
        let rounds = 60;
        for _ in 0..rounds {
            let mut rig = Setup::new(policy.clone()).start();
            rig.client.says(GET).await;
            rig.dials.next().await.fail(AttemptOutcome::Refused);
            for (mean, ceiling) in means.iter_mut().zip(ceilings) {
                let begun = Instant::now();
                rig.dials.next().await.fail(AttemptOutcome::Refused);
                let waited = begun.elapsed();
                // The clock counts in milliseconds, rounded up.
                assert!(waited <= ms(ceiling + 1), "{waited:?} of {ceiling}");
                *mean += waited / rounds;
            }
            assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
            rig.no_dial().await;
        }
        for (mean, ceiling) in means.into_iter().zip(ceilings) {
            let middle = ms(ceiling / 2);
            assert!(mean > middle * 7 / 10 && mean < middle * 13 / 10, "{mean:?} of {ceiling}");
        }
    });
}

#[test]
fn a_client_that_goes_in_a_backoff_ends_the_request() {
    paused(async {
        let mut rig = Setup::new(patient(HttpPolicy::default())).start();
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        upstream.hears(GET).await;
        upstream.says(BAD).await;
        tokio::time::sleep(ms(10)).await;
        rig.client.stream.reset();
        rig.no_dial().await;
        assert_eq!(rig.failures(), [""; 0]);
        rig.ended().await;
    });
}
