//! The documents as they are written, and what becomes of them.

mod attached;
mod linkerd;
mod matches;
mod profile;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::dialect::{Code, Options, Parsed, parse, parse_all_with};
use crate::policy::{AddedHeaders, Address, Setting, TargetAddress};
use crate::retry::request::{Condition, Conditions};

const OPTION: &str = "
apiVersion: gateway.kgateway.dev/v1alpha1
kind: RouteOption
metadata:
  name: retry
  namespace: httpbin
spec:
  options:
    retries:
      retryOn: 'connect-failure'
      numRetries: 3
      perTryTimeout: '5s'
";

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: httpbin-retry
  namespace: httpbin
spec:
  parentRefs:
  - name: http
    namespace: kgateway-system
  hostnames:
    - retry.example
  rules:
    - filters:
        - type: ExtensionRef
          extensionRef:
            group: gateway.solo.io
            kind: RouteOption
            name: retry
      backendRefs:
        - name: httpbin
          port: 8000
";

fn parsed(text: &str) -> Parsed {
    parse(Path::new("p.yaml"), text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
}

fn problems(text: &str) -> Vec<String> {
    let problems = parse(Path::new("p.yaml"), text).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

fn rule(rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: a}}\nspec: {{parentRefs: [{{kind: \
         Service, group: '', name: web, port: 80}}], rules: [{rule}]}}\n"
    )
}

#[test]
fn the_documents_of_kgateway_belong_together() {
    let Parsed { policies, notes } = parsed(&format!("{OPTION}---{ROUTE}"));
    assert_eq!(policies.len(), 1);
    let policy = &policies[0];
    assert_eq!(policy.name.to_string(), "HTTPRoute/httpbin/httpbin-retry");
    assert_eq!(policy.to.len(), 1);
    assert_eq!(policy.tcp.max_connect_attempts().get(), 4);
    let http = &policy.routes[0].http;
    assert_eq!(http.retry.retry_on, Conditions::of(&[Condition::ConnectFailure]));
    assert_eq!(http.retry.num_retries, 3);
    assert_eq!(http.retry.per_try_timeout, Some(Duration::from_secs(5)));
    assert_eq!(http.timeout, Some(Duration::from_secs(15)));
    assert_eq!(http.added_headers, AddedHeaders::Envoy);
    assert!(policy.routes[0].targets.is_empty());
    assert!(notes.iter().any(|note| note.code == Code::UnresolvedTarget), "{notes:?}");
}

#[test]
fn each_document_works_alone() {
    let Parsed { policies, notes } = parsed(OPTION);
    assert!(policies[0].to.is_empty());
    assert_eq!(policies[0].routes[0].http.retry.num_retries, 3);
    assert!(notes.iter().any(|note| note.code == Code::AppliesEverywhere), "{notes:?}");
    assert_eq!(parsed(ROUTE).policies[0].routes[0].http.retry.num_retries, 0);
}

#[test]
fn a_rule_says_how_it_is_retried() {
    let text = rule(
        "{retry: {codes: [503], attempts: 2, backoff: 100ms}, timeouts: {request: 3s, backendRequest: 1s}}",
    );
    let policy = &parsed(&text).policies[0];
    assert_eq!(policy.to.len(), 1);
    let http = &policy.routes[0].http;
    assert!(http.retry.status_codes.contains(503) && !http.retry.status_codes.contains(500));
    assert_eq!((http.retry.num_retries, http.timeout), (2, Some(Duration::from_secs(3))));
    assert_eq!(http.retry.per_try_timeout, Some(Duration::from_secs(1)));
    assert_eq!(http.added_headers, AddedHeaders::None);
}

