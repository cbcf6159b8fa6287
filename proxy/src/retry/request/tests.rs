//! The decision, written out: every condition with every way for an attempt to end.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Half of every range.
const HALF: Jitter = Jitter::from_bits(1 << 63);

const REPEATABLE: RequestFacts = RequestFacts { repeatable: true, retriable: true, early_data: false };
const ONCE: RequestFacts = RequestFacts { repeatable: false, ..REPEATABLE };

fn policy(retry_on: &[Condition]) -> RequestRetry {
    RequestRetry {
        retry_on: Conditions::of(retry_on),
        status_codes: StatusCodes::try_new([418, 425, 503]).unwrap(),
        ..RequestRetry::default()
    }
}

fn verdict(policy: &RequestRetry, request: RequestFacts, outcome: Outcome) -> Verdict {
    let attempts = Attempts { made: 1, elapsed: Duration::ZERO };
    decide(policy, request, &attempts, &outcome, Replay::Ready, HALF)
}

const fn deliver(why: Reason) -> Verdict {
    Verdict::Deliver { why }
}

const fn failed(progress: Progress, cause: Cause) -> Outcome {
    Outcome::Failed { progress, cause }
}

fn status(status: u16) -> Outcome {
    Outcome::Response(ResponseFacts { status, ..ResponseFacts::default() })
}

fn grpc(status: u32) -> Outcome {
    Outcome::Response(ResponseFacts { status: 200, grpc_status: Some(status), ..ResponseFacts::default() })
}

/// Each way for an attempt to end, under a letter for each condition, in [`Condition::ALL`]'s order:
/// `r` it retries all requests, `i` only those that may be executed twice, `.` none.
fn table() -> Vec<(&'static str, Outcome)> {
    use Progress::{HeadReceived, NotSent, NotTaken, Sent};
    let limited =
        |status| Outcome::Response(ResponseFacts { status, rate_limited: true, ..ResponseFacts::default() });
    let header = |status| {
        Outcome::Response(ResponseFacts { status, retriable_header: true, ..ResponseFacts::default() })
    };
    let everything = Outcome::Response(ResponseFacts {
        status: 503,
        grpc_status: Some(14),
        rate_limited: true,
        retriable_header: true,
        reset_after: None,
    });
    vec![
        // r: envoy-ratelimited
        //  s: retriable-status-codes 418, 425, 503
        //   h: retriable-headers
        //    cdrRu: gRPC 1, 4, 8, 13, 14
        //         4: retriable-4xx
        //          c: connect-failure
        //           3: http3-post-connect-failure
        //            f: refused-stream
        //             b: reset-before-request
        //              r: reset
        //               g: gateway-error
        //                5: 5xx
        ("................", status(200)),
        ("................", status(404)),
        ("........i.......", status(409)),
        (".i..............", status(418)),
        (".i..............", status(425)),
        ("................", status(429)),
        ("................", status(499)),
        ("...............i", status(500)),
        ("...............i", status(501)),
        ("..............ii", status(502)),
        (".i............ii", status(503)),
        ("..............ii", status(504)),
        ("...............i", status(505)),
        ("...............i", status(599)),
        ("................", status(600)),
        ("................", status(0)),
        ("................", grpc(0)),
        ("...i............", grpc(1)),
        ("................", grpc(2)),
        ("....i...........", grpc(4)),
        (".....i..........", grpc(8)),
        ("......i.........", grpc(13)),
        (".......i........", grpc(14)),
        ("................", grpc(16)),
        ("..i.............", header(200)),
        ("..i.....i.......", header(409)),
        (".ii...........ii", header(503)),
        ("i...............", limited(200)),
        ("i...............", limited(409)),
        ("i...............", limited(429)),
        ("i...............", limited(503)),
        ("i...............", everything),
        (".........r..rrrr", failed(NotSent, Cause::Connect(AttemptOutcome::Refused))),
        (".........r..rrrr", failed(NotSent, Cause::Connect(AttemptOutcome::Timeout))),
        (".........r..rrrr", failed(NotSent, Cause::Connect(AttemptOutcome::HostUnreachable))),
        (".........r..rrrr", failed(NotSent, Cause::Connect(AttemptOutcome::NetworkUnreachable))),
        (".........r..rrrr", failed(NotSent, Cause::Connect(AttemptOutcome::Reset))),
        (".........r..rrrr", failed(NotSent, Cause::Connect(AttemptOutcome::Local))),
        ("................", failed(NotSent, Cause::Connect(AttemptOutcome::Connected))),
        // A connect failure is one whatever is said beside it.
        (".........r..rrrr", failed(Sent, Cause::Connect(AttemptOutcome::Refused))),
        ("............rrrr", failed(NotSent, Cause::ConnectionLost)),
        ("...........rrrrr", failed(NotSent, Cause::RefusedStream)),
        ("............rrrr", failed(NotSent, Cause::StreamReset)),
        ("............rrrr", failed(NotSent, Cause::Protocol)),
        ("............rrrr", failed(NotSent, Cause::PerTryTimeout)),
        ("............rrrr", failed(NotSent, Cause::PerTryIdleTimeout)),
        (".........r.rrrrr", failed(NotTaken, Cause::ConnectionLost)),
        (".........r.rrrrr", failed(NotTaken, Cause::RefusedStream)),
        (".........r.rrrrr", failed(NotTaken, Cause::StreamReset)),
        (".........r.rrrrr", failed(NotTaken, Cause::Protocol)),
        (".........r.rrrrr", failed(NotTaken, Cause::PerTryTimeout)),
        (".........r.rrrrr", failed(NotTaken, Cause::PerTryIdleTimeout)),
        (".............iii", failed(Sent, Cause::ConnectionLost)),
        ("...........r.rrr", failed(Sent, Cause::RefusedStream)),
        (".............iii", failed(Sent, Cause::StreamReset)),
        (".............iii", failed(Sent, Cause::Protocol)),
        (".............iii", failed(Sent, Cause::PerTryTimeout)),
        (".............iii", failed(Sent, Cause::PerTryIdleTimeout)),
        ("................", failed(HeadReceived, Cause::ConnectionLost)),
        ("................", failed(HeadReceived, Cause::RefusedStream)),
        ("................", failed(HeadReceived, Cause::StreamReset)),
        ("................", failed(HeadReceived, Cause::Protocol)),
        ("................", failed(HeadReceived, Cause::PerTryTimeout)),
        ("................", failed(HeadReceived, Cause::PerTryIdleTimeout)),
    ]
}

