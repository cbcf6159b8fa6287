//! `MeshHTTPRoute`, and retries for its requests.

use super::merged::{retries, taken};
use super::{parsed, read};
use crate::policy::{Setting, TargetAddress};

/// A route from a service, with these rules.
fn route(name: &str, rules: &str) -> String {
    format!(
        "---\ntype: MeshHTTPRoute\nname: {name}\nspec: {{to: [{{targetRef: {{kind: MeshService, name: backend}}, rules: {rules}}}]}}\n"
    )
}

const MESH: &str = "{kind: Mesh}";
const PREFIX: &str = "[{matches: [{path: {type: PathPrefix, value: /v2}}], default: {}}]";

fn path(path: &str) -> [(&str, &str); 2] {
    [(":path", path), (":method", "GET")]
}

#[test]
fn retries_can_be_for_a_route_alone() {
    let of_route = "{kind: MeshHTTPRoute, name: v2}";
    let text = route("v2", PREFIX)
        + &retries("all", MESH, MESH, "{http: {numRetries: 1, perTryTimeout: 9s}}")
        + &retries(
            "service",
            MESH,
            "{kind: MeshService, name: backend}",
            "{http: {numRetries: 2, perTryTimeout: 8s}}",
        )
        + &retries("route", MESH, of_route, "{http: {numRetries: 3}}");
    let policies = parsed(&text);
    let of = |host, at| taken(&policies, &[], host, &path(at));
    assert_eq!(of("backend", "/v2/a").0, "MeshHTTPRoute/v2+route+service+all/rules[0]");
    assert_eq!((of("backend", "/v2/a").1, of("backend", "/v1").1, of("x", "/v2").1), (3, 2, 1));
    // Of what is said of all a route takes what it lacks, but not of what is said of its service.
    let policy = policies.iter().find(|policy| policy.name.to_string().starts_with("MeshHTTPRoute")).unwrap();
    let http = policy.routes.iter().find(|route| &*route.name == "rules[0]").unwrap();
    assert_eq!(http.http.retry.per_try_timeout.unwrap().as_secs(), 9);
    assert_eq!(http.sources.place(Setting::NumRetries).unwrap().line, 16);
    assert_eq!(http.sources.place(Setting::Matches).unwrap().line, 4);
    // The older form says the same.
    let text = route("v2", PREFIX) + &retries("route", of_route, MESH, "{http: {numRetries: 3}}");
    let policies = parsed(&text);
    assert_eq!(taken(&policies, &[], "backend", &path("/v2")).1, 3);
    assert_eq!(taken(&policies, &[], "backend", &path("/v1")).1, 0);
}

#[test]
fn routes_are_asked_from_the_narrowest_on() {
    let rules = "[{matches: [{path: {type: PathPrefix, value: /}}, {method: POST}], default: {}}, \
                 {matches: [{path: {type: PathPrefix, value: /a}, headers: [{name: x, value: '1'}]}], default: {}}, \
                 {matches: [{path: {type: PathPrefix, value: /a}}], default: {}}, \
                 {matches: [{path: {type: RegularExpression, value: /a.*}}], default: {}}, \
                 {matches: [{path: {type: Exact, value: /a}, queryParams: [{type: Exact, name: q, value: '1'}]}], default: {}}]";
    let policies = parsed(&route("r", rules));
    let of = |at, more: &[(&str, &str)]| {
        let request: Vec<_> = path(at).into_iter().chain(more.iter().copied()).collect();
        taken(&policies, &[], "backend", &request).0
    };
    assert_eq!(of("/a?q=1", &[]), "MeshHTTPRoute/r/rules[4]");
    assert_eq!(of("/a/b", &[("x", "1")]), "MeshHTTPRoute/r/rules[1]");
    assert_eq!(of("/a/b", &[]), "MeshHTTPRoute/r/rules[2]");
    assert_eq!(of("/ab", &[]), "MeshHTTPRoute/r/rules[0].matches[0]");
    assert_eq!(of("/", &[]), "MeshHTTPRoute/r/rules[0].matches[0]");
}