#[test]
fn what_is_wrong_is_told() {
    let at = "p.yaml:4: spec.rules";
    for (text, problem) in [
        ("{retry: {codes: [399]}}", "[0].retry.codes[0]: expected a whole number from 400 to 599, found 399"),
        (
            "{retry: {attempts: -1}}",
            "[0].retry.attempts: expected a whole number from 0 to 4294967295, found -1",
        ),
        ("{name: a}, {name: b}, {name: a}", "[2].name: another rule is named \"a\""),
        (
            "{timeouts: {request: 1s, backendRequest: 2s}}",
            "[0].timeouts.backendRequest: it must not be longer than request",
        ),
        ("{backendRefs: [{name: a, weight: 0}]}", "[0]: no backend has a weight of more than 0"),
    ] {
        assert_eq!(problems(&rule(text)), [format!("{at}{problem}")]);
    }
}

/// A route of this name, a rule of which is named `pay`.
const NAMED: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: a}
spec:
  parentRefs: [{name: edge}]
  hostnames: [shop.example]
  rules:
  - name: pay
    matches: [{path: {type: PathPrefix, value: /pay}}]
  - matches: [{path: {type: Exact, value: /pay}, method: POST, headers: [{name: x-a, value: b}]}]
";

fn traffic_policy(name: &str, target: &str, attempts: u32) -> String {
    format!(
        "---\napiVersion: gateway.kgateway.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: \
         a}}\nspec:\n  targetRefs: [{{group: gateway.networking.k8s.io, {target}}}]\n  retry: {{retryOn: [reset], \
         attempts: {attempts}, statusCodes: [503]}}\n"
    )
}

#[test]
fn the_more_specific_traffic_policy_wins() {
    let section = traffic_policy("section", "kind: HTTPRoute, name: shop, sectionName: pay", 5);
    let route = traffic_policy("route", "kind: HTTPRoute, name: shop", 4);
    let gateway = traffic_policy("gateway", "kind: Gateway, name: edge", 3);
    let retries = |others: &[&str]| {
        let policies = parsed(&format!("{NAMED}{}", others.concat())).policies;
        assert_eq!(policies.len(), 1);
        policies[0].routes.iter().map(|route| route.http.retry.num_retries).collect::<Vec<_>>()
    };
    assert_eq!(retries(&[&gateway, &route, &section]), [5, 4]);
    assert_eq!(retries(&[&gateway, &section]), [5, 3]);
    assert_eq!(retries(&[]), [0, 0]);
    let on = parsed(&format!("{NAMED}{gateway}")).policies[0].routes[0].http.retry.retry_on;
    assert_eq!(on, Conditions::of(&[Condition::Reset, Condition::RetriableStatusCodes]));
}

#[test]
fn an_exact_path_comes_before_a_prefix() {
    let routes = &parsed(NAMED).policies[0].routes;
    assert_eq!((&*routes[0].name, &*routes[1].name), ("pay", "rules[1]"));
    assert!(routes[1].precedence < routes[0].precedence);
}

fn service(annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: a, annotations: {{{annotations}}}}}\nspec: {{}}\n"
    )
}

#[test]
fn a_budget_is_its_service_s() {
    let budget = "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: \
                  b}\nspec: {targetRefs: [{group: '', kind: Service, name: web}], retryConstraint: {budget: {percent: \
                  40, interval: 20s}, minRetryRate: {count: 10, interval: 2s}}}\n";
    for text in [format!("{}{budget}", rule("{}")), budget.to_owned()] {
        let policies = parsed(&text).policies;
        assert_eq!(policies.len(), 1);
        let budget = policies[0].budget;
        assert_eq!((budget.percent(), budget.min_per_second(), budget.interval().as_secs()), (40, 5, 20));
    }
}

