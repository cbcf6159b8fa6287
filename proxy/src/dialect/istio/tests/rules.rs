//! `DestinationRule`.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::{any_value, entry, parsed, problems};
use crate::dialect::parse;
use crate::policy::{Policy, Setting};

/// On one line.
fn rule(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: d, namespace: shop}}, spec: {spec}}}"
    )
}

fn with(documents: &[&str]) -> Vec<Policy> {
    parsed(&documents.join("\n---\n")).policies
}

fn notes(documents: &[&str]) -> Vec<String> {
    parsed(&documents.join("\n---\n")).notes.iter().map(ToString::to_string).collect()
}

/// What the policy for a port says of connects, in seconds, of concurrent retries, and of the budget.
fn limits(policies: &[Policy], port: Option<u16>) -> (Option<u64>, Option<u32>, (u32, u32)) {
    let is = |policy: &&Policy| policy.to[0].port.map(u16::from) == port;
    let policy = policies.iter().find(is).unwrap();
    let retries = policy.routes.first().and_then(|route| route.http.retry.max_concurrent_retries);
    let budget = (policy.budget.percent(), policy.budget.min_per_second());
    (policy.tcp.connect_timeout().map(|timeout| timeout.as_secs()), retries, budget)
}

const DEFAULT: (u32, u32) = (20, 10);

#[test]
fn a_rule_holds_for_the_routes_to_its_host() {
    let pool = "connectionPool: {tcp: {connectTimeout: 3s, maxConnections: 1}, http: {maxRetries: 7}}";
    for host in ["a", "a.shop.svc.cluster.local", "'*.svc.cluster.local'", "'*'"] {
        let text = rule(&format!("{{host: {host}, trafficPolicy: {{{pool}}}}}"));
        let policies = with(&[&entry(""), &text]);
        // A rule for many hosts is not only for those of the VirtualService.
        assert_eq!(policies.len(), if host.contains('*') { 2 } else { 1 }, "{host}");
        assert_eq!(limits(&policies, None), (Some(3), Some(7), DEFAULT), "{host}");
        let place = policies[0].routes[0].sources.place(Setting::MaxConcurrentRetries).unwrap();
        assert_eq!(place.field, "spec.trafficPolicy.connectionPool.http.maxRetries");
        assert_eq!(policies[0].tcp.max_connect_attempts().get(), 3);
        let told = notes(&[&entry(""), &text]);
        let ignored = "p.yaml:3: spec.trafficPolicy.connectionPool.tcp.maxConnections: warning[ignored]: it has no meaning \
                       here, and nothing is done about it";
        assert!(told.iter().any(|note| note == ignored), "{told:#?}");
    }
    for host in ["b", "a.other.svc.cluster.local"] {
        let text = rule(&format!("{{host: {host}, trafficPolicy: {{{pool}}}}}"));
        let policies = with(&[&entry(""), &text]);
        assert_eq!(limits(&policies, None), (None, None, DEFAULT), "{host}");
        assert_eq!(policies.len(), 2);
    }
    // Nothing said, or 0, is Istio's default: no bound.
    let unsaid = rule("{host: a, trafficPolicy: {connectionPool: {http: {maxRetries: 0}}}}");
    assert_eq!(limits(&with(&[&entry(""), &unsaid]), None), (None, None, DEFAULT));
}

#[test]
fn a_budget_takes_the_place_of_max_retries() {
    let text = rule(
        "{host: a, trafficPolicy: {retryBudget: {percent: 30, minRetryConcurrency: 5}, connectionPool: {http: \
         {maxRetries: 7}}}}",
    );
    assert_eq!(limits(&with(&[&entry(""), &text]), None), (None, None, (30, 5)));
    let told = notes(&[&entry(""), &text]);
    for note in [
        "p.yaml:3: spec.trafficPolicy.retryBudget: warning[ignored]: Istio counts the requests and retries that are under way; \
         here minRetryConcurrency is 5 retries a second, and percent is of the requests of the last 10s",
        "p.yaml:3: spec.trafficPolicy.connectionPool.http.maxRetries: warning[inert-setting]: retryBudget takes its place",
    ] {
        assert!(told.iter().any(|known| known == note), "{told:#?}");
    }
    let default = rule("{host: a, trafficPolicy: {retryBudget: {}}}");
    assert_eq!(limits(&with(&[&entry(""), &default]), None), (None, None, (20, 3)));
}

