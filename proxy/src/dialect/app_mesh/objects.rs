//! What routes refer to, and are referred to by: meshes, virtual nodes, services and routers.

use std::num::NonZeroU16;

use super::super::common;
use super::super::fields::{Field, Map, Problems};
use super::super::note::Code;
use super::document::{Key, Kind, Object, Reference, name};
use crate::policy::{Host, Place};

/// Everything but routes.
#[derive(Default)]
pub(super) struct Objects<'o, 'a> {
    nodes: Vec<(&'o Object<'a>, Node)>,
    services: Vec<Service>,
    routers: Vec<(&'o Object<'a>, Vec<NonZeroU16>)>,
}

/// A virtual node.
pub(super) struct Node {
    /// None: where it is can't be told.
    pub(super) host: Option<Host>,
    pub(super) ports: Vec<NonZeroU16>,
}

/// A virtual service whose provider is a virtual router.
struct Service {
    hosts: Vec<Host>,
    router: Reference,
    /// Where its name is.
    named: Place,
}

impl<'o, 'a> Objects<'o, 'a> {
    pub(super) fn read(objects: &'o [Object<'a>], in_cluster: bool, problems: &mut Problems) -> Self {
        let mut all = Self::default();
        for object in objects {
            let whole = |host: &Host| whole_name(host, object).filter(|_| in_cluster);
            match object.form.kind {
                Kind::Mesh => drop(mesh(object, problems)),
                Kind::Node => {
                    if let Some(mut node) = node(object, problems) {
                        node.host = node.host.map(|host| whole(&host).unwrap_or(host));
                        all.nodes.push((object, node));
                    }
                }
                Kind::Service => {
                    if let Some(mut service) = service(object, problems) {
                        service.hosts.extend(service.hosts.first().and_then(whole));
                        all.services.push(service);
                    }
                }
                Kind::Router => all.routers.extend(router(object, problems).map(|ports| (object, ports))),
                Kind::Route => {}
            }
        }
        all
    }

    pub(super) fn node(&self, reference: &Reference) -> Option<&Node> {
        self.nodes.iter().find(|(object, _)| object.is(reference)).map(|(_, node)| node)
    }

    /// The ports that a virtual router listens on. Empty: nobody says.
    pub(super) fn listeners(&self, router: &Reference) -> &[NonZeroU16] {
        let found = self.routers.iter().find(|(object, _)| object.is(router));
        found.map(|(_, ports)| ports.as_slice()).unwrap_or_default()
    }

    /// The hosts of the virtual services that a virtual router provides, and where they are named: one whose document is here,
    /// or one that a route names.
    pub(super) fn hosts_of(&self, router: &Reference) -> Vec<(Host, Place)> {
        let known = self.routers.iter().find(|(object, _)| object.is(router)).map(|(object, _)| object);
        let provides = |service: &&Service| {
            service.router.is(router) || known.is_some_and(|known| known.is(&service.router))
        };
        let services = self.services.iter().filter(provides);
        services
            .flat_map(|service| service.hosts.iter().map(|host| (host.clone(), service.named.clone())))
            .collect()
    }
}

/// What `NAME.NAMESPACE` means to the pods of a cluster, in an object of that namespace: a virtual service is called so
/// where it does not say otherwise.
fn whole_name(host: &Host, object: &Object<'_>) -> Option<Host> {
    let namespace = object.key.scope.as_deref().filter(|_| !object.key.is_api)?;
    let (name, of) = host.as_str().split_once('.')?;
    common::whole_name(name, namespace).filter(|_| of == namespace)
}

pub(super) fn port(field: &Field<'_>, problems: &mut Problems) -> Option<NonZeroU16> {
    let port = field.whole(1..=u16::MAX.into(), problems)?;
    u16::try_from(port).ok().and_then(NonZeroU16::new)
}

