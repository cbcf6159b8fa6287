//! What bounds retries beside their number, and what changes their pauses and heads.

use std::time::Duration;

use tokio::time::Instant;

use super::rig::{BAD, GET, OK, Setup, ms, paused, policy};
use crate::policy::{AddedHeaders, HeaderMatcher, HttpPolicy, ValueMatcher};
use crate::reason::AttemptOutcome;
use crate::retry::request::{Conditions, RateLimitedBackoff, ResetFormat, ResetHeader};
use crate::retry::{Backoff, BudgetPolicy, Budgets};

fn floor(min_per_second: u32) -> BudgetPolicy {
    BudgetPolicy::try_new(0, min_per_second, Duration::from_secs(10)).unwrap()
}

#[test]
fn a_budget_that_is_empty_ends_the_request() {
    let plenty = floor(1_000);
    for (budget, node, scope) in [(floor(1), plenty, "destination"), (plenty, floor(1), "node")] {
        paused(async {
            let mut rig = Setup { node, budget, ..Setup::new(HttpPolicy::default()) }.start();
            rig.client.says(GET).await;
            rig.dials.next().await.fail(AttemptOutcome::Refused);
            let mut upstream = rig.accept().await;
            upstream.hears(GET).await;
            upstream.says(BAD).await;
            // The last answer is the client's.
            rig.client.hears(BAD).await;
            assert_eq!(rig.failures(), ["budget-exhausted"]);
            assert_eq!(rig.observer.metrics().totals().budget_refusals[scope], 1);
            // A second later there is another retry in it.
            tokio::time::sleep(ms(2_000)).await;
            rig.client.says(GET).await;
            upstream.hears(GET).await;
            upstream.says(BAD).await;
            upstream.hears(GET).await;
            upstream.says(OK).await;
            rig.client.hears(OK).await;
            rig.no_dial().await;
        });
    }
}

/// A retry is under way from the decision to its end, its pause included.
#[test]
fn so_many_retries_are_under_way_at_a_time() {
    paused(async {
        let budgets = Budgets::new(floor(1_000));
        let policy = policy(|policy| {
            policy.retry.max_concurrent_retries = Some(1);
            policy.retry.backoff = Backoff::try_new(Duration::from_hours(1), None).unwrap();
        });
        let start = || Setup { budgets: Some(budgets.clone()), ..Setup::new(policy.clone()) }.start();
        let (mut one, mut other, mut third) = (start(), start(), start());
        one.client.says(GET).await;
        one.dials.next().await.fail(AttemptOutcome::Refused);
        one.client.hears_nothing_for(ms(1)).await;
        other.client.says(GET).await;
        other.dials.next().await.fail(AttemptOutcome::Refused);
        assert!(other.client.head().await.starts_with("HTTP/1.1 503 "));
        assert_eq!(other.failures(), ["too-many-retries"]);
        let mut upstream = one.accept().await;
        upstream.hears(GET).await;
        upstream.says(OK).await;
        one.client.hears(OK).await;
        third.client.says(GET).await;
        third.dials.next().await.fail(AttemptOutcome::Refused);
        let mut upstream = third.accept().await;
        upstream.hears(GET).await;
        upstream.says(OK).await;
        third.client.hears(OK).await;
    });
}

#[test]
fn a_retry_waits_as_long_as_the_response_asks_for() {
    for (header, least, most) in [
        ("retry-after: 10", 10_000, 15_001),
        ("x-reset: 7", 7_000, 10_501),
        // Out of bounds, and no number: the usual backoff.
        ("retry-after: 61", 0, 26),
        ("retry-after: soon", 0, 26),
        ("x-other: 10", 0, 26),
    ] {
        paused(async {
            let reset =
                |name: &str| ResetHeader { name: name.parse().unwrap(), format: ResetFormat::Seconds };
            let headers = vec![reset("retry-after"), reset("x-reset")];
            let backoff = RateLimitedBackoff::try_new(headers, Duration::from_mins(1)).unwrap();
            let policy = policy(|policy| policy.retry.rate_limited_backoff = Some(backoff));
            let mut rig = Setup::new(policy).start();
            rig.client.says(GET).await;
            let mut upstream = rig.accept().await;
            upstream.hears(GET).await;
            let begun = Instant::now();
            upstream.says(format!("HTTP/1.1 503 No\r\n{header}\r\nContent-Length: 0\r\n\r\n")).await;
            upstream.hears(GET).await;
            let waited = begun.elapsed();
            assert!(waited >= ms(least) && waited <= ms(most), "{header}: {waited:?}");
            // And the pause after that is the usual one.
            let begun = Instant::now();
            upstream.says(BAD).await;
            upstream.hears(GET).await;
            assert!(begun.elapsed() <= ms(51), "{:?}", begun.elapsed());
            upstream.says(OK).await;
            rig.client.hears(OK).await;
        });
    }
}

