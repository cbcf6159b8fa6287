//! The documents as they are written, and what becomes of them.

mod rules;
mod split;

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use crate::dialect::{Code, Parsed, parse};
use crate::policy::{Address, Destination, Policy, Protocol, Rest, Route, Setting, TargetAddress};
use crate::retry::request::{Condition, Conditions, HostSelection, Methods, StatusCodes};

const FULL: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: shop
spec:
  hosts: [reviews, '*.reviews.example', pay.bank.svc.cluster.local]
  gateways: [mesh, edge]
  exportTo: ['.']
  http:
  - name: canary
    match:
    - uri: {prefix: /V2}
      ignoreUriCase: true
      method: {exact: GET}
      headers: {x-user: {regex: 'a.*'}, x-there: {}}
      queryParams: {v: {exact: '2'}}
      gateways: [mesh]
    - name: other
      withoutHeaders: {x-old: {exact: yes-it-is}}
    route:
    - destination: {host: reviews-v2, port: {number: 9080}}
      weight: 10
    - destination: {host: reviews}
      weight: 90
    retries:
      attempts: 3
      perTryTimeout: 2s
      retryOn: 'connect-failure, 503,gateway-error,oops'
      retryRemoteLocalities: true
      retryIgnorePreviousHosts: false
      backoff: 50ms
    timeout: 10s
    mirror: {host: shadow}
  - route:
    - destination: {host: reviews, subset: v1}
    - destination: {host: reviews, subset: v2}
      weight: 1
  tcp:
  - route:
    - destination: {host: db.example.com, port: {number: 5432}}
  tls:
  - match: [{sniHosts: [a.example]}]
status: {}
";

fn parsed(text: &str) -> Parsed {
    parse(Path::new("p.yaml"), text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
}

fn problems(text: &str) -> Vec<String> {
    let problems = parse(Path::new("p.yaml"), text).unwrap_err();
    problems.iter().map(|problem| problem.to_string().replace("p.yaml:1: ", "")).collect()
}

/// On one line.
fn document(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1beta1, kind: VirtualService, metadata: {{name: a, namespace: shop}}, spec: {spec}}}"
    )
}

fn entry(rest: &str) -> String {
    document(&format!("{{hosts: [a], http: [{{route: [{{destination: {{host: a}}}}], {rest}}}]}}"))
}

fn policy(text: &str) -> Policy {
    let mut policies = parsed(text).policies;
    assert_eq!(policies.len(), 1);
    policies.remove(0)
}

fn notes(text: &str) -> Vec<(Code, String)> {
    parsed(text).notes.into_iter().map(|note| (note.code, note.field)).collect()
}

fn only(text: &str) -> Route {
    let mut routes = policy(text).routes;
    assert_eq!(routes.len(), 1);
    routes.remove(0)
}

fn host(name: &str, port: Option<u16>) -> TargetAddress {
    let port = port.map(|port| port.try_into().unwrap());
    TargetAddress::Host { host: name.parse().unwrap(), port }
}

fn names(to: &[Destination]) -> Vec<String> {
    let name = |destination: &Destination| match &destination.address {
        Address::Host(host) => host.to_string(),
        other => format!("{other:?}"),
    };
    to.iter().map(name).collect()
}