/// The one field of these that is there.
pub(super) fn one_field<'a, 'n>(
    map: &Map<'a>,
    here: &Field<'_>,
    names: &[&'n str],
    problems: &mut Problems,
) -> Option<(&'n str, Field<'a>)> {
    let mut there = names.iter().filter_map(|name| Some((*name, map.get(name)?)));
    match (there.next(), there.next()) {
        (Some(one), None) => Some(one),
        (None, _) => here.problem(format!("one of {} is required", names.join(", ")), problems),
        (Some((first, _)), Some((second, field))) => {
            let message =
                format!("{first} and {second} exclude each other; there may be one of {}", names.join(", "));
            field.problem(message, problems)
        }
    }
}

/// The fields that objects of Kubernetes have besides.
const KUBERNETES: [&str; 2] = ["awsName", "meshRef"];

fn mesh(object: &Object<'_>, problems: &mut Problems) -> Option<()> {
    // One of the API may have no specification.
    let spec = object.root.child("spec")?;
    let ignored: &[&str] = if object.key.is_api {
        &["egressFilter", "serviceDiscovery"]
    } else {
        &["egressFilter", "meshServiceDiscovery", "namespaceSelector"]
    };
    let known: &[&str] = if object.key.is_api { &[] } else { &["awsName", "meshOwner"] };
    let spec = spec.map_ignoring(known, ignored, problems)?;
    let filter = spec.get("egressFilter")?;
    let kinds = ["ALLOW_ALL", "DROP_ALL"].map(|kind| (kind, ()));
    filter.map_of(&["type"], problems)?.required("type", problems)?.one_of(&kinds, problems)
}

fn node(object: &Object<'_>, problems: &mut Problems) -> Option<Node> {
    let known: &[&str] = if object.key.is_api { &[] } else { &KUBERNETES };
    let known: Vec<_> = ["serviceDiscovery", "listeners"].iter().chain(known).copied().collect();
    let ignored = ["backends", "backendDefaults", "backendGroups", "logging", "podSelector"];
    let spec = object.spec.map_ignoring(&known, &ignored, problems)?;
    let host = spec.optional("serviceDiscovery", None, |field| discovery(&field, problems));
    let ignored = ["timeout", "tls", "healthCheck", "outlierDetection", "connectionPool"];
    let ports = listeners(&spec, &ignored, problems);
    Some(Node { host: host?, ports: ports? })
}

/// The ports of listeners. There may be none.
fn listeners(spec: &Map<'_>, ignored: &[&str], problems: &mut Problems) -> Option<Vec<NonZeroU16>> {
    if spec.get("listeners").is_some_and(|list| list.is_empty_list()) {
        return Some(Vec::new());
    }
    spec.each("listeners", problems, |field, problems| {
        let map = field.map_ignoring(&["portMapping"], ignored, problems)?;
        let map = map.required("portMapping", problems)?.map_of(&["port", "protocol"], problems)?;
        let protocols = ["http", "tcp", "http2", "grpc"].map(|protocol| (protocol, ()));
        let protocol =
            map.required("protocol", problems).and_then(|field| field.one_of(&protocols, problems));
        let port = map.required("port", problems).and_then(|field| port(&field, problems));
        protocol.and(port)
    })
}

fn router(object: &Object<'_>, problems: &mut Problems) -> Option<Vec<NonZeroU16>> {
    let known: &[&str] =
        if object.key.is_api { &["listeners"] } else { &["listeners", "routes", "awsName", "meshRef"] };
    listeners(&object.spec.map_of(known, problems)?, &[], problems)
}

fn service(object: &Object<'_>, problems: &mut Problems) -> Option<Service> {
    let known: &[&str] = if object.key.is_api { &[] } else { &KUBERNETES };
    let known: Vec<_> = known.iter().chain(&["provider"]).copied().collect();
    let spec = object.spec.map_of(&known, problems)?;
    let named = spec.get("awsName").filter(|name| name.word().is_some_and(|name| !name.is_empty()));
    let named = named.or_else(|| object.root.child("virtualServiceName"));
    let host = named.as_ref().unwrap_or(&object.root).accept(object.aws_name.parse::<Host>(), problems);
    let named = named.map_or_else(|| object.root.place(&["metadata", "name"]), |field| field.here());
    // Without a provider it leads nowhere.
    let provider = spec.get("provider")?;
    let kinds = ["virtualRouter", "virtualNode"];
    let map = provider.map_of(&kinds, problems)?;
    let (kind, provider) = one_field(&map, &provider, &kinds, problems)?;
    let fields: &[&str] = match (object.key.is_api, kind) {
        (true, "virtualRouter") => &["virtualRouterName"],
        (true, _) => &["virtualNodeName"],
        (false, "virtualRouter") => &["virtualRouterRef", "virtualRouterARN"],
        (false, _) => &["virtualNodeRef", "virtualNodeARN"],
    };
    let map = provider.map_of(fields, problems)?;
    let (_, reference) = one_field(&map, &provider, fields, problems)?;
    let reference = if object.key.is_api {
        Reference::Key(Key { name: name(&reference, problems)?.to_owned(), ..object.key.clone() })
    } else {
        Reference::of_kubernetes(&reference, kind, &object.key, problems)?
    };
    if kind == "virtualNode" {
        let message =
            "requests to a virtual service without a virtual router go where they are dialled, as they are";
        problems.note(Code::Ignored, &provider.here(), message);
        return None;
    }
    Some(Service { hosts: vec![host?], router: reference, named })
}

fn discovery(field: &Field<'_>, problems: &mut Problems) -> Option<Option<Host>> {
    let names = ["dns", "awsCloudMap"];
    let map = field.map_of(&names, problems)?;
    let (kind, way) = one_field(&map, field, &names, problems)?;
    if kind == "awsCloudMap" {
        let map = way.map_of(&["namespaceName", "serviceName", "attributes", "ipPreference"], problems)?;
        let needed = ["namespaceName", "serviceName"].map(|field| map.required(field, problems).is_some());
        let message = "AWS Cloud Map is not asked; what goes to this virtual node goes where it was dialled";
        problems.note(Code::UnresolvedTarget, &way.here(), message);
        return (needed == [true, true]).then_some(None);
    }
    let map = way.map_ignoring(&["hostname"], &["responseType", "ipPreference"], problems)?;
    map.required("hostname", problems)?.parsed::<Host>(problems).map(Some)
}
