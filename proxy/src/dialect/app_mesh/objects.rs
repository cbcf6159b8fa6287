//! What routes refer to, and are referred to by: virtual nodes, services and routers.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use super::super::common;
use super::super::fields::{Field, Map, Problems};
use super::super::note::Code;
use super::unwrapped;
use crate::policy::Host;

/// What an object is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The mesh of an object of the API, the namespace of one of Kubernetes.
    pub(super) scope: Option<String>,
    pub(super) is_api: bool,
    pub(super) name: String,
}

#[derive(Debug)]
pub(super) struct Node {
    key: Key,
    aws_name: Option<String>,
    /// None: where it is can't be told.
    pub(super) host: Option<Host>,
    pub(super) ports: Vec<NonZeroU16>,
}

/// A virtual service whose provider is a virtual router.
#[derive(Debug)]
pub(super) struct Service {
    host: Host,
    router: Key,
}

#[derive(Debug, Default)]
pub(super) struct Mesh {
    pub(super) nodes: Vec<Node>,
    pub(super) services: Vec<Service>,
}

impl Key {
    pub(super) fn api(mesh: &str, name: &str) -> Self {
        Self { scope: Some(mesh.to_owned()), is_api: true, name: name.to_owned() }
    }

    pub(super) fn kubernetes(namespace: Option<&str>, name: &str) -> Self {
        Self { scope: namespace.map(str::to_owned), is_api: false, name: name.to_owned() }
    }

    /// `arn:aws:appmesh:REGION:ACCOUNT:mesh/MESH/KIND/NAME`.
    fn arn(field: &Field<'_>, kind: &str, problems: &mut Problems) -> Option<Self> {
        let parts =
            field.text(problems)?.rsplit_once(':').map(|(_, path)| path.split('/').collect::<Vec<_>>());
        match parts.as_deref() {
            Some(["mesh", mesh, found, name]) if *found == kind => Some(Self::api(mesh, name)),
            _ => {
                let expected = format!("an ARN such as arn:aws:appmesh:REGION:ACCOUNT:mesh/MESH/{kind}/NAME");
                field.expected(&expected, problems)
            }
        }
    }
}

impl Mesh {
    pub(super) fn node(&self, key: &Key) -> Option<&Node> {
        let is_it = |node: &&Node| {
            node.key == *key || key.is_api && node.aws_name.as_deref() == Some(key.name.as_str())
        };
        self.nodes.iter().find(is_it)
    }

    /// The hosts of the virtual services that this virtual router provides.
    pub(super) fn hosts_of(&self, router: &Key) -> Vec<Host> {
        let provided = self.services.iter().filter(|service| service.router == *router);
        provided.map(|service| service.host.clone()).collect()
    }

    /// Those of the Kubernetes services that refer to a virtual router by its ARN.
    pub(super) fn hosts_of_arn(&self, name: &str) -> Vec<Host> {
        let by_arn = |service: &&Service| service.router.is_api && service.router.name == name;
        self.services.iter().filter(by_arn).map(|service| service.host.clone()).collect()
    }
}

/// A text of so many bytes.
pub(super) fn text<'a>(
    field: &Field<'a>,
    length: RangeInclusive<usize>,
    problems: &mut Problems,
) -> Option<&'a str> {
    let text = field.text(problems)?;
    if length.contains(&text.len()) {
        return Some(text);
    }
    let expected = format!("text of {} to {} characters", length.start(), length.end());
    field.expected(&expected, problems)
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

const API_COMMON: [&str; 7] = ["meshName", "spec", "clientToken", "meshOwner", "tags", "metadata", "status"];

/// The mesh, the name and the specification of an object of the API.
fn api<'a>(
    root: &Field<'a>,
    outer: &str,
    name: &str,
    problems: &mut Problems,
) -> Option<(&'a str, Field<'a>, Field<'a>)> {
    let root = unwrapped(root, outer, problems)?;
    let known: Vec<_> = API_COMMON.into_iter().chain([name]).collect();
    let map = root.map_of(&known, problems)?;
    let mesh = map.required("meshName", problems).and_then(|field| text(&field, 1..=255, problems));
    let name = map.required(name, problems);
    let spec = map.required("spec", problems);
    Some((mesh?, name?, spec?))
}

pub(super) fn api_node(root: &Field<'_>, problems: &mut Problems) -> Option<Node> {
    let (mesh, name, spec) = api(root, "virtualNode", "virtualNodeName", problems)?;
    let name = text(&name, 1..=255, problems);
    let (host, ports) = node_spec(&spec, &[], problems)?;
    Some(Node { key: Key::api(mesh, name?), aws_name: None, host, ports })
}

pub(super) fn api_service(root: &Field<'_>, problems: &mut Problems) -> Option<Service> {
    let (mesh, name, spec) = api(root, "virtualService", "virtualServiceName", problems)?;
    let host = name.parsed::<Host>(problems);
    let map = spec.map_of(&["provider"], problems)?;
    // Without a provider it leads nowhere.
    let provider = map.get("provider")?;
    let map = provider.map_of(&["virtualRouter", "virtualNode"], problems)?;
    let (kind, provider) = one_field(&map, &provider, &["virtualRouter", "virtualNode"], problems)?;
    if kind == "virtualNode" {
        return no_router(&provider, problems);
    }
    let map = provider.map_of(&["virtualRouterName"], problems)?;
    let router = map.required("virtualRouterName", problems)?;
    Some(Service { host: host?, router: Key::api(mesh, text(&router, 1..=255, problems)?) })
}

