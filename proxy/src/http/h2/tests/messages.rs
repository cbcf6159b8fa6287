//! What goes through goes through as it came.

use std::future::poll_fn;

use bytes::Bytes;
use h2::Reason;
use http::header::HeaderValue;
use http::{HeaderMap, Method, Request, Response};

use super::rig::{Rig, call, get, pattern, policy, post, read_all, run, send_all, settle, status};
use crate::policy::{AddedHeaders, HttpPolicy};
use crate::reason::AttemptOutcome;

fn lines(headers: &HeaderMap) -> Vec<(&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

#[test]
fn heads_and_bodies_are_passed_on_as_they_came() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let mut request = post("/x?y=1");
        for (name, value) in
            [("x-b", "2"), ("x-a", "1"), ("x-a", "3"), ("cookie", "a=b"), ("content-length", "5")]
        {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        let sent = request.headers().clone();
        let (response, mut out) = rig.send(request, false);
        out.send_data(Bytes::from_static(b"hello"), true).unwrap();
        let mut upstream = rig.upstream().await;
        let (mut request, mut respond) = upstream.next().await;
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri(), "http://a.test/x?y=1");
        assert_eq!(lines(request.headers()), lines(&sent));
        assert_eq!(read_all(request.body_mut()).await.unwrap().0, b"hello");
        let mut head = status(201);
        for (name, value) in [("server", "s"), ("set-cookie", "a"), ("set-cookie", "b"), ("x-empty", "")] {
            head.headers_mut().append(name, HeaderValue::from_static(value));
        }
        let answered = head.headers().clone();
        let mut out = respond.send_response(head, false).unwrap();
        out.send_data(Bytes::from_static(b"world"), true).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(lines(response.headers()), lines(&answered));
        assert_eq!(read_all(response.body_mut()).await.unwrap(), (b"world".to_vec(), None));
    });
}

#[test]
fn a_message_without_a_body_has_none_on_the_other_side() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (response, _) = rig.send(get("/"), true);
        let mut upstream = rig.upstream().await;
        let (request, mut respond) = upstream.next().await;
        assert!(request.body().is_end_stream());
        respond.send_response(status(204), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 204);
        assert!(response.body().is_end_stream());
    });
}

#[test]
fn trailers_go_both_ways() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let trailers =
            |value| HeaderMap::from_iter([("x-t".parse().unwrap(), HeaderValue::from_static(value))]);
        let (response, mut out) = rig.send(post("/"), false);
        out.send_data(Bytes::from_static(b"1"), false).unwrap();
        out.send_trailers(trailers("up")).unwrap();
        let mut upstream = rig.upstream().await;
        let (mut request, mut respond) = upstream.next().await;
        let came = read_all(request.body_mut()).await.unwrap();
        assert_eq!(came, (b"1".to_vec(), Some(trailers("up"))));
        let mut out = respond.send_response(status(200), false).unwrap();
        out.send_data(Bytes::from_static(b"2"), false).unwrap();
        out.send_trailers(trailers("down")).unwrap();
        let mut response = response.await.unwrap();
        let came = read_all(response.body_mut()).await.unwrap();
        assert_eq!(came, (b"2".to_vec(), Some(trailers("down"))));
    });
}

#[test]
fn each_side_speaks_when_it_likes() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (response, mut asking) = rig.send(post("/"), false);
        let mut upstream = rig.upstream().await;
        let (mut request, mut respond) = upstream.next().await;
        let mut answering = respond.send_response(status(200), false).unwrap();
        let mut response = response.await.unwrap();
        for turn in 0..100_u8 {
            asking.send_data(Bytes::from(vec![turn; 10]), turn == 99).unwrap();
            assert_eq!(request.body_mut().data().await.unwrap().unwrap(), vec![turn; 10]);
            answering.send_data(Bytes::from(vec![turn; 20]), false).unwrap();
            assert_eq!(response.body_mut().data().await.unwrap().unwrap(), vec![turn; 20]);
        }
        assert!(request.body_mut().data().await.is_none());
        answering.send_data(Bytes::from_static(b"bye"), true).unwrap();
        assert_eq!(read_all(response.body_mut()).await.unwrap().0, b"bye");
    });
}

