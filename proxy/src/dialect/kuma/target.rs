//! `targetRef`: whose connections a policy is about, and where they go.

use std::num::NonZeroU16;

use super::SERVICE;
use super::document::Resource;
use super::services::Services;
use super::workloads::{NAMESPACE, Workloads};
use crate::dialect::common::{self, MAX_ENTRIES};
use crate::dialect::fields::{Field, Map, Problems};
use crate::dialect::note::Code;
use crate::policy::{Address, Destination, Host};

const FIELDS: [&str; 7] = ["kind", "name", "namespace", "labels", "tags", "sectionName", "proxyTypes"];

/// The labels that Kuma gives a service, or a route, by which it is named.
pub(super) const DISPLAY_NAME: &str = "kuma.io/display-name";
const ZONE: &str = "kuma.io/zone";

/// The target of a whole policy.
pub(super) struct Top<'a> {
    pub(super) workloads: Workloads,
    /// The greater overrides the lesser.
    pub(super) rank: [u8; 2],
    /// The route whose requests are all that it is about.
    pub(super) route: Option<Named<'a>>,
}

/// What is called so. Without a namespace it may be in any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a str>,
}

/// The target of a part of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum To<'a> {
    Mesh,
    Service(Service<'a>),
    Route(Named<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service<'a> {
    pub(super) kind: Kind,
    pub(super) called: Named<'a>,
    /// None: all of its ports.
    pub(super) port: Option<NonZeroU16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    External,
    MultiZone,
}

impl Kind {
    pub(super) const ALL: [(&str, Self); 3] = [
        ("MeshService", Self::Service),
        ("MeshExternalService", Self::External),
        ("MeshMultiZoneService", Self::MultiZone),
    ];

    /// The part of its DNS name that Kuma gives it.
    fn label(self) -> &'static str {
        match self {
            Self::Service => "svc",
            Self::External => "extsvc",
            Self::MultiZone => "mzsvc",
        }
    }
}

impl Named<'_> {
    pub(super) fn is(&self, other: &Named<'_>) -> bool {
        self.name == other.name
            && (self.namespace.is_none() || other.namespace.is_none() || self.namespace == other.namespace)
    }
}

impl To<'_> {
    /// Whether what is said of this holds for the other too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mesh, _) => true,
            (Self::Service(one), Self::Service(other)) => {
                (one.kind, one.called) == (other.kind, other.called)
                    && (one.port.is_none() || one.port == other.port)
            }
            (Self::Route(one), Self::Route(other)) => one.is(other),
            (Self::Service(_) | Self::Route(_), _) => false,
        }
    }

    /// The greater overrides the lesser.
    pub(super) fn rank(&self) -> [u8; 2] {
        match self {
            Self::Mesh => [1, 0],
            Self::Service(service) => {
                let kind = match service.kind {
                    Kind::Service => 5,
                    Kind::External => 6,
                    Kind::MultiZone => 7,
                };
                [kind, service.port.is_some().into()]
            }
            Self::Route(_) => [9, 0],
        }
    }

    pub(super) fn destinations(&self) -> Vec<Destination> {
        match self {
            Self::Service(service) => service.destinations(),
            Self::Mesh | Self::Route(_) => Vec::new(),
        }
    }
}

impl Service<'_> {
    /// Whether requests to it go where those to the backend go.
    pub(super) fn is_at(&self, backend: &Self) -> bool {
        let ports = (self.port, backend.port);
        self.kind == backend.kind
            && self.called.is(&backend.called)
            && (ports.0.is_none() || ports.1.is_none() || ports.0 == ports.1)
    }

    /// Whether it is a service of this namespace.
    pub(super) fn is_in(&self, namespace: Option<&str>) -> bool {
        self.kind == Kind::Service && self.called.namespace == namespace
    }

    /// The DNS names of the service, on its port. Those that end in a port of Kuma's are on a port of Kuma's own, so that
    /// they are taken on every port.
    fn destinations(&self) -> Vec<Destination> {
        let Self { kind, called: Named { name, namespace }, port } = *self;
        let middle = namespace.map(|namespace| format!(".{namespace}")).unwrap_or_default();
        let mut hosts = common::service_hosts(name, namespace);
        if namespace.is_none() {
            hosts.extend(format!("{name}.mesh").parse::<Host>());
        }
        hosts.extend(format!("{name}{middle}.{}.mesh.local", kind.label()).parse::<Host>());
        let hosts = hosts.into_iter().map(|host| Destination { address: Address::Host(host), port });
        let below_mesh = match (kind, namespace, port) {
            (Kind::Service, Some(namespace), Some(port)) => below_mesh(name, namespace, Some(port)),
            _ => Vec::new(),
        };
        hosts.chain(below_mesh).collect()
    }
}

