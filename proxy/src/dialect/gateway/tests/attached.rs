//! kgateway's documents, and what they are attached to.

use std::time::Duration;

use super::{NAMED, OPTION, ROUTE, assert_notes, parsed, problems, rule, traffic_policy};
use crate::policy::TargetAddress;
use crate::retry::request::{Condition, Conditions, ResetFormat};

#[test]
fn beside_routes_what_nothing_refers_to_does_nothing() {
    let option = format!("{NAMED}---{OPTION}");
    let policy = format!("{NAMED}{}", traffic_policy("retry", "", 2))
        .replace("targetRefs: [{group: gateway.networking.k8s.io, }]", "{}");
    let policy = policy.replace("  {}\n", "");
    for (text, line) in [(option, 16), (policy, 15)] {
        let parsed = parsed(&text);
        assert_eq!(parsed.policies.len(), 1);
        assert_eq!(parsed.policies[0].routes[0].http.retry.num_retries, 0);
        assert_notes(
            &parsed,
            &format!(
                "p.yaml:{line}: metadata.name: warning[inert-setting]: no route here refers to it, and none hangs on a target \
                 of it, so it applies to nothing"
            ),
        );
    }
}

#[test]
fn of_several_the_oldest_counts_and_then_the_first_by_name() {
    let policy = |name: &str, created: &str, attempts| {
        let name = format!("{name}, creationTimestamp: {created}");
        traffic_policy(&name, "kind: HTTPRoute, name: shop", attempts)
    };
    let retries = |policies: &[String]| {
        parsed(&format!("{NAMED}{}", policies.concat())).policies[0].routes[0].http.retry.num_retries
    };
    let (old, new) = ("2024-01-02T03:04:05Z", "'2024-11-02T03:04:05Z'");
    assert_eq!(retries(&[policy("a", new, 2), policy("b", old, 3)]), 3);
    assert_eq!(retries(&[policy("a", "null", 2), policy("b", new, 3)]), 3);
    assert_eq!(retries(&[policy("b", old, 2), policy("a", old, 3)]), 3);
    assert_eq!(retries(&[policy("b", "null", 2), policy("a", "null", 3)]), 3);
}

#[test]
fn the_oldest_budget_of_a_service_counts() {
    let budget = |name: &str, created: &str, percent: u32| {
        format!(
            "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {{name: {name}, \
             creationTimestamp: {created}}}\nspec: {{targetRefs: [{{group: '', kind: Service, name: web}}], \
             retryConstraint: {{budget: {{percent: {percent}}}}}}}\n"
        )
    };
    let percent = |budgets: &[String]| {
        parsed(&format!("{}{}", rule("{}"), budgets.concat())).policies[0].budget.percent()
    };
    let (old, new) = ("2024-01-02T03:04:05Z", "2024-11-02T03:04:05Z");
    assert_eq!(percent(&[budget("a", new, 30), budget("b", old, 40)]), 40);
    assert_eq!(percent(&[budget("b", old, 30), budget("a", old, 40)]), 40);
}

