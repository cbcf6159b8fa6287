//! Workloads, destinations by name, routes and targets of the native document.

use crate::dialect::native::tests::{expect_problems, one, problems, with_spec};
use crate::policy::{Address, RequestProtocol, Rest, Setting, TargetAddress};
use crate::retry::request::Methods;

#[test]
fn a_route_inherits_what_it_does_not_say() {
    let policy = one(
        "
  http:
    numRetries: 5
    timeout: 3s
    retriableStatusCodes: [500]
    routes:
      - name: writes
        match: {methods: [POST, PUT], path: {prefix: /a, ignoreCase: true}, grpc: false}
        numRetries: 1
        timeout: 0s
        targets: [{host: b.shop, port: 80, weight: 9}, {addresses: [10.0.0.1, '[fd00::1]:8080'], port: 81}]
      - match: {grpc: true, headers: [{name: x, type: Range, start: 1, end: 5, invert: true}], query: [{name: q, value: v}]}
        methods: any",
    );
    let [writes, second, rest] = &policy.routes[..] else { panic!("{policy:?}") };
    assert_eq!([&*writes.name, &*second.name, &*rest.name], ["writes", "routes[1]", "http"]);
    assert!(writes.precedence < second.precedence && second.precedence < rest.precedence);
    assert_eq!((writes.http.retry.num_retries, writes.http.timeout), (1, None));
    assert!(writes.http.retry.status_codes.contains(500));
    assert_eq!((second.http.retry.num_retries, &second.http.retry.methods), (5, &Methods::Any));
    assert_eq!(second.http.timeout, rest.http.timeout);
    assert_eq!(second.matcher.protocol, RequestProtocol::Grpc);
    let seen = |method, path| [(":method", method), (":path", path)];
    assert!(writes.matcher.matches(&seen("PUT", "/A/b")[..]));
    assert!(
        !writes.matcher.matches(&seen("GET", "/a")[..]) && !writes.matcher.matches(&seen("PUT", "/b")[..])
    );
    assert!(rest.matcher.is_any() && rest.targets.is_empty());
    assert!(matches!(writes.targets[0].address, TargetAddress::Host { .. }));
    let TargetAddress::Addresses(addresses) = &writes.targets[1].address else { panic!() };
    assert_eq!(addresses.iter().map(|(_, port)| port.unwrap().get()).collect::<Vec<_>>(), [81, 8080]);
    let place = |setting| writes.sources.place(setting).unwrap().field.clone();
    assert_eq!(place(Setting::NumRetries), "spec.http.routes[0].numRetries");
    assert_eq!(place(Setting::StatusCodes), "spec.http.retriableStatusCodes");
    assert_eq!(place(Setting::Matches), "spec.http.routes[0].match");
    assert_eq!(place(Setting::Budget), "spec.budget");
}

#[test]
fn workloads_wildcards_and_services() {
    let policy = one(
        "{from: [{podSelector: {matchLabels: {app: web}}, namespace: shop, cgroup: system.slice/x.service}],
         to: [{hosts: ['*.example.com'], services: [{name: db, namespace: shop}, {name: web}]}],
         tcp: {targets: [{original: true}, {host: b, weight: 0}]}}",
    );
    assert_eq!(policy.from.len(), 1);
    assert_eq!(policy.targets.iter().map(|target| target.weight).collect::<Vec<_>>(), [1, 0]);
    let to: Vec<_> = policy
        .to
        .iter()
        .map(|to| match &to.address {
            Address::Host(host) => host.to_string(),
            Address::Suffix(suffix) => suffix.to_string(),
            Address::Any | Address::Network(_) => panic!("{to:?}"),
        })
        .collect();
    assert_eq!(to, ["*.example.com", "db", "db.shop", "db.shop.svc", "db.shop.svc.cluster.local", "web"]);
}

