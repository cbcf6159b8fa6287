//! Which policy and route hold, against rules that are written down twice.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{DuplicateName, Matched, Resolution, Rule, Says, Table};
use crate::policy::{
    Address, Destination, Host, HttpPolicy, Identity, LabelMatch, Origin, PathMatch, Policy, PolicyName,
    Precedence, RequestMatch, RequestProtocol, Rest, Route, Routed, Target, TargetAddress, WorkloadSelector,
};
use crate::retry::ConnectRetry;

fn destination(address: &str, port: u16) -> Destination {
    let address = match address {
        "any" => Address::Any,
        text => text.parse().map_or_else(|_| Address::Host(text.parse().unwrap()), Address::Network),
    };
    Destination { address, port: NonZeroU16::new(port) }
}

fn policy(name: &str, line: u64, to: Vec<Destination>) -> Policy {
    Policy {
        name: PolicyName::try_new(None, name).unwrap(),
        origin: Origin::File { path: Arc::from(Path::new("p.yaml")), line },
        to,
        ..Policy::built_in()
    }
}

/// The hosts' addresses in these tests: a and b share one.
const ADDRESSES: [(&str, &str); 4] =
    [("a", "10.1.2.3"), ("a", "fd00::1"), ("b", "10.1.2.3"), ("b", "10.9.9.9")];

struct Names;

impl Resolution for Names {
    fn hosts_at(&self, address: IpAddr, visit: &mut dyn FnMut(&Host)) {
        let here = ADDRESSES.iter().filter(|(_, text)| text.parse() == Ok(address));
        here.for_each(|(host, _)| visit(&host.parse().unwrap()));
    }

    fn unresolved(&self, visit: &mut dyn FnMut(&Host)) {
        visit(&"nowhere".parse().unwrap());
    }
}

fn lookup(table: &Table, destination: &str) -> Matched {
    Arc::new(table.clone()).lookup(destination.parse().unwrap(), &Arc::from("web"), None, &Names)
}

fn chosen(table: &Table, destination: &str) -> (String, Option<String>) {
    let found = lookup(table, destination);
    (found.policy.name.to_string(), found.host.map(|host| host.to_string()))
}

#[test]
fn the_most_specific_wins() {
    let table = Table::try_new(vec![
        policy("host-port", 1, vec![destination("a", 443)]),
        policy("host", 1, vec![destination("a", 0)]),
        policy("net16", 1, vec![destination("10.1.0.0/16", 0)]),
        policy("net8-port", 1, vec![destination("10.0.0.0/8", 443)]),
        policy("net8", 1, vec![destination("10.0.0.0/8", 0)]),
        policy("net8-again", 1, vec![destination("10.0.0.0/8", 0)]),
        policy("port", 1, vec![destination("any", 443)]),
        policy("v4", 1, vec![destination("0.0.0.0/0", 0)]),
    ])
    .unwrap();
    for (to, name, host) in [
        ("10.1.2.3:443", "host-port", Some("a")),
        ("[fd00::1]:443", "host-port", Some("a")),
        ("[::ffff:10.1.2.3]:443", "host-port", Some("a")),
        ("10.1.2.3:80", "host", Some("a")),
        ("10.1.2.4:443", "net16", None),
        ("10.2.0.1:443", "net8-port", None),
        ("10.2.0.1:80", "net8", None),
        ("[::ffff:10.2.0.1]:80", "net8", None),
        ("192.0.2.1:443", "port", None),
        ("[2001:db8::1]:443", "port", None),
        ("192.0.2.1:80", "v4", None),
        ("[2001:db8::1]:80", "default", None),
    ] {
        assert_eq!(chosen(&table, to), (name.to_owned(), host.map(str::to_owned)), "{to}");
    }
}

#[test]
fn a_policy_without_to_holds_everywhere() {
    let table = Table::try_new(vec![policy("z", 1, vec![])]).unwrap();
    assert_eq!(chosen(&table, "192.0.2.1:1").0, "z");
    assert_eq!(chosen(&table, "[2001:db8::1]:1").0, "z");
}

