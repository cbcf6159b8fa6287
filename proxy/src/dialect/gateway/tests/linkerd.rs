//! Linkerd's annotations.

use std::time::Duration;

use super::{assert_notes, parsed, problems, rule, service};
use crate::dialect::Code;
use crate::retry::ConnectRetry;
use crate::retry::request::{Condition, Conditions};

#[test]
fn linkerd_s_annotations_are_read() {
    let text = service(
        "retry.linkerd.io/http: '503,500-501', retry.linkerd.io/grpc: 'unavailable', retry.linkerd.io/limit: '2', \
         retry.linkerd.io/timeout: 300ms, timeout.linkerd.io/request: 3s, timeout.linkerd.io/response: 2s, \
         timeout.linkerd.io/idle: 9s",
    );
    let policy = &parsed(&text).policies[0];
    assert_eq!(policy.to.len(), 4);
    let http = &policy.routes[0].http;
    assert_eq!(http.retry.status_codes.iter().collect::<Vec<_>>(), [500, 501, 503]);
    assert_eq!(
        http.retry.retry_on,
        Conditions::of(&[Condition::RetriableStatusCodes, Condition::Unavailable])
    );
    assert_eq!((http.retry.num_retries, http.max_buffered_body), (2, 65_536));
    assert_eq!(http.retry.per_try_timeout, Some(Duration::from_millis(300)));
    assert_eq!(
        (http.timeout, http.idle_timeout),
        (Some(Duration::from_secs(2)), Some(Duration::from_secs(9)))
    );
    assert!(parsed(&service("other: a")).policies.is_empty());
    let inert = parsed(&service("retry.linkerd.io/limit: '2'")).notes;
    assert!(inert.iter().any(|note| note.code == Code::InertSetting), "{inert:?}");
}

#[test]
fn linkerd_s_time_limits_say_nothing_of_connects() {
    let attempts = |text: &str| parsed(text).policies[0].tcp.max_connect_attempts().get();
    assert_eq!(attempts(&service("timeout.linkerd.io/request: 3s")), 1);
    let with = |annotation: &str, rules: &str| {
        attempts(&rule(rules).replace("{name: a}", &format!("{{name: a, annotations: {{{annotation}}}}}")))
    };
    assert_eq!(with("timeout.linkerd.io/request: 3s", "{}"), 1);
    assert_eq!(with("timeout.linkerd.io/request: 3s", "{retry: {attempts: 1}}"), 2);
    let default = ConnectRetry::default().max_connect_attempts().get();
    assert_eq!(with("retry.linkerd.io/http: 5xx", "{}"), default);
}

#[test]
fn each_annotation_has_its_values() {
    let at = "p.yaml:3: metadata.annotations";
    let codes =
        "expected status codes such as 503, 500-504, gateway-error or 5xx, separated by commas, found";
    for (annotation, problem) in [
        ("retry.linkerd.io/http: '6xx'", format!("[\"retry.linkerd.io/http\"]: {codes} \"6xx\"")),
        ("retry.linkerd.io/http: '504-500'", format!("[\"retry.linkerd.io/http\"]: {codes} \"504-500\"")),
        ("retry.linkerd.io/http: '99'", format!("[\"retry.linkerd.io/http\"]: {codes} \"99\"")),
        ("retry.linkerd.io/http: '600'", format!("[\"retry.linkerd.io/http\"]: {codes} \"600\"")),
        ("retry.linkerd.io/http: '503,'", format!("[\"retry.linkerd.io/http\"]: {codes} \"503,\"")),
        (
            "retry.linkerd.io/grpc: canceled",
            "[\"retry.linkerd.io/grpc\"]: expected some of cancelled, deadline-exceeded, resource-exhausted, internal, \
             unavailable, separated by commas, found \"canceled\""
                .to_owned(),
        ),
        (
            "retry.linkerd.io/limit: '-1'",
            "[\"retry.linkerd.io/limit\"]: expected a whole number from 0 to 4294967295, found \"-1\"".to_owned(),
        ),
        (
            "timeout.linkerd.io/idle: soon",
            "[\"timeout.linkerd.io/idle\"]: expected a duration such as 250ms, 5s or 1m30s, or 0s for none, found \
             \"soon\": a number is missing before `soon`"
                .to_owned(),
        ),
        (
            "retry.linkerd.io/limits: '2'",
            "[\"retry.linkerd.io/limits\"]: there is no such annotation; there are retry.linkerd.io/http, \
             retry.linkerd.io/grpc, retry.linkerd.io/limit, retry.linkerd.io/timeout, timeout.linkerd.io/request, \
             timeout.linkerd.io/response, timeout.linkerd.io/idle"
                .to_owned(),
        ),
    ] {
        assert_eq!(problems(&service(annotation)), [format!("{at}{problem}")], "{annotation}");
    }
    for (annotation, expected) in [
        ("5xx", (500..=599).collect::<Vec<u16>>()),
        ("gateway-error", vec![502, 503, 504]),
        ("500-504, 508", vec![500, 501, 502, 503, 504, 508]),
    ] {
        let parsed = parsed(&service(&format!("retry.linkerd.io/http: '{annotation}'")));
        let codes = &parsed.policies[0].routes[0].http.retry.status_codes;
        assert_eq!(codes.iter().collect::<Vec<_>>(), expected);
    }
}

