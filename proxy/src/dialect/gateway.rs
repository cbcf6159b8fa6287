//! Gateway API routes, what kgateway attaches to them, and Linkerd's annotations.
//!
//! All documents are read before the routes are made, since a route is told by those that refer to it and those that it
//! refers to.

mod attached;
mod budget;
mod kgateway;
mod linkerd;
mod matches;
mod overlay;
mod profile;
mod route;

use std::num::NonZeroU16;
use std::sync::Arc;

use super::fields::{Field, Problems};
use super::note::Code;
use super::{Document, common};
use crate::policy::{
    Address, Destination, HttpPolicy, Policy, PolicyName, Precedence, Protocol, RequestMatch, Rest, Route,
    Setting, Sources,
};
use crate::retry::ConnectRetry;
use attached::Attached;
use kgateway::Backend;
use overlay::Overlay;

const GATEWAY: &str = "gateway.networking.k8s.io";
const KGATEWAY: [&str; 2] = ["gateway.kgateway.dev", "gateway.solo.io"];

pub(super) const GROUPS: &[&str] = &[
    GATEWAY,
    "gateway.networking.x-k8s.io",
    KGATEWAY[0],
    KGATEWAY[1],
    "policy.linkerd.io",
    "linkerd.io",
    "",
];

/// The fields of a Kubernetes object.
const OBJECT: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

fn is_route(kind: &str) -> bool {
    matches!(kind, "HTTPRoute" | "GRPCRoute")
}

/// What routes refer to, or is attached to them.
#[derive(Default)]
struct Context<'a> {
    /// Services can be found by their names.
    in_cluster: bool,
    attached: Vec<Attached<'a>>,
    backends: Vec<Backend<'a>>,
    services: Vec<linkerd::Service<'a>>,
    /// The Services, by name and namespace, of which a profile says everything.
    profiles: Vec<(String, String)>,
}