#[test]
fn requests_that_the_policy_does_not_name_are_not_retried() {
    let tagged = "GET /a HTTP/1.1\r\nHost: a\r\nX-Retry: yes\r\n\r\n";
    let matcher = |name: &str, value: &str| HeaderMatcher {
        name: name.parse().unwrap(),
        value: ValueMatcher::Exact(value.into()),
        invert: false,
    };
    for (request, is_retried) in [(tagged, true), (GET, false)] {
        paused(async {
            let matchers = vec![matcher(":method", "PUT"), matcher("x-retry", "yes")];
            let mut rig = Setup::new(policy(|policy| policy.retry.request_headers = matchers)).start();
            rig.client.says(request).await;
            rig.dials.next().await.fail(AttemptOutcome::Refused);
            if is_retried {
                let mut upstream = rig.accept().await;
                upstream.hears(request).await;
                upstream.says(OK).await;
                rig.client.hears(OK).await;
            } else {
                assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
            }
            rig.no_dial().await;
        });
    }
}

fn adding() -> HttpPolicy {
    HttpPolicy { added_headers: AddedHeaders::Envoy, ..HttpPolicy::default() }
}

fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
    Some(line[name.len() + 1..].trim())
}

#[test]
fn every_attempt_says_which_it_is_and_how_much_time_it_has() {
    paused(async {
        let mut policy = adding();
        policy.timeout = Some(ms(5_000));
        policy.retry.per_try_timeout = Some(ms(2_000));
        policy.retry.num_retries = 3;
        let mut rig = Setup::new(policy).start();
        rig.client.says(GET).await;
        let mut first = rig.accept().await;
        let head = first.head().await;
        assert!(head.starts_with("GET /a HTTP/1.1\r\nHost: a\r\n"), "{head}");
        let id = value(&head, "x-request-id").unwrap().to_owned();
        assert_eq!(id.len(), 36);
        assert_eq!(value(&head, "x-envoy-attempt-count"), Some("1"));
        assert_eq!(value(&head, "x-envoy-expected-rq-timeout-ms"), Some("2000"));
        assert_eq!(value(&head, "x-envoy-is-timeout-retry"), None);
        assert_eq!(value(&head, "x-forwarded-proto"), Some("http"));
        let mut second = rig.accept().await;
        let head = second.head().await;
        assert_eq!(value(&head, "x-envoy-attempt-count"), Some("2"));
        assert_eq!(value(&head, "x-envoy-expected-rq-timeout-ms"), Some("2000"));
        assert_eq!(value(&head, "x-envoy-is-timeout-retry"), Some("true"));
        assert_eq!(value(&head, "x-request-id"), Some(id.as_str()));
        tokio::time::sleep(ms(1_900)).await;
        second.says(BAD).await;
        let head = second.head().await;
        assert_eq!(value(&head, "x-envoy-attempt-count"), Some("3"));
        // What is left of all the time.
        let left: u64 = value(&head, "x-envoy-expected-rq-timeout-ms").unwrap().parse().unwrap();
        assert!((1_000..=1_100).contains(&left), "{left}");
        assert_eq!(
            value(&head, "x-envoy-is-timeout-retry"),
            Some("false"),
            "the attempt before it was answered"
        );
        second.says("HTTP/1.1 200 OK\r\nX-Envoy-Attempt-Count: 9\r\nContent-Length: 2\r\n\r\nok").await;
        let head = rig.client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(value(&head, "x-envoy-attempt-count"), Some("3"));
        assert_eq!(head.to_lowercase().matches("attempt-count").count(), 1, "{head}");
        rig.client.hears("ok").await;
    });
}

