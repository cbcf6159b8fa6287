//! Every condition against every way in which an attempt can fail, for requests that may and may not be executed twice.
//!
//! The numbers are written down from Envoy's rules and redial's own guard, not worked out with the code under test.

use tokio::task::spawn_local;

use super::rig::{Dial, Ended, Peer, Setup, ms, paused};
use crate::policy::{HeaderMatcher, HttpPolicy, ValueMatcher};
use crate::reason::AttemptOutcome;
use crate::retry::RequestRetry;
use crate::retry::request::{Condition, Conditions, Methods, StatusCodes};

/// What the upstream does with every attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Answers as the condition's row says.
    Answer,
    ResetBeforeHead,
    CloseBeforeHead,
    /// Closed before it saw the request, and that can be proven.
    CloseUntaken,
    /// Resets within the body of a response that the condition would retry.
    ResetInBody,
    Silence,
    Refused,
    ConnectTimeout,
    /// Has gone before a byte of the request is written.
    RefusedWrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Once,
    /// Three times where the request may be executed twice, else once.
    IfRepeatable,
    Thrice,
}

const FAULTS: [Fault; 9] = [
    Fault::Answer,
    Fault::ResetBeforeHead,
    Fault::CloseBeforeHead,
    Fault::CloseUntaken,
    Fault::ResetInBody,
    Fault::Silence,
    Fault::Refused,
    Fault::ConnectTimeout,
    Fault::RefusedWrite,
];

struct Row {
    on: Condition,
    answer: &'static str,
    times: [Times; 9],
}

const fn row(on: Condition, answer: &'static str, times: [Times; 9]) -> Row {
    Row { on, answer, times }
}

#[rustfmt::skip]
const ROWS: [Row; 16] = {
    use Condition as C;
    use Times::{IfRepeatable as R, Once as O, Thrice as T};
    [
        //                                                       answer reset close untaken in-body silence refused timeout write
        row(C::ServerError,             "500 No\r\n",              [R,    R,    R,    T,      O,      R,      T,      T,      T]),
        row(C::GatewayError,            "503 No\r\n",              [R,    R,    R,    T,      O,      R,      T,      T,      T]),
        row(C::Reset,                   "503 No\r\n",              [O,    R,    R,    T,      O,      R,      T,      T,      T]),
        row(C::ResetBeforeRequest,      "503 No\r\n",              [O,    O,    O,    T,      O,      O,      T,      T,      T]),
        row(C::ConnectFailure,          "503 No\r\n",              [O,    O,    O,    T,      O,      O,      T,      T,      O]),
        row(C::RefusedStream,           "503 No\r\n",              [O,    O,    O,    T,      O,      O,      O,      O,      O]),
        row(C::Http3PostConnectFailure, "503 No\r\n",              [O,    O,    O,    O,      O,      O,      O,      O,      O]),
        row(C::Retriable4xx,            "409 No\r\n",              [R,    O,    O,    O,      O,      O,      O,      O,      O]),
        row(C::RetriableStatusCodes,    "429 No\r\n",              [R,    O,    O,    O,      O,      O,      O,      O,      O]),
        row(C::RetriableHeaders,        "200 OK\r\nx-again: 1\r\n",[R,    O,    O,    O,      O,      O,      O,      O,      O]),
        row(C::EnvoyRateLimited,        "429 No\r\nx-envoy-ratelimited: 1\r\n",
                                                                   [R,    O,    O,    O,      O,      O,      O,      O,      O]),
        row(C::Cancelled,               "200 OK\r\ngrpc-status: 1\r\n",
                                                                   [R,    O,    O,    O,      O,      O,      O,      O,      O]),
        row(C::DeadlineExceeded,        "200 OK\r\ngrpc-status: 4\r\n",
                                                                   [R,    O,    O,    O,      O,      O,      O,      O,      O]),
        row(C::ResourceExhausted,       "200 OK\r\ngrpc-status: 8\r\n",
                                                                   [R,    O,    O,    O,      O,      O,      O,      O,      O]),
        row(C::Internal,                "200 OK\r\ngrpc-status: 13\r\n",
                                                                   [R,    O,    O,    O,      O,      O,      O,      O,      O]),
        row(C::Unavailable,             "200 OK\r\ngrpc-status: 14\r\n",
                                                                   [R,    O,    O,    O,      O,      O,      O,      O,      O]),
    ]
};

struct Kind {
    request: &'static str,
    methods: Methods,
    is_repeatable: bool,
}