#[test]
fn every_condition_and_every_outcome() {
    for (row, outcome) in table() {
        let unmatched = match outcome {
            Outcome::Response(_) => Reason::Responded,
            Outcome::Failed { .. } => Reason::NotRetriable,
        };
        assert_eq!(row.len(), Condition::ALL.len());
        for (letter, condition) in row.chars().zip(Condition::ALL) {
            // 425 is the one response after which there is no pause.
            let after = if outcome == status(425) { 0 } else { 12_500 };
            let retry = Verdict::Retry { after: Duration::from_micros(after), why: condition };
            let (repeatable, once) = match letter {
                'r' => (retry, retry),
                'i' => (retry, deliver(Reason::NotRepeatable)),
                _ => (deliver(unmatched), deliver(unmatched)),
            };
            let policy = policy(&[condition]);
            assert_eq!(verdict(&policy, REPEATABLE, outcome), repeatable, "{condition:?} {outcome:?}");
            assert_eq!(verdict(&policy, ONCE, outcome), once, "{condition:?} {outcome:?}, not repeatable");
            let never = RequestFacts { retriable: false, ..REPEATABLE };
            assert_eq!(verdict(&policy, never, outcome), deliver(unmatched), "{condition:?} {outcome:?}");
        }
    }
}

#[test]
fn of_several_conditions_the_narrowest_is_told() {
    let all = policy(&Condition::ALL);
    for (row, outcome) in table() {
        let first = row.chars().zip(Condition::ALL).find(|(letter, _)| *letter != '.');
        let told = match verdict(&all, REPEATABLE, outcome) {
            Verdict::Retry { why, .. } => Some(why),
            Verdict::Deliver { .. } => None,
        };
        assert_eq!(told, first.map(|(_, condition)| condition), "{outcome:?}");
    }
    let none = policy(&[]);
    assert!(
        table()
            .iter()
            .all(|(_, outcome)| matches!(verdict(&none, REPEATABLE, *outcome), Verdict::Deliver { .. }))
    );
}

#[test]
fn the_client_s_leaving_is_before_all() {
    let gone = failed(Progress::NotSent, Cause::Connect(AttemptOutcome::Cancelled));
    for policy in [policy(&[]), policy(&Condition::ALL)] {
        assert_eq!(verdict(&policy, REPEATABLE, gone), deliver(Reason::ClientGone));
    }
}