pub(super) fn policies(documents: &[Document<'_>], problems: &mut Problems) -> Vec<Policy> {
    let (mut context, mut names) = (Context::default(), common::Names::default());
    let (mut budgets, mut profiles) = (Vec::new(), Vec::new());
    for Document { kind, root, options: _ } in documents {
        match *kind {
            "RouteOption" => context.attached.extend(kgateway::route_option(root, problems)),
            "TrafficPolicy" => context.attached.extend(kgateway::traffic_policy(root, problems)),
            "Backend" => {
                let read = kgateway::backend(root, problems);
                let new = read.filter(|one| names.is_new(kind, (root, &one.metadata), problems));
                context.backends.extend(new);
            }
            "BackendTrafficPolicy" | "XBackendTrafficPolicy" => {
                budgets.extend(budget::read(kind, root, problems));
            }
            "Service" => context.services.extend(linkerd::service(root, problems)),
            "ServiceProfile" => profiles.extend(common::metadata(root, problems).map(|who| (root, who))),
            kind if is_route(kind) => {}
            _ => problems.note(
                Code::Ignored,
                &root.place(&["kind"]),
                format!("a {kind} has no meaning here, and nothing is done about it"),
            ),
        }
    }
    context.in_cluster = documents.iter().any(|document| document.options.in_cluster);
    context.profiles = profiles.iter().filter_map(|(_, who)| profile::service_of(who)).collect();
    for (name, namespace) in &context.profiles {
        let is_its = |service: &linkerd::Service<'_>| service.is(name, Some(namespace));
        for service in context.services.extract_if(.., |service| is_its(service)) {
            service.give_way(problems);
        }
    }
    context.attached.retain(|one| names.is_new(one.kind, (&one.root, &one.metadata), problems));
    // Of those that are attached to one thing the first counts.
    context.attached.sort_by(|one, other| one.metadata.age().cmp(&other.metadata.age()));
    let has_routes = documents.iter().any(|document| is_route(document.kind));
    if has_routes {
        let places =
            documents.iter().filter(|document| is_route(document.kind) || document.kind == "Gateway");
        let places: Vec<_> = places.flat_map(|one| attached::Place::all(one.kind, &one.root)).collect();
        for attached in &mut context.attached {
            if attached.resolve(&places, problems).is_none() {
                // What is wrong with it is told.
                attached.is_used.set(true);
            }
        }
    }
    let mut routes = route::read_all(documents, &context, problems);
    let mut policies: Vec<_> = context.services.iter().map(linkerd::Service::policy).collect();
    policies.extend(profiles.iter().filter_map(|(root, who)| profile::read(root, who, problems)));
    for attached in context.attached.iter().filter(|attached| !attached.is_used.get()) {
        let place = attached.root.place(&["metadata", "name"]);
        if has_routes {
            let message =
                "no route here refers to it, and none hangs on a target of it, so it applies to nothing";
            problems.note(Code::InertSetting, &place, message);
            continue;
        }
        let message = "no document tells where it applies, so it applies to every destination; give the HTTPRoute \
                       that it belongs to";
        problems.note(Code::AppliesEverywhere, &place, message);
        let name = PolicyName::of_kind(attached.kind, attached.metadata.namespace, attached.metadata.name);
        policies.push(whole(name, &attached.root, Vec::new(), &attached.says));
    }
    budget::apply(budgets, &mut routes, &mut policies);
    routes.into_iter().map(|route| route.policy).chain(policies).collect()
}

/// A policy that says the same of all requests.
fn whole(name: PolicyName, root: &Field<'_>, to: Vec<Destination>, says: &Overlay) -> Policy {
    let (http, sources) = overlay::merge(&[says]);
    let sources = Arc::new(Sources::new(sources));
    // What is for one thing alone has its name.
    let named = Some(root.place(&["metadata", "name"])).filter(|_| !to.is_empty());
    let of_policy = Arc::new(sources.and(named.map(|place| (Setting::To, place))));
    let route = Route {
        name: "spec".into(),
        precedence: Precedence::default(),
        matcher: RequestMatch::default(),
        http: Arc::new(http),
        targets: Arc::default(),
        sources,
    };
    let tcp = connects([&*route.http], says.is_linkerd && says.retry.is_some());
    Policy { tcp, sources: of_policy, ..policy(name, root, to, vec![route]) }
}

fn policy(name: PolicyName, root: &Field<'_>, to: Vec<Destination>, routes: Vec<Route>) -> Policy {
    Policy {
        name,
        origin: root.origin(),
        to,
        protocol: Protocol::Auto,
        routes,
        rest: Rest::GoesOn,
        ..Policy::built_in()
    }
}

/// The most patient way to connect of all that is said of requests. Where Linkerd's annotations ask for retries they say
/// nothing of connects, so redial's own default is among them.
fn connects<'h>(all: impl IntoIterator<Item = &'h HttpPolicy>, is_linkerd: bool) -> ConnectRetry {
    let all = all.into_iter().map(HttpPolicy::connect_retry);
    let own = is_linkerd.then(ConnectRetry::default);
    all.chain(own).max_by_key(ConnectRetry::max_connect_attempts).unwrap_or_default()
}

/// A Service's names, as destinations.
fn service(name: &str, namespace: Option<&str>, port: Option<NonZeroU16>) -> Vec<Destination> {
    let hosts = common::service_hosts(name, namespace).into_iter();
    hosts.map(|host| Destination { address: Address::Host(host), port }).collect()
}

/// Whether two namespaces are the same. One that is not said is wherever the document is applied.
fn is_same(one: Option<&str>, other: Option<&str>) -> bool {
    one.is_none() || other.is_none() || one == other
}

fn port(field: &Field<'_>, problems: &mut Problems) -> Option<NonZeroU16> {
    let port = field.whole(1..=u16::MAX.into(), problems)?;
    u16::try_from(port).ok().and_then(NonZeroU16::new)
}

#[cfg(test)]
mod tests;
