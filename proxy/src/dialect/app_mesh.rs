//! AWS App Mesh: the API's objects as JSON, as the AWS CLI takes and gives them, and its Kubernetes objects of
//! `appmesh.k8s.aws`.
//!
//! Routes become policies. Virtual services say to which hosts these apply, and virtual nodes where their targets are.

mod document;
mod objects;
mod retry;
mod route;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::Document;
use super::fields::{Field, Problems};
use super::note::Code;
use crate::policy::{
    Address, Destination, Host, Place, Policy, PolicyName, Protocol, Rest, Setting, Sources, Target,
};
use crate::retry::ConnectRetry;
use document::{Key, Kind, LIST, Object, Reference, object};
use objects::Objects;
use route::{Context, Parsed, Said};

pub(super) const OTHERS: &str =
    "AWS App Mesh's route, virtual router, virtual service, virtual node and mesh as API JSON";

pub(super) fn kind(root: &Field<'_>) -> Option<&'static str> {
    document::kind(root)
}

pub(super) fn policies(documents: &[Document<'_>], problems: &mut Problems) -> Vec<Policy> {
    let default_retry = documents.iter().all(|document| document.options.app_mesh_default_retry);
    let mut objects: Vec<Object<'_>> = Vec::new();
    let mut taken = BTreeMap::new();
    for Document { kind, root, .. } in documents {
        if *kind == LIST {
            document::refuse_list(root, problems);
            continue;
        }
        let Some(object) = object(root, kind, problems) else { continue };
        let key = (object.form.word, object.key.clone());
        if let Some(first) = taken.get(&key) {
            let scope = object.key.scope.iter().map(String::as_str);
            let name = scope.chain([object.key.name.as_str()]).collect::<Vec<_>>().join("/");
            let message = format!("the name {kind}/{name} is taken already, at {first}");
            let at = object.root.child("metadata").and_then(|metadata| metadata.child("name"));
            let _: Option<()> = at.as_ref().unwrap_or(&object.root).problem(message, problems);
        } else {
            taken.insert(key, object.root.origin());
            objects.push(object);
        }
    }
    name_meshes(&mut objects);
    let in_cluster = documents.iter().any(|document| document.options.in_cluster);
    let known = Objects::read(&objects, in_cluster, problems);
    let mut policies = Vec::new();
    for object in &objects {
        match (object.form.kind, object.key.is_api) {
            (Kind::Route, _) => policies.extend(api_route(object, &known, default_retry, problems)),
            (Kind::Router, false) => {
                policies.extend(router(object, &known, default_retry, problems).unwrap_or_default());
            }
            _ => {}
        }
    }
    policies
}

/// Objects of Kubernetes name the document of their mesh, which has its name in App Mesh and its owner. Without that
/// neither is known.
fn name_meshes(objects: &mut [Object<'_>]) {
    let meshes = objects.iter().filter(|object| object.form.kind == Kind::Mesh && !object.key.is_api);
    let meshes: BTreeMap<_, _> =
        meshes.map(|mesh| (mesh.key.name.clone(), (mesh.aws_name.clone(), mesh.owner.clone()))).collect();
    for object in objects.iter_mut().filter(|object| !object.key.is_api) {
        let mesh = object.mesh.take().and_then(|name| meshes.get(&name).cloned());
        (object.mesh, object.owner) = mesh.map_or((None, None), |(name, owner)| (Some(name), owner));
    }
}

fn api_route(
    object: &Object<'_>,
    known: &Objects<'_, '_>,
    default_retry: bool,
    problems: &mut Problems,
) -> Option<Policy> {
    let mesh = object.mesh.as_deref()?;
    let router = Reference::Key(Key::api(mesh, object.router?));
    let listeners = known.listeners(&router);
    let context = Context { scope: Key::api(mesh, ""), known, default_retry, listeners };
    let parsed = route::parse(&object.spec, &[], (&object.key.name, 0), &context, problems)?;
    let name = PolicyName::of_kind("route", object.key.scope.as_deref(), &object.key.name);
    let group = Group { is_tcp: matches!(parsed.said, Said::Connections(_)), port: parsed.port };
    Some(policy(&object.root, name, &group, vec![parsed], &known.hosts_of(&router), problems))
}

/// The routes of a router that one policy can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    is_tcp: bool,
    port: Option<NonZeroU16>,
}

/// A policy, or, where routes differ in their ports or in whether they are about requests, as many as it takes.
fn router(
    object: &Object<'_>,
    known: &Objects<'_, '_>,
    default_retry: bool,
    problems: &mut Problems,
) -> Option<Vec<Policy>> {
    let spec = object.spec.map(problems)?;
    if spec.get("routes").is_none_or(|routes| routes.is_empty_list()) {
        return None;
    }
    let itself = Reference::Key(object.key.clone());
    let listeners = known.listeners(&itself);
    let context = Context { scope: object.key.clone(), known, default_retry, listeners };
    let mut index = 0;
    let mut taken: Vec<&str> = Vec::new();
    let routes = spec.each("routes", problems, |field, problems| {
        let named = field.map(problems)?.required("name", problems);
        let name = named.as_ref().and_then(|field| document::name(field, problems));
        index += 1;
        let parsed = route::parse(field, &["name"], (name.unwrap_or_default(), index), &context, problems);
        let name = name?;
        if taken.contains(&name) {
            return named?.problem(format!("the name {name} is taken already by another route"), problems);
        }
        taken.push(name);
        parsed
    })?;
    let hosts = known.hosts_of(&itself);
    let root = &object.root;
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
        let Key { scope, name, .. } = &object.key;
        let name = PolicyName::of_kind("VirtualRouter", scope.as_deref(), &format!("{name}{suffix}"));
        policy(root, name, &group, routes, &hosts, problems)
    });
    Some(policies.collect())
}

fn policy(
    root: &Field<'_>,
    name: PolicyName,
    group: &Group,
    routes: Vec<Parsed>,
    hosts: &[(Host, Place)],
    problems: &mut Problems,
) -> Policy {
    if hosts.is_empty() {
        let message = "no virtual service says to which hosts it applies, so it applies to all destinations; add the virtual \
                       service whose provider is this virtual router";
        problems.note(Code::AppliesEverywhere, &root.place(&["spec"]), message);
    }
    let port = group.port;
    let address = |address| Destination { address, port };
    let mut to: Vec<_> = hosts.iter().map(|(host, _)| address(Address::Host(host.clone()))).collect();
    let mut named = hosts.first().map(|(_, place)| place.clone());
    if to.is_empty() && port.is_some() {
        to.push(address(Address::Any));
        named = routes.iter().find_map(|route| route.port_at.clone());
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
    let sources = Arc::new(sources.and(named.map(|place| (Setting::To, place))));
    Policy {
        name,
        origin: root.origin(),
        to,
        tcp,
        protocol: if group.is_tcp { Protocol::Tcp } else { Protocol::Auto },
        targets,
        routes: requests,
        rest: Rest::GoesOn,
        sources,
        ..Policy::built_in()
    }
}

#[cfg(test)]
mod tests;
