//! `ServiceProfile`.

use std::time::Duration;

use super::{assert_notes, parsed, problems, service};
use crate::policy::Policy;
use crate::retry::request::Condition;

const PROFILE: &str = "
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata:
  name: web.a.svc.cluster.local
  namespace: a
spec:
  routes:
  - name: GET /books/{id}
    condition:
      method: GET
      pathRegex: /books/[^/]*
    isRetryable: true
    timeout: 300ms
  - name: rest
    condition: {pathRegex: '/.*'}
    responseClasses:
    - condition: {status: {min: 500, max: 599}}
      isFailure: true
  retryBudget: {retryRatio: 0.3, minRetriesPerSecond: 5, ttl: 20s}
";

/// On one line.
fn profile(spec: &str) -> String {
    format!(
        "{{apiVersion: linkerd.io/v1alpha2, kind: ServiceProfile, metadata: {{name: web.a.svc.cluster.local}}, spec: {spec}}}"
    )
}

fn route(rest: &str) -> String {
    profile(&format!("{{routes: [{{name: r, {rest}}}]}}"))
}

fn policy(text: &str) -> Policy {
    let mut policies = parsed(text).policies;
    assert_eq!(policies.len(), 1);
    policies.remove(0)
}

#[test]
fn a_profile_says_which_requests_are_retried() {
    let policy = policy(PROFILE);
    assert_eq!(policy.name.to_string(), "ServiceProfile/a/web.a.svc.cluster.local");
    assert_eq!(policy.to.len(), 4);
    let budget = policy.budget;
    assert_eq!((budget.percent(), budget.min_per_second(), budget.interval().as_secs()), (30, 5, 20));
    let taken = |method, path| {
        let request = [(":method", method), (":path", path)];
        policy.routes.iter().find(|route| route.matcher.matches(&request[..])).map(|route| &*route.name)
    };
    assert_eq!(taken("GET", "/books/1?a=b"), Some("GET /books/{id}"));
    assert_eq!(taken("PUT", "/books/1"), Some("rest"));
    assert_eq!(taken("GET", "/books/1/2"), Some("rest"));
    let [first, rest] = [&policy.routes[0].http, &policy.routes[1].http];
    assert_eq!((first.retry.num_retries, first.timeout), (u32::MAX, Some(Duration::from_millis(300))));
    assert_eq!(first.max_buffered_body, 64 << 10);
    assert!(first.retry.retry_on.contains(Condition::RetriableStatusCodes));
    assert!(first.retry.status_codes.contains(500) && !first.retry.status_codes.contains(499));
    // What is left out: 10s, and no retries.
    assert_eq!((rest.retry.num_retries, rest.timeout), (0, Some(Duration::from_secs(10))));
    assert!(rest.retry.retry_on.is_empty());
}

#[test]
fn conditions_may_be_put_together() {
    let takes = |condition: &str, method: &str, path: &str| {
        let request = [(":method", method), (":path", path)];
        let routes = policy(&route(&format!("condition: {condition}"))).routes;
        routes.iter().any(|route| route.matcher.matches(&request[..]))
    };
    let any = "{any: [{all: [{method: POST}, {pathRegex: /a}]}, {not: {method: DELETE}, pathRegex: /b}]}";
    for (method, path, expected) in [
        ("POST", "/a", true),
        ("GET", "/a", false),
        ("GET", "/b", true),
        ("DELETE", "/b", false),
        ("POST", "/c", false),
    ] {
        assert_eq!(takes(any, method, path), expected, "{method} {path}");
        // Twice negated it is the same, and once the opposite.
        assert_eq!(takes(&format!("{{not: {{not: {any}}}}}"), method, path), expected, "{method} {path}");
        assert_eq!(takes(&format!("{{not: {any}}}"), method, path), !expected, "{method} {path}");
    }
}