pub(super) fn api_router(root: &Field<'_>, problems: &mut Problems) {
    if let Some((_, _, spec)) = api(root, "virtualRouter", "virtualRouterName", problems) {
        let _ = spec.map_ignoring(&[], &["listeners"], problems);
    }
}

pub(super) fn node(root: &Field<'_>, problems: &mut Problems) -> Option<Node> {
    let document = root.map_of(&["apiVersion", "kind", "metadata", "spec", "status"], problems)?;
    let metadata = common::metadata(root, problems)?;
    let spec = document.required("spec", problems)?;
    let (host, ports) = node_spec(&spec, &["awsName", "meshRef"], problems)?;
    let default = metadata.namespace.map(|namespace| format!("{}_{namespace}", metadata.name));
    let aws_name = spec.child("awsName").and_then(|field| field.word().map(String::from)).or(default);
    Some(Node { key: Key::kubernetes(metadata.namespace, metadata.name), aws_name, host, ports })
}

pub(super) fn service(root: &Field<'_>, problems: &mut Problems) -> Option<Service> {
    let document = root.map_of(&["apiVersion", "kind", "metadata", "spec", "status"], problems)?;
    let metadata = common::metadata(root, problems)?;
    let spec = document.required("spec", problems)?;
    let spec = spec.map_of(&["awsName", "provider", "meshRef"], problems)?;
    let default = || match metadata.namespace {
        Some(namespace) => format!("{}.{namespace}", metadata.name),
        None => metadata.name.to_owned(),
    };
    let host = match spec.get("awsName") {
        Some(field) => field.parsed::<Host>(problems),
        None => root.accept(default().parse::<Host>(), problems),
    };
    let provider = spec.get("provider")?;
    let map = provider.map_of(&["virtualRouter", "virtualNode"], problems)?;
    let (kind, provider) = one_field(&map, &provider, &["virtualRouter", "virtualNode"], problems)?;
    if kind == "virtualNode" {
        return no_router(&provider, problems);
    }
    let scope = Key::kubernetes(metadata.namespace, "");
    let names = ["virtualRouterRef", "virtualRouterARN"];
    let map = provider.map_of(&names, problems)?;
    let (_, reference) = one_field(&map, &provider, &names, problems)?;
    Some(Service { host: host?, router: reference_to(&reference, "virtualRouter", &scope, problems)? })
}

/// What a `...Ref` or a `...ARN` of a Kubernetes object refers to.
pub(super) fn reference_to(
    field: &Field<'_>,
    kind: &str,
    scope: &Key,
    problems: &mut Problems,
) -> Option<Key> {
    if field.word().is_some() {
        return Key::arn(field, kind, problems);
    }
    let map = field.map_of(&["name", "namespace"], problems)?;
    let name = map.required("name", problems).and_then(|field| text(&field, 1..=255, problems));
    let namespace = map.optional("namespace", scope.scope.as_deref(), |field| field.text(problems).map(Some));
    Some(Key::kubernetes(namespace?, name?))
}

fn no_router<T>(provider: &Field<'_>, problems: &mut Problems) -> Option<T> {
    let message =
        "requests to a virtual service without a virtual router go where they are dialled, as they are";
    problems.note(Code::Ignored, &provider.here(), message);
    None
}

type Reached = (Option<Host>, Vec<NonZeroU16>);

fn node_spec(spec: &Field<'_>, known: &[&str], problems: &mut Problems) -> Option<Reached> {
    let known: Vec<_> = ["serviceDiscovery", "listeners"].iter().chain(known).copied().collect();
    let ignored = ["backends", "backendDefaults", "backendGroups", "logging", "podSelector"];
    let spec = spec.map_ignoring(&known, &ignored, problems)?;
    let host = spec.optional("serviceDiscovery", None, |field| discovery(&field, problems));
    let ports = spec.each("listeners", problems, |field, problems| {
        let ignored = ["timeout", "tls", "healthCheck", "outlierDetection", "connectionPool"];
        let map = field.map_ignoring(&["portMapping"], &ignored, problems)?;
        let map = map.required("portMapping", problems)?.map_of(&["port", "protocol"], problems)?;
        port(&map.required("port", problems)?, problems)
    });
    Some((host?, ports?))
}

fn discovery(field: &Field<'_>, problems: &mut Problems) -> Option<Option<Host>> {
    let names = ["dns", "awsCloudMap"];
    let map = field.map_of(&names, problems)?;
    let (kind, way) = one_field(&map, field, &names, problems)?;
    if kind == "awsCloudMap" {
        let message = "AWS Cloud Map is not asked; what goes to this virtual node goes where it was dialled";
        problems.note(Code::UnresolvedTarget, &way.here(), message);
        return Some(None);
    }
    let map = way.map_ignoring(&["hostname"], &["responseType", "ipPreference"], problems)?;
    map.required("hostname", problems)?.parsed::<Host>(problems).map(Some)
}