#[test]
fn every_broken_rule_of_routes_is_told_with_its_place() {
    let route = |route: &str| format!("{{http: {{routes: [{route}]}}}}");
    let at = |problem: &str| format!("spec.http.routes[0]{problem}");
    expect_problems([
        (route("{match: {path: {}}}"), at(".match.path: one of exact, prefix, segments and regex is required")),
        (route("{match: {path: {exact: a}}}"), at(".match.path.exact: expected a path, which begins with /, found \"a\"")),
        (
            route("{match: {path: {regex: a, ignoreCase: true}}}"),
            at(".match.path.ignoreCase: only exact and prefix have it; an expression may begin with (?i)"),
        ),
        (
            route("{match: {method: GET, methods: [PUT]}}"),
            at(".match.methods: there is `method` already; leave one of them out"),
        ),
        (
            route("{match: {headers: [{name: a, value: b, start: 1}]}}"),
            at(".match.headers[0].start: only a matcher of type Range has it"),
        ),
        (route("{targets: [{}]}"), at(".targets[0]: one of host, addresses and original is required")),
        (
            route("{targets: [{host: a, weight: 0}]}"),
            at(".targets: a target of weight 0 gets nothing; one has to have a weight"),
        ),
        (
            route("{targets: [{addresses: [a]}]}"),
            at(".targets[0].addresses[0]: expected an address such as 10.0.0.1, 10.0.0.1:8080 or [fd00::1]:8080, found \"a\""),
        ),
        ("{from: [{}]}".to_owned(), "spec.from[0]: at least one of podSelector, namespace and cgroup is required".to_owned()),
        (
            "{to: [{services: [{name: a.b}]}]}".to_owned(),
            "spec.to[0].services[0].name: expected a name of letters, digits and `-`, at most 63, found \"a.b\"".to_owned(),
        ),
    ]);
    expect_problems([
        (
            route("{priority: 1}"),
            at(".priority: without fallThrough no other policy is asked after this one, so that its routes come in their \
                order; leave it out"),
        ),
        (
            "{fallThrough: true, http: {numRetries: 1}}".to_owned(),
            "spec.http: with fallThrough the section is what its routes inherit, and there are none; add routes, or leave \
             one of the two out"
                .to_owned(),
        ),
        (
            "{fallThrough: continue}".to_owned(),
            "spec.fallThrough: expected true or false, found \"continue\"".to_owned(),
        ),
    ]);
    let many = vec!["{numRetries: 1}"; 257].join(", ");
    assert_eq!(
        problems(&with_spec(&route(&many))),
        ["p.yaml:4: spec.http.routes: 257 routes are too many; there may be 256"]
    );
}

#[test]
fn a_document_that_falls_through_has_routes_alone() {
    let policy = one(
        "{fallThrough: true, http: {numRetries: 4, routes: [{name: a, priority: 7}, {match: {method: GET}, numRetries: 1}]}}",
    );
    assert_eq!(policy.rest, Rest::GoesOn);
    let routes: Vec<_> =
        policy.routes.iter().map(|route| (&*route.name, route.precedence.among_all)).collect();
    assert_eq!(routes, [("a", [7, 0, 0, 0, 0]), ("routes[1]", [0; 5])]);
    assert_eq!(policy.routes.iter().map(|route| route.http.retry.num_retries).collect::<Vec<_>>(), [4, 1]);
    // Connects follow the most patient of the routes.
    assert_eq!(policy.tcp.max_connect_attempts().get(), 5);
    let connections = one("{fallThrough: true, tcp: {maxConnectAttempts: 2}}");
    assert_eq!((connections.rest, connections.routes.len()), (Rest::GoesOn, 0));
}

#[test]
fn a_condition_that_is_inherited_needs_its_list_too() {
    let section = "{honourRequestHeaders: true, retryOn: [retriable-status-codes], routes: [{honourRequestHeaders: false}]}";
    expect_problems([(
        format!("{{http: {section}}}"),
        "spec.http.routes[0].honourRequestHeaders: retriable-status-codes is in the list, but there are no \
         retriableStatusCodes"
            .to_owned(),
    )]);
}