#[test]
fn ports_and_subsets_have_their_own() {
    let pool = |retries: u32| format!("connectionPool: {{http: {{maxRetries: {retries}}}}}");
    let text = rule(&format!(
        "{{host: a, trafficPolicy: {{{}, portLevelSettings: [{{port: {{number: 80}}, {}}}, {{port: {{number: 81}}}}]}}, \
         subsets: [{{name: v1, labels: {{v: '1'}}, trafficPolicy: {{{}}}}}, {{name: v2}}]}}",
        pool(1),
        pool(2),
        pool(3)
    ));
    let policies = with(&[&entry(""), &text]);
    assert_eq!(policies.len(), 3);
    let retries = |policies: &[Policy], port| limits(policies, port).1;
    assert_eq!(retries(&policies, None), Some(1));
    assert_eq!(retries(&policies, Some(80)), Some(2));
    // A port that says nothing takes nothing from the rest.
    assert_eq!(retries(&policies, Some(81)), None);
    let to = |destination: &str| entry("").replace("{host: a}", destination);
    let policies = with(&[&to("{host: a, subset: v1}"), &text]);
    assert_eq!((retries(&policies, None), retries(&policies, Some(80))), (Some(3), Some(2)));
    assert_eq!(retries(&with(&[&to("{host: a, subset: v2}"), &text]), None), Some(1));
    // A destination that names its port has that port's, wherever the request was sent.
    let policies = with(&[&to("{host: a, port: {number: 80}}"), &text]);
    assert_eq!((policies.len(), retries(&policies, None)), (1, Some(2)));
}

#[test]
fn of_several_destinations_the_most_generous_holds() {
    let text = |host: &str, name: &str, said: &str| {
        rule(&format!("{{host: {host}, trafficPolicy: {{{said}}}}}")).replace("name: d", name)
    };
    let route = entry("").replace(
        "route: [{destination: {host: a}}]",
        "route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 1}]",
    );
    let one = text("a", "name: x", "retryBudget: {percent: 5}, connectionPool: {tcp: {connectTimeout: 1s}}");
    let other =
        text("b", "name: y", "retryBudget: {percent: 50}, connectionPool: {tcp: {connectTimeout: 2s}}");
    assert_eq!(limits(&with(&[&route, &one, &other]), None), (Some(2), None, (50, 3)));
    assert_eq!(limits(&with(&[&route, &one]), None), (None, None, DEFAULT));
}

#[test]
fn a_rule_alone_is_about_connects() {
    let text = rule(
        "{host: a, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 3s}, http: {maxRetries: 2}}, portLevelSettings: \
         [{port: {number: 80}, connectionPool: {tcp: {connectTimeout: 9s}}}, {port: {number: 81}}]}}",
    );
    let policies = with(&[&text]);
    let names: Vec<_> = policies.iter().map(|policy| policy.name.to_string()).collect();
    assert_eq!(names, ["DestinationRule/shop/d", "DestinationRule/shop/d:80"]);
    assert_eq!((policies[0].to.len(), policies[0].routes.len()), (4, 0));
    assert_eq!(limits(&policies, None).0, Some(3));
    assert_eq!(limits(&policies, Some(80)).0, Some(9));
    let told = notes(&[&text]);
    let inert = "p.yaml:1: spec.trafficPolicy.connectionPool.http.maxRetries: warning[inert-setting]: no VirtualService here \
                 says how requests to this host are retried";
    assert!(told.iter().any(|note| note == inert), "{told:#?}");
    // One that says nothing of retries and connects is no policy.
    assert!(
        with(&[&rule("{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}, tls: {mode: SIMPLE}}}")])
            .is_empty()
    );
}

#[test]
fn the_oldest_rule_of_a_host_holds() {
    let text = |name: &str, timeout: &str, more: &str| {
        let spec = format!(
            "{{host: a, trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {timeout}}}}}}}{more}}}"
        );
        rule(&spec).replace("name: d", name)
    };
    let subsets = ", subsets: [{name: v1, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 7s}}}}]";
    let old = text("name: x, creationTimestamp: '2024-01-02T03:04:05Z'", "1s", "");
    let new = text("name: b", "2s", subsets);
    assert_eq!(limits(&with(&[&entry(""), &new, &old]), None).0, Some(1));
    let told = notes(&[&entry(""), &new, &old]);
    let inert = "p.yaml:3: spec.host: warning[inert-setting]: DestinationRule/shop/x is older, or the first by name, so that it \
                 is what holds for this host; only subsets that it has not are taken";
    assert!(told.iter().any(|note| note == inert), "{told:#?}");
    let to_subset = entry("").replace("{host: a}", "{host: a, subset: v1}");
    assert_eq!(limits(&with(&[&to_subset, &new, &old]), None).0, Some(7));
}