#[test]
fn the_reason_is_the_first_that_holds() {
    use Progress::{HeadReceived, NotSent, Sent};
    use Replay::{Lost, Ready};

    let policy = policy(&[Condition::Reset]);
    let ask = |request, made, progress, replay| {
        let attempts = Attempts { made, elapsed: Duration::MAX };
        decide(&policy, request, &attempts, &failed(progress, Cause::ConnectionLost), replay, HALF)
    };
    let retry = |micros| Verdict::Retry { after: Duration::from_micros(micros), why: Condition::Reset };
    for (request, made, progress, replay, expected) in [
        (ONCE, 3, HeadReceived, Lost, deliver(Reason::NotRetriable)),
        (ONCE, 3, Sent, Lost, deliver(Reason::NotRepeatable)),
        (REPEATABLE, 3, Sent, Lost, deliver(Reason::AttemptsExhausted)),
        (ONCE, 3, NotSent, Lost, deliver(Reason::AttemptsExhausted)),
        (REPEATABLE, 2, Sent, Lost, deliver(Reason::NotReplayable)),
        (ONCE, 2, NotSent, Lost, deliver(Reason::NotReplayable)),
        (REPEATABLE, 1, Sent, Ready, retry(12_500)),
        (REPEATABLE, 2, Sent, Ready, retry(25_000)),
        (REPEATABLE, u32::MAX, Sent, Ready, deliver(Reason::AttemptsExhausted)),
    ] {
        assert_eq!(ask(request, made, progress, replay), expected, "{made} {progress:?} {replay:?}");
    }
}

#[test]
fn zero_retries_is_one_attempt() {
    let none = RequestRetry { num_retries: 0, ..policy(&[Condition::ServerError]) };
    assert_eq!(verdict(&none, REPEATABLE, status(500)), deliver(Reason::AttemptsExhausted));
}

#[test]
fn a_response_s_wish_takes_the_place_of_the_backoff() {
    let policy = policy(&[Condition::ServerError, Condition::RetriableStatusCodes]);
    let wish = |status| {
        let reset_after = Some(Duration::from_secs(10));
        verdict(
            &policy,
            REPEATABLE,
            Outcome::Response(ResponseFacts { status, reset_after, ..ResponseFacts::default() }),
        )
    };
    let retry = |after| Verdict::Retry { after, why: Condition::ServerError };
    assert_eq!(wish(500), retry(Duration::from_millis(12_500)));
    // Only how long to wait is wished: whether to retry is the policy's.
    assert_eq!(wish(429), deliver(Reason::Responded));
    let too_early = Verdict::Retry { after: Duration::ZERO, why: Condition::RetriableStatusCodes };
    assert_eq!(wish(425), too_early);
}

#[test]
fn early_data_that_came_too_early_is_the_client_s_to_send_again() {
    let early = RequestFacts { early_data: true, ..REPEATABLE };
    let policy = policy(&[Condition::RetriableStatusCodes]);
    assert_eq!(verdict(&policy, early, status(425)), deliver(Reason::Responded));
    let retry = Verdict::Retry { after: Duration::from_micros(12_500), why: Condition::RetriableStatusCodes };
    assert_eq!(verdict(&policy, early, status(503)), retry);
}