#[test]
fn targets_may_be_told_by_labels() {
    let route = NAMED.replace("{name: shop,", "{name: shop, labels: {app: shop, tier: web},");
    let policy = |selector: &str| {
        let policy = traffic_policy("t", "kind: X", 5).replace("targetRefs", "targetSelectors");
        policy.replace("kind: X", selector)
    };
    let retries = |selector: &str| {
        let policies = parsed(&format!("{route}{}", policy(selector))).policies;
        assert_eq!(policies.len(), 1);
        policies[0].routes.iter().map(|route| route.http.retry.num_retries).collect::<Vec<_>>()
    };
    assert_eq!(retries("kind: HTTPRoute, matchLabels: {app: shop, tier: web}"), [5, 5]);
    assert_eq!(retries("kind: HTTPRoute, matchLabels: {app: shop}, sectionName: pay"), [5, 0]);
    assert_eq!(retries("kind: HTTPRoute, matchLabels: {app: shop, tier: db}"), [0, 0]);
    assert_eq!(retries("kind: GRPCRoute, matchLabels: {app: shop}"), [0, 0]);
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: a, \
                   labels: {app: edge}}\nspec: {}\n";
    let text = format!("{route}{gateway}{}", policy("kind: Gateway, matchLabels: {app: edge}"));
    assert_eq!(parsed(&text).policies[0].routes[0].http.retry.num_retries, 5);
    for (selector, problem) in [
        ("kind: HTTPRoute", "matchLabels: the field is required"),
        (
            "kind: HTTPRoute, matchLabels: {a: 1}",
            "matchLabels.a: expected text, in quotes where it looks like something else, found 1",
        ),
    ] {
        let found = problems(&format!("{route}{}", policy(selector)));
        assert_eq!(found, [format!("p.yaml:17: spec.targetSelectors[0].{problem}")]);
    }
}

#[test]
fn a_route_option_may_name_its_route() {
    let option = OPTION.replace(
        "spec:",
        "spec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop, namespace: a}]",
    );
    let policies = parsed(&format!("{NAMED}---{option}")).policies;
    assert_eq!(policies.len(), 1);
    assert_eq!(policies[0].routes[0].http.retry.num_retries, 3);
}

#[test]
fn a_route_option_says_all_of_it() {
    let option = format!(
        "{OPTION}      retriableStatusCodes: [418]\n      previousPriorities: {{updateFrequency: 2}}\n      \
         retryBackOff: {{baseInterval: 1s, maxInterval: 3s}}\n      rateLimitedRetryBackOff: {{maxInterval: 9s, \
         resetHeaders: [{{name: retry-after}}, {{name: x-reset, format: UNIX_TIMESTAMP}}]}}\n    timeout: 20s\n    \
         idleTimeout: 0s\n    shadowing: {{}}\n"
    )
    .replace("'connect-failure'", "'connect-failure, retriable-status-codes,oops'");
    let parsed = parsed(&option);
    let http = &parsed.policies[0].routes[0].http;
    let on = [Condition::ConnectFailure, Condition::RetriableStatusCodes];
    assert_eq!(http.retry.retry_on, Conditions::of(&on));
    assert!(http.retry.status_codes.contains(418));
    let limited = http.retry.rate_limited_backoff.as_ref().unwrap();
    let formats: Vec<_> = limited.reset_headers().iter().map(|header| header.format).collect();
    assert_eq!(formats, [ResetFormat::Seconds, ResetFormat::UnixTimestamp]);
    assert_eq!(limited.max(), Duration::from_secs(9));
    assert_eq!(http.retry.backoff.max(), Duration::from_secs(3));
    assert_eq!((http.timeout, http.idle_timeout), (Some(Duration::from_secs(20)), None));
    assert_notes(
        &parsed,
        "p.yaml:10: spec.options.retries.retryOn: warning[inert-setting]: \"oops\" is no condition and does nothing; there \
         are envoy-ratelimited, retriable-status-codes, retriable-headers, cancelled, deadline-exceeded, \
         resource-exhausted, internal, unavailable, retriable-4xx, connect-failure, http3-post-connect-failure, \
         refused-stream, reset-before-request, reset, gateway-error, 5xx",
    );
    for field in ["retries.previousPriorities", "shadowing"] {
        assert!(parsed.notes.iter().any(|note| note.field == format!("spec.options.{field}")), "{field}");
    }
}

