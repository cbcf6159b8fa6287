//! Gateway API routes, what kgateway attaches to them, and Linkerd's annotations.
//!
//! All documents are read before the routes are made, since a route is told by those that refer to it and those that it
//! refers to.

mod attached;
mod budget;
mod linkerd;
mod matches;
mod overlay;
mod route;

use std::num::NonZeroU16;
use std::sync::Arc;

use super::fields::{Field, Problems};
use super::note::Code;
use super::{Document, common, is_kind};
use crate::policy::{
    Address, Destination, HttpPolicy, Policy, PolicyName, Precedence, Protocol, RequestMatch, Rest, Route,
    Sources,
};
use crate::retry::ConnectRetry;
use attached::{Attached, Backend};
use overlay::Overlay;

pub(super) const DOCUMENTS: &str = "gateway.networking.k8s.io HTTPRoute, GRPCRoute; gateway.kgateway.dev \
                                    RouteOption, TrafficPolicy, Backend; gateway.networking.x-k8s.io \
                                    XBackendTrafficPolicy; v1 Service";

const GATEWAY: &str = "gateway.networking.k8s.io";
const KGATEWAY: [&str; 2] = ["gateway.kgateway.dev", "gateway.solo.io"];

/// The fields of a Kubernetes object.
const OBJECT: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

pub(super) fn kind(root: &Field<'_>) -> Option<&'static str> {
    let says = |name: &str| root.child(name).and_then(|field| field.word());
    if says("apiVersion").as_deref() == Some("v1") && says("kind").as_deref() == Some("Service") {
        return Some("Service");
    }
    let known = [
        (GATEWAY, "HTTPRoute"),
        (GATEWAY, "GRPCRoute"),
        (GATEWAY, "Gateway"),
        (GATEWAY, "GatewayClass"),
        (GATEWAY, "ReferenceGrant"),
        (GATEWAY, "BackendTrafficPolicy"),
        ("gateway.networking.x-k8s.io", "BackendTrafficPolicy"),
        ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy"),
        ("gateway.kgateway.dev", "RouteOption"),
        ("gateway.solo.io", "RouteOption"),
        ("gateway.kgateway.dev", "TrafficPolicy"),
        ("gateway.kgateway.dev", "Backend"),
    ];
    known.into_iter().find(|(group, kind)| is_kind(root, group, kind)).map(|(_, kind)| kind)
}

/// What routes refer to, or is attached to them.
struct Context<'a> {
    attached: Vec<Attached<'a>>,
    backends: Vec<Backend<'a>>,
}

pub(super) fn policies(documents: &[Document<'_>], problems: &mut Problems) -> Vec<Policy> {
    let mut context = Context { attached: Vec::new(), backends: Vec::new() };
    let (mut budgets, mut policies) = (Vec::new(), Vec::new());
    for Document { kind, root, options: _ } in documents {
        match *kind {
            "RouteOption" => context.attached.extend(attached::route_option(root, problems)),
            "TrafficPolicy" => context.attached.extend(attached::traffic_policy(root, problems)),
            "Backend" => context.backends.extend(attached::backend(root, problems)),
            "BackendTrafficPolicy" | "XBackendTrafficPolicy" => {
                budgets.extend(budget::read(kind, root, problems));
            }
            "Service" => policies.extend(linkerd::service(root, problems)),
            "HTTPRoute" | "GRPCRoute" => {}
            _ => problems.note(
                Code::Ignored,
                &root.here(),
                format!("a {kind} has no meaning here, and nothing is done about it"),
            ),
        }
    }
    let mut routes = Vec::new();
    let is_route = |kind: &str| matches!(kind, "HTTPRoute" | "GRPCRoute");
    let has_routes = documents.iter().any(|document| is_route(document.kind));
    if has_routes {
        let places =
            documents.iter().filter(|document| is_route(document.kind) || document.kind == "Gateway");
        let places: Vec<_> = places.flat_map(|one| attached::Place::all(one.kind, &one.root)).collect();
        for attached in &context.attached {
            if attached.resolve(&places, problems).is_none() {
                // What is wrong with it is told.
                attached.is_used.set(true);
            }
        }
    }
    for Document { kind, root, options: _ } in documents {
        match *kind {
            "HTTPRoute" | "GRPCRoute" => routes.extend(route::read(kind, root, &context, problems)),
            _ => {}
        }
    }
    for attached in context.attached.iter().filter(|attached| !attached.is_used.get()) {
        if has_routes && !attached.aims.is_empty() {
            let message = "no route hangs on any of its targets, so it applies to nothing";
            problems.note(Code::InertSetting, &attached.root.place(&["spec", "targetRefs"]), message);
            continue;
        }
        let message = "no document tells where it applies, so it applies to every destination; give the HTTPRoute \
                       that it belongs to";
        problems.note(Code::AppliesEverywhere, &attached.root.here(), message);
        let says = attached.says.clone();
        let name = PolicyName::of_kind(attached.kind, attached.metadata.namespace, attached.metadata.name);
        policies.push(whole(name, &attached.root, Vec::new(), &says));
    }
    budget::apply(budgets, &mut routes, &mut policies);
    routes.into_iter().map(|route| route.policy).chain(policies).collect()
}

/// A policy that says the same of all requests.
fn whole(name: PolicyName, root: &Field<'_>, to: Vec<Destination>, says: &Overlay) -> Policy {
    let (http, sources) = overlay::merge(&[says]);
    let sources = Arc::new(Sources::new(sources));
    let route = Route {
        name: "spec".into(),
        precedence: Precedence::default(),
        matcher: RequestMatch::default(),
        http: Arc::new(http),
        targets: Arc::default(),
        sources: Arc::clone(&sources),
    };
    let tcp = connects([&*route.http], says.is_linkerd && says.retry.is_some());
    Policy { tcp, sources, ..policy(name, root, to, vec![route]) }
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
