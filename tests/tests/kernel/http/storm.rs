//! Retry storms: what an upstream that fails gets of many clients' retries.

use anyhow::Result;
use redial_tests::agent::{Agent, Options};
use redial_tests::crowd::{Crowd, Part};
use redial_tests::raw_server::{Answer, RawServer};
use redial_tests::world::{Family, World};

use super::PORT;

const CLIENTS: usize = 400;

/// How many attempts reach an upstream that always fails, where each client makes one request with three retries.
fn attempts(budget: &str) -> Result<usize> {
    let world = World::new("storm")?;
    let upstream = RawServer::start(&world.server, Family::V4.server(PORT), |_| Answer::status(503, "no"))?;
    let config = format!(
        "apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {{name: p}}
spec:
  budget: {{{budget}}}
  http: {{numRetries: 3, retryOn: [5xx], backOff: {{baseInterval: 1ms}}}}
"
    );
    // The node's own budget is not to be the one that bounds.
    let arguments = ["--node-budget-percent", "100", "--node-budget-min-per-second", "10000"];
    let options = Options { config: Some(&config), arguments: &arguments, ..Options::default() };
    let agent = Agent::start_with(&[&world.cgroup], &options)?;
    let parts = vec![Part::text("GET / HTTP/1.1\r\nHost: storm\r\n\r\n")];
    let mut crowd = world.start_crowd(&Crowd { to: Family::V4.server(PORT), connections: CLIENTS, parts })?;
    crowd.wait_paused()?;
    let answered = agent.wait_requests(CLIENTS)?;
    assert!(answered.iter().all(|request| request["status"] == 503), "{answered:?}");
    Ok(upstream.requests().len())
}

/// Without a floor, and over more time than this takes, the share is all there is: of as many connects and as many requests.
#[test]
fn a_failing_upstream_gets_no_more_than_the_budget() -> Result<()> {
    let extra = attempts("percent: 20, minPerSecond: 0, interval: 1h")? - CLIENTS;
    let share = 2 * CLIENTS * 20 / 100;
    // Who asked while few others had begun got nothing; who asks last finds what is left.
    assert!((share / 2..=share).contains(&extra), "{extra} retries of {share}");
    Ok(())
}

#[test]
fn without_a_bound_every_request_is_retried_as_often_as_it_may() -> Result<()> {
    assert_eq!(attempts("percent: 100, minPerSecond: 10000")?, 4 * CLIENTS);
    Ok(())
}