#[test]
fn a_grpc_route_is_for_grpc() {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: g, annotations: \
                {retry.linkerd.io/grpc: internal}}\nspec: {hostnames: ['*.x.example'], rules: [{matches: [{method: \
                {service: a.B, method: C}}, {method: {method: C}}]}]}\n";
    let routes = &parsed(text).policies[0].routes;
    let grpc = |path| [(":path", path), ("content-type", "application/grpc")];
    assert!(routes[0].matcher.matches(&grpc("/a.B/C")[..]));
    assert!(!routes[0].matcher.matches(&grpc("/aaB/C")[..]));
    assert!(!routes[0].matcher.matches(&[(":path", "/a.B/C")][..]));
    assert!(routes[1].matcher.matches(&grpc("/z/C")[..]) && !routes[1].matcher.matches(&grpc("/z/D")[..]));
    assert_eq!(routes[0].http.retry.retry_on, Conditions::of(&[Condition::Internal]));
}

#[test]
fn targets_are_those_that_a_document_resolves() {
    let refs = "{backendRefs: [{group: networking.istio.io, kind: Hostname, name: b.example, port: 81, weight: 3}, {name: w, weight: 0}]}";
    let targets = &parsed(&rule(refs)).policies[0].routes[0].targets;
    assert_eq!(targets.iter().map(|target| target.weight).collect::<Vec<_>>(), [3, 0]);
}

#[test]
fn what_would_change_requests_is_refused() {
    let found = problems(&rule("{filters: [{type: URLRewrite, urlRewrite: {hostname: a}}]}"));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("p.yaml:4: spec.rules[0].filters[0].type: expected ExtensionRef, RequestMirror")
    );
    let notes = parsed(&rule("{filters: [{type: RequestMirror, requestMirror: {}}]}")).notes;
    assert!(notes.iter().any(|note| note.code == Code::Ignored), "{notes:?}");
}

#[test]
fn there_may_be_only_so_much() {
    let many = |item: &str, count: usize| format!("[{}]", vec![item; count].join(", "));
    let limit = |field: &str, max: usize, found: usize| {
        format!("p.yaml:4: spec.{field}: the list may have at most {max} items, and has {found}")
    };
    let spec = |spec: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: a}}\nspec: {{{spec}}}\n"
        )
    };
    let matches = |count| many("{path: {value: /a}}", count);
    for (text, problem) in [
        (spec(&format!("hostnames: {}", many("a.example", 17))), limit("hostnames", 16, 17)),
        (spec(&format!("rules: {}", many("{}", 17))), limit("rules", 16, 17)),
        (spec(&format!("parentRefs: {}", many("{name: a}", 33))), limit("parentRefs", 32, 33)),
        (rule(&format!("{{matches: {}}}", matches(65))), limit("rules[0].matches", 64, 65)),
        (
            rule(&format!("{{filters: {}}}", many("{type: RequestMirror}", 17))),
            limit("rules[0].filters", 16, 17),
        ),
        (rule(&format!("{{backendRefs: {}}}", many("{name: a}", 17))), limit("rules[0].backendRefs", 16, 17)),
        (
            rule(&format!("{{matches: [{{headers: {}}}]}}", many("{name: a, value: b}", 17))),
            limit("rules[0].matches[0].headers", 16, 17),
        ),
        (
            rule(&format!("{{matches: [{{queryParams: {}}}]}}", many("{name: a, value: b}", 17))),
            limit("rules[0].matches[0].queryParams", 16, 17),
        ),
        (
            spec(&format!("rules: [{{matches: {}}}, {{matches: {}}}, {{}}]", matches(64), matches(64))),
            "p.yaml:4: spec.rules: the rules may have at most 128 matches together, and have 129".to_owned(),
        ),
    ] {
        assert_eq!(problems(&text), [problem]);
    }
    let all = spec(&format!("rules: {}", many(&format!("{{matches: {}}}", matches(64)), 2)));
    assert_eq!(parsed(&all).policies[0].routes.len(), 128);
}

