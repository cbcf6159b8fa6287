//! What is no HTTP, or HTTP that may mean two things, from either side.

use super::rig::{BAD, Ended, GET, OK, Setup, ms, paused, policy};
use crate::policy::HttpPolicy;
use crate::reason::Reason;

/// What a client may say that two readers could take for different messages, or no reader for any.
const REFUSED: &[(&str, u16)] = &[
    ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n", 400),
    ("GET / HTTP/1.1\nHost: a\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("GET /\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\na", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\na", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        501,
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
];

/// Bodies of chunks that are not what they should be.
const CHUNKS: &[&str] = &[
    "x\r\n",
    "0x1\r\na\r\n",
    "-1\r\n",
    " 1\r\na\r\n0\r\n\r\n",
    "1\na\r\n0\r\n\r\n",
    "1\r\nab\r\n",
    "1\r\na\n0\r\n\r\n",
    "00000000000000001\r\n",
    "1;\x01\r\n",
    "0\r\nno colon\r\n\r\n",
    "0\r\n folded: x\r\n\r\n",
];

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn what_may_mean_two_things_reaches_no_upstream() {
    for (request, status) in REFUSED {
        paused(async {
            let (mut rig, mut upstream) = Setup::new(HttpPolicy::default()).start_connected();
            // A good request behind it is not taken for one.
            rig.client.says([request, GET].concat()).await;
            rig.client.stream.finish();
            let (answer, end) = rig.client.rest().await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
            assert!(answer.contains("connection: close") && end == Ended::Closed, "{request:?}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request:?}: {answer}");
            upstream.sees_end().await;
            rig.no_dial().await;
            assert_eq!(rig.ended().await, Reason::BadRequest, "{request:?}");
        });
    }
}

#[test]
fn heads_that_are_too_large_reach_no_upstream() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(60 * 1024));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(257));
    let endless = "GET / HTTP/1.1\r\nHost: a\r\nX: ".to_owned() + &"x".repeat(60 * 1024);
    for request in [long, many, endless] {
        paused(async {
            let (mut rig, mut upstream) = Setup::new(HttpPolicy::default()).start_connected();
            let _writing = rig.client.writes(request.into_bytes());
            let head = rig.client.head().await;
            assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
            upstream.sees_end().await;
        });
    }
}

#[test]
fn chunks_that_are_none_end_the_request() {
    for chunks in CHUNKS {
        paused(async {
            let mut rig = Setup::new(policy(|policy| policy.retry.num_retries = 5)).start();
            rig.client.says(CHUNKED).await;
            let mut upstream = rig.accept().await;
            upstream.hears(CHUNKED).await;
            rig.client.says("1\r\na\r\n").await;
            upstream.hears("1\r\na\r\n").await;
            rig.client.says([chunks, GET].concat()).await;
            let head = rig.client.head().await;
            assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("connection: close"), "{chunks:?}");
            let rest = upstream.rest().await;
            // Nothing of it was passed on that could be the end of the body, or the next request.
            assert!(!rest.0.contains("GET") && !rest.0.contains("0\r\n\r\n"), "{chunks:?}: {rest:?}");
            rig.no_dial().await;
        });
    }
}

#[test]
fn an_upstream_that_speaks_no_http_is_a_bad_gateway() {
    let endless = "HTTP/1.1 200 OK\r\nX: ".to_owned() + &"x".repeat(60 * 1024);
    for garbage in [
        &endless,
        "SSH-2.0-x\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 No\r\nContent-Length: 1\r\n\r\n",
        "HTTP/3.1 200 OK\r\n\r\n",
    ] {
        paused(async {
            let mut rig = Setup::new(policy(|policy| policy.retry.num_retries = 0)).start();
            rig.client.says(GET).await;
            let mut upstream = rig.accept().await;
            upstream.hears(GET).await;
            upstream.says(garbage).await;
            let head = rig.client.head().await;
            assert!(head.starts_with("HTTP/1.1 502 "), "{garbage:?}: {head}");
            rig.client
                .hears(
                    "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
                )
                .await;
            upstream.sees_end().await;
        });
    }
}

#[test]
fn a_response_whose_chunks_are_none_is_broken_off() {
    for chunks in CHUNKS {
        paused(async {
            let mut rig = Setup::new(HttpPolicy::default()).start();
            rig.client.says(GET).await;
            let mut upstream = rig.accept().await;
            upstream.hears(GET).await;
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            upstream.says(head).await;
            rig.client.hears(head).await;
            upstream.says(chunks).await;
            let (rest, end) = rig.client.rest().await;
            assert!(end == Ended::Reset && !rest.contains("0\r\n\r\n"), "{chunks:?}: {rest:?}");
            upstream.sees_end().await;
            rig.no_dial().await;
        });
    }
}

/// A response that nobody asked for must not be taken for the next request's.
#[test]
fn what_comes_after_a_response_ends_the_upstream_s_connection() {
    for is_at_once in [true, false] {
        paused(async {
            let mut rig = Setup::new(HttpPolicy::default()).start();
            rig.client.says(GET).await;
            let mut first = rig.accept().await;
            first.hears(GET).await;
            if is_at_once {
                first.says([OK, BAD].concat()).await;
            } else {
                first.says(OK).await;
                tokio::time::sleep(ms(1)).await;
                first.says(BAD).await;
            }
            rig.client.hears(OK).await;
            rig.client.hears_nothing_for(ms(1)).await;
            first.sees_end().await;
            rig.client.says(GET).await;
            let mut second = rig.accept().await;
            second.hears(GET).await;
            second.says(OK).await;
            rig.client.hears(OK).await;
        });
    }
}