#[test]
fn backends_are_where_documents_say() {
    let external = "---\ntype: MeshExternalService\nname: out\nspec: {match: {type: HostnameGenerator, port: 80, protocol: http}, endpoints: [{address: out.example, port: 8443}]}\n";
    let backends = |refs: &str| {
        format!("[{{matches: [{{path: {{type: Exact, value: /a}}}}], default: {{backendRefs: [{refs}]}}}}]")
    };
    let both = backends(
        "{kind: MeshExternalService, name: out, weight: 1}, {kind: MeshService, name: backend, weight: 9}",
    );
    let (policies, problems, notes) = read(&(route("r", &both) + external));
    assert_eq!((problems.len(), notes.len()), (0, 0), "{problems:?} {notes:?}");
    let targets = &policies[0].routes[0].targets;
    let TargetAddress::Host { host, port } = &targets[0].address else { panic!() };
    assert_eq!((host.as_str(), port.unwrap().get(), targets[0].weight), ("out.example", 8443, 1));
    assert_eq!((&targets[1].address, targets[1].weight), (&TargetAddress::Original, 9));
    // Nothing is known of where another service or a part of one is.
    for unknown in
        ["{kind: MeshService, name: other}", "{kind: MeshServiceSubset, name: backend, tags: {v: '2'}}"]
    {
        let (policies, problems, notes) = read(&route("r", &backends(unknown)));
        assert_eq!((policies.len(), problems.len(), notes.len()), (1, 0, 1), "{problems:?}");
        assert!(
            notes[0].contains("backendRefs[0]: warning[unresolved-target]: nothing here tells where"),
            "{notes:?}"
        );
        assert!(policies[0].routes[0].targets.is_empty());
    }
    let at = "k.yaml:4: spec.to[0].rules[0]";
    for (rules, problem) in [
        (
            backends("{kind: MeshService, name: a, weight: 9}, {kind: MeshService, name: b}"),
            ".default.backendRefs: requests can't be split by weight between backends of which nothing here tells where they are; give them the same weight, or the documents of external services",
        ),
        (
            backends("{kind: MeshService, name: a, weight: 0}"),
            ".default.backendRefs: no backend has a weight of more than 0",
        ),
        (
            "[{matches: [{path: {type: PathPrefix, value: /a/}}], default: {}}]".to_owned(),
            ".matches[0].path.value: expected a path without a slash at its end; a prefix matches whole segments anyway, found \"/a/\"",
        ),
        (
            "[{matches: [{path: {type: Exact, value: a}}], default: {}}]".to_owned(),
            ".matches[0].path.value: expected a path that begins with /, found \"a\"",
        ),
        (
            "[{matches: [{queryParams: [{type: Exact, name: a, value: a}, {type: Exact, name: a, value: b}]}], default: {}}]".to_owned(),
            ".matches[0].queryParams: a is there twice",
        ),
        (
            "[{matches: [{method: GET}], default: {filters: [{type: URLRewrite, urlRewrite: {}}]}}]".to_owned(),
            ".default.filters[0].type: expected RequestMirror or ResponseHeaderModifier; a filter that changes requests can't be honoured here, found \"URLRewrite\"",
        ),
        ("[{default: {}}]".to_owned(), ".matches: the field is required"),
    ] {
        assert_eq!(read(&route("r", &rules)).1, [format!("{at}{problem}")]);
    }
    let mirror = "[{matches: [{method: GET}], default: {filters: [{type: RequestMirror, requestMirror: {backendRef: {kind: MeshService, name: a}}}]}}]";
    let (_, problems, notes) = read(&route("r", mirror));
    assert_eq!((problems.len(), notes.len()), (0, 1), "{problems:?}");
}

#[test]
fn rules_of_several_documents_are_merged() {
    let external = "---\ntype: MeshExternalService\nname: out\nspec: {match: {type: HostnameGenerator, port: 80, protocol: http}, endpoints: [{address: 192.0.2.9}, {address: 192.0.2.8}]}\n";
    let rules =
        |default: &str| format!("[{{matches: [{{path: {{type: Exact, value: /a}}}}], default: {default}}}]");
    let text = route("b", &rules("{backendRefs: [{kind: MeshExternalService, name: out}]}"))
        + &route("a", &rules("{}"))
        + external;
    let [policy] = &parsed(&text)[..] else { panic!() };
    assert_eq!(policy.name.to_string(), "MeshHTTPRoute/a+b");
    let [route] = &policy.routes[..] else { panic!() };
    let TargetAddress::Addresses(addresses) = &route.targets[0].address else { panic!() };
    assert_eq!(addresses.len(), 2);
}

#[test]
fn a_route_that_is_missing_is_told() {
    let of_route = retries("r", MESH, "{kind: MeshHTTPRoute, name: v2}", "{http: {numRetries: 3}}");
    let (policies, problems, notes) = read(&of_route);
    assert_eq!((policies.len(), problems.len()), (1, 0));
    assert_eq!(
        notes,
        [
            "k.yaml:4: spec.to[0].targetRef: warning[applies-everywhere]: no document is this MeshHTTPRoute, so it applies to all destinations; add it"
        ]
    );
    assert_eq!(
        read(&(of_route + &route("v1", PREFIX))).1,
        ["k.yaml:4: spec.to[0].targetRef: no document is this MeshHTTPRoute; add it, or correct its name"]
    );
}

#[test]
fn routes_of_gateways_are_noted() {
    let text = route("r", PREFIX)
        .replace("{to:", "{targetRef: {kind: MeshGateway, name: edge}, to:")
        .replace("rules:", "hostnames: [a.example], rules:")
        .replace("MeshService", "Mesh");
    let (policies, problems, notes) = read(&text);
    assert_eq!((policies.len(), problems.len(), notes.len()), (0, 0, 1), "{problems:?}");
    // What is said of such a route is for nobody here either.
    let text = text + &retries("a", MESH, "{kind: MeshHTTPRoute, name: r}", "{http: {numRetries: 3}}");
    let (policies, problems, notes) = read(&text);
    assert_eq!((policies.len(), problems.len(), notes.len()), (0, 0, 2), "{problems:?}");
}
