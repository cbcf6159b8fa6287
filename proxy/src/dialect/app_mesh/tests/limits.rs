//! What the API refuses, limit by limit.

use super::{http, problems, route};

#[test]
fn every_limit_of_the_api_is_kept() {
    let list = |item: &str, count: usize| vec![item; count].join(", ");
    let at = "r.json:1: spec.httpRoute";
    let many = "the list may have at most 10 items, and has 11";
    for (rest, message) in [
        (format!("match: {{headers: [{}]}}", list("{name: a}", 11)), format!(".match.headers: {many}")),
        (format!("match: {{queryParameters: [{}]}}", list("{name: a}", 11)), format!(".match.queryParameters: {many}")),
        (
            "match: {headers: []}".to_owned(),
            ".match.headers: the list is empty; leave the field out for its default".to_owned(),
        ),
        (
            format!("match: {{headers: [{{name: {}}}]}}", "a".repeat(51)),
            format!(".match.headers[0].name: expected text of 1 to 50 characters, found \"{}\"", "a".repeat(51)),
        ),
        (
            "match: {headers: [{name: a, match: {exact: ''}}]}".to_owned(),
            ".match.headers[0].match.exact: expected text of 1 to 255 characters, found \"\"".to_owned(),
        ),
        (
            "match: {headers: [{name: a, match: {exact: a, prefix: b}}]}".to_owned(),
            ".match.headers[0].match.prefix: exact and prefix exclude each other; there may be one of exact, prefix, suffix, regex, range".to_owned(),
        ),
        (
            "match: {headers: [{name: a, match: {range: {start: 1}}}]}".to_owned(),
            ".match.headers[0].match.range.end: the field is required".to_owned(),
        ),
        (
            "match: {method: GETS}".to_owned(),
            ".match.method: expected one of CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE, found \"GETS\"".to_owned(),
        ),
        ("match: {scheme: ftp}".to_owned(), ".match.scheme: expected one of http, https, found \"ftp\"".to_owned()),
        ("match: {port: 0}".to_owned(), ".match.port: expected a whole number from 1 to 65535, found 0".to_owned()),
        (
            "match: {path: {exact: /a, regex: /b}}".to_owned(),
            ".match.path.regex: exact and regex exclude each other; there may be one of exact, regex".to_owned(),
        ),
        (
            "match: {}, retryPolicy: {maxRetries: -1, tcpRetryEvents: [connection-error]}".to_owned(),
            ".retryPolicy.maxRetries: expected a whole number from 0 to 4294967295, found -1".to_owned(),
        ),
        (
            "match: {}, retryPolicy: {httpRetryEvents: [5xx]}".to_owned(),
            ".retryPolicy.httpRetryEvents[0]: expected one of server-error, gateway-error, client-error, stream-error, found \"5xx\"".to_owned(),
        ),
        (
            "match: {}, retryPolicy: {tcpRetryEvents: [reset]}".to_owned(),
            ".retryPolicy.tcpRetryEvents[0]: expected one of connection-error, found \"reset\"".to_owned(),
        ),
        (
            "match: {}, retryPolicy: {tcpRetryEvents: [connection-error, connection-error]}".to_owned(),
            ".retryPolicy.tcpRetryEvents: the list may have at most 1 items, and has 2".to_owned(),
        ),
        (
            format!("match: {{}}, retryPolicy: {{httpRetryEvents: [{}]}}", list("client-error", 26)),
            ".retryPolicy.httpRetryEvents: the list may have at most 25 items, and has 26".to_owned(),
        ),
        (
            "match: {}, retryPolicy: {tcpRetryEvents: [connection-error], perRetryTimeout: {value: 1, unit: h}}".to_owned(),
            ".retryPolicy.perRetryTimeout.unit: expected one of ms, s, found \"h\"".to_owned(),
        ),
        (
            "match: {}, retryPolicy: {tcpRetryEvents: [connection-error], perRetryTimeout: {unit: s}}".to_owned(),
            ".retryPolicy.perRetryTimeout.value: the field is required".to_owned(),
        ),
        (
            "match: {}, retryPolicy: {tcpRetryEvents: [connection-error], perRetryTimeout: 15s}".to_owned(),
            ".retryPolicy.perRetryTimeout: expected a map, found \"15s\"".to_owned(),
        ),
        (
            "match: {}, retryPolicy: {grpcRetryEvents: [internal], tcpRetryEvents: [connection-error]}".to_owned(),
            ".retryPolicy.grpcRetryEvents: there is no such field; there are maxRetries, perRetryTimeout, httpRetryEvents, tcpRetryEvents".to_owned(),
        ),
    ] {
        assert_eq!(problems(&http(&rest)), [format!("{at}{message}")]);
    }
}