#[test]
fn each_rule_of_a_route_option_has_its_message() {
    let at = "p.yaml:13: spec.options.retries.";
    for (rest, problem) in [
        ("retryBackOff: {maxInterval: 1s}", "retryBackOff.baseInterval: the field is required"),
        (
            "retryBackOff: {baseInterval: 2s, maxInterval: 1s}",
            "retryBackOff: the maximum interval 1s must be at least the base interval 2s",
        ),
        (
            "retriableStatusCodes: [99]",
            "retriableStatusCodes[0]: expected a whole number from 100 to 599, found 99",
        ),
        (
            "rateLimitedRetryBackOff: {resetHeaders: [{name: a, format: Seconds}]}",
            "rateLimitedRetryBackOff.resetHeaders[0].format: expected one of SECONDS, UNIX_TIMESTAMP, found \"Seconds\"",
        ),
    ] {
        assert_eq!(problems(&format!("{OPTION}      {rest}\n")), [format!("{at}{problem}")], "{rest}");
    }
    let found = problems(&OPTION.replace("'connect-failure'", "[connect-failure]"));
    assert_eq!(
        found,
        ["p.yaml:10: spec.options.retries.retryOn: expected conditions, separated by commas, found a list"]
    );
    let found = problems(&format!("{OPTION}    faults: {{}}\n"));
    assert_eq!(
        found,
        ["p.yaml:13: spec.options.faults: it changes what requests get, and cannot be honoured here"]
    );
}

#[test]
fn a_traffic_policy_says_all_of_it() {
    let text = traffic_policy("t", "kind: HTTPRoute, name: shop", 2).replace(
        "retry: {",
        "timeouts: {request: 20s, streamIdle: 0s}\n  cors: {}\n  retry: {backoffBaseInterval: 2s, perTryTimeout: 4s, \
         retryHostPredicates: [PreviousHosts, OmitCanaryHosts], ",
    );
    let parsed = parsed(&format!("{NAMED}{text}"));
    let http = &parsed.policies[0].routes[0].http;
    assert_eq!((http.timeout, http.idle_timeout), (Some(Duration::from_secs(20)), None));
    assert_eq!(http.retry.per_try_timeout, Some(Duration::from_secs(4)));
    assert_eq!(http.retry.backoff.base(), Duration::from_secs(2));
    assert!(http.retry.hosts.avoid_previous);
    assert_notes(
        &parsed,
        "p.yaml:20: spec.retry.retryHostPredicates[1]: warning[ignored]: no host is known to be a canary here",
    );
    assert_notes(
        &parsed,
        "p.yaml:19: spec.cors: warning[ignored]: it has no meaning here, and nothing is done about it",
    );
}

#[test]
fn each_rule_of_a_traffic_policy_has_its_message() {
    let policy = |said: &str| {
        let text = traffic_policy("t", "kind: HTTPRoute, name: shop", 2);
        text.replace("retry: {retryOn: [reset], attempts: 2, statusCodes: [503]}", said)
    };
    for (said, problem) in [
        ("retry: {attempts: 1}", "retry: retryOn or statusCodes is required"),
        (
            "retry: {statusCodes: [399]}",
            "retry.statusCodes[0]: expected a whole number from 400 to 599, found 399",
        ),
        (
            "retry: {retryOn: [retriable-headers]}",
            "retry.retryOn[0]: expected one of envoy-ratelimited, retriable-status-codes, cancelled, deadline-exceeded, \
             resource-exhausted, internal, unavailable, retriable-4xx, connect-failure, http3-post-connect-failure, \
             refused-stream, reset-before-request, reset, gateway-error, 5xx, found \"retriable-headers\"",
        ),
        (
            "retry: {retryOn: [reset], retryHostPredicates: [Previous]}",
            "retry.retryHostPredicates[0]: expected one of PreviousHosts, OmitCanaryHosts, found \"Previous\"",
        ),
        (
            "retry: {retryOn: [reset], perTryTimeout: 0s}",
            "retry.perTryTimeout: expected a duration of more than 0, such as 250ms, 5s or 1m30s, found \"0s\": it is zero",
        ),
        ("rateLimit: {}", "rateLimit: it changes what requests get, and cannot be honoured here"),
    ] {
        let found = problems(&policy(said));
        assert_eq!(found, [format!("p.yaml:7: spec.{problem}")], "{said}");
    }
}