#[test]
fn a_policy_named_default_replaces_the_built_in_one() {
    let built_in = Table::default();
    assert_eq!(lookup(&built_in, "192.0.2.1:1").policy.origin, Origin::BuiltIn);
    let table = Table::try_new(vec![policy("default", 7, vec![]), policy("z", 1, vec![])]).unwrap();
    assert_eq!(chosen(&table, "192.0.2.1:1").0, "z");
    let table = Table::try_new(vec![policy("default", 7, vec![])]).unwrap();
    assert_eq!(lookup(&table, "192.0.2.1:1").policy.origin.to_string(), "p.yaml:7");
    assert_eq!(table.policies().count(), 1);
}

#[test]
fn every_duplicate_name_is_told_with_both_places() {
    let policies = ["a", "b", "a", "a"].into_iter().zip(1..).map(|(name, line)| policy(name, line, vec![]));
    let duplicates = Table::try_new(policies.collect()).unwrap_err();
    let lines = duplicates.iter().map(|DuplicateName { first, second, .. }| format!("{first} {second}"));
    assert_eq!(lines.collect::<Vec<_>>(), ["p.yaml:1 p.yaml:3", "p.yaml:1 p.yaml:4"]);
    assert_eq!(duplicates[0].to_string(), "the name a is taken already, at p.yaml:1");
}

#[test]
fn each_host_is_resolved_once() {
    let table = Table::try_new(vec![
        policy("one", 1, vec![destination("b", 1), destination("a", 0), destination("b", 0)]),
        policy("two", 1, vec![destination("b", 2), destination("10.0.0.0/8", 0)]),
    ])
    .unwrap();
    assert_eq!(table.hosts().map(Host::as_str).collect::<Vec<_>>(), ["a", "b"]);
}

/// Goes through every destination of every policy and keeps the best by the rules as they are written down.
fn oracle(policies: &[Policy], to: SocketAddr) -> (String, Option<String>) {
    let address = to.ip().to_canonical();
    let everywhere = vec![destination("any", 0)];
    let candidates = policies.iter().flat_map(|policy| {
        let to = if policy.to.is_empty() { &everywhere } else { &policy.to };
        to.iter().map(move |destination| (policy, destination))
    });
    let matching = candidates.filter_map(|(policy, Destination { address: pattern, port })| {
        let (kind, length, host) = match pattern {
            Address::Any => (0, 0, None),
            Address::Network(network) if network.get().contains(&address) => {
                (0, network.get().prefix_len(), None)
            }
            Address::Host(host)
                if ADDRESSES
                    .iter()
                    .any(|(name, text)| *name == host.as_str() && text.parse() == Ok(address)) =>
            {
                (1, 0, Some(host.to_string()))
            }
            Address::Network(_) | Address::Host(_) | Address::Suffix(_) => return None,
        };
        if port.is_some_and(|port| port.get() != to.port()) {
            return None;
        }
        let rank = (kind, length, port.is_some(), Reverse(policy.name.clone()), Reverse(host.clone()));
        Some((rank, policy.name.to_string(), host))
    });
    let best = matching.max_by(|one, other| one.0.cmp(&other.0));
    best.map_or(("default".to_owned(), None), |(_, name, host)| (name, host))
}

prop_compose! {
    fn any_destination()(
        address in select(&[
            "any", "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "::/0", "fd00::/8", "fd00::1", "a", "b",
        ][..]),
        port in 0u16..3,
    ) -> Destination {
        destination(address, port)
    }
}

fn any_policies() -> impl Strategy<Value = Vec<Policy>> {
    vec(vec(any_destination(), 0..4), 0..8).prop_map(|all| {
        // In an order that is not the names' own.
        let names = ["f", "b", "h", "a", "d", "g", "c", "e"];
        names.into_iter().zip(all).map(|(name, to)| policy(name, 1, to)).collect()
    })
}

fn route(name: &str, path: &str, among_all: u32, within: u32) -> Route {
    let path = PathMatch::Prefix { path: path.into(), ignore_case: false };
    Route {
        name: name.into(),
        precedence: Precedence { among_all: [among_all, 0, 0, 0, 0], within },
        matcher: RequestMatch { path, ..RequestMatch::default() },
        http: Arc::new(HttpPolicy::default()),
        targets: Arc::default(),
        sources: Arc::default(),
    }
}

fn routed(name: &str, rest: Rest, to: &[&str], routes: Vec<Route>) -> Policy {
    let destination = |text: &&str| match text.parse().map(Address::Suffix) {
        Ok(address) => Destination { address, port: None },
        Err(_) => match text.split_once(':') {
            Some((text, port)) => destination(text, port.parse().unwrap()),
            None => destination(text, 0),
        },
    };
    let to = to.iter().map(destination).collect();
    Policy { routes, rest, ..policy(name, 1, to) }
}

