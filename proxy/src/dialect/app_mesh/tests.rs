use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::dialect::{Options, Parsed, parse, parse_all_with};
use crate::policy::{Address, PathMatch, Policy, Protocol, TargetAddress};
use crate::retry::request::{Condition, Conditions};

/// The example of App Mesh's guide.
const SEED: &str = r#"{
   "meshName" : "App1",
   "routeName" : "Route-retries1",
   "spec" : {
      "httpRoute" : {
         "action" : {
            "weightedTargets" : [
               {
                  "virtualNode" : "ServiceB",
                  "weight" : 100
               }
            ]
         },
         "match" : {
            "prefix" : "/"
         },
         "retryPolicy" : {
            "perRetryTimeout" : {
               "value": 15,
               "unit": "s"
            },
            "maxRetries" : 3,
            "httpRetryEvents" : [ "server-error", "gateway-error" ],
            "tcpRetryEvents" : [ "connection-error" ]
         }
      }
   },
   "virtualRouterName" : "Virtual-router1"
}"#;

fn read(text: &str) -> Parsed {
    parse(Path::new("r.json"), text).unwrap()
}

fn one(text: &str) -> Policy {
    let mut policies = read(text).policies;
    assert_eq!(policies.len(), 1);
    policies.remove(0)
}

fn route(kind: &str, rest: &str) -> String {
    format!(
        "{{meshName: m, virtualRouterName: r, routeName: a, spec: {{{kind}: {{action: {{weightedTargets: \
         [{{virtualNode: n, weight: 1}}]}}, {rest}}}}}}}"
    )
}

