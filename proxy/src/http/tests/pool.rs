//! Upstream connections that clients share.

use tokio::time::Instant;

use super::rig::{Ended, GET, OK, Peer, Rig, Setup, ms, paused, policy};
use super::stream::Stream;
use crate::http::pool::{Kind, Pool};
use crate::http::session::Supply;
use crate::policy::HttpPolicy;
use crate::reason::{AttemptOutcome, Reason};

const KIND: Kind = Kind { cgroup_id: 1, namespace: 2, mark: 3, traffic_class: 4 };

/// A client of this kind.
fn client(pool: &Pool<Stream>, kind: Kind) -> Rig {
    client_of(HttpPolicy::default(), pool, kind)
}

fn client_of(policy: HttpPolicy, pool: &Pool<Stream>, kind: Kind) -> Rig {
    Setup::new(policy).start_with(Supply::Pool(pool.share(kind), None))
}

async fn asks(rig: &mut Rig, upstream: &mut Peer) {
    rig.client.says(GET).await;
    is_answered(rig, upstream).await;
}

async fn is_answered(rig: &mut Rig, upstream: &mut Peer) {
    upstream.hears(GET).await;
    upstream.says(OK).await;
    rig.client.hears(OK).await;
}

/// A client that has asked once, on a connection that is new and waits in the pool now.
async fn warm(pool: &Pool<Stream>) -> (Rig, Peer) {
    let mut rig = client(pool, KIND);
    rig.client.says(GET).await;
    let mut upstream = rig.accept().await;
    is_answered(&mut rig, &mut upstream).await;
    (rig, upstream)
}

#[test]
fn clients_use_one_connection_one_after_the_other() {
    paused(async {
        let pool = Pool::default();
        let (mut first, mut upstream) = warm(&pool).await;
        let mut second = client(&pool, KIND);
        asks(&mut second, &mut upstream).await;
        asks(&mut first, &mut upstream).await;
        first.client.stream.finish();
        assert_eq!(first.ended().await, Reason::Closed);
        asks(&mut second, &mut upstream).await;
        second.no_dial().await;
    });
}

#[test]
fn clients_at_once_have_a_connection_each_and_the_one_used_last_is_used_first() {
    paused(async {
        let pool = Pool::default();
        let (mut first, mut one) = warm(&pool).await;
        first.client.says(GET).await;
        one.hears(GET).await;
        let (mut second, mut other) = warm(&pool).await;
        one.says(OK).await;
        first.client.hears(OK).await;
        asks(&mut second, &mut one).await;
        asks(&mut first, &mut one).await;
        second.client.says(GET).await;
        one.hears(GET).await;
        asks(&mut first, &mut other).await;
    });
}

#[test]
fn nothing_is_shared_with_another_kind() {
    for kind in [
        Kind { cgroup_id: 9, ..KIND },
        Kind { namespace: 9, ..KIND },
        Kind { mark: 9, ..KIND },
        Kind { traffic_class: 9, ..KIND },
    ] {
        paused(async {
            let pool = Pool::default();
            let (_first, mut upstream) = warm(&pool).await;
            let mut other = client(&pool, kind);
            other.client.says(GET).await;
            let mut own = other.accept().await;
            is_answered(&mut other, &mut own).await;
            upstream.hears_nothing_for(ms(500)).await;
        });
    }
}