/// The names `backend_kuma-demo_svc_3001.mesh` and `backend.kuma-demo.svc.3001.mesh`.
pub(super) fn below_mesh(name: &str, namespace: &str, port: Option<NonZeroU16>) -> Vec<Destination> {
    let names = ["_", "."].map(|dot| {
        let port = port.map(|port| format!("{dot}{port}")).unwrap_or_default();
        format!("{name}{dot}{namespace}{dot}svc{port}.mesh").parse::<Host>()
    });
    let any_port = |host| Destination { address: Address::Host(host), port: None };
    names.into_iter().flatten().map(any_port).collect()
}

/// The parts of `backend_kuma-demo_svc_3001`, as Kuma calls the port of a Kubernetes Service.
pub(super) fn parts(name: &str) -> Option<(&str, &str, Option<&str>)> {
    let mut parts = name.split('_');
    match (parts.next()?, parts.next()?, parts.next()?, parts.next(), parts.next()) {
        (name, namespace, "svc", port, None) => Some((name, namespace, port)),
        _ => None,
    }
}

/// Whose connections a policy is about. None within: nobody's here, which is noted.
pub(super) fn top<'a>(
    resource: &Resource<'a>,
    spec: &Map<'a>,
    problems: &mut Problems,
) -> Option<Option<Top<'a>>> {
    let everybody = Top { workloads: Workloads::default(), rank: [1, 0], route: None };
    let Some(target) = spec.get("targetRef") else { return Some(Some(everybody)) };
    let map = target.map_of(&FIELDS, problems)?;
    let kind = map.required("kind", problems)?;
    let known: &[&str] = match kind.word().as_deref() {
        Some("Mesh") => &["proxyTypes"],
        Some("Dataplane") => &["name", "namespace", "labels", "proxyTypes"],
        Some("MeshSubset") => &["tags", "proxyTypes"],
        Some("MeshGateway") => &["name", "namespace", "tags"],
        Some("MeshService") => &["name"],
        Some("MeshServiceSubset") => &["name", "tags"],
        Some("MeshHTTPRoute") => &["name", "namespace"],
        _ => {
            let kinds = "one of Mesh, Dataplane, MeshSubset, MeshService, MeshServiceSubset, MeshHTTPRoute, MeshGateway";
            return kind.expected(&kinds, problems);
        }
    };
    only(&map, &kind, known, problems)?;
    let is_for_sidecars = sidecars(&map, problems)?;
    let mut top = everybody;
    let name = |problems: &mut Problems| map.required("name", problems)?.text(problems);
    match kind.word().as_deref() {
        Some("MeshGateway") => {
            let message = "it is about a gateway's requests, and no workload here is one";
            problems.note(Code::Ignored, &target.here(), message);
            return Some(None);
        }
        Some("Dataplane") => {
            let by_name = map.get("name");
            top.rank = [2, by_name.is_some().into()];
            if let (Some(name), Some(_)) = (&by_name, map.get("labels")) {
                return name.problem("name and labels exclude each other", problems);
            }
            if let Some(name) = by_name {
                narrow(&mut top.workloads, (DISPLAY_NAME, &name), problems)?;
            }
            if let Some(namespace) = map.get("namespace") {
                narrow(&mut top.workloads, (NAMESPACE, &namespace), problems)?;
            }
            labels(&map, "labels", &mut top.workloads, problems)?;
        }
        Some("MeshSubset") => {
            top.rank = [3, 0];
            labels(&map, "tags", &mut top.workloads, problems)?;
        }
        Some(kind @ ("MeshService" | "MeshServiceSubset")) => {
            top.rank = [if kind == "MeshService" { 5 } else { 8 }, 0];
            narrow(&mut top.workloads, (SERVICE, &map.required("name", problems)?), problems)?;
            labels(&map, "tags", &mut top.workloads, problems)?;
        }
        Some("MeshHTTPRoute") => {
            top.rank = [9, 0];
            let namespace =
                map.optional("namespace", resource.namespace, |field| field.text(problems).map(Some));
            top.route = Some(Named { name: name(problems)?, namespace: namespace? });
        }
        _ => {}
    }
    if !is_for_sidecars {
        let message = "it is about gateways alone, and no workload here is one";
        problems.note(Code::Ignored, &target.place(&["proxyTypes"]), message);
        return Some(None);
    }
    Some(Some(top))
}