/// `policy/route` for a request to an address of a host that nothing names.
fn taken(table: &Table, destination: &str, authority: &str, path: &str) -> String {
    let Some(router) = lookup(table, destination).router else { return "untouched".to_owned() };
    let request = &[(":authority", authority), (":path", path)][..];
    let Routed { policy, route } = router.route(request);
    format!("{}/{}", policy.name, route.map_or("-", |route| &route.name))
}

#[test]
fn a_request_takes_the_first_route_of_the_most_specific_destination() {
    let (passes, goes_on) = (Rest::Passes, Rest::GoesOn);
    let table = Table::try_new(vec![
        routed("exact", goes_on, &["x.test"], vec![route("a", "/a", 0, 0)]),
        routed("exact-port", goes_on, &["x.test:81"], vec![route("all", "/", 0, 0)]),
        routed("wide", goes_on, &["*.test"], vec![route("b", "/a/b", 0, 0), route("all", "/b", 0, 1)]),
        routed("wider", goes_on, &["*.a.test"], vec![route("all", "/", 0, 0)]),
        routed("net", passes, &["10.0.0.0/8"], vec![route("n", "/n", 0, 0)]),
        // The same destination, for all: the precedence of the routes counts, then the policies' names.
        routed("any-2", goes_on, &[], vec![route("low", "/", 9, 0), route("high", "/h", 1, 0)]),
        routed("any-1", goes_on, &[], vec![route("mid", "/h", 5, 0), route("tie", "/t", 9, 0)]),
        routed("default", passes, &[], vec![]),
    ])
    .unwrap();
    for (destination, authority, path, expected) in [
        ("192.0.2.1:80", "x.test", "/a", "exact/a"),
        ("192.0.2.1:80", "X.Test.:8080", "/a", "exact/a"),
        // The port that counts is the one that was dialled.
        ("192.0.2.1:81", "x.test:80", "/a", "exact-port/all"),
        ("192.0.2.1:80", "x.test", "/b", "wide/all"),
        ("192.0.2.1:80", "y.a.test", "/", "wider/all"),
        ("192.0.2.1:80", "y.b.test", "/a/b", "wide/b"),
        ("192.0.2.1:80", "test", "/", "any-2/low"),
        ("192.0.2.1:80", "x.test", "/h", "any-2/high"),
        ("192.0.2.1:80", "", "/t", "any-1/tie"),
        ("10.0.0.1:80", "x.test", "/a", "exact/a"),
        ("10.0.0.1:80", "z", "/n", "net/n"),
        // It has the last word.
        ("10.0.0.1:80", "z", "/h", "net/-"),
    ] {
        assert_eq!(taken(&table, destination, authority, path), expected, "{destination} {authority} {path}");
    }
}

/// A host that the address belongs to counts as if the request had said it, after what it did say.
#[test]
fn an_address_stands_for_its_host() {
    let table = Table::try_new(vec![
        routed("by-name", Rest::GoesOn, &["a"], vec![route("r", "/r", 0, 0), route("s", "/s", 0, 1)]),
        routed("said", Rest::GoesOn, &["c"], vec![route("r", "/r", 0, 0)]),
    ])
    .unwrap();
    assert_eq!(taken(&table, "10.1.2.3:80", "10.1.2.3", "/r"), "by-name/r");
    assert_eq!(taken(&table, "10.1.2.3:80", "c", "/r"), "said/r");
    assert_eq!(taken(&table, "10.1.2.3:80", "c", "/s"), "by-name/s");
    assert_eq!(taken(&table, "192.0.2.1:80", "192.0.2.1", "/r"), "default/-");
}