fn kinds() -> [Kind; 4] {
    let kind = |request, methods, is_repeatable| Kind { request, methods, is_repeatable };
    [
        kind("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Methods::Idempotent, true),
        kind("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab", Methods::Idempotent, false),
        kind(
            "POST / HTTP/1.1\r\nhost: a\r\nIdempotency-Key: k\r\ncontent-length: 2\r\n\r\nab",
            Methods::Idempotent,
            true,
        ),
        kind("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab", Methods::Any, true),
    ]
}

fn policy(row: &Row, kind: &Kind) -> HttpPolicy {
    let retry = RequestRetry {
        retry_on: Conditions::of(&[row.on]),
        methods: kind.methods.clone(),
        per_try_timeout: Some(ms(500)),
        // One row is about them, and the others must not be impressed by them.
        status_codes: StatusCodes::try_new([429]).unwrap(),
        response_headers: vec![HeaderMatcher {
            name: "x-again".parse().unwrap(),
            value: ValueMatcher::Present,
            invert: false,
        }],
        ..RequestRetry::default()
    };
    HttpPolicy { retry, ..HttpPolicy::default() }
}

/// What the client gets in the end.
fn expected(row: &Row, fault: Fault, attempts: u32) -> (String, Ended) {
    let retried = if attempts > 1 { "retried and the latest " } else { "" };
    let failed = |reason: &str| {
        let text = format!(
            "upstream connect error or disconnect/reset before headers. {retried}reset reason: {reason}"
        );
        let length = text.len();
        let head = "HTTP/1.1 503 Service Unavailable\r\n";
        (format!("{head}content-length: {length}\r\ncontent-type: text/plain\r\n\r\n{text}"), Ended::Closed)
    };
    match fault {
        Fault::Answer => (format!("HTTP/1.1 {}content-length: 2\r\n\r\nno", row.answer), Ended::Closed),
        Fault::ResetInBody => (format!("HTTP/1.1 {IN_BODY}content-length: 2\r\n\r\nn"), Ended::Reset),
        Fault::ResetBeforeHead | Fault::CloseBeforeHead | Fault::CloseUntaken | Fault::RefusedWrite => {
            failed("connection termination")
        }
        Fault::Silence => {
            let head =
                "HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 24\r\ncontent-type: text/plain\r\n\r\n";
            (format!("{head}upstream request timeout"), Ended::Closed)
        }
        Fault::Refused => failed("remote connection failure"),
        Fault::ConnectTimeout => failed("connection timeout"),
    }
}

/// A status that no row retries: what comes after it is too late.
const IN_BODY: &str = "200 OK\r\n";

/// Plays the upstream of one connection, and returns how many attempts there were.
async fn upstream(dial: Dial, fault: Fault, answer: &str) -> u32 {
    match fault {
        Fault::Refused => dial.fail(AttemptOutcome::Refused),
        Fault::ConnectTimeout => dial.fail(AttemptOutcome::Timeout),
        Fault::RefusedWrite => dial.accept_gone(),
        Fault::CloseUntaken => {
            let peer = dial.accept();
            peer.stream.readable().await;
            peer.stream.close_untaken();
            // The bytes stay where they are until the engine has looked.
            tokio::time::sleep(ms(1)).await;
        }
        Fault::Answer => return answers(dial.accept(), answer).await,
        Fault::ResetBeforeHead => {
            let mut peer = dial.accept();
            hears_request(&mut peer).await;
            peer.stream.reset();
        }
        Fault::CloseBeforeHead => {
            hears_request(&mut dial.accept()).await;
        }
        Fault::ResetInBody => {
            let mut peer = dial.accept();
            hears_request(&mut peer).await;
            peer.says(format!("HTTP/1.1 {IN_BODY}content-length: 2\r\n\r\nn")).await;
            tokio::time::sleep(ms(1)).await;
            peer.stream.reset();
        }
        Fault::Silence => {
            let mut peer = dial.accept();
            hears_request(&mut peer).await;
            peer.sees_end().await;
        }
    }
    1
}

/// The whole answer comes at once, so that its connection serves the next attempt, too.
async fn answers(mut peer: Peer, answer: &str) -> u32 {
    let mut attempts = 0;
    while hears_request(&mut peer).await {
        attempts += 1;
        peer.says(format!("HTTP/1.1 {answer}content-length: 2\r\n\r\nno")).await;
    }
    attempts
}

/// False where there is none.
async fn hears_request(peer: &mut Peer) -> bool {
    let Some(head) = peer.next_head().await else { return false };
    if head.contains("content-length") {
        peer.hears("ab").await;
    }
    true
}

#[test]
fn every_condition_retries_what_it_is_about_and_nothing_else() {
    for row in &ROWS {
        for (fault, times) in FAULTS.into_iter().zip(row.times) {
            for kind in kinds() {
                let attempts = match times {
                    Times::Once => 1,
                    Times::IfRepeatable => {
                        if kind.is_repeatable {
                            3
                        } else {
                            1
                        }
                    }
                    Times::Thrice => 3,
                };
                one(row, fault, &kind, attempts);
            }
        }
    }
}

fn one(row: &Row, fault: Fault, kind: &Kind, attempts: u32) {
    let what = format!("{} {fault:?} {:?} {:?}", row.on.as_str(), kind.request, kind.methods);
    paused(async {
        let mut rig = Setup::new(policy(row, kind)).start();
        rig.client.says(kind.request).await;
        let answer = row.answer;
        let mut dials = rig.dials;
        let upstreams = spawn_local(async move {
            let mut attempts = 0;
            while let Some(dial) = dials.next_or_end().await {
                attempts += upstream(dial, fault, answer).await;
            }
            attempts
        });
        let (head, end) = expected(row, fault, attempts);
        rig.client.hears(&head).await;
        if end == Ended::Reset {
            rig.client.sees_reset().await;
        } else {
            rig.client.hears_nothing_for(ms(10_000)).await;
            rig.client.stream.finish();
            rig.client.sees_end().await;
        }
        drop(rig.client);
        assert_eq!(upstreams.await.unwrap(), attempts, "{what}");
    });
}