/// Whether workloads are among the proxies.
fn sidecars(map: &Map<'_>, problems: &mut Problems) -> Option<bool> {
    let Some(list) = map.get("proxyTypes").filter(|list| !list.is_empty_list()) else { return Some(true) };
    list.up_to(2, problems)?;
    let types = map.each("proxyTypes", problems, |field, problems| {
        field.one_of(&[("Sidecar", true), ("Gateway", false)], problems)
    })?;
    Some(types.contains(&true))
}

/// Tells the fields that a target of this kind has not.
fn only(map: &Map<'_>, kind: &Field<'_>, known: &[&str], problems: &mut Problems) -> Option<()> {
    let others = FIELDS.iter().filter(|name| **name != "kind" && !known.contains(*name));
    let mut is_sound = Some(());
    for field in others.filter_map(|name| map.get(name)) {
        is_sound = field.problem(format!("a target of kind {kind} has no such field"), problems);
    }
    is_sound
}

fn labels(map: &Map<'_>, name: &str, workloads: &mut Workloads, problems: &mut Problems) -> Option<()> {
    let Some(field) = map.get(name) else { return Some(()) };
    let entries: Vec<_> = field.map(problems)?.entries().collect();
    if entries.len() > MAX_ENTRIES {
        let message = format!("{} are too many; there may be {MAX_ENTRIES}", entries.len());
        return field.problem(message, problems);
    }
    let read: Vec<_> =
        entries.into_iter().map(|(name, value)| narrow(workloads, (name, &value), problems)).collect();
    read.into_iter().collect()
}

fn narrow(
    workloads: &mut Workloads,
    (name, value): (&str, &Field<'_>),
    problems: &mut Problems,
) -> Option<()> {
    if workloads.with(name, value.text(problems)?) {
        return Some(());
    }
    value.problem("it contradicts the namespace that is said beside it", problems)
}

/// Where the connections go that a part of a policy is about.
pub(super) fn to<'a>(
    target: &Field<'a>,
    resource: &Resource<'a>,
    services: &Services<'a>,
    problems: &mut Problems,
) -> Option<Vec<To<'a>>> {
    let map = target.map_of(&FIELDS, problems)?;
    let kind = map.required("kind", problems)?;
    match kind.word().as_deref() {
        Some("Mesh") => {
            only(&map, &kind, &["proxyTypes"], problems)?;
            sidecars(&map, problems)?;
            Some(vec![To::Mesh])
        }
        Some("MeshHTTPRoute") => {
            only(&map, &kind, &["name", "namespace", "labels"], problems)?;
            let called = named(target, &map, resource, problems)?;
            let Some(called) = called else {
                let message = "a route is told here by its name, or by the label kuma.io/display-name";
                return map.get("labels")?.problem(message, problems);
            };
            Some(vec![To::Route(called)])
        }
        _ => {
            let mut kinds = vec![("Mesh", Kind::Service), ("MeshHTTPRoute", Kind::Service)];
            kinds.splice(1..1, Kind::ALL);
            let meant = kind.one_of(&kinds, problems)?;
            only(&map, &kind, &["name", "namespace", "labels", "sectionName"], problems)?;
            let found = self::services(target, &map, meant, resource, services, problems)?;
            Some(found.into_iter().map(To::Service).collect())
        }
    }
}