#[test]
fn a_target_that_is_not_there_does_not_become_everything() {
    for (target, problem) in [
        ("kind: HTTPRoute, name: shp", "name: no document is or names the HTTPRoute \"shp\""),
        ("kind: GRPCRoute, name: shop", "name: no document is or names the GRPCRoute \"shop\""),
        ("kind: Gateway, name: egde", "name: no document is or names the Gateway \"egde\""),
        (
            "kind: HTTPRoute, name: shop, sectionName: pya",
            "sectionName: no rule of \"shop\" is named \"pya\"",
        ),
        (
            "kind: Gateway, name: edge, sectionName: https",
            "sectionName: there are no listeners here; leave it out to mean the whole Gateway",
        ),
        (
            "kind: HTTPRoute, name: shop}, {kind: HTTPRoute, name: other",
            "name: no document is or names the HTTPRoute \"other\"",
        ),
    ] {
        let index = usize::from(target.contains('}'));
        let found = problems(&format!("{NAMED}{}", traffic_policy("t", target, 2)));
        assert_eq!(found, [format!("p.yaml:17: spec.targetRefs[{index}].{problem}")]);
    }
    let option = format!(
        "{NAMED}---{}",
        OPTION.replace("spec:", "spec:\n  targetRefs: [{kind: HTTPRoute, name: shop}]")
    );
    assert_eq!(
        problems(&option),
        ["p.yaml:19: spec.targetRefs[0].name: no document is or names the HTTPRoute \"shop\""]
    );
    let alone = parsed(&traffic_policy("t", "kind: HTTPRoute, name: shop", 2));
    assert_eq!(alone.policies.len(), 1);
    assert_eq!(
        alone.notes.iter().filter(|note| note.code == Code::AppliesEverywhere).count(),
        1,
        "{:?}",
        alone.notes
    );
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: other, namespace: a}\nspec: {}\n";
    let unused = parsed(&format!("{NAMED}{gateway}{}", traffic_policy("t", "kind: Gateway, name: other", 2)));
    assert_eq!(unused.policies.len(), 1);
    assert_notes(
        &unused,
        "p.yaml:20: metadata.name: warning[inert-setting]: no route here refers to it, and none hangs on a target of it, so it \
         applies to nothing",
    );
}

fn assert_notes(parsed: &Parsed, note: &str) {
    let notes: Vec<_> = parsed.notes.iter().map(ToString::to_string).collect();
    assert!(notes.iter().any(|known| known == note), "{notes:#?}");
}

#[test]
fn hostnames_are_not_for_services() {
    let text = rule("{}").replace("spec: {", "spec: {hostnames: [a.example], ");
    let parsed = parsed(&text);
    assert_eq!(parsed.policies[0].to.len(), 1);
    assert_notes(
        &parsed,
        "p.yaml:4: spec.hostnames: warning[ignored]: hostnames do not narrow what is sent to a Service that the route \
         hangs on",
    );
}

#[test]
fn what_is_no_service_is_told_by_hostnames() {
    for kind in ["Gateway", "ListenerSet", "XListenerSet", "EgressNetwork", "ServiceEntry"] {
        let text = rule("{}")
            .replace("spec: {", "spec: {hostnames: [a.example], ")
            .replace("[{kind: Service", &format!("[{{kind: {kind}, name: x}}, {{kind: Service"));
        assert_eq!(parsed(&text).policies[0].to.len(), 2, "{kind}");
    }
    assert_eq!(
        problems(&rule("{}").replace("kind: Service", "kind: Server")),
        [
            "p.yaml:4: spec.parentRefs[0].kind: expected one of Gateway, Service, ListenerSet, XListenerSet, EgressNetwork, \
             ServiceEntry, found \"Server\""
        ]
    );
}

