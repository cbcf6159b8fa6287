//! AWS App Mesh: the API's objects as JSON, as the AWS CLI takes and gives them, and its Kubernetes objects of
//! `appmesh.k8s.aws`.
//!
//! Routes become policies. Virtual services say to which hosts these apply, and virtual nodes where their targets are.

mod objects;
mod retry;
mod route;

use std::num::NonZeroU16;
use std::sync::Arc;

use super::fields::{Field, Problems};
use super::note::Code;
use super::{Document, common, is_kind};
use crate::policy::{Address, Destination, Policy, PolicyName, Protocol, Rest, Setting, Sources, Target};
use crate::retry::{BudgetPolicy, ConnectRetry};
use objects::{Key, Mesh};
use route::{Context, Parsed, Said};

pub(super) const DOCUMENTS: &str = "AWS App Mesh's route, virtual router, virtual service and virtual node as API JSON; \
                                    appmesh.k8s.aws VirtualRouter, VirtualService, VirtualNode and Mesh";

const API_ROUTE: &str = "route";
const API_NODE: &str = "virtual node";
const API_SERVICE: &str = "virtual service";
const API_ROUTER: &str = "virtual router";
const API_MESH: &str = "mesh";
const ROUTER: &str = "VirtualRouter";
const SERVICE: &str = "VirtualService";
const NODE: &str = "VirtualNode";
const MESH: &str = "Mesh";

/// The API's objects: the field that names one, the field of the answer that has one, and the kind.
const API: [(&str, &str, &str); 5] = [
    ("routeName", "route", API_ROUTE),
    ("virtualNodeName", "virtualNode", API_NODE),
    ("virtualServiceName", "virtualService", API_SERVICE),
    ("virtualRouterName", "virtualRouter", API_ROUTER),
    ("meshName", "mesh", API_MESH),
];

pub(super) fn kind(root: &Field<'_>) -> Option<&'static str> {
    let kubernetes = [ROUTER, SERVICE, NODE, MESH].into_iter();
    if let Some(kind) = kubernetes.into_iter().find(|kind| is_kind(root, "appmesh.k8s.aws", kind)) {
        return Some(kind);
    }
    if root.child("apiVersion").is_some() || root.child("kind").is_some() {
        return None;
    }
    let is = |object: &Field<'_>, name: &str| object.child(name).is_some();
    let given = API.iter().find(|(name, _, _)| is(root, name));
    let answered = || API.iter().find(|(name, outer, _)| root.child(outer).is_some_and(|o| is(&o, name)));
    given.or_else(answered).map(|(_, _, kind)| *kind)
}

pub(super) fn policies(documents: &[Document<'_>], problems: &mut Problems) -> Vec<Policy> {
    let mut mesh = Mesh::default();
    for Document { kind, root, .. } in documents {
        match *kind {
            API_NODE => mesh.nodes.extend(objects::api_node(root, problems)),
            API_SERVICE => mesh.services.extend(objects::api_service(root, problems)),
            API_ROUTER => objects::api_router(root, problems),
            NODE => mesh.nodes.extend(objects::node(root, problems)),
            SERVICE => mesh.services.extend(objects::service(root, problems)),
            API_MESH | MESH => {
                problems.note(
                    Code::Ignored,
                    &root.place(&["spec"]),
                    "a mesh's own settings have no meaning here",
                );
            }
            _ => {}
        }
    }
    let mut policies = Vec::new();
    for Document { kind, root, options } in documents {
        let default_retry = options.app_mesh_default_retry;
        match *kind {
            API_ROUTE => policies.extend(api_route(root, &mesh, default_retry, problems)),
            ROUTER => policies.extend(router(root, &mesh, default_retry, problems).unwrap_or_default()),
            _ => {}
        }
    }
    policies
}

/// The object itself, whether it is given as a command takes it or as an answer has it.
fn unwrapped<'a>(root: &Field<'a>, outer: &str, problems: &mut Problems) -> Option<Field<'a>> {
    match root.child(outer) {
        Some(object) => root.map_of(&[outer], problems).map(|_| object),
        None => Some(root.clone()),
    }
}

fn api_route(root: &Field<'_>, mesh: &Mesh, default_retry: bool, problems: &mut Problems) -> Option<Policy> {
    let root = &unwrapped(root, "route", problems)?;
    let known = [
        "meshName",
        "routeName",
        "virtualRouterName",
        "spec",
        "clientToken",
        "meshOwner",
        "tags",
        "metadata",
        "status",
    ];
    let map = root.map_of(&known, problems)?;
    let mut name = |field: &str| {
        map.required(field, problems).and_then(|field| objects::text(&field, 1..=255, problems))
    };
    let (mesh_name, router, name) = (name("meshName"), name("virtualRouterName"), name("routeName"));
    let spec = map.required("spec", problems)?;
    let context = Context { scope: Key::api(mesh_name.unwrap_or_default(), ""), mesh, default_retry };
    let parsed = route::parse(&spec, &[], (name.unwrap_or_default(), 0), &context, problems);
    let (mesh_name, router, name, parsed) = (mesh_name?, router?, name?, parsed?);
    let hosts = mesh.hosts_of(&Key::api(mesh_name, router));
    let name = PolicyName::of_kind("route", Some(&format!("{mesh_name}/{router}")), name);
    let group = Group { is_tcp: matches!(parsed.said, Said::Connections(_)), port: parsed.port };
    Some(policy(root, name, &group, vec![parsed], &hosts, problems))
}