/// A rule that leads to this static backend.
fn with_backend(spec: &str) -> String {
    let backend =
        "---\napiVersion: gateway.kgateway.dev/v1alpha1\nkind: Backend\nmetadata: {name: b}\nspec: ";
    let rule = rule("{backendRefs: [{group: gateway.kgateway.dev, kind: Backend, name: b}]}");
    format!("{rule}{backend}{spec}\n")
}

#[test]
fn a_static_backend_is_where_it_says() {
    let target = |hosts: &str| {
        let policies =
            parsed(&with_backend(&format!("{{type: Static, static: {{hosts: {hosts}}}}}"))).policies;
        policies[0].routes[0].targets[0].address.clone()
    };
    let port = |port: u16| Some(port.try_into().unwrap());
    let addresses = vec![("10.0.0.1".parse().unwrap(), port(80)), ("fd00::1".parse().unwrap(), port(81))];
    assert_eq!(
        target("[{host: 10.0.0.1, port: 80}, {host: 'fd00::1', port: 81}]"),
        TargetAddress::Addresses(addresses.into())
    );
    let host = TargetAddress::Host { host: "b.example".parse().unwrap(), port: port(443) };
    assert_eq!(target("[{host: b.example, port: 443}]"), host);
    for (spec, problem) in [
        (
            "{static: {hosts: [{host: 10.0.0.1}, {host: b.example}]}}",
            "spec.static: several hosts must all be addresses here",
        ),
        ("{static: {}}", "spec.static.hosts: the field is required"),
        ("{type: AWS, static: {hosts: [{host: a}]}}", "spec.type: expected one of Static, found \"AWS\""),
    ] {
        assert_eq!(problems(&with_backend(spec)), [format!("p.yaml:9: {problem}")]);
    }
}

#[test]
fn two_documents_of_one_name_are_an_error() {
    let policy = traffic_policy("t", "kind: HTTPRoute, name: shop", 2);
    assert_eq!(
        problems(&format!("{NAMED}{policy}{policy}")),
        ["p.yaml:22: metadata.name: the name TrafficPolicy/a/t is taken already, at p.yaml:13"]
    );
    let backend = with_backend("{static: {hosts: [{host: 10.0.0.1}]}}");
    let again = backend.split_once("---").unwrap().1;
    assert_eq!(
        problems(&format!("{backend}---{again}")),
        ["p.yaml:13: metadata.name: the name Backend/b is taken already, at p.yaml:6"]
    );
}

#[test]
fn what_means_nothing_here_is_noted() {
    for (version, kind) in [
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("gateway.networking.k8s.io/v1", "GatewayClass"),
        ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
        ("gateway.networking.k8s.io/v1alpha3", "BackendTLSPolicy"),
        ("gateway.networking.x-k8s.io/v1alpha1", "XListenerSet"),
    ] {
        let parsed =
            parsed(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{}}\n"));
        assert!(parsed.policies.is_empty());
        let note = format!(
            "p.yaml:2: kind: warning[ignored]: a {kind} has no meaning here, and nothing is done about it"
        );
        assert_eq!(parsed.notes.iter().map(ToString::to_string).collect::<Vec<_>>(), [note]);
    }
}

#[test]
fn a_version_that_there_is_not_is_told() {
    for (text, version, known) in [
        (ROUTE, "gateway.networking.k8s.io/v2", &["v1", "v1beta1", "v1alpha2"][..]),
        (OPTION, "gateway.kgateway.dev/v1", &["v1alpha1"]),
    ] {
        let line = text.lines().find(|line| line.starts_with("apiVersion: ")).unwrap();
        let (group, _) = version.split_once('/').unwrap();
        let known: Vec<_> = known.iter().map(|known| format!("{group}/{known}")).collect();
        let found = problems(&text.replace(line, &format!("apiVersion: {version}")));
        let expected = format!("expected one of {}, found \"{version}\"", known.join(", "));
        assert_eq!(found, [format!("p.yaml:2: apiVersion: {expected}")]);
    }
}
