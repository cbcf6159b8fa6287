//! Another attempt beside one that takes long.

use tokio::time::Instant;

use super::rig::{BAD, GET, OK, Peer, Rig, Setup, ms, paused, policy};
use crate::policy::HttpPolicy;
use crate::reason::AttemptOutcome;
use crate::retry::request::Methods;

const POST: &str = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";

fn hedged() -> HttpPolicy {
    policy(|policy| {
        policy.retry.hedge_on_per_try_timeout = true;
        policy.retry.per_try_timeout = Some(ms(1_000));
    })
}

/// One attempt whose time has run out, and another.
async fn two() -> (Rig, Peer, Peer) {
    let mut rig = Setup::new(hedged()).start();
    rig.client.says(GET).await;
    let mut first = rig.accept().await;
    first.hears(GET).await;
    let begun = Instant::now();
    let mut second = rig.accept().await;
    let waited = begun.elapsed();
    assert!(waited >= ms(1_000) && waited <= ms(1_027), "the timeout and a backoff: {waited:?}");
    second.hears(GET).await;
    (rig, first, second)
}

#[test]
fn the_first_good_response_wins() {
    for is_first in [true, false] {
        paused(async {
            let (mut rig, first, second) = two().await;
            let (mut winner, mut loser) = if is_first { (first, second) } else { (second, first) };
            winner.says(OK).await;
            rig.client.hears(OK).await;
            loser.sees_end().await;
            rig.client.says(GET).await;
            winner.hears(GET).await;
            winner.says(OK).await;
            rig.client.hears(OK).await;
            rig.no_dial().await;
        });
    }
}

#[test]
fn a_bad_answer_waits_for_the_other() {
    for is_first in [true, false] {
        for is_reset in [true, false] {
            paused(async {
                let (mut rig, first, second) = two().await;
                let (mut good, mut bad) = if is_first { (first, second) } else { (second, first) };
                if is_reset {
                    bad.stream.reset();
                } else {
                    bad.says(BAD).await;
                }
                rig.client.hears_nothing_for(ms(100)).await;
                good.says(OK).await;
                rig.client.hears(OK).await;
            });
        }
    }
}

#[test]
fn two_bad_answers_are_one() {
    for is_first in [true, false] {
        paused(async {
            let (mut rig, first, second) = two().await;
            let (mut one, mut other) = if is_first { (first, second) } else { (second, first) };
            one.says(BAD).await;
            rig.client.hears_nothing_for(ms(100)).await;
            if is_first {
                // What was hedged is not tried again, but the hedge is.
                other.says(BAD).await;
                other.hears(GET).await;
                other.says(OK).await;
                rig.client.hears(OK).await;
            } else {
                other.says(BAD).await;
                rig.client.hears(BAD).await;
            }
            rig.no_dial().await;
        });
    }
}

#[test]
fn an_attempt_that_fails_before_its_hedge_begins_is_followed_by_that_alone() {
    paused(async {
        let mut policy = hedged();
        policy.retry.backoff = crate::retry::Backoff::try_new(ms(60_000), None).unwrap();
        let mut rig = Setup::new(policy).start();
        rig.client.says(GET).await;
        let mut first = rig.accept().await;
        first.hears(GET).await;
        tokio::time::sleep(ms(1_005)).await;
        first.stream.reset();
        let mut second = rig.accept().await;
        second.hears(GET).await;
        second.says(OK).await;
        rig.client.hears(OK).await;
        rig.no_dial().await;
    });
}

#[test]
fn hedges_are_retries_and_there_are_no_more_of_them() {
    paused(async {
        let (mut rig, mut first, mut second) = two().await;
        let mut third = rig.accept().await;
        third.hears(GET).await;
        rig.no_dial().await;
        first.says(OK).await;
        rig.client.hears(OK).await;
        second.sees_end().await;
        third.sees_end().await;
    });
}

#[test]
fn a_request_that_must_not_be_executed_twice_is_not_hedged() {
    for (methods, is_hedged) in [(Methods::Idempotent, false), (Methods::Any, true)] {
        paused(async {
            let mut policy = hedged();
            policy.retry.methods = methods;
            let mut rig = Setup::new(policy).start();
            rig.client.says(POST).await;
            let mut first = rig.accept().await;
            first.hears(POST).await;
            if is_hedged {
                let mut second = rig.accept().await;
                second.hears(POST).await;
                second.says(OK).await;
            } else {
                rig.no_dial().await;
                first.says(OK).await;
            }
            rig.client.hears(OK).await;
        });
    }
}

#[test]
fn a_hedge_that_cannot_connect_leaves_the_first_attempt_alone() {
    paused(async {
        let mut rig = Setup::new(hedged()).start();
        rig.client.says(GET).await;
        let mut first = rig.accept().await;
        first.hears(GET).await;
        rig.dials.next().await.fail(AttemptOutcome::Refused);
        rig.no_dial().await;
        first.says(OK).await;
        rig.client.hears(OK).await;
    });
}
