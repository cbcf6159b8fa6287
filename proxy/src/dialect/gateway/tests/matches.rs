//! Which requests the rules of routes are for, and which of them comes first.

use super::{assert_notes, parsed, problems, rule};
use crate::policy::Policy;

/// A route of this name, made then, whose only rule is this.
fn route(name: &str, created: &str, rule: &str) -> String {
    let created = if created.is_empty() { String::new() } else { format!(", creationTimestamp: {created}") };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}{created}}}\nspec: \
         {{hostnames: [a.example], rules: [{rule}]}}\n"
    )
}

/// The names of policies in the order in which their routes are asked.
fn order(text: &str) -> Vec<String> {
    let policies = parsed(text).policies;
    let key = |policy: &Policy| (policy.routes[0].precedence.among_all, policy.name.clone());
    let mut order: Vec<_> = policies.iter().map(key).collect();
    order.sort();
    order.iter().map(|(_, name)| name.name().to_owned()).collect()
}

#[test]
fn of_equal_matches_the_oldest_route_s_comes_first() {
    let (old, new) = ("2024-01-02T03:04:05Z", "2024-11-02T03:04:05Z");
    let three = [route("a", "", "{}"), route("b", new, "{}"), route("c", old, "{}")].concat();
    assert_eq!(order(&three), ["c", "b", "a"]);
    let same = [route("b", old, "{}"), route("a", old, "{}")].concat();
    assert_eq!(order(&same), ["a", "b"]);
    let unsaid = [route("b", "null", "{}"), route("a", "", "{}")].concat();
    assert_eq!(order(&unsaid), ["a", "b"]);
    // What is more specific still comes before what is older.
    let header = "{matches: [{headers: [{name: x-a, value: b}]}]}";
    assert_eq!(order(&[route("a", old, "{}"), route("b", new, header)].concat()), ["b", "a"]);
}

#[test]
fn headers_count_before_parameters() {
    let header = "{matches: [{headers: [{name: x-a, value: b}]}]}";
    let parameters = "{matches: [{queryParams: [{name: a, value: b}, {name: b, value: b}]}]}";
    assert_eq!(order(&[route("a", "", parameters), route("b", "", header)].concat()), ["b", "a"]);
    assert_eq!(order(&[route("b", "", parameters), route("a", "", "{}")].concat()), ["b", "a"]);
}

#[test]
fn of_equivalent_names_the_first_is_asked() {
    let parsed = parsed(&rule("{matches: [{headers: [{name: X-a, value: b}, {name: x-A, value: c}]}]}"));
    let matcher = &parsed.policies[0].routes[0].matcher;
    assert!(matcher.matches(&[("x-a", "b")][..]));
    assert_notes(
        &parsed,
        "p.yaml:4: spec.rules[0].matches[0].headers[1]: warning[inert-setting]: nothing is asked of it, since an entry before \
         it has this name",
    );
}

#[test]
fn a_grpc_route_may_have_expressions() {
    let grpc = |method: &str| {
        rule(&format!("{{matches: [{{method: {{{method}}}}}]}}")).replace("HTTPRoute", "GRPCRoute")
    };
    let takes = |method: &str, path: &str| {
        let request = [(":path", path), ("content-type", "application/grpc+proto")];
        parsed(&grpc(method)).policies[0].routes[0].matcher.matches(&request[..])
    };
    let expression = "type: RegularExpression, service: 'a|b', method: 'Get.*'";
    for (path, expected) in [("/a/GetX", true), ("/b/Get", true), ("/ab/Get", false), ("/a/Put", false)] {
        assert_eq!(takes(expression, path), expected, "{path}");
    }
    assert!(takes("type: RegularExpression, service: 'a.*'", "/abc/X") && !takes("service: 'a.*'", "/abc/X"));
    for (method, problem) in [
        ("", ": service or method is required"),
        ("type: Prefix, service: a", ".type: expected one of Exact, RegularExpression, found \"Prefix\""),
    ] {
        assert_eq!(problems(&grpc(method)), [format!("p.yaml:4: spec.rules[0].matches[0].method{problem}")]);
    }
}

#[test]
fn each_match_has_its_message() {
    for (entry, problem) in [
        ("path: {value: a}", "path.value: expected a path that begins with /, found \"a\""),
        (
            "path: {type: Prefix, value: /a}",
            "path.type: expected one of Exact, RegularExpression, PathPrefix, found \"Prefix\"",
        ),
        (
            "method: get",
            "method: expected one of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH, found \"get\"",
        ),
        ("headers: [{name: x-a}]", "headers[0].value: the field is required"),
        (
            "headers: [{name: ':path', value: a}]",
            "headers[0].name: expected the name of a header, such as x-retry, found \":path\"",
        ),
        (
            "queryParams: [{name: a, type: Prefix, value: b}]",
            "queryParams[0].type: expected one of Exact, RegularExpression, found \"Prefix\"",
        ),
    ] {
        let found = problems(&rule(&format!("{{matches: [{{{entry}}}]}}")));
        assert_eq!(found, [format!("p.yaml:4: spec.rules[0].matches[0].{problem}")], "{entry}");
    }
}
