//! Matches that tell ports and workloads apart, and several documents for one host.

use std::sync::Arc;

use super::{document, notes, parsed, problems};
use crate::dialect::Code;
use crate::policy::{Identity, Table};

/// The name of the route that a request for `/` to this port takes, of a workload with these labels in this namespace; of any
/// where it is empty.
fn taken(text: &str, port: u16, (namespace, labels): (&str, &[(&str, &str)])) -> Option<String> {
    let table = Arc::new(Table::try_new(parsed(text).policies).unwrap());
    let identity = Arc::new(Identity {
        namespace: Some(namespace.into()),
        labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    });
    let identity = Some(&identity).filter(|_| !namespace.is_empty());
    let hosts: Vec<_> = table.hosts().cloned().collect();
    let matched = table.lookup(([10, 0, 0, 1], port).into(), &Arc::from("/a"), identity, &hosts);
    let request = [(":authority", "a"), (":path", "/")];
    let router = matched.router?;
    router.route(&request[..]).route.map(|route| route.name.to_string())
}

fn routes(matches: &[&str]) -> String {
    let entry = |(index, matches): (usize, &&str)| {
        let matches = if matches.is_empty() { String::new() } else { format!(", match: [{matches}]") };
        format!("{{name: r{index}, route: [{{destination: {{host: a}}}}]{matches}}}")
    };
    let entries: Vec<_> = matches.iter().enumerate().map(entry).collect();
    document(&format!("{{hosts: [a], http: [{}]}}", entries.join(", ")))
}

#[test]
fn the_first_match_is_taken_whatever_its_port() {
    let any = ("", &[][..]);
    let later = routes(&["{port: 81}", "{port: 80}", ""]);
    let names: Vec<_> = parsed(&later).policies.iter().map(|policy| policy.name.to_string()).collect();
    assert_eq!(names, ["VirtualService/shop/a", "VirtualService/shop/a:80", "VirtualService/shop/a:81"]);
    for (port, route) in [(80, "r1.match[0]"), (81, "r0.match[0]"), (82, "r2")] {
        assert_eq!(taken(&later, port, any).as_deref(), Some(route), "{port}");
    }
    let first = routes(&["", "{port: 80}"]);
    assert_eq!(taken(&first, 80, any).as_deref(), Some("r0"));
    let alone = routes(&["{port: 80}"]);
    assert_eq!(parsed(&alone).policies.len(), 1);
    assert_eq!(taken(&alone, 81, any), None);
    // One entry may have several, in any order.
    let both = routes(&["{port: 80}, {uri: {exact: /x}}", ""]);
    assert_eq!(taken(&both, 80, any).as_deref(), Some("r0.match[0]"));
    assert_eq!(taken(&both, 81, any).as_deref(), Some("r1"));
}

#[test]
fn the_first_match_is_taken_whatever_its_source() {
    let text = routes(&[
        "{sourceLabels: {app: web, v: '1'}}",
        "{sourceNamespace: shop, port: 80}",
        "{sourceLabels: {app: web}}",
        "",
    ]);
    let web = [("app", "web"), ("v", "1")];
    for (port, namespace, labels, route) in [
        (80, "shop", &web[..], "r0.match[0]"),
        (80, "shop", &web[..1], "r1.match[0]"),
        (81, "shop", &web[..1], "r2.match[0]"),
        (80, "other", &web[..1], "r2.match[0]"),
        (80, "other", &[], "r3"),
        // Of whom nothing is known is whoever comes first.
        (81, "", &[], "r0.match[0]"),
    ] {
        let found = taken(&text, port, (namespace, labels));
        assert_eq!(found.as_deref(), Some(route), "{port} {namespace} {labels:?}");
    }
    let first = routes(&["", "{sourceLabels: {app: web}}"]);
    assert_eq!(taken(&first, 80, ("shop", &web)).as_deref(), Some("r0"));
}

#[test]
fn a_document_is_for_those_that_it_is_exported_to() {
    let text = |names: &str| {
        routes(&["{sourceNamespace: other}", ""])
            .replace("hosts: [a]", &format!("hosts: [a], exportTo: [{names}]"))
    };
    for (names, namespace, route) in [
        ("'.'", "shop", Some("r1")),
        ("'.'", "other", None),
        ("'.', other", "other", Some("r0.match[0]")),
        ("'*', '.'", "third", Some("r1")),
        ("other", "shop", None),
    ] {
        let found = taken(&text(names), 80, (namespace, &[]));
        assert_eq!(found.as_deref(), route, "{names} {namespace}");
    }
    assert!(notes(&text("'.'")).contains(&(Code::InertSetting, "spec.exportTo".to_owned())));
    assert!(!notes(&text("other")).contains(&(Code::InertSetting, "spec.exportTo".to_owned())));
    assert!(parsed(&text("'~'")).policies.is_empty());
    assert!(notes(&text("'~'")).contains(&(Code::InertSetting, "spec.exportTo".to_owned())));
    let nowhere = text("'.'").replace(", namespace: shop", "");
    assert!(parsed(&nowhere).policies.iter().any(|policy| policy.from.is_empty()));
    assert!(notes(&nowhere).contains(&(Code::Ignored, "spec.exportTo".to_owned())));
}

