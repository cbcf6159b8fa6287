//! Requests whose routes have settings and targets of their own.

use std::sync::Arc;

use super::rig::{BAD, OK, Setup, address, paused, policy};
use crate::http::exchange::Prior;
use crate::policy::{HttpPolicy, PathMatch, Precedence, RequestMatch, Route, Target, TargetAddress};
use crate::reason::AttemptOutcome;

fn route(path: &str, http: HttpPolicy, targets: Vec<Target>) -> Route {
    let path = PathMatch::Prefix { path: path.into(), ignore_case: false };
    Route {
        name: "r".into(),
        precedence: Precedence::default(),
        matcher: RequestMatch { path, ..RequestMatch::default() },
        http: Arc::new(http),
        targets: targets.into(),
        sources: Arc::default(),
    }
}

fn target(weight: u32, addresses: &[&str]) -> Target {
    let addresses = addresses.iter().map(|text| {
        let address: std::net::SocketAddr = text.parse().unwrap();
        (address.ip(), address.port().try_into().ok())
    });
    Target { name: "t".into(), weight, address: TargetAddress::Addresses(addresses.collect()) }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn each_request_is_under_its_own_route() {
    paused(async {
        let never = policy(|policy| policy.retry.num_retries = 0);
        let routes = vec![route("/never", never, vec![])];
        let (mut rig, mut upstream) = Setup { routes, ..Setup::new(policy(|_| {})) }.start_connected();
        for (path, retried) in [("/a", true), ("/never", false), ("/a", true)] {
            rig.client.says(get(path)).await;
            upstream.hears(get(path)).await;
            upstream.says(BAD).await;
            if retried {
                upstream.hears(get(path)).await;
                upstream.says(OK).await;
            }
            rig.client.hears(if retried { OK } else { BAD }).await;
        }
    });
}

/// The retry prefers another endpoint of the target, and then another target.
#[test]
fn a_request_goes_where_its_route_leads_and_a_retry_elsewhere() {
    paused(async {
        let targets = vec![target(1, &["192.0.2.7:81", "192.0.2.8:82"]), target(0, &["192.0.2.9:83"])];
        let retries = policy(|policy| policy.retry.num_retries = 2);
        let routes = vec![route("/away", retries, targets)];
        let (mut rig, mut original) = Setup { routes, ..Setup::new(policy(|_| {})) }.start_connected();
        rig.client.says(get("/away")).await;
        let first = rig.dials.next().await;
        let first_endpoint = first.endpoint;
        first.fail(AttemptOutcome::Refused);
        let second = rig.dials.next().await;
        let mut both = [first_endpoint.to_string(), second.endpoint.to_string()];
        both.sort();
        assert_eq!(both, ["192.0.2.7:81", "192.0.2.8:82"]);
        let mut upstream = second.accept();
        upstream.hears(get("/away")).await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
        // What has no targets goes where it was dialled to, on the connection that is there.
        rig.client.says(get("/a")).await;
        let mut original_again = tokio::select! {
            biased;
            () = original.hears(get("/a")) => original,
            dial = rig.dials.next() => {
                assert_eq!(dial.endpoint, address());
                let mut peer = dial.accept();
                peer.hears(get("/a")).await;
                peer
            }
        };
        original_again.says(OK).await;
        rig.client.hears(OK).await;
    });
}

#[test]
fn a_route_that_leads_nowhere_is_answered() {
    paused(async {
        for targets in [vec![target(0, &["192.0.2.7:81"])], vec![target(1, &[])]] {
            let routes = vec![route("/", policy(|_| {}), targets)];
            let mut rig = Setup { routes, ..Setup::new(policy(|_| {})) }.start();
            rig.client.says(get("/")).await;
            let expected = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 19\r\ncontent-type: text/plain\r\n\r\nno \
                            healthy upstream";
            rig.client.hears(expected).await;
            assert_eq!(rig.failures(), ["no-endpoint"]);
        }
    });
}

/// The connection's own attempts were made to where it was dialled, and say nothing of a route's targets.
#[test]
fn what_failed_before_does_not_count_against_a_route_that_leads_away() {
    paused(async {
        let routes = vec![route("/away", policy(|_| {}), vec![target(1, &["192.0.2.7:81"])])];
        let prior = Prior { failed: 3, gave_up: Some(AttemptOutcome::Refused) };
        let mut rig = Setup { routes, prior, ..Setup::new(policy(|_| {})) }.start();
        rig.client.says(get("/away")).await;
        let mut upstream = rig.accept().await;
        upstream.hears(get("/away")).await;
        upstream.says(OK).await;
        rig.client.hears(OK).await;
    });
}