#[test]
fn a_full_document() {
    let policy = policy(FULL);
    assert_eq!(policy.name.to_string(), "VirtualService/shop/reviews");
    let names = names(&policy.to);
    assert_eq!(names[..4], ["reviews", "reviews.shop", "reviews.shop.svc", "reviews.shop.svc.cluster.local"]);
    assert_eq!(policy.to[4].address, Address::Suffix("*.reviews.example".parse().unwrap()));
    assert_eq!(names[5..], ["pay.bank", "pay.bank.svc", "pay.bank.svc.cluster.local"]);
    assert_eq!((policy.protocol, policy.rest), (Protocol::Auto, Rest::GoesOn));
    let namespaces: Vec<_> = policy.from.iter().map(|from| from.namespace.as_deref()).collect();
    assert_eq!(namespaces, [Some("shop")]);
    assert_eq!(policy.targets[0].address, host("db.example.com", Some(5432)));
    assert_eq!(policy.tcp, policy.routes[0].http.connect_retry());

    let routes: Vec<_> = policy
        .routes
        .iter()
        .map(|route| (&*route.name, route.precedence.among_all, route.precedence.within))
        .collect();
    let expected = [("canary.match[0]", 0), ("canary.match[1]", 1), ("canary.match[1]", 2), ("http[1]", 3)];
    assert_eq!(routes, expected.map(|(name, within)| (name, [0; 5], within)));

    let first = &policy.routes[0];
    let targets: Vec<_> =
        first.targets.iter().map(|target| (&*target.name, target.weight, target.address.clone())).collect();
    let elsewhere = host("reviews-v2.shop.svc.cluster.local", Some(9080));
    assert_eq!(targets, [("reviews-v2", 10, elsewhere), ("reviews", 90, TargetAddress::Original)]);
    assert!(policy.routes[3].targets.is_empty());

    let http = &first.http;
    let on = [Condition::ConnectFailure, Condition::RetriableStatusCodes, Condition::GatewayError];
    assert_eq!(http.retry.retry_on, Conditions::of(&on));
    assert_eq!(http.retry.status_codes, StatusCodes::try_new([503]).unwrap());
    assert_eq!((http.retry.num_retries, http.retry.methods.clone()), (3, Methods::Any));
    assert_eq!(http.retry.per_try_timeout, Some(Duration::from_secs(2)));
    assert_eq!(http.retry.hosts, HostSelection { avoid_previous: false, max_attempts: 5 });
    let backoff = http.retry.backoff;
    assert_eq!((backoff.base(), backoff.max()), (Duration::from_millis(50), Duration::from_millis(500)));
    assert_eq!(http.timeout, Some(Duration::from_secs(10)));

    let told: Vec<_> = notes(FULL);
    for (code, field) in [
        (Code::Ignored, "spec.gateways"),
        (Code::Ignored, "spec.tls"),
        (Code::Ignored, "spec.http[0].mirror"),
        (Code::Ignored, "spec.http[0].retries.retryRemoteLocalities"),
        (Code::InertSetting, "spec.http[0].retries.retryOn"),
        (Code::Ignored, "spec.http[1].route"),
        (Code::Ignored, "spec.http[1].route[0].destination.subset"),
        (Code::Ignored, "spec.http[1].route[1].destination.subset"),
    ] {
        assert!(told.contains(&(code, field.to_owned())), "{code:?} {field}: {told:?}");
    }
}

#[test]
fn matches_take_what_they_say() {
    let routes = policy(FULL).routes;
    let taken = |headers: &[(&str, &str)]| {
        let matches = routes.iter().map(|route| route.matcher.matches(headers));
        matches.take(3).collect::<Vec<_>>()
    };
    let request = |method, path, more: &[(&'static str, &'static str)]| {
        [&[(":method", method), (":path", path)], more].concat()
    };
    let sent = [("x-user", "ab"), ("x-there", "")];
    assert_eq!(taken(&request("GET", "/v2/a?v=2", &sent)), [true, true, false]);
    assert_eq!(taken(&request("PUT", "/v2/a?v=2", &sent)), [false, true, false]);
    assert_eq!(taken(&request("GET", "/v2/a?v=3", &sent)), [false, true, false]);
    assert_eq!(taken(&request("GET", "/v2/a?v=2", &sent[..1])), [false, true, false]);
    assert_eq!(taken(&request("GET", "/v1", &[("x-old", "yes-it-is")])), [false, false, false]);
    assert_eq!(taken(&request("GET", "/v1", &[("x-old", "no")])), [false, false, true]);
    // What an absent header would match as an empty one needs no second route.
    for (without, routes) in [("{exact: ''}", 1), ("{regex: '.*'}", 1), ("{}", 1), ("{prefix: a}", 2)] {
        let text = entry(&format!("match: [{{withoutHeaders: {{x-a: {without}}}}}]"));
        assert_eq!(policy(&text).routes.len(), routes, "{without}");
    }
}