#[test]
fn interim_responses_are_passed_on() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (mut response, mut out) = rig.send(post("/"), false);
        let mut upstream = rig.upstream().await;
        let (mut request, mut respond) = upstream.next().await;
        respond.send_informational(status(100)).unwrap();
        let interim = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(interim.status(), 100);
        out.send_data(Bytes::from_static(b"now"), true).unwrap();
        assert_eq!(read_all(request.body_mut()).await.unwrap().0, b"now");
        let hints = Response::builder().status(103).header("link", "</a>").body(()).unwrap();
        respond.send_informational(hints).unwrap();
        let interim = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((interim.status().as_u16(), &interim.headers()["link"]), (103, &"</a>".parse().unwrap()));
        respond.send_response(status(200), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn a_large_head_goes_through_and_too_large_a_one_does_not() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let large = HeaderValue::from_str(&"a".repeat(16 * 1024)).unwrap();
        let mut request = get("/");
        request.headers_mut().insert("x-large", large.clone());
        let (response, _) = rig.send(request, true);
        let mut upstream = rig.upstream().await;
        let (request, mut respond) = upstream.next().await;
        assert_eq!(request.headers()["x-large"], large);
        let mut head = status(200);
        head.headers_mut().insert("x-large", large.clone());
        respond.send_response(head, true).unwrap();
        assert_eq!(response.await.unwrap().headers()["x-large"], large);

        let mut request = get("/");
        request.headers_mut().insert("x-large", HeaderValue::from_str(&"a".repeat(61 * 1024)).unwrap());
        let (response, _) = rig.send(request, true);
        assert_eq!(response.await.unwrap().status(), 431);
        settle().await;
        assert!(upstream.requests.try_recv().is_err());
    });
}

#[test]
fn large_bodies_arrive_whole_both_ways() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let body = pattern(8 << 20);
        let (response, mut out) = rig.send(post("/"), false);
        let mut upstream = rig.upstream().await;
        let (mut request, mut respond) = upstream.next().await;
        let (sent, came) = tokio::join!(send_all(&mut out, body.clone(), true), read_all(request.body_mut()));
        sent.unwrap();
        assert!(came.unwrap().0 == body);
        let mut out = respond.send_response(status(200), false).unwrap();
        let mut response = response.await.unwrap();
        let (sent, came) =
            tokio::join!(send_all(&mut out, body.clone(), true), read_all(response.body_mut()));
        sent.unwrap();
        assert!(came.unwrap().0 == body);
        drop((out, respond));
        settle().await;
        assert_eq!(rig.buffers.used(), 0);
    });
}

#[test]
fn many_streams_go_over_one_connection() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let mut responses = Vec::new();
        for index in 0..100 {
            rig.client = rig.client.clone().ready().await.unwrap();
            let (response, mut out) = rig.send(post(&format!("/{index}")), false);
            out.send_data(Bytes::from(index.to_string()), true).unwrap();
            responses.push(response);
        }
        let mut upstream = rig.upstream().await;
        let mut requests = Vec::new();
        for _ in 0..100 {
            requests.push(upstream.next().await);
        }
        for (mut request, mut respond) in requests.into_iter().rev() {
            let body = read_all(request.body_mut()).await.unwrap().0;
            assert_eq!(request.uri().path().as_bytes()[1..], body);
            respond.send_response(status(200), false).unwrap().send_data(body.into(), true).unwrap();
        }
        for (index, response) in responses.into_iter().enumerate() {
            let body = read_all(response.await.unwrap().body_mut()).await.unwrap().0;
            assert_eq!(body, index.to_string().into_bytes());
        }
        assert!(rig.dialled.try_recv().is_err());
    });
}

#[test]
fn an_upstream_that_takes_one_stream_at_a_time_is_sent_one_at_a_time() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (first, _) = rig.send(get("/0"), true);
        let mut upstream = rig.upstream_with(h2::server::Builder::new().max_concurrent_streams(1)).await;
        let (_, mut respond) = upstream.next().await;
        settle().await;
        let rest: Vec<_> =
            (1..10).map(|index| rig.client.send_request(get(&format!("/{index}")), true)).collect();
        settle().await;
        assert!(upstream.requests.try_recv().is_err());
        respond.send_response(status(200), true).unwrap();
        assert_eq!(first.await.unwrap().status(), 200);
        for response in rest {
            let (_, mut respond) = upstream.next().await;
            settle().await;
            assert!(upstream.requests.try_recv().is_err());
            respond.send_response(status(200), true).unwrap();
            assert_eq!(response.unwrap().0.await.unwrap().status(), 200);
        }
        assert!(rig.dialled.try_recv().is_err());
    });
}