#[test]
fn connections_follow_the_rule_of_where_they_go() {
    let tcp = super::document("{hosts: [a], tcp: [{route: [{destination: {host: b}}]}]}");
    let text = rule("{host: b, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 3s}}}}");
    let policies = with(&[&tcp, &text]);
    let names: Vec<_> = policies.iter().map(|policy| policy.name.to_string()).collect();
    assert_eq!(names, ["VirtualService/shop/a", "DestinationRule/shop/d"]);
    assert!(policies.iter().all(|policy| policy.tcp.connect_timeout() == Some(Duration::from_secs(3))));
    let told = notes(&[&tcp, &text.replace("host: b", "host: a")]);
    let inert = "p.yaml:3: spec.host: warning[inert-setting]: the VirtualService for this host leads elsewhere, so it holds for \
                 nothing";
    assert!(told.iter().any(|note| note == inert), "{told:#?}");
}

#[test]
fn each_rule_has_its_message() {
    for (spec, problem) in [
        ("{}", "host: the field is required"),
        (
            "{host: 'a b'}",
            "host: expected a DNS name such as db.example.com: letters, digits, `-` and `_`, at most 63 to a label and 253 in \
             all, in ASCII (`xn--`), found \"a b\"",
        ),
        (
            "{host: a, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 0s}}}}",
            "trafficPolicy.connectionPool.tcp.connectTimeout: expected a duration of more than 0, such as 250ms, 5s or 1m30s, \
             found \"0s\": it is zero",
        ),
        (
            "{host: a, trafficPolicy: {connectionPool: {http: {maxRetries: -1}}}}",
            "trafficPolicy.connectionPool.http.maxRetries: expected a whole number from 0 to 2147483647, found -1",
        ),
        (
            "{host: a, trafficPolicy: {retryBudget: {percent: 12.5}}}",
            "trafficPolicy.retryBudget.percent: expected a whole number from 0 to 100, found 12.5",
        ),
        (
            "{host: a, trafficPolicy: {retryBudget: {budgetInterval: 1ms}}}",
            "trafficPolicy.retryBudget: the interval must be from 1s to 1h, not 1ms",
        ),
        (
            "{host: a, trafficPolicy: {portLevelSettings: [{connectionPool: {}}]}}",
            "trafficPolicy.portLevelSettings[0].port: the field is required",
        ),
        ("{host: a, subsets: [{labels: {}}]}", "subsets[0].name: the field is required"),
    ] {
        assert_eq!(problems(&rule(spec)), [format!("spec.{problem}")], "{spec}");
    }
    let text = rule("{host: a}").replace("io/v1,", "io/v2,");
    assert_eq!(
        problems(&text),
        [
            "apiVersion: expected one of networking.istio.io/v1, networking.istio.io/v1beta1, networking.istio.io/v1alpha3, \
             found \"networking.istio.io/v2\""
        ]
    );
}

proptest! {
    /// Whatever the fields hold, there is a policy or a problem, and each is told on one line.
    #[test]
    fn no_value_is_too_much(values in proptest::collection::vec(any_value(), 8)) {
        let v = |index: usize| values[index].as_str();
        let texts = [
            rule(&format!(
                "{{host: {}, trafficPolicy: {{retryBudget: {{percent: {}, minRetryConcurrency: {}}}, connectionPool: {{tcp: \
                 {{connectTimeout: {}}}, http: {{maxRetries: {}}}}}}}}}",
                v(0), v(1), v(2), v(3), v(4)
            )),
            rule(&format!("{{host: a, trafficPolicy: {}, subsets: {}}}", v(5), v(6))),
            format!("{}\n---\n{}", entry(&format!("match: [{{port: {}, sourceLabels: {}}}]", v(1), v(5))), rule(v(7))),
        ];
        for text in texts {
            let told: Vec<_> = match parse(Path::new("p.yaml"), &text) {
                Ok(parsed) => parsed.notes.iter().map(ToString::to_string).collect(),
                Err(problems) => {
                    prop_assert!(!problems.is_empty());
                    problems.iter().map(ToString::to_string).collect()
                }
            };
            prop_assert!(told.iter().all(|line| !line.contains('\n')), "{told:?}");
        }
    }
}

#[test]
fn a_timeout_of_connects_is_a_duration() {
    let text = rule("{host: a, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 250ms}}}}");
    assert_eq!(with(&[&text])[0].tcp.connect_timeout(), Some(Duration::from_millis(250)));
}