#[test]
fn policies_are_for_their_workloads() {
    let selector = WorkloadSelector {
        labels: vec![("app".into(), LabelMatch::Is("web".into()))],
        ..WorkloadSelector::default()
    };
    let web =
        Policy { from: vec![selector], ..routed("web", Rest::GoesOn, &[], vec![route("r", "/", 0, 0)]) };
    let table = Arc::new(Table::try_new(vec![web]).unwrap());
    let chosen = |app: Option<&str>| {
        let identity = app
            .map(|app| Arc::new(Identity { namespace: None, labels: [("app".into(), app.into())].into() }));
        let to = "192.0.2.1:80".parse().unwrap();
        let matched = table.lookup(to, &Arc::from("x"), identity.as_ref(), &Names);
        let routed =
            matched.router.as_ref().map(|router| router.route(&[(":path", "/")][..]).policy.name.to_string());
        (matched.policy.name.to_string(), routed)
    };
    assert_eq!(chosen(None), ("web".to_owned(), Some("web".to_owned())));
    assert_eq!(chosen(Some("web")), ("web".to_owned(), Some("web".to_owned())));
    assert_eq!(chosen(Some("db")).0, "default");
}

#[test]
fn the_connection_is_as_patient_as_what_may_apply() {
    let patient = |policy: Policy, attempts: u32| {
        let default = ConnectRetry::default();
        let attempts = attempts.try_into().unwrap();
        let tcp = ConnectRetry::try_new(attempts, None, None, default.backoff(), default.retry_on()).unwrap();
        Policy { tcp, ..policy }
    };
    let table = Table::try_new(vec![
        patient(routed("net", Rest::Passes, &["10.0.0.0/8"], vec![]), 2),
        patient(routed("any", Rest::GoesOn, &[], vec![route("r", "/", 0, 0)]), 7),
        // It has other addresses than those that are asked for.
        patient(routed("elsewhere", Rest::GoesOn, &["a"], vec![route("r", "/", 0, 0)]), 9),
        // Nobody knows its address: any may be.
        patient(routed("unknown", Rest::GoesOn, &["nowhere:81"], vec![route("r", "/", 0, 0)]), 8),
    ])
    .unwrap();
    let attempts = |table: &Table, to: &str| lookup(table, to).patient.tcp.max_connect_attempts().get();
    for (to, expected) in [("10.9.9.1:80", 2), ("192.0.2.1:80", 7), ("192.0.2.1:81", 8), ("10.1.2.3:80", 9)] {
        assert_eq!(attempts(&table, to), expected, "{to}");
    }
    // What routes that take every request leave nothing to does not apply; another name of the address does.
    let only = |protocol, mut route: Route| {
        route.matcher.protocol = protocol;
        route
    };
    let grpc = only(RequestProtocol::Grpc, route("g", "/", 0, 0));
    let http = only(RequestProtocol::Http, route("h", "/", 0, 1));
    let of_a = |routes| patient(routed("a", Rest::GoesOn, &["a"], routes), 2);
    let any = patient(routed("any", Rest::GoesOn, &[], vec![route("r", "/", 0, 0)]), 7);
    for (routes, expected) in
        [(vec![grpc.clone(), http.clone()], 2), (vec![grpc.clone()], 7), (vec![http.clone()], 7)]
    {
        let table = Table::try_new(vec![of_a(routes), any.clone()]).unwrap();
        assert_eq!(attempts(&table, "10.1.2.3:80"), expected);
    }
    let b = patient(routed("b", Rest::GoesOn, &["b"], vec![]), 5);
    let table = Table::try_new(vec![of_a(vec![grpc, http]), b, any]).unwrap();
    assert_eq!(attempts(&table, "10.1.2.3:80"), 5);
}

#[test]
fn where_all_leads_elsewhere_no_connection_is_made() {
    let target = |address| Target { name: "t".into(), weight: 1, address };
    let elsewhere = target(TargetAddress::Addresses([("10.0.0.9".parse().unwrap(), None)].into()));
    let with = |name: &str, targets: Vec<Target>| Route { targets: targets.into(), ..route(name, "/", 0, 0) };
    for (targets, expected) in [
        (vec![vec![elsewhere.clone()]], true),
        (vec![vec![elsewhere.clone()], vec![]], false),
        (vec![vec![elsewhere.clone(), target(TargetAddress::Original)]], false),
        (vec![vec![elsewhere, Target { weight: 0, ..target(TargetAddress::Original) }]], true),
        (vec![vec![]], false),
    ] {
        let routes = targets.into_iter().map(|targets| with("r", targets)).collect();
        let table = Table::try_new(vec![routed("p", Rest::GoesOn, &[], routes)]).unwrap();
        assert_eq!(lookup(&table, "192.0.2.1:80").router.unwrap().leads_elsewhere(), expected);
    }
}

