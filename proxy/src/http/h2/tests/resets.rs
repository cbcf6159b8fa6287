//! How streams and connections end.

use std::future::poll_fn;

use bytes::Bytes;
use h2::Reason;

use super::rig::{Rig, get, policy, post, read_all, run, settle, status};
use crate::policy::HttpPolicy;
use crate::reason;

#[test]
fn the_code_of_an_upstreams_reset_reaches_the_client() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let codes = [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, Reason::from(99)];
        let mut first = None;
        for code in codes {
            let (response, _) = rig.send(get("/"), true);
            if first.is_none() {
                first = Some(rig.upstream().await);
            }
            let (_, mut respond) = first.as_mut().unwrap().next().await;
            let mut out = respond.send_response(status(200), false).unwrap();
            out.send_data(Bytes::from_static(b"begun"), false).unwrap();
            let mut response = response.await.unwrap();
            assert_eq!(response.body_mut().data().await.unwrap().unwrap(), "begun");
            out.send_reset(code);
            let error = response.body_mut().data().await.unwrap().unwrap_err();
            assert!(error.is_reset() && error.is_remote());
            assert_eq!(error.reason(), Some(code));
        }
    });
}

#[test]
fn a_response_whose_connection_is_lost_is_broken_off() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (response, _) = rig.send(get("/"), true);
        let mut upstream = rig.upstream().await;
        let (_, mut respond) = upstream.next().await;
        let _out = respond.send_response(status(200), false).unwrap();
        let mut response = response.await.unwrap();
        upstream.close();
        let error = response.body_mut().data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    });
}

#[test]
fn a_client_that_cancels_cancels_the_upstream_with_its_code() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let mut upstream = None;
        for code in [Reason::CANCEL, Reason::INTERNAL_ERROR] {
            for is_answered in [false, true] {
                let (response, mut out) = rig.send(post("/"), false);
                if upstream.is_none() {
                    upstream = Some(rig.upstream().await);
                }
                let (_request, mut respond) = upstream.as_mut().unwrap().next().await;
                let reset = if is_answered {
                    let mut back = respond.send_response(status(200), false).unwrap();
                    let _response = response.await.unwrap();
                    out.send_reset(code);
                    poll_fn(|cx| back.poll_reset(cx)).await
                } else {
                    out.send_reset(code);
                    poll_fn(|cx| respond.poll_reset(cx)).await
                };
                assert_eq!(reset.unwrap(), code);
            }
        }
        // The connection is as good as before.
        let (response, _) = rig.send(get("/"), true);
        upstream.unwrap().next().await.1.send_response(status(200), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn a_client_that_goes_takes_its_upstream_along() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (response, _out) = rig.send(post("/"), false);
        let mut upstream = rig.upstream().await;
        let (_, mut respond) = upstream.next().await;
        rig.client_driver.abort();
        drop(response);
        let reset = poll_fn(|cx| respond.poll_reset(cx)).await;
        assert_eq!(reset.unwrap(), Reason::CANCEL);
        assert_eq!(rig.served.await.unwrap(), reason::Reason::Closed);
        drop(respond);
        upstream.driver.await.unwrap();
    });
}

#[test]
fn an_early_answer_ends_the_request() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (response, mut out) = rig.send(post("/"), false);
        out.send_data(Bytes::from_static(b"some of it"), false).unwrap();
        let mut upstream = rig.upstream().await;
        let (request, mut respond) = upstream.next().await;
        let mut back = respond.send_response(status(413), false).unwrap();
        back.send_data(Bytes::from_static(b"too much"), true).unwrap();
        // The rest is not wanted: h2 says so with NO_ERROR.
        drop((request, respond, back));
        let mut response = response.await.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(read_all(response.body_mut()).await.unwrap().0, b"too much");
        let reset = poll_fn(|cx| out.poll_reset(cx)).await;
        assert_eq!(reset.unwrap(), Reason::NO_ERROR);
    });
}

#[test]
fn a_time_out_cancels_the_upstream() {
    run(async {
        let mut policy = policy(&[]);
        policy.timeout = Some(std::time::Duration::from_secs(1));
        let mut rig = Rig::new(policy).await;
        let (response, _) = rig.send(get("/"), true);
        let mut upstream = rig.upstream().await;
        let (_, mut respond) = upstream.next().await;
        assert_eq!(response.await.unwrap().status(), 504);
        assert_eq!(poll_fn(|cx| respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    });
}

#[test]
fn when_redial_drains_what_was_asked_is_answered_and_nothing_more() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (response, _) = rig.send(get("/"), true);
        let mut upstream = rig.upstream().await;
        let (_, mut respond) = upstream.next().await;
        rig.drain.send(true).unwrap();
        settle().await;
        let refused = poll_fn(|cx| rig.client.poll_ready(cx)).await.unwrap_err();
        assert!(refused.is_go_away() && refused.reason() == Some(Reason::NO_ERROR), "{refused}");
        respond.send_response(status(200), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(rig.served.await.unwrap(), reason::Reason::Drained);
        upstream.driver.await.unwrap();
    });
}
