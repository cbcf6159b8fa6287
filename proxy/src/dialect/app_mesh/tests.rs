mod limits;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::dialect::{Options, Parsed, parse, parse_all_with};
use crate::policy::{Address, PathMatch, Policy, Protocol, Setting, TargetAddress};
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
    let parsed =
        parse_all_with(Options { app_mesh_default_retry: false, ..Options::default() }, &[file]).unwrap();
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
fn a_name_and_a_namespace_are_a_service_of_the_cluster() {
    let text = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {name: web, namespace: shop}
spec:
  routes: [{name: all, httpRoute: {match: {prefix: /}, action: {weightedTargets: [{virtualNodeRef: {name: web}, weight: 1}]}}}]
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: web, namespace: shop}
spec: {provider: {virtualRouter: {virtualRouterRef: {name: web}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: web, namespace: shop}
spec: {listeners: [{portMapping: {port: 80, protocol: http}}], serviceDiscovery: {dns: {hostname: HOST}}}
";
    for (in_cluster, hostname, hosts, target) in [
        (false, "v2.shop", &["web.shop"][..], "v2.shop"),
        (true, "v2.shop", &["web.shop", "web.shop.svc.cluster.local"], "v2.shop.svc.cluster.local"),
        // Another namespace's, or none's.
        (true, "v2.cart", &["web.shop", "web.shop.svc.cluster.local"], "v2.cart"),
        (true, "v2.a.shop", &["web.shop", "web.shop.svc.cluster.local"], "v2.a.shop"),
    ] {
        let text = text.replace("HOST", hostname);
        let file = (Arc::from(Path::new("r.yaml")), text.as_str());
        let parsed = parse_all_with(Options { in_cluster, ..Options::default() }, &[file]).unwrap();
        let policy = &parsed.policies[0];
        let known = policy.to.iter().map(|to| match &to.address {
            Address::Host(host) => host.as_str(),
            other => panic!("{other:?}"),
        });
        assert_eq!(known.collect::<Vec<_>>(), hosts);
        let TargetAddress::Host { host, .. } = &policy.routes[0].targets[0].address else { panic!() };
        assert_eq!(host.as_str(), target);
    }
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

fn http(rest: &str) -> String {
    route("httpRoute", rest)
}

/// The answer of a `describe-...`, which is that of a `create-...` too.
fn answer(outer: &str, name: &str, spec: &str) -> String {
    format!(
        "{{\"{outer}\": {{\"meshName\": \"m\", \"{outer}Name\": \"{name}\", \"metadata\": {{\"arn\": \"x\", \"createdAt\": 1.5, \
         \"meshOwner\": \"111122223333\", \"resourceOwner\": \"111122223333\", \"uid\": \"u\", \"version\": 1}}, \"spec\": {spec}, \
         \"status\": {{\"status\": \"ACTIVE\"}}}}}}"
    )
}

#[test]
fn answers_of_the_api_are_read_as_they_are() {
    let route = answer("route", "a", "{\"httpRoute\": {\"action\": {\"weightedTargets\": [{\"virtualNode\": \"n\", \"weight\": 1}]}, \"match\": {\"prefix\": \"/\"}}, \"priority\": 3}")
        .replace("\"meshName\"", "\"virtualRouterName\": \"r\", \"meshName\"");
    let router = answer(
        "virtualRouter",
        "r",
        "{\"listeners\": [{\"portMapping\": {\"port\": 8080, \"protocol\": \"http\"}}]}",
    );
    let service = answer(
        "virtualService",
        "s.local",
        "{\"provider\": {\"virtualRouter\": {\"virtualRouterName\": \"r\"}}}",
    );
    let node = answer(
        "virtualNode",
        "n",
        "{\"backends\": [], \"listeners\": [], \"serviceDiscovery\": {\"dns\": {\"hostname\": \"n.local\"}}}",
    );
    let of_mesh = |kind: &str| {
        let text = answer("mesh", "m", &format!("{{\"egressFilter\": {{\"type\": \"{kind}\"}}}}"));
        text.replacen("\"meshName\": \"m\", ", "", 1)
    };
    let mesh = of_mesh("ALLOW_ALL");
    let all = [route, router, service, node, mesh].join("\n---\n");
    let Parsed { policies, .. } = read(&all);
    let [policy] = &policies[..] else { panic!("{policies:?}") };
    assert_eq!(policy.name.to_string(), "route/m/r/a");
    assert_eq!(policy.to[0].port.unwrap().get(), 8080);
    assert!(matches!(&policy.to[0].address, Address::Host(host) if host.as_str() == "s.local"));
    assert!(
        matches!(&policy.routes[0].targets[0].address, TargetAddress::Host { host, port: None } if host.as_str() == "n.local")
    );
    let deleted = parse(Path::new("r.json"), &all.replacen("ACTIVE", "DELETED", 1)).unwrap();
    assert!(deleted.policies.is_empty());
    assert_eq!(
        deleted.notes.iter().filter(|note| note.message.contains("deleted")).count(),
        1,
        "{:?}",
        deleted.notes
    );
    assert_eq!(
        problems("{routes: [{arn: a, routeName: a}], nextToken: b}"),
        ["r.json:1: routes: a list has nothing but names; take the answers of aws appmesh describe-route"]
    );
    assert_eq!(
        problems("{virtualNodes: []}"),
        [
            "r.json:1: virtualNodes: a list has nothing but names; take the answers of aws appmesh describe-virtual-node"
        ]
    );
    assert_eq!(
        problems(&of_mesh("SOME")),
        ["r.json:1: mesh.spec.egressFilter.type: expected one of ALLOW_ALL, DROP_ALL, found \"SOME\""]
    );
}

#[test]
fn a_route_is_for_the_ports_that_its_router_listens_on() {
    let router = |ports: &[u16]| {
        let listeners: Vec<_> =
            ports.iter().map(|port| format!("{{portMapping: {{port: {port}, protocol: http}}}}")).collect();
        format!(
            "\n---\n{{meshName: m, virtualRouterName: r, spec: {{listeners: [{}]}}}}",
            listeners.join(", ")
        )
    };
    let port = |text: String| one(&text).to.first().and_then(|to| to.port).map(std::num::NonZeroU16::get);
    assert_eq!(port(http("match: {}")), None);
    assert_eq!(port(http("match: {}") + &router(&[])), None);
    assert_eq!(port(http("match: {}") + &router(&[80])), Some(80));
    assert_eq!(port(http("match: {port: 81}") + &router(&[80, 81])), Some(81));
    assert_eq!(port(route("tcpRoute", "match: {}") + &router(&[80])), Some(80));
    let another = router(&[80]).replace("virtualRouterName: r", "virtualRouterName: x");
    assert_eq!(port(http("match: {}") + &another), None);
    assert_eq!(
        problems(&(http("match: {port: 82}") + &router(&[80, 81]))),
        [
            "r.json:1: spec.httpRoute.match.port: expected a port that the virtual router listens on, of 80, 81, found 82"
        ]
    );
    assert_eq!(
        problems(&(http("match: {}") + &router(&[80, 81]))),
        [
            "r.json:1: spec.httpRoute: a route has to match a port where its virtual router has several listeners, which are 80, 81"
        ]
    );
}

#[test]
fn two_of_one_name_are_told() {
    let node = "{meshName: m, virtualNodeName: n, spec: {}}";
    let service = "{meshName: m, virtualServiceName: s, spec: {}}";
    let router = "{meshName: m, virtualRouterName: r, spec: {}}";
    let mesh = "{meshName: m}";
    for (text, name) in [
        (node, "virtual node/m/n"),
        (service, "virtual service/m/s"),
        (router, "virtual router/m/r"),
        (mesh, "mesh/m/m"),
        (&http("match: {}"), "route/m/r/a"),
    ] {
        let found = problems(&format!("{text}\n---\n{text}\n"));
        assert_eq!(found, [format!("r.json:3: the name {name} is taken already, at r.json:1")]);
    }
    assert!(
        read(&format!("{node}\n---\n{}", node.replace("meshName: m", "meshName: o"))).policies.is_empty()
    );
}

/// What is referred to by an ARN is in the mesh that this names, and of the account, where these are known.
#[test]
fn references_by_arn_are_to_one_mesh() {
    let arn = |account: &str, mesh: &str, kind: &str, name: &str| {
        format!("arn:aws:appmesh:eu-west-1:{account}:mesh/{mesh}/{kind}/{name}")
    };
    let router = |arn: &str| {
        format!(
            "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualRouter\nmetadata: {{name: r, namespace: shop}}\nspec: {{routes: [{{name: a, \
             httpRoute: {{match: {{}}, action: {{weightedTargets: [{{virtualNodeARN: '{arn}', weight: 1}}]}}}}}}]}}\n---\n"
        )
    };
    let kubernetes = "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualNode\nmetadata: {name: n, namespace: shop}\nspec: {meshRef: \
                      {name: k, uid: u}, serviceDiscovery: {dns: {hostname: n.local}}}\n---\napiVersion: appmesh.k8s.aws/v1beta2\nkind: \
                      Mesh\nmetadata: {name: k}\nspec: {awsName: m, meshOwner: '111122223333', namespaceSelector: {}}\n";
    let api = "{meshName: m, meshOwner: '111122223333', virtualNodeName: n_shop, spec: {serviceDiscovery: {dns: {hostname: n.local}}}}";
    for node in [kubernetes, api] {
        for (account, mesh, name, is_found) in [
            ("111122223333", "m", "n_shop", true),
            ("444455556666", "m@111122223333", "n_shop", true),
            ("444455556666", "m", "n_shop", false),
            ("111122223333", "k", "n_shop", false),
            ("111122223333", "m", "n", false),
        ] {
            let text = router(&arn(account, mesh, "virtualNode", name)) + node;
            let policies = read(&text).policies;
            assert_eq!(
                !policies[0].routes[0].targets.is_empty(),
                is_found,
                "{account} {mesh} {name}\n{node}"
            );
        }
    }
    // Without the document of its mesh the name is all that is known.
    let alone = kubernetes.split("---").next().unwrap();
    let text = router(&arn("444455556666", "other", "virtualNode", "n_shop")) + alone;
    assert!(!read(&text).policies[0].routes[0].targets.is_empty());
    let wrong = router("arn:aws:appmesh:eu-west-1:1:mesh/m/virtualRouter/n");
    assert_eq!(
        problems(&wrong),
        [
            "r.json:4: spec.routes[0].httpRoute.action.weightedTargets[0].virtualNodeARN: expected an ARN such as \
          arn:aws:appmesh:REGION:ACCOUNT:mesh/MESH/virtualNode/NAME, found \"arn:aws:appmesh:eu-west-1:1:mesh/m/virtualRouter/n\""
        ]
    );
    // A service of Kubernetes that refers to the router of a route of the API, and to one of Kubernetes by its default name.
    let service = |arn: &str| {
        format!(
            "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualService\nmetadata: {{name: s, namespace: shop}}\nspec: {{awsName: '', \
             provider: {{virtualRouter: {{virtualRouterARN: '{arn}'}}}}}}\n---\n"
        )
    };
    let text = service(&arn("111122223333", "m", "virtualRouter", "r")) + &http("match: {}");
    assert!(matches!(&one(&text).to[0].address, Address::Host(host) if host.as_str() == "s.shop"));
    let text = service(&arn("111122223333", "m", "virtualRouter", "r_shop"))
        + &router(&arn("1", "m", "virtualNode", "x"));
    assert!(matches!(&one(&text).to[0].address, Address::Host(host) if host.as_str() == "s.shop"));
}

#[test]
fn where_nodes_are_is_said_or_noted() {
    let node = |discovery: &str| {
        format!("\n---\n{{meshName: m, virtualNodeName: n, spec: {{serviceDiscovery: {discovery}}}}}")
    };
    let text = http("match: {}")
        + &node("{awsCloudMap: {namespaceName: a, serviceName: b, attributes: [{key: k, value: v}]}}");
    let parsed = read(&text);
    assert!(parsed.policies[0].routes[0].targets.is_empty());
    let places: Vec<_> =
        parsed.notes.iter().map(ToString::to_string).filter(|note| note.contains("unresolved")).collect();
    assert_eq!(
        places,
        [
            "r.json:1: spec.httpRoute.action.weightedTargets[0].virtualNode: warning[unresolved-target]: no document says where this virtual node is, so what goes to it goes where it was dialled",
            "r.json:3: spec.serviceDiscovery.awsCloudMap: warning[unresolved-target]: AWS Cloud Map is not asked; what goes to this virtual node goes where it was dialled",
        ]
    );
    for (discovery, problem) in [
        ("{awsCloudMap: {serviceName: b}}", ".awsCloudMap.namespaceName: the field is required"),
        ("{dns: {}}", ".dns.hostname: the field is required"),
        ("{}", ": one of dns, awsCloudMap is required"),
    ] {
        assert_eq!(
            problems(&(http("match: {}") + &node(discovery))),
            [format!("r.json:3: spec.serviceDiscovery{problem}")]
        );
    }
    let several = "\n---\n{meshName: m, virtualNodeName: n, spec: {listeners: [{portMapping: {port: 1, protocol: http}}, \
                   {portMapping: {port: 2, protocol: http}}], serviceDiscovery: {dns: {hostname: n.local}}}}";
    assert_eq!(
        problems(&(http("match: {}") + several)),
        [
            "r.json:1: spec.httpRoute.action.weightedTargets[0]: port is required, since the virtual node has several listeners"
        ]
    );
}

/// Where a setting was said is what `explain` shows.
#[test]
fn settings_are_where_they_were_said() {
    let policy = one(SEED);
    let sources = &policy.routes[0].sources;
    for (setting, line, field) in [
        (Setting::NumRetries, 22, "maxRetries"),
        (Setting::PerTryTimeout, 18, "perRetryTimeout"),
        (Setting::Condition(Condition::Reset), 23, "httpRetryEvents[0]"),
        (Setting::Condition(Condition::ConnectFailure), 24, "tcpRetryEvents[0]"),
        (Setting::StatusCodes, 23, "httpRetryEvents"),
    ] {
        let place = sources.place(setting).unwrap();
        let expected = format!("spec.httpRoute.retryPolicy.{field}");
        assert_eq!((place.line, &place.field, place.is_said), (line, &expected, true), "{setting:?}");
    }
    assert!(!sources.is_said(Setting::Timeout));
}

/// A VirtualRouter as the controller has it, with listeners, and one without routes.
#[test]
fn routers_of_kubernetes_listen_too() {
    let router = |listeners: &str, routes: &str| {
        format!(
            "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualRouter\nmetadata: {{name: r, namespace: shop}}\nspec: {{awsName: r_shop, meshRef: \
             {{name: m, uid: u}}, listeners: [{listeners}], routes: [{routes}]}}\nstatus: {{virtualRouterARN: a}}\n"
        )
    };
    let listener = |port: u16| format!("{{portMapping: {{port: {port}, protocol: http}}}}");
    let route = |name: &str, port: &str| {
        format!(
            "{{name: {name}, httpRoute: {{match: {{{port}}}, action: {{weightedTargets: [{{virtualNodeRef: {{name: n}}, weight: 1}}]}}}}}}"
        )
    };
    assert!(read(&router(&listener(80), "")).policies.is_empty());
    assert_eq!(one(&router(&listener(80), &route("a", ""))).to[0].port.unwrap().get(), 80);
    let two = format!("{}, {}", listener(80), listener(81));
    let both = format!("{}, {}", route("a", "port: 80"), route("b", "port: 81"));
    let names: Vec<_> =
        read(&router(&two, &both)).policies.iter().map(|policy| policy.name.to_string()).collect();
    assert_eq!(names, ["VirtualRouter/shop/r:80", "VirtualRouter/shop/r:81"]);
    assert_eq!(
        problems(&router(&two, &route("a", ""))),
        [
            "r.json:4: spec.routes[0].httpRoute: a route has to match a port where its virtual router has several listeners, which are 80, 81"
        ]
    );
    assert_eq!(
        problems(&router("", &format!("{}, {}", route("a", ""), route("a", "")))),
        ["r.json:4: spec.routes[1].name: the name a is taken already by another route"]
    );
    assert_eq!(
        problems(&router("{portMapping: {port: 80, protocol: udp}}", "")),
        [
            "r.json:4: spec.listeners[0].portMapping.protocol: expected one of http, tcp, http2, grpc, found \"udp\""
        ]
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