/// The routes of a router that one policy can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    is_tcp: bool,
    port: Option<NonZeroU16>,
}

/// A policy, or, where routes differ in their ports or in whether they are about requests, as many as it takes.
fn router(
    root: &Field<'_>,
    mesh: &Mesh,
    default_retry: bool,
    problems: &mut Problems,
) -> Option<Vec<Policy>> {
    let document = root.map_of(&["apiVersion", "kind", "metadata", "spec", "status"], problems)?;
    let metadata = common::metadata(root, problems);
    let spec = document.required("spec", problems)?;
    let spec = spec.map_ignoring(&["awsName", "routes", "meshRef"], &["listeners"], problems)?;
    let scope = Key::kubernetes(metadata.as_ref().and_then(|metadata| metadata.namespace), "");
    let context = Context { scope, mesh, default_retry };
    let mut index = 0;
    let routes = spec.each("routes", problems, |field, problems| {
        let name = field.map(problems)?.required("name", problems);
        let name = name.and_then(|field| objects::text(&field, 1..=255, problems));
        index += 1;
        let parsed = route::parse(field, &["name"], (name.unwrap_or_default(), index), &context, problems);
        name.and(parsed)
    });
    let (metadata, routes) = (metadata?, routes?);
    let key = Key::kubernetes(metadata.namespace, metadata.name);
    let mut hosts = mesh.hosts_of(&key);
    if let Some(name) = spec.get("awsName").and_then(|field| field.word()) {
        hosts.extend(mesh.hosts_of_arn(&name));
    }
    let mut groups: Vec<(Group, Vec<Parsed>)> = Vec::new();
    for route in routes {
        let group = Group { is_tcp: matches!(route.said, Said::Connections(_)), port: route.port };
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, routes)) => routes.push(route),
            None => groups.push((group, vec![route])),
        }
    }
    let is_single = groups.len() == 1;
    let policies = groups.into_iter().map(|(group, routes)| {
        let tcp = if group.is_tcp { ":tcp" } else { "" };
        let port = group.port.map(|port| format!(":{port}")).unwrap_or_default();
        let suffix = if is_single { String::new() } else { format!("{tcp}{port}") };
        let name = PolicyName::of_kind(ROUTER, metadata.namespace, &format!("{}{suffix}", metadata.name));
        policy(root, name, &group, routes, &hosts, problems)
    });
    Some(policies.collect())
}

fn policy(
    root: &Field<'_>,
    name: PolicyName,
    group: &Group,
    routes: Vec<Parsed>,
    hosts: &[crate::policy::Host],
    problems: &mut Problems,
) -> Policy {
    if hosts.is_empty() {
        let message = "no virtual service says to which hosts it applies, so it applies to all destinations; add the virtual \
                       service whose provider is this virtual router";
        problems.note(Code::AppliesEverywhere, &root.place(&["spec"]), message);
    }
    let port = group.port;
    let address = |address| Destination { address, port };
    let mut to: Vec<_> = hosts.iter().cloned().map(|host| address(Address::Host(host))).collect();
    if to.is_empty() && port.is_some() {
        to.push(address(Address::Any));
    }
    let mut requests = Vec::new();
    let mut connections: Option<(u32, Arc<[Target]>, Arc<Sources>)> = None;
    for Parsed { said, .. } in routes {
        match said {
            Said::Requests(route) => requests.push(*route),
            Said::Connections(route) => {
                let hidden = match &connections {
                    Some((priority, ..)) if *priority <= route.priority => Some(route.sources),
                    _ => connections
                        .replace((route.priority, route.targets, route.sources))
                        .map(|(_, _, sources)| sources),
                };
                if let Some(place) = hidden.as_deref().and_then(|sources| sources.nearest(Setting::Matches)) {
                    let message =
                        "no connection takes it, since another tcpRoute takes them all; remove one of them";
                    problems.note(Code::UnreachableRoute, place, message);
                }
            }
        }
    }
    let once = || retry::connects_once();
    let tcp: ConnectRetry = requests
        .iter()
        .map(|route| route.http.connect_retry())
        .max_by_key(ConnectRetry::max_connect_attempts)
        .unwrap_or_else(once);
    let sources = requests.first().map(|route| Arc::clone(&route.sources));
    let (targets, sources) = match connections {
        Some((_, targets, sources)) => (targets, sources),
        None => (Arc::default(), sources.unwrap_or_default()),
    };
    Policy {
        name,
        origin: root.origin(),
        from: Vec::new(),
        to,
        tcp,
        protocol: if group.is_tcp { Protocol::Tcp } else { Protocol::Auto },
        targets,
        routes: requests,
        rest: Rest::GoesOn,
        budget: BudgetPolicy::default(),
        sources,
    }
}

#[cfg(test)]
mod tests;