#[test]
fn what_is_left_out_is_istios_default() {
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let text = entry("").replace("v1beta1", version);
        let Route { name, matcher, http, targets, sources, .. } = only(&text);
        assert_eq!(&*name, "http[0]");
        assert!(matcher.is_any() && targets.is_empty());
        let on = [
            Condition::ConnectFailure,
            Condition::RefusedStream,
            Condition::Unavailable,
            Condition::Cancelled,
        ];
        assert_eq!(http.retry.retry_on, Conditions::of(&on));
        assert!(http.retry.status_codes.is_empty());
        assert_eq!((http.retry.num_retries, http.timeout, http.retry.per_try_timeout), (2, None, None));
        assert_eq!(http.retry.hosts, HostSelection { avoid_previous: true, max_attempts: 5 });
        assert_eq!(http.retry.methods, Methods::Any);
        assert!(!sources.is_said(Setting::NumRetries));
        assert!(sources.place(Setting::NumRetries).is_some());
    }
}

#[test]
fn no_attempts_are_no_retries() {
    for retries in ["{attempts: 0, retryOn: 5xx, perTryTimeout: 1s}", "{retryOn: 5xx, perTryTimeout: 1s}"] {
        let text = entry(&format!("timeout: 0s, retries: {retries}"));
        let http = only(&text).http;
        assert_eq!((http.retry.num_retries, http.retry.retry_on), (0, Conditions::default()));
        assert_eq!((http.timeout, http.retry.per_try_timeout), (None, None));
        let inert = notes(&text).into_iter().filter(|(code, _)| *code == Code::InertSetting).count();
        assert_eq!(inert, 2);
    }
}

#[test]
fn status_codes_imply_their_condition() {
    let http = only(&entry("retries: {attempts: 1, retryOn: 503}")).http;
    assert_eq!(http.retry.retry_on, Conditions::of(&[Condition::RetriableStatusCodes]));
    assert!(http.retry.status_codes.contains(503) && !http.retry.status_codes.contains(502));
}

#[test]
fn destinations_are_told_from_the_document() {
    let spec = |destination: &str| {
        document(&format!(
            "{{hosts: [a, b.example.com], http: [{{route: [{{weight: 0, destination: {destination}}}]}}]}}"
        ))
    };
    for (destination, expected) in [
        ("{host: a}", None),
        ("{host: a.shop.svc.cluster.local}", None),
        ("{host: b.example.com}", None),
        ("{host: a, port: {number: 81}}", Some(host("a.shop.svc.cluster.local", Some(81)))),
        ("{host: c}", Some(host("c.shop.svc.cluster.local", None))),
        ("{host: c.example.com, port: {number: 80}}", Some(host("c.example.com", Some(80)))),
    ] {
        let targets = only(&spec(destination)).targets;
        let found: Vec<_> = targets.iter().map(|target| (target.weight, target.address.clone())).collect();
        assert_eq!(
            found,
            expected.map(|address| (1, address)).into_iter().collect::<Vec<_>>(),
            "{destination}"
        );
    }
    let text = spec("{host: c}").replace(", namespace: shop", "");
    assert!(only(&text).targets.is_empty());
    let unresolved = (Code::UnresolvedTarget, "spec.http[0].route[0].destination.host".to_owned());
    assert!(notes(&text).contains(&unresolved));
}