#[test]
fn the_first_class_says_what_a_failure_is() {
    let codes = |classes: &str| {
        let text =
            route(&format!("condition: {{method: GET}}, isRetryable: true, responseClasses: {classes}"));
        let codes = policy(&text).routes[0].http.retry.status_codes.iter().collect::<Vec<_>>();
        (codes.first().copied(), codes.last().copied(), codes.len())
    };
    assert_eq!(
        codes("[{condition: {status: {min: 429, max: 429}}, isFailure: true}]"),
        (Some(429), Some(599), 101)
    );
    assert_eq!(
        codes("[{condition: {status: {min: 501}}}, {condition: {status: {min: 400}}, isFailure: true}]"),
        (Some(400), Some(500), 101)
    );
    let all = "[{condition: {all: [{status: {min: 500}}, {not: {status: {max: 502}}}]}, isFailure: false}]";
    assert_eq!(codes(all), (Some(500), Some(502), 3));
    let any = "[{condition: {any: [{status: {max: 100}}, {status: {min: 500}}]}, isFailure: false}]";
    assert_eq!(codes(any), (None, None, 0));
}

#[test]
fn a_profile_comes_before_annotations() {
    let text = format!("{}---{PROFILE}", service("retry.linkerd.io/http: 5xx"));
    let parsed = parsed(&text);
    assert_eq!(parsed.policies.len(), 1);
    assert_notes(
        &parsed,
        "p.yaml:3: metadata.annotations: warning[inert-setting]: Linkerd takes no annotations of a Service that has a \
         ServiceProfile",
    );
}

#[test]
fn a_profile_comes_before_routes() {
    let route = |parents: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: a}}\nspec: \
             {{hostnames: [x.example], parentRefs: [{parents}], rules: [{{}}]}}\n"
        )
    };
    let web = "{kind: Service, group: '', name: web, port: 80}";
    let alone = parsed(&format!("{PROFILE}{}", route(web)));
    assert_eq!(alone.policies.len(), 1);
    assert_notes(
        &alone,
        "p.yaml:25: spec.parentRefs[0]: warning[inert-setting]: Linkerd takes no routes of a Service that has a ServiceProfile",
    );
    for other in ["{name: edge}", "{kind: Service, group: '', name: other, port: 80}"] {
        let policies = parsed(&format!("{PROFILE}{}", route(&format!("{web}, {other}")))).policies;
        assert_eq!(policies.len(), 2, "{other}");
        assert!(policies[0].to.iter().all(|to| !policies[1].to.contains(to)), "{other}");
    }
}

#[test]
fn each_rule_has_its_message() {
    let budget = |ratio: &str| {
        profile(&format!("{{retryBudget: {{retryRatio: {ratio}, minRetriesPerSecond: 1, ttl: 10s}}}}"))
    };
    let ratio = "retryBudget.retryRatio: expected a number from 0 to 1 with at most two decimals, found";
    let methods: Vec<_> = (0..9).map(|index| format!("{{method: M{index}}}")).collect();
    let nine = format!("{{any: [{}]}}", methods.join(", "));
    for (text, problem) in [
        (budget("0.125"), format!("{ratio} 0.125")),
        (budget("2"), format!("{ratio} 2")),
        (profile("{retryBudget: {}}"), "retryBudget.retryRatio: the field is required".to_owned()),
        (
            profile("{dstOverrides: []}"),
            "dstOverrides: it changes what requests get, and cannot be honoured here".to_owned(),
        ),
        (route(""), "routes[0].condition: the field is required".to_owned()),
        (
            route("condition: {}"),
            "routes[0].condition: one of pathRegex, method, all, any and not is required".to_owned(),
        ),
        (
            route(&format!("condition: {{all: [{nine}, {nine}]}}")),
            "routes[0].condition: there may be at most 64 ways to match".to_owned(),
        ),
        (
            route("condition: {method: GET}, responseClasses: [{condition: {status: {min: 502, max: 501}}}]"),
            "routes[0].responseClasses[0].condition.status: min must not be more than max".to_owned(),
        ),
        (
            route("condition: {method: GET}, responseClasses: [{condition: {}}]"),
            "routes[0].responseClasses[0].condition: one of status, all, any and not is required".to_owned(),
        ),
    ] {
        let found = problems(&text);
        let expected = format!("p.yaml:1: spec.{problem}");
        assert!(found.contains(&expected), "{found:#?}\n{expected}");
    }
    assert_eq!(problems(&budget("2")).len(), 1);
    let many = vec![format!("{{name: r, condition: {nine}}}"); 500].join(", ");
    let found = problems(&profile(&format!("{{routes: [{many}]}}")));
    assert_eq!(found[0], "p.yaml:1: spec.routes[455]: with it there are 4104 routes; there may be 4096");
}