#[test]
fn what_the_facts_are_read_from() {
    let matcher = |name: &str, value: &str| HeaderMatcher {
        name: name.parse().unwrap(),
        value: crate::policy::ValueMatcher::Exact(value.into()),
        invert: false,
    };
    let seconds = ResetHeader { name: "retry-after".parse().unwrap(), format: ResetFormat::Seconds };
    let retry = RequestRetry {
        request_headers: vec![matcher(":method", "POST"), matcher("x-retry", "yes")],
        response_headers: vec![matcher("x-try", "again")],
        rate_limited_backoff: Some(
            RateLimitedBackoff::try_new(vec![seconds], Duration::from_mins(1)).unwrap(),
        ),
        ..RequestRetry::default()
    };
    let facts = |repeatable, retriable, early_data| RequestFacts { repeatable, retriable, early_data };
    for (request, expected) in [
        (&[(":method", "GET")][..], facts(true, false, false)),
        (&[(":method", "POST")], facts(false, true, false)),
        (&[(":method", "POST"), ("idempotency-key", "1")], facts(true, true, false)),
        (&[(":method", "GET"), ("x-retry", "yes"), ("early-data", "1")], facts(true, true, true)),
    ] {
        assert_eq!(RequestFacts::of(&retry, request), expected, "{request:?}");
        let anything = RequestRetry { request_headers: Vec::new(), ..retry.clone() };
        assert!(RequestFacts::of(&anything, request).retriable);
    }
    let now = std::time::SystemTime::now;
    let none = ResponseFacts { status: 503, ..ResponseFacts::default() };
    for (response, expected) in [
        (&[("x-other", "1")][..], none),
        (&[("grpc-status", "14")], ResponseFacts { grpc_status: Some(14), ..none }),
        (&[("grpc-status", "unavailable")], none),
        (&[("grpc-status", "-1")], none),
        (&[("grpc-status", "14"), ("grpc-status", "14")], none),
        (&[("x-envoy-ratelimited", "")], ResponseFacts { rate_limited: true, ..none }),
        (&[("x-try", "again")], ResponseFacts { retriable_header: true, ..none }),
        (&[("retry-after", "7")], ResponseFacts { reset_after: Some(Duration::from_secs(7)), ..none }),
    ] {
        assert_eq!(
            ResponseFacts::of(&retry, &[&[(":status", "503")], response].concat()[..], now),
            expected,
            "{response:?}"
        );
    }
    let trailers = &[("grpc-status", "4")][..];
    assert_eq!(none.with_trailers(trailers).grpc_status, Some(4));
    let known = ResponseFacts { grpc_status: Some(14), ..none };
    assert_eq!(known.with_trailers(trailers), known, "the head's word stands");
}

prop_compose! {
    fn any_outcome()(
        response: bool,
        (status, grpc_status, rate_limited) in (100..600u16, proptest::option::of(0..20u32), any::<bool>()),
        (retriable_header, reset_after) in (any::<bool>(), proptest::option::of(2..600_000u64)),
        progress in select(&[Progress::NotSent, Progress::NotTaken, Progress::Sent, Progress::HeadReceived]),
        cause in select(&[
            Cause::Connect(AttemptOutcome::Refused),
            Cause::ConnectionLost,
            Cause::RefusedStream,
            Cause::StreamReset,
            Cause::Protocol,
            Cause::PerTryTimeout,
            Cause::PerTryIdleTimeout,
        ]),
    ) -> Outcome {
        let reset_after = reset_after.map(Duration::from_millis);
        if response {
            Outcome::Response(ResponseFacts { status, grpc_status, rate_limited, retriable_header, reset_after })
        } else {
            Outcome::Failed { progress, cause }
        }
    }
}

proptest! {
    /// However attempts end, there are never more of them than the policy says, no pause is longer than it says, and
    /// nothing is executed twice that may not be.
    #[test]
    fn a_policy_s_bounds_hold(
        outcomes in proptest::collection::vec(any_outcome(), 8),
        retry_on in proptest::sample::subsequence(Condition::ALL.to_vec(), 0..=16),
        num_retries in 0..6u32,
        (repeatable, early_data, bits) in any::<(bool, bool, u64)>(),
    ) {
        let policy = RequestRetry { num_retries, ..policy(&retry_on) };
        let request = RequestFacts { repeatable, retriable: true, early_data };
        let mut made = 0;
        for outcome in outcomes {
            made += 1;
            let attempts = Attempts { made, elapsed: Duration::ZERO };
            let jitter = Jitter::from_bits(bits.rotate_left(made));
            match decide(&policy, request, &attempts, &outcome, Replay::Ready, jitter) {
                Verdict::Deliver { .. } => break,
                Verdict::Retry { after, why } => {
                    prop_assert!(retry_on.contains(&why));
                    prop_assert!(repeatable || !outcome.may_be_executed());
                    match outcome {
                        Outcome::Response(ResponseFacts { reset_after: Some(wish), .. }) if !after.is_zero() => {
                            prop_assert!(after >= wish && after < wish + wish / 2);
                        }
                        _ => prop_assert!(after < policy.backoff.max()),
                    }
                }
            }
            let lost = decide(&policy, request, &attempts, &outcome, Replay::Lost, jitter);
            prop_assert_eq!(lost, deliver(Reason::NotReplayable));
        }
        prop_assert!(made <= 1 + num_retries);
    }
}
