//! Upstream connections that clients share.

use std::time::Duration;

use http::StatusCode;
use tokio::io::DuplexStream;
use tokio::time::sleep;

use super::rig::{Rig, get, policy, run, settle, status};
use crate::http::pool::{Kind, Pool};
use crate::http::session::Supply;

const KIND: Kind = Kind { cgroup_id: 1, namespace: 2, mark: 3, traffic_class: 4 };

async fn client(pool: &Pool<DuplexStream>, kind: Kind) -> Rig {
    Rig::with(policy(&[]), Supply::Pool(pool.share(kind), None)).await
}

#[test]
fn requests_of_all_clients_are_streams_of_one_connection() {
    run(async {
        let pool = Pool::default();
        let (mut first, mut second) = (client(&pool, KIND).await, client(&pool, KIND).await);
        let (one, _) = first.send(get("/1"), true);
        let mut upstream = first.upstream().await;
        let (_, mut respond_one) = upstream.next().await;
        let (other, _) = second.send(get("/2"), true);
        let (request, mut respond_other) = upstream.next().await;
        assert_eq!(request.uri().path(), "/2");
        respond_other.send_response(status(202), true).unwrap();
        assert_eq!(other.await.unwrap().status(), StatusCode::ACCEPTED);
        // A client that goes takes its own streams along, and nobody else's.
        drop(second);
        settle().await;
        respond_one.send_response(status(201), true).unwrap();
        assert_eq!(one.await.unwrap().status(), StatusCode::CREATED);
    });
}

#[test]
fn nothing_is_shared_with_another_kind() {
    run(async {
        let pool = Pool::default();
        let mut first = client(&pool, KIND).await;
        let mut second = client(&pool, Kind { cgroup_id: 9, ..KIND }).await;
        let (_one, _) = first.send(get("/1"), true);
        let mut upstream = first.upstream().await;
        upstream.next().await;
        let (_other, _) = second.send(get("/2"), true);
        let (request, _respond) = second.upstream().await.next().await;
        assert_eq!(request.uri().path(), "/2");
    });
}

#[test]
fn a_connection_that_is_full_gets_another_beside_it() {
    run(async {
        let pool = Pool::default();
        let mut rig = client(&pool, KIND).await;
        let mut one_at_a_time = h2::server::Builder::new();
        one_at_a_time.max_concurrent_streams(1);
        let (first, _) = rig.send(get("/1"), true);
        let mut one = rig.upstream_with(&one_at_a_time).await;
        let (_, mut respond) = one.next().await;
        settle().await;
        let (second, _) = rig.send(get("/2"), true);
        let mut other = rig.upstream_with(&one_at_a_time).await;
        let (_, mut respond_other) = other.next().await;
        for respond in [&mut respond, &mut respond_other] {
            respond.send_response(status(200), true).unwrap();
        }
        first.await.unwrap();
        second.await.unwrap();
        settle().await;
        // Both have room again: the first is filled first.
        let (_third, _) = rig.send(get("/3"), true);
        assert_eq!(one.next().await.0.uri().path(), "/3");
    });
}

#[test]
fn a_connection_without_streams_waits_a_minute() {
    run(async {
        let pool = Pool::default();
        let mut rig = client(&pool, KIND).await;
        let (response, _) = rig.send(get("/1"), true);
        let mut upstream = rig.upstream().await;
        let (_, mut respond) = upstream.next().await;
        sleep(Duration::from_secs(90)).await;
        respond.send_response(status(200), true).unwrap();
        response.await.unwrap();
        sleep(Duration::from_secs(58)).await;
        assert!(!upstream.driver.is_finished());
        sleep(Duration::from_secs(5)).await;
        assert!(upstream.driver.is_finished());
        let (response, _) = rig.send(get("/2"), true);
        let mut upstream = rig.upstream().await;
        let (_, mut respond) = upstream.next().await;
        respond.send_response(status(200), true).unwrap();
        response.await.unwrap();
    });
}

#[test]
fn a_connection_that_is_lost_is_replaced() {
    run(async {
        let pool = Pool::default();
        let mut rig = client(&pool, KIND).await;
        let (response, _) = rig.send(get("/1"), true);
        let mut upstream = rig.upstream().await;
        let (_, mut respond) = upstream.next().await;
        respond.send_response(status(200), true).unwrap();
        response.await.unwrap();
        upstream.close();
        settle().await;
        let (_response, _) = rig.send(get("/2"), true);
        assert_eq!(rig.upstream().await.next().await.0.uri().path(), "/2");
    });
}
