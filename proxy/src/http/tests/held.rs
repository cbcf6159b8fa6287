//! Clients and upstreams that leave, or bodies that are let go, while something is held up.

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::rig::{OK, Setup, ms, paused, policy};
use super::stream::Size;
use crate::http::replay::{Buffers, Piece, Replay};
use crate::policy::HttpPolicy;
use crate::retry::Backoff;

/// Longer than anything that is to be noticed takes.
const LONG: std::time::Duration = ms(3_600_000);

fn hedging() -> HttpPolicy {
    policy(|policy| {
        policy.retry.hedge_on_per_try_timeout = true;
        policy.retry.per_try_timeout = Some(ms(1_000));
        policy.retry.backoff = Backoff::try_new(ms(500), None).unwrap();
    })
}

#[test]
fn a_hedge_has_all_of_the_body_or_does_not_begin() {
    let head = "PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 6000\r\n\r\n";
    paused(async {
        let mut setup = Setup::new(hedging());
        setup.buffers = Buffers::new(1 << 20);
        setup.size = Size { room: 1024, stride: usize::MAX };
        let mut rig = setup.start();
        rig.client.says(head).await;
        let mut first = rig.accept().await;
        for digit in b'0'..b'6' {
            rig.client.says(vec![digit; 1_000]).await;
            sleep(ms(1)).await;
        }
        // It takes some of it and stands still, until the hedge waits to begin.
        first.reads(head.len() + 2_500).await;
        sleep(ms(1_001)).await;
        let mut other = Replay::new(1 << 20, &rig.buffers);
        other.push(Piece { data: Bytes::from(vec![0; 2 << 20]), trailers: None, end: false });
        if let Ok(dial) = timeout(ms(10_000), rig.dials.next()).await {
            let mut second = dial.accept();
            second.hears(head).await;
            assert_eq!(second.reads(10).await, vec![b'0'; 10]);
        }
    });
}

#[test]
fn no_hedge_begins_once_its_client_has_half_closed() {
    paused(async {
        let mut rig = Setup::new(hedging()).start();
        rig.client.says("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut first = rig.accept().await;
        sleep(ms(1_001)).await;
        rig.client.stream.finish();
        sleep(ms(10_000)).await;
        rig.no_dial().await;
        first.says(OK).await;
        rig.client.hears(OK).await;
    });
}

#[test]
fn a_client_that_resets_while_nothing_is_read_from_it_is_seen_to_go() {
    paused(async {
        let mut setup = Setup::new(policy(|_| {}));
        setup.size = Size { room: 1024, stride: usize::MAX };
        let mut rig = setup.start();
        rig.client.says("PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n").await;
        let mut upstream = rig.accept().await;
        upstream.reads(10).await;
        rig.client.writes_or_fails(vec![b'x'; 3 << 20]);
        sleep(ms(1_000)).await;
        rig.client.stream.reset();
        let buffers = rig.buffers.clone();
        assert!(timeout(LONG, rig.ended()).await.is_ok(), "it is still served after an hour");
        assert_eq!(buffers.used(), 0);
    });
}

#[test]
fn an_upstream_that_closes_after_an_early_response_ends_the_connection() {
    paused(async {
        let mut rig = Setup::new(policy(|_| {})).start();
        let head = "PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 8\r\n\r\n";
        rig.client.says(head).await;
        let mut upstream = rig.accept().await;
        upstream.hears(head).await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
        upstream.stream.close();
        assert!(timeout(LONG, rig.client.rest()).await.is_ok(), "the client is not told");
        assert!(rig.failures().is_empty(), "{:?}", rig.failures());
    });
}