#[test]
fn what_the_client_says_of_itself_stays() {
    paused(async {
        let mut rig = Setup::new(adding()).start();
        let own = "X-Request-Id: mine\r\nX-Forwarded-Proto: https\r\nx-envoy-attempt-count: 7\r\n";
        rig.client.says(format!("GET / HTTP/1.1\r\nHost: a\r\n{own}\r\n")).await;
        let head = rig.accept().await.head().await;
        assert_eq!(value(&head, "x-request-id"), Some("mine"));
        assert_eq!(value(&head, "x-forwarded-proto"), Some("https"));
        assert_eq!(value(&head, "x-envoy-attempt-count"), Some("1"));
        assert_eq!(value(&head, "x-envoy-expected-rq-timeout-ms"), None);
        assert_eq!(head.to_lowercase().matches("attempt-count").count(), 1, "{head}");
    });
}

#[test]
fn a_request_s_own_policy_is_followed_and_taken_out() {
    let never = || policy(|policy| policy.retry.retry_on = Conditions::default());
    let request = "GET /a HTTP/1.1\r\nX-Envoy-Retry-On: 5xx\r\nHost: a\r\nx-envoy-max-retries: 1\r\n\
                   X-Envoy-Upstream-Rq-Timeout-Ms: 90000\r\nx-other: 1\r\n\r\n";
    paused(async {
        let mut rig = Setup::new(HttpPolicy { honour_request_headers: true, ..never() }).start();
        rig.client.says(request).await;
        let mut upstream = rig.accept().await;
        let plain = "GET /a HTTP/1.1\r\nHost: a\r\nx-other: 1\r\n\r\n";
        upstream.hears(plain).await;
        upstream.says(BAD).await;
        upstream.hears(plain).await;
        upstream.says(BAD).await;
        rig.client.hears(BAD).await;
        // The next request has a policy of its own.
        rig.client.says(GET).await;
        upstream.hears(GET).await;
        upstream.says(BAD).await;
        rig.client.hears(BAD).await;
    });
    paused(async {
        let mut rig = Setup::new(never()).start();
        rig.client.says(request).await;
        let mut upstream = rig.accept().await;
        upstream.hears(request).await;
        upstream.says(BAD).await;
        rig.client.hears(BAD).await;
    });
}

#[test]
fn a_request_may_ask_for_204_when_its_time_is_up() {
    paused(async {
        let policy = HttpPolicy { honour_request_headers: true, ..HttpPolicy::default() };
        let mut rig = Setup::new(policy).start();
        let headers =
            "x-envoy-upstream-rq-timeout-ms: 500\r\nx-envoy-upstream-rq-timeout-alt-response: 1\r\n";
        rig.client.says(format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).await;
        let mut upstream = rig.accept().await;
        upstream.hears("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        rig.client.hears("HTTP/1.1 204 No Content\r\n\r\n").await;
        rig.client.says(GET).await;
        rig.accept().await.hears(GET).await;
    });
}

#[test]
fn grpc_requests_are_answered_in_their_words() {
    let request =
        "POST /s/m HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    paused(async {
        let mut rig = Setup::new(policy(|policy| policy.retry.per_try_timeout = Some(ms(100)))).start();
        rig.client.says(request).await;
        let mut upstream = rig.accept().await;
        upstream.hears(request).await;
        rig.client
            .hears(
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\n\
                 grpc-message: upstream request timeout\r\n\r\n",
            )
            .await;
        rig.client.says(request).await;
        for _ in 0..3 {
            rig.dials.next().await.fail(AttemptOutcome::HostUnreachable);
        }
        let head = rig.client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(value(&head, "grpc-status"), Some("14"));
        assert_eq!(
            value(&head, "grpc-message"),
            Some(
                "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: \
                 remote connection failure"
            )
        );
    });
}