#[test]
fn a_match_for_gateways_alone_is_for_nobody() {
    let text = routes(&["{gateways: [edge]}", "{gateways: [edge]}, {gateways: [mesh, edge]}"]);
    let routes: Vec<_> =
        parsed(&text).policies[0].routes.iter().map(|route| route.name.to_string()).collect();
    assert_eq!(routes, ["r1.match[1]"]);
    assert!(notes(&text).contains(&(Code::Ignored, "spec.http[0].match[0].gateways".to_owned())));
    // Where the document is for gateways alone, they stand for workloads.
    let text = text.replace("hosts: [a]", "hosts: [a], gateways: [edge]");
    assert_eq!(parsed(&text).policies[0].routes.len(), 3);
}

#[test]
fn workloads_look_at_the_oldest_document_of_a_host() {
    let one = |name: &str, more: &str, spec: &str| {
        let text =
            routes(&[""]).replace("name: a,", &format!("name: {name}{more},")).replace("hosts: [a]", spec);
        format!("---\n{}\n", text.replace("name: r0", &format!("name: {name}")))
    };
    let (old, new) =
        (", creationTimestamp: '2024-01-02T03:04:05Z'", ", creationTimestamp: '2024-11-02T03:04:05Z'");
    let found = |texts: &[String]| taken(&texts.concat(), 80, ("shop", &[]));
    assert_eq!(found(&[one("b", "", "hosts: [a]"), one("c", "", "hosts: [a]")]).as_deref(), Some("b"));
    let both = [one("b", new, "hosts: [a]"), one("c", old, "hosts: [a, x.example]")];
    assert_eq!(found(&both).as_deref(), Some("c"));
    assert_eq!(parsed(&both.concat()).policies.len(), 1);
    let told: Vec<_> = parsed(&both.concat()).notes.iter().map(ToString::to_string).collect();
    let expected = "p.yaml:2: spec.hosts[0]: warning[inert-setting]: VirtualService/shop/c is older, or the first by name, \
                    and for this host too; nothing of this document holds for it";
    assert!(told.iter().any(|note| note == expected), "{told:#?}");
    // What else it is for is still its own.
    let rest = [one("b", new, "hosts: [a, y.example]"), both[1].clone()];
    assert_eq!(parsed(&rest.concat()).policies[1].to.len(), 1);
    // Gateways put several together.
    let edge = [one("b", "", "hosts: [a], gateways: [edge]"), one("c", "", "hosts: [a], gateways: [edge]")];
    assert_eq!(parsed(&edge.concat()).policies.len(), 2);
    // What is not for these workloads is not in the way.
    let others = [one("b", old, "hosts: [a], exportTo: [other]"), one("c", new, "hosts: [a]")];
    assert_eq!(found(&others).as_deref(), Some("c"));
    assert_eq!(taken(&others.concat(), 80, ("other", &[])).as_deref(), Some("b"));
}

#[test]
fn two_documents_of_one_name_are_an_error() {
    let text = routes(&[""]);
    let other = text.replace("hosts: [a]", "hosts: [b]");
    assert_eq!(
        problems(&format!("{text}\n---\n{other}")),
        ["p.yaml:3: metadata.name: the name VirtualService/shop/a is taken already, at p.yaml:1"]
    );
}

#[test]
fn only_so_much_can_be_told_apart() {
    let ports: Vec<_> = (1..=64).map(|port| format!("{{port: {port}}}")).collect();
    assert_eq!(
        problems(&routes(&[&ports.join(", ")])),
        ["spec: at most 63 ports and as many sources can be told apart"]
    );
    let sources: Vec<_> = (1..=65).map(|index| format!("{{sourceNamespace: n{index}}}")).collect();
    assert_eq!(
        problems(&routes(&[&sources.join(", ")])),
        ["spec: at most 63 ports and as many sources can be told apart"]
    );
    let many = [&ports[..60], &vec!["{uri: {exact: /}}".to_owned(); 70]].concat();
    assert_eq!(
        problems(&routes(&[&many.join(", ")])),
        ["spec: its matches, for each port that is told apart, come to 4330 routes; there may be 4096"]
    );
}