/// What comes to nothing, by comparing each rule with all before it.
fn plainly_hidden(table: &Table) -> Vec<String> {
    let (mut hidden, mut holds) = (BTreeSet::new(), BTreeSet::new());
    for tier in table.hosts.values().chain(table.suffixes.values()).chain(table.networks.values()) {
        let mut takers: Vec<&Rule> = Vec::new();
        for rule in tier.iter() {
            let is_hidden = takers.iter().any(|taker| {
                taker.policy.name != rule.policy.name
                    && (taker.port.is_none() || taker.port == rule.port)
                    && (taker.policy.from.is_empty() || taker.policy.from == rule.policy.from)
                    && (taker.says == Says::Rest || !rule.policy.routes.is_empty())
            });
            let name = rule.policy.name.to_string();
            if is_hidden {
                hidden.insert(name);
                continue;
            }
            holds.insert(name);
            if rule.route().map_or(rule.says == Says::Rest, |route| route.matcher.is_any()) {
                takers.push(rule);
            }
        }
    }
    hidden.difference(&holds).cloned().collect()
}

/// For whom a policy is, whether it has a route for everything, and whether it has the last word.
fn any_says() -> impl Strategy<Value = (u8, Option<bool>, bool)> {
    (0..3u8, proptest::option::of(any::<bool>()), any::<bool>())
}

fn saying(policy: Policy, (from, takes_all, is_last): (u8, Option<bool>, bool)) -> Policy {
    let label = LabelMatch::Is(format!("app-{from}").into());
    let selector = WorkloadSelector { labels: vec![("app".into(), label)], ..WorkloadSelector::default() };
    let all = Route { matcher: RequestMatch::default(), ..route("all", "/", 0, 0) };
    let routes = takes_all.map(|takes_all| if takes_all { all } else { route("some", "/a", 0, 0) });
    Policy {
        from: if from == 0 { Vec::new() } else { vec![selector] },
        routes: routes.into_iter().collect(),
        rest: if is_last { Rest::Passes } else { Rest::GoesOn },
        ..policy
    }
}

proptest! {
    #[test]
    fn what_is_hidden_is_what_comparing_all_finds(policies in any_policies(), says in vec(any_says(), 8)) {
        let policies: Vec<_> = policies.into_iter().zip(says.into_iter().cycle()).map(|(one, says)| saying(one, says)).collect();
        let table = Table::try_new(policies).unwrap();
        let found: BTreeSet<_> = table.hidden().iter().map(|(policy, _)| policy.name.to_string()).collect();
        prop_assert_eq!(found.into_iter().collect::<Vec<_>>(), plainly_hidden(&table));
    }

    /// Where there are many rules, only those that may hold are kept with a connection.
    #[test]
    fn a_connection_keeps_what_is_for_it(policies in any_policies(), says in vec(any_says(), 8), port in 0u16..4) {
        let copies = |(index, (policy, says)): (usize, (Policy, _))| {
            let name = PolicyName::try_new(None, &format!("p{index}")).unwrap();
            saying(Policy { name, ..policy }, says)
        };
        let many = policies.into_iter().cycle().take(100).zip(says.into_iter().cycle()).enumerate().map(copies);
        let table = Arc::new(Table::try_new(many.collect()).unwrap());
        let app = Identity { namespace: None, labels: [("app".into(), "app-1".into())].into() };
        let to = SocketAddr::new("10.1.2.3".parse().unwrap(), port);
        let router = table.router(to, &Arc::from("x"), Some(&Arc::new(app)), &Names);
        let narrowed = router.clone().narrowed();
        for path in ["/a", "/b"] {
            let request = &[(":authority", "b"), (":path", path)][..];
            let [one, other] = [&router, &narrowed].map(|router| {
                let Routed { policy, route } = router.route(request);
                (policy.name.clone(), route.map(|route| route.name.clone()))
            });
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn a_lookup_finds_what_going_through_all_finds(policies in any_policies(), port in 0u16..4) {
        let table = Table::try_new(policies.clone()).unwrap();
        for address in ["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1", "fd00::1", "fd00::2", "2001:db8::1", "::ffff:10.9.9.9"] {
            let to = SocketAddr::new(address.parse().unwrap(), port);
            prop_assert_eq!(chosen(&table, &to.to_string()), oracle(&policies, to), "{}", to);
        }
    }
}