#[test]
fn how_to_retry_is_taken_as_a_whole() {
    let section = traffic_policy("section", "kind: HTTPRoute, name: shop, sectionName: pay", 5);
    let route = traffic_policy("route", "kind: HTTPRoute, name: shop", 4)
        .replace("statusCodes: [503]", "statusCodes: [503], perTryTimeout: 7s, backoffBaseInterval: 1s");
    let routes = &parsed(&format!("{NAMED}{route}{section}")).policies[0].routes;
    let [pay, other] = [&routes[0], &routes[1]];
    assert_eq!((pay.http.retry.num_retries, pay.http.retry.per_try_timeout), (5, None));
    assert_eq!(other.http.retry.per_try_timeout, Some(Duration::from_secs(7)));
    let line =
        |index: usize, setting| routes[index].sources.place(setting).map(|place| (place.line, place.is_said));
    assert_eq!(line(0, Setting::NumRetries), Some((25, true)));
    assert_eq!(line(0, Setting::PerTryTimeout), Some((25, false)));
    assert_eq!(line(0, Setting::Backoff), Some((25, false)));
    assert_eq!(line(1, Setting::PerTryTimeout), Some((18, true)));
    // What the rule itself says of each try is more specific than a policy that is attached to it.
    let named = NAMED.replace("- name: pay", "- name: pay\n    timeouts: {backendRequest: 2s}");
    let pay = &parsed(&format!("{named}{route}")).policies[0].routes[0];
    assert_eq!(
        (pay.http.retry.num_retries, pay.http.retry.per_try_timeout),
        (4, Some(Duration::from_secs(2)))
    );
    let place = pay.sources.place(Setting::PerTryTimeout).map(|place| place.field.clone());
    assert_eq!(place.as_deref(), Some("spec.rules[0].timeouts.backendRequest"));
}

#[test]
fn what_a_filter_refers_to_says_how_long_a_try_takes() {
    let route = ROUTE.replace("    - filters:", "    - timeouts: {backendRequest: 2s}\n      filters:");
    let parsed = parsed(&format!("{OPTION}---{route}"));
    assert_eq!(parsed.policies[0].routes[0].http.retry.per_try_timeout, Some(Duration::from_secs(5)));
    assert_notes(
        &parsed,
        "p.yaml:26: spec.rules[0].timeouts.backendRequest: warning[inert-setting]: the document that the rule's filter \
         refers to says how requests are retried, and how long each try may take",
    );
}

#[test]
fn services_are_not_split_by_weight() {
    let refs = |first: &str, second: &str| rule(&format!("{{backendRefs: [{{{first}}}, {{{second}}}]}}"));
    assert_eq!(
        problems(&refs("name: v1, weight: 90", "name: v2, weight: 10")),
        [
            "p.yaml:4: spec.rules[0].backendRefs: requests cannot be split by weight between backends of which nothing here \
          tells where they are; give them the same weight, or name them as a Hostname or a static Backend"
        ]
    );
    let parsed = parsed(&refs("name: v1, weight: 5", "name: v2, weight: 5"));
    assert!(parsed.policies[0].routes[0].targets.is_empty());
    for (index, name) in ["v1", "v2"].into_iter().enumerate() {
        assert_notes(
            &parsed,
            &format!(
                "p.yaml:4: spec.rules[0].backendRefs[{index}]: warning[unresolved-target]: nothing here tells where the \
                 Service \"{name}\" is; requests go where they were sent"
            ),
        );
    }
    assert!(parse(Path::new("p.yaml"), &refs("name: v1, weight: 5", "name: v1, weight: 6")).is_ok());
}

#[test]
fn the_least_rate_of_retries_is_not_rounded() {
    let budget = |rate: &str| {
        format!(
            "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {{name: b}}\nspec: \
             {{targetRefs: [{{group: '', kind: Service, name: web}}], retryConstraint: {{minRetryRate: {{{rate}}}}}}}\n"
        )
    };
    for (rate, found) in [
        ("count: 10, interval: 3s", "10 in 3s"),
        ("interval: 3s", "10 in 3s"),
        ("count: 1, interval: 2s", "1 in 2s"),
        ("count: 1000000, interval: 1us", "1000000 in 1µs"),
    ] {
        assert_eq!(
            problems(&budget(rate)),
            [format!(
                "p.yaml:4: spec.retryConstraint.minRetryRate: {found} is no whole number of retries a second, which it must \
                 be here"
            )]
        );
    }
    assert_eq!(parsed(&budget("count: 3, interval: 500ms")).policies[0].budget.min_per_second(), 6);
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-zA-Z.:/*-]{0,12}",
        "-?[0-9]{1,25}",
        "[0-9]{1,3}(ms|s|h)",
        "\\[[a-z0-9-]{0,12}\\]",
        Just("{}".to_owned()),
        "\\[\\{name: [a-z]{1,8}, type: (Exact|RegularExpression), value: '[a-z(+*/\\[]{0,8}'\\}\\]",
    ]
}

