//! What is tried again.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use http::header::HeaderValue;
use http::{HeaderMap, Request, Response};
use tokio::time::Instant;

use super::rig::{
    Rig, Upstream, any_method, call, get, pattern, policy, post, read_all, run, send_all, settle, status,
};
use crate::reason::AttemptOutcome;
use crate::retry::request::Condition;

fn grpc_status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(code))])
}

fn grpc_head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

async fn calling(
    is_end: bool,
) -> (Rig, Upstream, ResponseFuture, h2::SendStream<Bytes>, SendResponse<Bytes>) {
    let mut rig = Rig::new(any_method(&[Condition::Unavailable])).await;
    let (response, mut out) = rig.send(call(), false);
    out.send_data(Bytes::from_static(b"\0\0\0\0\x01m"), is_end).unwrap();
    let mut upstream = rig.upstream().await;
    let (mut request, respond) = upstream.next().await;
    assert_eq!(request.body_mut().data().await.unwrap().unwrap().len(), 6);
    (rig, upstream, response, out, respond)
}

/// The next attempt brings the whole request again, and is answered.
async fn answered_the_second_time(upstream: &mut Upstream, response: ResponseFuture) {
    let (mut request, mut respond) = upstream.next().await;
    assert_eq!(read_all(request.body_mut()).await.unwrap().0, b"\0\0\0\0\x01m");
    let mut out = respond.send_response(grpc_head(), false).unwrap();
    out.send_data(Bytes::from_static(b"answer"), false).unwrap();
    out.send_trailers(grpc_status("0")).unwrap();
    let mut response = response.await.unwrap();
    let came = read_all(response.body_mut()).await.unwrap();
    assert_eq!(came, (b"answer".to_vec(), Some(grpc_status("0"))));
}

#[test]
fn a_bad_status_is_retried_and_the_body_sent_again() {
    run(async {
        let mut rig = Rig::new(any_method(&[Condition::GatewayError])).await;
        let body = pattern(300_000);
        let (response, mut out) = rig.send(post("/"), false);
        let mut upstream = rig.upstream().await;
        let (mut request, mut respond) = upstream.next().await;
        let (sent, came) = tokio::join!(send_all(&mut out, body.clone(), true), read_all(request.body_mut()));
        sent.unwrap();
        assert!(came.unwrap().0 == body);
        respond.send_response(status(503), true).unwrap();
        let (mut request, mut respond) = upstream.next().await;
        assert!(read_all(request.body_mut()).await.unwrap().0 == body);
        respond.send_response(status(200), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        settle().await;
        assert_eq!(rig.buffers.used(), 0);
    });
}

#[test]
fn a_status_without_a_message_is_retried_from_the_head() {
    run(async {
        let (_rig, mut upstream, response, _out, mut respond) = calling(true).await;
        let mut head = grpc_head();
        head.headers_mut().extend(grpc_status("14"));
        respond.send_response(head, true).unwrap();
        answered_the_second_time(&mut upstream, response).await;
    });
}

#[test]
fn a_status_without_a_message_is_retried_from_the_trailers() {
    run(async {
        let (_rig, mut upstream, response, _out, mut respond) = calling(true).await;
        let mut out = respond.send_response(grpc_head(), false).unwrap();
        tokio::time::sleep(Duration::from_millis(900)).await;
        out.send_trailers(grpc_status("14")).unwrap();
        answered_the_second_time(&mut upstream, response).await;
    });
}

#[test]
fn a_status_after_a_message_is_the_clients() {
    run(async {
        let (_rig, mut upstream, response, _out, mut respond) = calling(true).await;
        let mut out = respond.send_response(grpc_head(), false).unwrap();
        out.send_data(Bytes::from_static(b"message"), false).unwrap();
        out.send_trailers(grpc_status("14")).unwrap();
        let mut response = response.await.unwrap();
        let came = read_all(response.body_mut()).await.unwrap();
        assert_eq!(came, (b"message".to_vec(), Some(grpc_status("14"))));
        settle().await;
        assert!(upstream.requests.try_recv().is_err());
    });
}

#[test]
fn a_status_that_is_not_retried_goes_through_with_its_head() {
    run(async {
        let (_rig, mut upstream, response, _out, mut respond) = calling(true).await;
        let mut out = respond.send_response(grpc_head(), false).unwrap();
        out.send_trailers(grpc_status("5")).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(read_all(response.body_mut()).await.unwrap(), (Vec::new(), Some(grpc_status("5"))));
        settle().await;
        assert!(upstream.requests.try_recv().is_err());
    });
}

#[test]
fn the_head_of_a_call_is_held_back_for_a_second_at_most() {
    run(async {
        let (_rig, mut upstream, response, _out, mut respond) = calling(true).await;
        let begun = Instant::now();
        let mut out = respond.send_response(grpc_head(), false).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(begun.elapsed().as_millis() / 10, 100);
        out.send_trailers(grpc_status("14")).unwrap();
        assert_eq!(read_all(response.body_mut()).await.unwrap().1, Some(grpc_status("14")));
        settle().await;
        assert!(upstream.requests.try_recv().is_err());
    });
}

#[test]
fn the_head_of_a_call_is_not_held_back_while_the_client_has_more_to_say() {
    run(async {
        let (_rig, _upstream, response, mut out, mut respond) = calling(false).await;
        let begun = Instant::now();
        let _back = respond.send_response(grpc_head(), false).unwrap();
        response.await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(100));
        out.send_data(Bytes::from_static(b"more"), true).unwrap();
    });
}