/// The services of this kind that a target, or a backend, means.
pub(super) fn services<'a>(
    target: &Field<'a>,
    map: &Map<'a>,
    kind: Kind,
    resource: &Resource<'a>,
    known: &Services<'a>,
    problems: &mut Problems,
) -> Option<Vec<Service<'a>>> {
    let section = map.get("sectionName").or_else(|| map.get("port"));
    let called = if let Some(called) = named(target, map, resource, problems)? {
        vec![called]
    } else {
        let labels = map.get("labels")?;
        let found = known.by_labels(kind, resource.mesh, &labels, problems)?;
        if found.is_empty() {
            let message = "no document of a service with these labels is here, so which ones are meant can't be \
                           told; add it, or name the service";
            return labels.problem(message, problems);
        }
        found
    };
    let of = |called: Named<'a>| -> Option<Service<'a>> {
        let Some(section) = &section else {
            // The name of old that has the port in it.
            let old = parts(called.name).filter(|_| kind == Kind::Service && map.get("namespace").is_none());
            return match old {
                None => Some(Service { kind, called, port: None }),
                Some((name, namespace, port)) => {
                    let port = port.map(str::parse).transpose();
                    let wrong = |_| target.place(&["name"]);
                    let port = port.map_err(wrong).ok()?;
                    Some(Service { kind, called: Named { name, namespace: Some(namespace) }, port })
                }
            };
        };
        let word = section.word().unwrap_or_default();
        let port = word.parse().ok().or_else(|| known.port(kind, resource.mesh, &called, &word));
        Some(Service { kind, called, port: Some(port?) })
    };
    let all: Vec<_> = called.iter().copied().map(of).collect();
    if let Some(index) = all.iter().position(Option::is_none) {
        return match (&section, called.get(index)) {
            (Some(section), _) => {
                let expected =
                    "the number of a port, or its name in the document of the service, which has to be here";
                section.expected(&expected, problems)
            }
            (None, _) => map.get("name")?.expected(&"a port from 1 to 65535 behind _svc_", problems),
        };
    }
    all.into_iter().collect()
}

/// What a target names, by name or by the labels that are one. None within: other labels.
fn named<'a>(
    target: &Field<'a>,
    map: &Map<'a>,
    resource: &Resource<'a>,
    problems: &mut Problems,
) -> Option<Option<Named<'a>>> {
    let said = map.optional("namespace", None, |field| field.text(problems).map(Some));
    let namespace = said?.or(resource.home());
    match (map.get("name"), map.get("labels")) {
        (Some(name), None) => {
            let text = name.text(problems)?;
            if parts(text).is_none() && text.parse::<Host>().is_err() {
                return name.expected(&"the name of a service or route; kind Mesh is all of them", problems);
            }
            let namespace = if parts(text).is_some() { None } else { namespace };
            Some(Some(Named { name: text, namespace }))
        }
        (None, Some(labels)) => {
            let others = labels.map(problems)?;
            if others.entries().any(|(name, _)| ![DISPLAY_NAME, NAMESPACE, ZONE].contains(&name)) {
                return Some(None);
            }
            let Some(name) = others.get(DISPLAY_NAME) else { return Some(None) };
            let namespace = others.optional(NAMESPACE, namespace, |field| field.text(problems).map(Some));
            if let Some(zone) = others.get(ZONE) {
                let message =
                    "zones are not known here; a service of this name is taken, whatever zone it is in";
                problems.note(Code::Ignored, &zone.here(), message);
            }
            Some(Some(Named { name: name.text(problems)?, namespace: namespace? }))
        }
        (Some(_), Some(labels)) => labels.problem("name and labels exclude each other", problems),
        (None, None) => target.problem("one of name and labels is required", problems),
    }
}