proptest! {
    /// Whatever the fields hold, there is a policy or a problem, and each is told on one line.
    #[test]
    fn no_value_is_too_much(values in proptest::collection::vec(any_value(), 16)) {
        let v = |index: usize| values[index].as_str();
        let texts = [
            rule(&format!(
                "{{name: {}, matches: [{{path: {{type: RegularExpression, value: {}}}, headers: {}, queryParams: {}}}], \
                 retry: {{codes: {}, attempts: {}, backoff: {}}}, timeouts: {{request: {}}}, backendRefs: {}}}",
                v(0), v(1), v(2), v(3), v(4), v(5), v(6), v(7), v(8)
            )),
            format!("{OPTION}      retriableStatusCodes: {}\n      retryBackOff: {}\n    timeout: {}\n", v(9), v(10), v(11)),
            service(&format!("retry.linkerd.io/http: {}, retry.linkerd.io/limit: {}, timeout.linkerd.io/idle: {}", v(12), v(13), v(14))),
            rule(v(15)),
        ];
        for text in texts {
            match parse(Path::new("p.yaml"), &text) {
                Ok(parsed) => {
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

#[test]
fn in_a_cluster_backends_are_where_their_services_are() {
    let options = Options { in_cluster: true, ..Options::default() };
    let route = |namespace: &str, backends: &str| {
        let text = rule(&format!("{{backendRefs: [{backends}]}}")).replace("{name: a}", namespace);
        let parsed = parse_all_with(options, &[(Arc::from(Path::new("p.yaml")), &text)]).unwrap();
        let targets = &parsed.policies[0].routes[0].targets;
        let targets = targets.iter().map(|target| match &target.address {
            TargetAddress::Host { host, port } => format!("{host}:{port:?}"),
            other => format!("{other:?}"),
        });
        let targets: Vec<_> = targets.collect();
        let to = parsed.policies[0].to.iter().map(|to| match &to.address {
            Address::Host(host) => host.to_string(),
            other => format!("{other:?}"),
        });
        (to.collect::<Vec<_>>(), targets, parsed.notes.len())
    };
    let shop = "{name: a, namespace: shop}";
    let whole = ["web.shop", "web.shop.svc", "web.shop.svc.cluster.local"].map(str::to_owned);
    let new = "new.shop.svc.cluster.local:Some(80)".to_owned();
    // Requests to the Service that the route hangs on are on their way there.
    let backends = "{name: web, port: 80, weight: 9}, {name: new, port: 80}";
    assert_eq!(route(shop, backends), (whole.to_vec(), vec!["Original".to_owned(), new.clone()], 0));
    assert_eq!(route(shop, "{name: web, port: 80}"), (whole.to_vec(), vec![], 0));
    let other_port = "web.shop.svc.cluster.local:Some(81)".to_owned();
    assert_eq!(route(shop, "{name: web, port: 81}").1, [other_port]);
    let other = "new.lab.svc.cluster.local:None".to_owned();
    assert_eq!(route(shop, "{name: new, namespace: lab}").1, [other]);
    // Without a namespace nobody knows whose it is.
    assert_eq!(route("{name: a}", "{name: new, port: 80}"), (vec!["web".to_owned()], vec![], 1));
}