#[test]
fn a_client_that_wants_to_close_closes_its_own_connection_only() {
    const CLOSING: &str = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n";
    paused(async {
        let pool = Pool::default();
        let (_first, mut upstream) = warm(&pool).await;
        for _ in 0..3 {
            let mut rig = client(&pool, KIND);
            rig.client.says(CLOSING).await;
            upstream.hears(GET).await;
            upstream.says(OK).await;
            rig.client.hears("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
            rig.client.sees_end().await;
        }
        upstream.hears_nothing_for(ms(500)).await;
    });
}

#[test]
fn a_client_of_http_1_0_does_not_end_the_upstreams_connection() {
    for (asked, answered) in [("", "close"), ("Connection: keep-alive\r\n", "keep-alive")] {
        paused(async {
            let pool = Pool::default();
            let (_first, mut upstream) = warm(&pool).await;
            let mut rig = client(&pool, KIND);
            rig.client.says(format!("GET /a HTTP/1.0\r\n{asked}\r\n")).await;
            upstream.hears("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
            upstream.says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok").await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: {answered}\r\n\r\nok");
            rig.client.hears(head).await;
            if answered == "close" {
                rig.client.sees_end().await;
            } else {
                asks(&mut rig, &mut upstream).await;
            }
        });
    }
}

#[test]
fn an_upstream_that_closes_after_a_response_does_not_end_the_clients_connection() {
    paused(async {
        let pool = Pool::default();
        let (mut rig, mut upstream) = warm(&pool).await;
        rig.client.says(GET).await;
        upstream.hears(GET).await;
        upstream.says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
        rig.client.hears(OK).await;
        upstream.sees_end().await;
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        is_answered(&mut rig, &mut upstream).await;
    });
}

/// The end of the connection is the end of the response, and so of the client's connection too.
#[test]
fn a_response_that_its_connection_ends_ends_the_clients() {
    paused(async {
        let pool = Pool::default();
        let (mut rig, mut upstream) = warm(&pool).await;
        rig.client.says(GET).await;
        upstream.hears(GET).await;
        upstream.says("HTTP/1.1 200 OK\r\n\r\nall of it").await;
        drop(upstream);
        rig.client.hears("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it").await;
        rig.client.sees_end().await;
    });
}

#[test]
fn a_request_that_takes_its_connection_over_gets_one_of_its_own() {
    const UPGRADE: &str = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for answer in [OK, "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"] {
        paused(async {
            let pool = Pool::default();
            let (mut first, mut upstream) = warm(&pool).await;
            let mut rig = client(&pool, KIND);
            rig.client.says(UPGRADE).await;
            let mut own = rig.accept().await;
            own.hears(UPGRADE).await;
            own.says(answer).await;
            rig.client.hears(answer).await;
            if answer == OK {
                own.sees_end().await;
            }
            asks(&mut first, &mut upstream).await;
        });
    }
}

#[test]
fn a_connection_that_was_closed_is_let_go_and_costs_no_retry() {
    for is_swept in [false, true] {
        paused(async {
            let pool = Pool::default();
            let (_first, mut upstream) = warm(&pool).await;
            upstream.stream.finish();
            if is_swept {
                upstream.sees_end().await;
            }
            let mut rig = client_of(policy(|policy| policy.retry.num_retries = 0), &pool, KIND);
            rig.client.says(GET).await;
            let mut upstream = rig.accept().await;
            is_answered(&mut rig, &mut upstream).await;
        });
    }
}

#[test]
fn a_connection_waits_a_minute_and_no_longer() {
    paused(async {
        let pool = Pool::default();
        let (mut rig, mut upstream) = warm(&pool).await;
        upstream.hears_nothing_for(ms(59_000)).await;
        asks(&mut rig, &mut upstream).await;
        let since = Instant::now();
        upstream.sees_end().await;
        assert!((60..=62).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
        rig.client.says(GET).await;
        let mut upstream = rig.accept().await;
        is_answered(&mut rig, &mut upstream).await;
    });
}

#[test]
fn a_broken_exchange_keeps_no_connection() {
    // A response that was not whole when the client went, and one with something after it.
    for (answer, client_goes) in [("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", true), (OK, false)] {
        paused(async {
            let pool = Pool::default();
            let (mut rig, mut upstream) = warm(&pool).await;
            rig.client.says(GET).await;
            upstream.hears(GET).await;
            upstream.says(if client_goes { answer.to_owned() } else { format!("{answer}more") }).await;
            rig.client.hears(answer).await;
            if client_goes {
                rig.client.stream.reset();
            }
            assert!(matches!(upstream.rest().await.1, Ended::Closed | Ended::Reset));
            let mut rig = client(&pool, KIND);
            rig.client.says(GET).await;
            let mut upstream = rig.accept().await;
            is_answered(&mut rig, &mut upstream).await;
        });
    }
}

#[test]
fn no_more_wait_than_the_bound() {
    const CLIENTS: usize = 70;
    const BOUND: usize = 64;
    paused(async {
        let pool = Pool::default();
        let mut all = Vec::new();
        for _ in 0..CLIENTS {
            let mut rig = client(&pool, KIND);
            rig.client.says(GET).await;
            let upstream = rig.accept().await;
            all.push((rig, upstream));
        }
        for (rig, upstream) in &mut all {
            is_answered(rig, upstream).await;
        }
        // Those that have waited longest make room.
        let (gone, waiting) = all.split_at_mut(CLIENTS - BOUND);
        for (_, upstream) in gone {
            upstream.sees_end().await;
        }
        let (rig, last) = waiting.last_mut().unwrap();
        asks(rig, last).await;
        waiting[0].1.hears_nothing_for(ms(500)).await;
    });
}

#[test]
fn the_pool_closes_its_connections_with_its_last_client() {
    paused(async {
        let pool = Pool::default();
        let (rig, mut upstream) = warm(&pool).await;
        drop(pool);
        rig.client.stream.finish();
        assert_eq!(rig.ended().await, Reason::Closed);
        upstream.sees_end().await;
    });
}

#[test]
fn a_connect_that_fails_is_an_attempt() {
    paused(async {
        let pool = Pool::default();
        let mut rig = client(&pool, KIND);
        rig.client.says(GET).await;
        for _ in 0..3 {
            rig.dials.next().await.fail(AttemptOutcome::Refused);
        }
        assert!(rig.client.head().await.starts_with("HTTP/1.1 503 "));
        assert_eq!(rig.failures(), ["attempts-exhausted"]);
    });
}