fn problems(text: &str) -> Vec<String> {
    parse(Path::new("r.json"), text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_guides_example_is_read_unedited() {
    let parsed = read(SEED);
    let policy = &parsed.policies[0];
    assert_eq!(policy.name.to_string(), "route/App1/Virtual-router1/Route-retries1");
    assert!(policy.to.is_empty());
    let http = &policy.routes[0].http;
    assert_eq!(http.retry.num_retries, 3);
    assert_eq!(http.retry.per_try_timeout, Some(Duration::from_secs(15)));
    assert_eq!(
        (http.timeout, http.idle_timeout),
        (Some(Duration::from_secs(15)), Some(Duration::from_mins(5)))
    );
    let codes: Vec<_> = http.retry.status_codes.iter().collect();
    assert_eq!(codes, [500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511]);
    let conditions = [Condition::Reset, Condition::RetriableStatusCodes, Condition::ConnectFailure];
    assert_eq!(http.retry.retry_on, Conditions::of(&conditions));
    assert_eq!(policy.tcp.max_connect_attempts().get(), 4);
    let codes: Vec<_> = parsed.notes.iter().map(|note| note.code.as_str()).collect();
    assert!(codes.contains(&"applies-everywhere") && codes.contains(&"unresolved-target"), "{codes:?}");
}

#[test]
fn nodes_and_services_resolve_targets_and_hosts() {
    let node = "{meshName: App1, virtualNodeName: ServiceB, spec: {listeners: [{portMapping: {port: 8080, protocol: \
                http}}], serviceDiscovery: {dns: {hostname: b.example}}}}";
    let service = "{virtualService: {meshName: App1, virtualServiceName: service-b.local, metadata: {}, status: {}, spec: \
                   {provider: {virtualRouter: {virtualRouterName: Virtual-router1}}}}}";
    let policy = one(&format!("{SEED}\n---\n{node}\n---\n{service}\n"));
    assert!(matches!(&policy.to[0].address, Address::Host(host) if host.as_str() == "service-b.local"));
    let TargetAddress::Host { host, port } = &policy.routes[0].targets[0].address else { panic!() };
    assert_eq!((host.as_str(), port.unwrap().get()), ("b.example", 8080));
}

#[test]
fn the_default_retry_policy_can_be_left_out() {
    let text = route("httpRoute", "match: {prefix: /}");
    let http = &one(&text).routes[0].http.clone();
    assert_eq!((http.retry.num_retries, http.retry.status_codes.iter().collect::<Vec<_>>()), (2, vec![503]));
    let file = (Arc::from(Path::new("r.json")), text.as_str());
    let parsed = parse_all_with(Options { app_mesh_default_retry: false }, &[file]).unwrap();
    assert_eq!(parsed.policies[0].routes[0].http.retry.num_retries, 0);
}

#[test]
fn kubernetes_objects_refer_to_each_other() {
    let text = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {name: colors, namespace: shop}
spec:
  routes:
  - name: red
    priority: 10
    grpcRoute:
      match: {serviceName: Colors, methodName: Get}
      action: {weightedTargets: [{virtualNodeRef: {name: red}, weight: 1}]}
      retryPolicy: {grpcRetryEvents: [cancelled], maxRetries: 5, perRetryTimeout: {unit: ms, value: 100}}
  - name: raw
    tcpRoute: {match: {port: 5432}, action: {weightedTargets: [{virtualNodeRef: {name: red}, weight: 1}]}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: colors, namespace: shop}
spec: {awsName: colors.shop.svc.cluster.local, provider: {virtualRouter: {virtualRouterRef: {name: colors}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: red, namespace: shop}
spec: {serviceDiscovery: {dns: {hostname: red.shop}}}
";
    let policies = read(text).policies;
    let names: Vec<_> = policies.iter().map(|policy| policy.name.to_string()).collect();
    assert_eq!(names, ["VirtualRouter/shop/colors", "VirtualRouter/shop/colors:tcp:5432"]);
    assert_eq!(policies[1].protocol, Protocol::Tcp);
    assert_eq!(policies[1].targets.len(), 1);
    assert_eq!(policies[1].tcp.max_connect_attempts().get(), 1);
    assert_eq!(policies[1].to[0].port.unwrap().get(), 5432);
    let red = &policies[0].routes[0];
    assert_eq!(red.precedence.among_all[0], 10);
    assert!(matches!(&red.matcher.path, PathMatch::Exact { path, .. } if &**path == "/Colors/Get"));
    assert_eq!(red.http.retry.per_try_timeout, Some(Duration::from_millis(100)));
}

#[test]
fn what_app_mesh_refuses_is_refused() {
    let at = "r.json:1: spec.httpRoute";
    for (rest, message) in [
        ("match: {prefix: a}", ".match.prefix: expected a prefix that begins with /, found \"a\""),
        (
            "match: {prefix: /, retryPolicy: 1}",
            ".match.retryPolicy: there is no such field; there are prefix, path, queryParameters, method, scheme, headers, port",
        ),
        (
            "match: {prefix: /, path: {exact: /a}}",
            ".match.path: prefix and path exclude each other; there may be one of them",
        ),
        (
            "match: {}, retryPolicy: {maxRetries: 1}",
            ".retryPolicy: at least one value for one of httpRetryEvents, tcpRetryEvents is required",
        ),
        (
            "match: {headers: [{name: a, match: {range: {start: 2, end: 2}}}]}",
            ".match.headers[0].match.range: start, 2, has to be less than end, 2",
        ),
        (
            "match: {}, timeout: {idle: {value: 1, unit: m}}",
            ".timeout.idle.unit: expected one of ms, s, found \"m\"",
        ),
    ] {
        assert_eq!(problems(&route("httpRoute", rest)), [format!("{at}{message}")]);
    }
    assert_eq!(
        problems(&route("grpcRoute", "match: {methodName: a}")),
        ["r.json:1: spec.grpcRoute.match.methodName: methodName needs serviceName"]
    );
    let heavy = route("httpRoute", "match: {}").replace("[{", "[{virtualNode: o, weight: 100}, {");
    assert_eq!(
        problems(&heavy),
        [format!("{at}.action.weightedTargets: the weights are 101 in all; there may be 100")]
    );
}

proptest! {
    #[test]
    fn no_value_is_too_much(values in proptest::collection::vec("[0-9a-z/{}:, -]{0,12}|\\[[a-z-]{0,9}\\]|-?[0-9]{1,25}", 4)) {
        let [a, b, c, d] = &values[..] else { unreachable!() };
        let text = route("httpRoute", &format!("match: {{prefix: {a}, headers: {b}}}, retryPolicy: {{maxRetries: {c}}}, timeout: {d}"));
        if let Err(problems) = parse(Path::new("r.json"), &text) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(!problem.to_string().contains('\n'), "{}", problem);
            }
        }
    }
}