/// A Service with these annotations, and a route of this kind that hangs on it with those.
fn on_service(of_service: &str, kind: &str, of_route: &str) -> String {
    format!(
        "{}---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: a, annotations: \
         {{{of_route}}}}}\nspec: {{parentRefs: [{{kind: Service, group: '', name: web}}], rules: [{{}}]}}\n",
        service(of_service)
    )
}

#[test]
fn a_route_says_it_instead_of_its_service() {
    let of_service = "retry.linkerd.io/http: '503', retry.linkerd.io/grpc: internal, retry.linkerd.io/limit: '4', \
                      timeout.linkerd.io/request: 9s";
    let says = |kind: &str, of_route: &str| {
        let policies = parsed(&on_service(of_service, kind, of_route)).policies;
        assert_eq!(policies.len(), 2);
        let http = &policies[0].routes[0].http;
        let retries = Some(http.retry.num_retries).filter(|_| !http.retry.retry_on.is_empty());
        (http.retry.retry_on, retries, http.timeout.map(|timeout| timeout.as_secs()))
    };
    let codes = Conditions::of(&[Condition::RetriableStatusCodes]);
    let internal = Conditions::of(&[Condition::Internal]);
    let none = Conditions::default();
    assert_eq!(says("HTTPRoute", ""), (codes, Some(4), Some(9)));
    assert_eq!(says("GRPCRoute", ""), (internal, Some(4), Some(9)));
    // One that is about retries takes the place of all that are, and leaves those about timeouts.
    assert_eq!(says("HTTPRoute", "retry.linkerd.io/http: 5xx"), (codes, Some(1), Some(9)));
    assert_eq!(says("HTTPRoute", "retry.linkerd.io/limit: '9'"), (none, None, Some(9)));
    assert_eq!(says("HTTPRoute", "timeout.linkerd.io/idle: 1s"), (codes, Some(4), None));
    // Where it is said is the Service's line.
    let parsed = parsed(&on_service(of_service, "HTTPRoute", "timeout.linkerd.io/idle: 1s"));
    let lines = |setting| parsed.policies[0].routes[0].sources.place(setting).map(|place| place.line);
    assert_eq!(lines(crate::policy::Setting::NumRetries), Some(3));
    assert_eq!(lines(crate::policy::Setting::IdleTimeout), Some(8));
}

#[test]
fn an_annotation_that_linkerd_does_not_look_for_does_nothing() {
    for (kind, annotation, name) in [
        ("HTTPRoute", "retry.linkerd.io/grpc: internal", "grpc"),
        ("GRPCRoute", "retry.linkerd.io/http: '503'", "http"),
    ] {
        let parsed = parsed(&on_service("", kind, annotation));
        assert!(parsed.policies[0].routes[0].http.retry.retry_on.is_empty());
        assert_notes(
            &parsed,
            &format!(
                "p.yaml:8: metadata.annotations[\"retry.linkerd.io/{name}\"]: warning[inert-setting]: Linkerd does not look \
                 for it on an object of kind {kind}"
            ),
        );
    }
}

#[test]
fn linkerd_s_own_route_is_read() {
    let text = rule("{timeouts: {request: 3s}}")
        .replace("gateway.networking.k8s.io/v1", "policy.linkerd.io/v1beta3");
    assert_eq!(parsed(&text).policies[0].routes[0].http.timeout, Some(Duration::from_secs(3)));
}