#[test]
fn hosts_may_be_everything_or_a_network() {
    let to = |hosts: &str| {
        policy(&document(&format!("{{hosts: {hosts}, http: [{{route: [{{destination: {{host: a}}}}]}}]}}")))
            .to
    };
    assert_eq!(to("['*']"), [Destination { address: Address::Any, port: None }]);
    assert_eq!(to("[10.0.0.0/8]")[0].address, Address::Network("10.0.0.0/8".parse().unwrap()));
    // Only in its own namespace a Service has its shortest name.
    assert_eq!(to("[a.shop.svc.cluster.local]").len(), 4);
    assert_eq!(to("[a.other.svc.cluster.local]").len(), 3);
    assert_eq!(names(&to("[a.b.c.svc.cluster.local]")), ["a.b.c.svc.cluster.local"]);
}

#[test]
fn connections_go_to_a_single_destination() {
    let tcp = |tcp: &str| document(&format!("{{hosts: [a], tcp: {tcp}}}"));
    let one = tcp("[{route: [{destination: {host: b}}]}]");
    let policy_of_one = policy(&one);
    assert_eq!(policy_of_one.protocol, Protocol::Tcp);
    assert_eq!(policy_of_one.targets[0].address, host("b.shop.svc.cluster.local", None));
    assert!(notes(&one).is_empty());
    for several in [
        "[{route: [{destination: {host: b}, weight: 1}, {destination: {host: c}, weight: 1}]}]",
        "[{match: [{port: 1}], route: [{destination: {host: b}}]}]",
        "[{route: [{destination: {host: b}}]}, {route: [{destination: {host: b}}]}]",
    ] {
        let text = tcp(several);
        assert!(policy(&text).targets.is_empty(), "{several}");
        assert!(notes(&text).contains(&(Code::Ignored, "spec.tcp".to_owned())), "{several}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let changed = "it changes what requests get, and cannot be honoured here";
    for field in ["redirect", "directResponse", "rewrite", "delegate", "fault", "headers"] {
        let text = entry(&format!("{field}: {{}}"));
        assert_eq!(problems(&text), [format!("spec.http[0].{field}: {changed}")]);
    }
    // The usual redirect has no route; that is no second problem.
    let text = document("{hosts: [a], http: [{redirect: {uri: /}}]}");
    assert_eq!(problems(&text), [format!("spec.http[0].redirect: {changed}")]);
    let text = document("{hosts: [a], http: [{route: [{destination: {host: a}, headers: {}}]}]}");
    assert_eq!(problems(&text), [format!("spec.http[0].route[0].headers: {changed}")]);
}

#[test]
fn each_rule_has_its_message() {
    for (rest, expected) in [
        ("match: [{port: 0}]", "match[0].port: expected a whole number from 1 to 65535, found 0"),
        (
            "match: [{sourceLabels: {a: 1}}]",
            "match[0].sourceLabels.a: expected text, in quotes where it looks like something else, found 1",
        ),
        ("match: [{sourceNamespace: [a]}]", "match[0].sourceNamespace: expected text, found a list"),
        ("match: [{uri: {}}]", "match[0].uri: one of exact, prefix and regex is required"),
        (
            "match: [{uri: {exact: /a, prefix: /b}}]",
            "match[0].uri.prefix: exact, prefix and regex exclude each other; there may be one of them",
        ),
        (
            "match: [{headers: {uri: {exact: /a}}}]",
            "match[0].headers.uri: Istio ignores uri here; it belongs beside headers, in the match itself",
        ),
        (
            "match: [{headers: {'a b': {}}}]",
            "match[0].headers[\"a b\"]: \"a b\" is no name of a header, such as x-retry",
        ),
        (
            "match: [{withoutHeaders: {a: {}, b: {}, c: {}, d: {}, e: {}}}]",
            "match[0].withoutHeaders: 5 headers are too many; there may be 4",
        ),
        ("match: []", "match: the list is empty; leave the field out for its default"),
        (
            "retries: {attempts: -1}",
            "retries.attempts: expected a whole number from 0 to 2147483647, found -1",
        ),
        (
            "retries: {attempts: 1, perTryTimeout: 0s}",
            "retries.perTryTimeout: expected a duration of more than 0, such as 250ms, 5s or 1m30s, found \"0s\": it is zero",
        ),
        (
            "retries: {attempts: 1, retryOn: [503]}",
            "retries.retryOn: expected conditions and status codes, separated by commas, found a list",
        ),
        (
            "retries: {attempts: 1, retryIgnorePreviousHosts: x}",
            "retries.retryIgnorePreviousHosts: expected true or false, found \"x\"",
        ),
    ] {
        assert_eq!(problems(&entry(rest)), [format!("spec.http[0].{expected}")], "{rest}");
    }
    for (spec, expected) in [
        ("{hosts: [a]}", "spec: at least one of http, tcp and tls is required"),
        ("{http: []}", "spec.hosts: the field is required"),
        ("{hosts: [a], tls: [1]}", "spec.tls[0]: expected a map, found 1"),
        (
            "{hosts: [a], tcp: [{match: 1, route: [{destination: {host: a}}]}]}",
            "spec.tcp[0].match: expected a list, found 1",
        ),
        ("{hosts: [a], http: [{}]}", "spec.http[0].route: the field is required"),
        (
            "{hosts: [a], http: [{route: [{destination: {host: b}}, {destination: {host: c}}]}]}",
            "spec.http[0]: no destination has a weight of more than 0",
        ),
        (
            "{hosts: [a], http: [{route: [{destination: {host: b, port: {number: 0}}}]}]}",
            "spec.http[0].route[0].destination.port.number: expected a whole number from 1 to 65535, found 0",
        ),
    ] {
        assert_eq!(problems(&document(spec)), [expected], "{spec}");
    }
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-zA-Z.:/*-]{0,12}",
        "-?[0-9]{1,25}",
        "[0-9]{1,3}(ms|s|h)",
        "\\[[a-z0-9-]{0,12}\\]",
        Just("{}".to_owned()),
        Just("\"a\\nb\"".to_owned()),
        "\\{(exact|prefix|regex): '[a-z(+*/\\[]{0,8}'\\}",
        "\\{[a-z-]{1,8}: \\{(exact|prefix|regex): '[a-z(+*/\\[]{0,8}'\\}\\}",
        "\\[\\{destination: \\{host: [a-z.]{1,8}\\}, weight: [0-9]{1,8}\\}\\]",
    ]
}

proptest! {
    /// Whatever the fields hold, there is a policy or a problem, and each is told on one line.
    #[test]
    fn no_value_is_too_much(values in proptest::collection::vec(any_value(), 20)) {
        let v = |index: usize| values[index].as_str();
        let texts = [
            entry(&format!(
                "match: [{{uri: {}, method: {}, headers: {}, withoutHeaders: {}, queryParams: {}, ignoreUriCase: {}}}]",
                v(0), v(1), v(2), v(3), v(4), v(5)
            )),
            entry(&format!(
                "retries: {{attempts: {}, perTryTimeout: {}, retryOn: {}, backoff: {}}}, timeout: {}",
                v(6), v(7), v(8), v(9), v(10)
            )),
            document(&format!("{{hosts: [{}], http: [{{route: {}}}]}}", v(11), v(12))),
            document(&format!("{{hosts: [a], http: [{{name: {}, route: {}, match: {}}}]}}", v(13), v(14), v(15))),
            document(&format!("{{hosts: [a], tcp: [{{route: {}}}], gateways: {}}}", v(16), v(17))),
            document(v(18)),
            entry(&format!("match: [{{headers: {}}}]", v(19))),
        ];
        for text in texts {
            match parse(Path::new("p.yaml"), &text) {
                Ok(parsed) => {
                    prop_assert_eq!(parsed.policies.len(), 1);
                    for note in parsed.notes {
                        prop_assert!(!note.to_string().contains('\n'), "{}", note);
                    }
                }
                Err(problems) => {
                    prop_assert!(!problems.is_empty());
                    for problem in problems {
                        prop_assert!(!problem.to_string().contains('\n'), "{}", problem);
                    }
                }
            }
        }
    }
}