#[test]
fn what_has_no_authority_is_given_none() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let mut request = Request::get("/x").header("host", "b.test").body(()).unwrap();
        *request.version_mut() = http::Version::HTTP_11;
        let (response, _) = rig.send(request, true);
        let mut upstream = rig.upstream().await;
        let (request, mut respond) = upstream.next().await;
        assert_eq!((request.uri().authority(), request.uri().path()), (None, "/x"));
        assert_eq!(request.headers()["host"], "b.test");
        respond.send_response(status(200), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn connect_is_a_tunnel() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let request = Request::connect("b.test:443").body(()).unwrap();
        let (response, mut out) = rig.send(request, false);
        let mut upstream = rig.upstream().await;
        let (mut request, mut respond) = upstream.next().await;
        assert_eq!(
            (request.method(), request.uri().to_string()),
            (&Method::CONNECT, "b.test:443".to_owned())
        );
        let mut back = respond.send_response(status(200), false).unwrap();
        let mut response = response.await.unwrap();
        out.send_data(Bytes::from_static(b"ping"), false).unwrap();
        assert_eq!(request.body_mut().data().await.unwrap().unwrap(), "ping");
        back.send_data(Bytes::from_static(b"pong"), true).unwrap();
        assert_eq!(read_all(response.body_mut()).await.unwrap().0, b"pong");
        // The upstream has said all, the client goes on.
        out.send_data(Bytes::from_static(b"more"), true).unwrap();
        assert_eq!(read_all(request.body_mut()).await.unwrap().0, b"more");
    });
}

#[test]
fn an_upstream_that_is_not_there_is_answered_for() {
    run(async {
        let mut rig = Rig::new(policy(&[])).await;
        rig.dials.set(Some(AttemptOutcome::Refused));
        let (response, _) = rig.send(get("/"), true);
        let mut response = response.await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (503, &"text/plain".parse().unwrap())
        );
        let body = String::from_utf8(read_all(response.body_mut()).await.unwrap().0).unwrap();
        assert_eq!(response.headers()["content-length"], body.len().to_string());
        assert!(body.starts_with("upstream connect error"), "{body}");

        let (response, _) = rig.send(Request::head("http://a.test/").body(()).unwrap(), true);
        let mut response = response.await.unwrap();
        assert_eq!(read_all(response.body_mut()).await.unwrap().0, b"");
        assert_eq!(response.headers()["content-length"], body.len().to_string());

        let (response, _) = rig.send(call(), true);
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.body().is_end_stream());
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], body.as_str());

        // The next request is given another chance.
        rig.dials.set(None);
        let (response, _) = rig.send(get("/"), true);
        let mut upstream = rig.upstream().await;
        upstream.next().await.1.send_response(status(200), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn headers_are_added_and_taken_out_where_the_policy_says_so() {
    run(async {
        let mut policy = policy(&[]);
        policy.added_headers = AddedHeaders::Envoy;
        policy.honour_request_headers = true;
        let mut rig = Rig::new(policy).await;
        let mut request = get("/");
        request.headers_mut().insert("x-envoy-retry-on", HeaderValue::from_static("5xx"));
        let (response, _) = rig.send(request, true);
        let mut upstream = rig.upstream().await;
        for attempt in ["1", "2"] {
            let (request, mut respond) = upstream.next().await;
            assert_eq!(request.headers()["x-envoy-attempt-count"], attempt);
            assert!(request.headers().contains_key("x-request-id"));
            assert!(!request.headers().contains_key("x-envoy-retry-on"));
            respond.send_response(status(500), true).unwrap();
        }
        let response = response.await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-envoy-attempt-count"]),
            (500, &"2".parse().unwrap())
        );
    });
}

#[test]
fn a_malformed_request_is_reset_and_counted() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let mut request = post("/");
        request.headers_mut().insert("content-length", HeaderValue::from_static("3"));
        let (response, mut out) = rig.send(request, false);
        let mut upstream = rig.upstream().await;
        let (_request, _respond) = upstream.next().await;
        out.send_data(Bytes::from_static(b"more than 3"), true).unwrap();
        let error = response.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
        settle().await;
        assert!(rig.ended().contains("error=\"http2\"} 1"), "{}", rig.ended());
    });
}