#[test]
fn what_an_upstream_refused_is_retried_whatever_it_is() {
    run(async {
        let mut rig = Rig::new(policy(&[Condition::RefusedStream])).await;
        let (response, mut out) = rig.send(post("/"), false);
        out.send_data(Bytes::from_static(b"body"), true).unwrap();
        let mut upstream = rig.upstream().await;
        upstream.next().await.1.send_reset(Reason::REFUSED_STREAM);
        let (mut request, mut respond) = upstream.next().await;
        assert_eq!(read_all(request.body_mut()).await.unwrap().0, b"body");
        respond.send_response(status(200), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn what_an_upstream_reset_is_retried_where_it_may_be_executed_twice() {
    run(async {
        for (request, code) in [(get("/"), 200), (post("/"), 503)] {
            let mut rig = Rig::new(policy(&[Condition::Reset])).await;
            let (response, _) = rig.send(request, true);
            let mut upstream = rig.upstream().await;
            upstream.next().await.1.send_reset(Reason::INTERNAL_ERROR);
            if code == 200 {
                upstream.next().await.1.send_response(status(200), true).unwrap();
            }
            assert_eq!(response.await.unwrap().status(), code);
            assert!(upstream.requests.try_recv().is_err());
        }
    });
}

#[test]
fn what_a_lost_connection_had_is_retried_where_it_may_be_executed_twice() {
    run(async {
        for (request, code) in [(get("/"), 200), (post("/"), 503)] {
            let mut rig = Rig::new(policy(&[Condition::Reset])).await;
            let (response, _) = rig.send(request, true);
            let mut upstream = rig.upstream().await;
            let _request = upstream.next().await;
            upstream.close();
            if code == 200 {
                upstream = rig.upstream().await;
                upstream.next().await.1.send_response(status(200), true).unwrap();
            }
            assert_eq!(response.await.unwrap().status(), code);
            assert!(rig.dialled.try_recv().is_err());
        }
    });
}

#[test]
fn a_connection_that_closed_while_nothing_was_asked_is_replaced() {
    run(async {
        let mut rig = Rig::new(policy(&[])).await;
        for _ in 0..3 {
            let (response, _) = rig.send(post("/"), true);
            let mut upstream = rig.upstream().await;
            upstream.next().await.1.send_response(status(200), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200);
            upstream.close();
            upstream.driver.await.unwrap();
            settle().await;
        }
    });
}

#[test]
fn a_connection_that_cannot_be_made_is_tried_again() {
    run(async {
        let mut rig = Rig::new(policy(&[Condition::ConnectFailure])).await;
        rig.dials.set(Some(AttemptOutcome::Timeout));
        let (response, _) = rig.send(post("/"), true);
        settle().await;
        rig.dials.set(None);
        let mut upstream = rig.upstream().await;
        upstream.next().await.1.send_response(status(200), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn an_upstream_that_drains_gets_no_new_streams_and_finishes_its_old_ones() {
    run(async {
        let mut rig = Rig::new(policy(&[])).await;
        let (first, _) = rig.send(get("/1"), true);
        let mut old = rig.upstream().await;
        let (_, mut respond) = old.next().await;
        old.close_gracefully();
        settle().await;
        let (second, _) = rig.send(post("/2"), true);
        let mut new = rig.upstream().await;
        new.next().await.1.send_response(status(202), true).unwrap();
        assert_eq!(second.await.unwrap().status(), 202);
        let mut out = respond.send_response(status(201), false).unwrap();
        out.send_data(Bytes::from_static(b"late"), true).unwrap();
        let mut first = first.await.unwrap();
        assert_eq!(first.status(), 201);
        assert_eq!(read_all(first.body_mut()).await.unwrap().0, b"late");
        old.driver.await.unwrap();
    });
}

fn grpc_call() -> Request<()> {
    let mut request = post("/a.B/Watch");
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request
}

/// A server that streams may send its head long before its first message.
#[test]
fn the_per_try_timeout_ends_with_the_head_though_it_is_held() {
    run(async {
        let mut policy = any_method(&[Condition::Unavailable]);
        policy.retry.per_try_timeout = Some(Duration::from_millis(500));
        let mut rig = Rig::new(policy).await;
        let (response, mut out) = rig.send(grpc_call(), false);
        out.send_data(Bytes::from_static(b"\0\0\0\0\0"), true).unwrap();
        let mut upstream = rig.upstream().await;
        let (_request, mut respond) = upstream.next().await;
        let mut head = status(200);
        head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let _out = respond.send_response(head, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!((response.status().as_u16(), response.headers().get("grpc-status")), (200, None));
    });
}

#[test]
fn an_answer_of_redials_own_is_recorded_as_the_client_got_it() {
    run(async {
        let mut policy = any_method(&[Condition::Unavailable]);
        policy.timeout = Some(Duration::from_millis(500));
        let mut rig = Rig::new(policy).await;
        let (response, mut out) = rig.send(grpc_call(), false);
        out.send_data(Bytes::from_static(b"\0\0\0\0\0"), true).unwrap();
        let mut upstream = rig.upstream().await;
        let (_request, _respond) = upstream.next().await;
        let response = response.await.unwrap();
        settle().await;
        assert_eq!(response.headers().get("grpc-status").unwrap(), "14");
        let give_ups = rig.observer.give_ups();
        let request = give_ups[0].request.as_ref().unwrap();
        assert_eq!(request.status, Some(200));
    });
}