#[test]
fn what_is_around_a_route_is_kept_to_the_api_too() {
    let text = http("match: {}");
    let at = "r.json:1: ";
    let long = "r".repeat(256);
    for (from, to, message) in [
        ("spec: {", "spec: {priority: 1001, ", "spec.priority: expected a whole number from 0 to 1000, found 1001".to_owned()),
        ("spec: {", "spec: {priority: -1, ", "spec.priority: expected a whole number from 0 to 1000, found -1".to_owned()),
        (
            "spec: {",
            "spec: {tcpRoute: {}, ",
            "spec.tcpRoute: httpRoute and tcpRoute exclude each other; there may be one of httpRoute, http2Route, grpcRoute, tcpRoute".to_owned(),
        ),
        ("httpRoute: {", "ftpRoute: {", "spec.ftpRoute: there is no such field; did you mean httpRoute? there are httpRoute, http2Route, grpcRoute, tcpRoute, priority".to_owned()),
        ("meshName: m, ", "", "meshName: the field is required".to_owned()),
        ("virtualRouterName: r, ", "", "virtualRouterName: the field is required".to_owned()),
        ("routeName: a", &format!("routeName: {long}"), format!("routeName: expected text of 1 to 255 characters, found \"{}\"...", "r".repeat(80))),
        ("routeName: a", "routeName: a, meshOwner: '1'", "meshOwner: expected the 12 digits of an account, in quotes, found \"1\"".to_owned()),
        ("virtualNode: n, weight: 1", "virtualNode: n, weight: 101", "spec.httpRoute.action.weightedTargets[0].weight: expected a whole number from 0 to 100, found 101".to_owned()),
        ("virtualNode: n, weight: 1", "virtualNode: n", "spec.httpRoute.action.weightedTargets[0].weight: the field is required".to_owned()),
        ("virtualNode: n, weight: 1", "virtualNode: n, weight: 0", "spec.httpRoute.action.weightedTargets: no target has a weight above 0, so requests could go nowhere".to_owned()),
        ("virtualNode: n, weight: 1", "virtualNode: n, weight: 1, port: 65536", "spec.httpRoute.action.weightedTargets[0].port: expected a whole number from 1 to 65535, found 65536".to_owned()),
        ("[{virtualNode: n, weight: 1}]", "[]", "spec.httpRoute.action.weightedTargets: the list is empty; leave the field out for its default".to_owned()),
    ] {
        let text = text.replacen(from, to, 1);
        let found = problems(&text);
        assert!(found.contains(&format!("{at}{message}")), "{found:#?}");
    }
    let grpc = |rest: &str| route("grpcRoute", rest);
    let at = "r.json:1: spec.grpcRoute";
    for (rest, message) in [
        (format!("match: {{metadata: [{}]}}", ["{name: a}"; 11].join(", ")), ".match.metadata: the list may have at most 10 items, and has 11".to_owned()),
        (format!("match: {{serviceName: s, methodName: {}}}", "a".repeat(51)), format!(".match.methodName: expected text of 1 to 50 characters, found \"{}\"", "a".repeat(51))),
        (
            "match: {}, retryPolicy: {grpcRetryEvents: [aborted]}".to_owned(),
            ".retryPolicy.grpcRetryEvents[0]: expected one of cancelled, deadline-exceeded, internal, resource-exhausted, unavailable, found \"aborted\"".to_owned(),
        ),
        (
            "match: {}, retryPolicy: {}".to_owned(),
            ".retryPolicy: at least one value for one of httpRetryEvents, tcpRetryEvents, grpcRetryEvents is required".to_owned(),
        ),
    ] {
        assert_eq!(problems(&grpc(&rest)), [format!("{at}{message}")]);
    }
}
