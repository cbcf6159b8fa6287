//! The Services that policies name, and where their endpoints are, as the API tells both. Pure.
//!
//! Of what the API sends only what a needed Service has is kept, and of that only what a connection needs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service as ServiceObject;
use k8s_openapi::api::discovery::v1::{Endpoint as EndpointObject, EndpointSlice};

use crate::endpoint::{Endpoints, Service, ServicePort, Stickiness};
use crate::policy::Host;

/// The label of an EndpointSlice that says whose it is.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The domain of a cluster's Services.
const DOMAIN: &str = ".svc.cluster.local";
/// The most Services that are followed.
const MAX_SERVICES: usize = 4_096;
/// The most endpoints that are kept of all of them, each counted with each of its ports.
const MAX_ENDPOINTS: usize = 200_000;
/// The most addresses and ports that one Service has. The API server allows 100 and a few.
const MAX_PORTS: usize = 128;

/// Where a Service is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

/// What the cluster says of the node whose agent this is.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) zone: Option<String>,
}

/// The Services that are needed.
#[derive(Debug, Default)]
pub struct Services {
    place: Place,
    needed: BTreeMap<ServiceName, Needed>,
    /// By namespace and name.
    slices: HashMap<(String, String), Slice>,
    /// How much the slices hold.
    weight: usize,
    /// What is to be told.
    changed: BTreeSet<ServiceName>,
    is_full: bool,
}

#[derive(Debug, Default)]
struct Needed {
    hosts: BTreeSet<Host>,
    spec: Option<Spec>,
    /// Whether all that the API has of it has been told: before, there is nothing to say.
    has_specs: bool,
    has_slices: bool,
    told: Option<Arc<Service>>,
}

/// What is needed of a Service.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    cluster_addresses: Vec<IpAddr>,
    /// By name.
    ports: BTreeMap<Box<str>, u16>,
    keeps_clients: bool,
    is_local: bool,
}

/// What is needed of an EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
struct Slice {
    service: ServiceName,
    /// By name.
    ports: BTreeMap<Box<str>, u16>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    address: IpAddr,
    state: State,
    /// It is meant for this node, or for others.
    rank: Rank,
    is_here: bool,
    /// It has a DNS name of its own.
    is_named: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// It is on its way out, and still serves.
    Leaving,
    Not,
}

/// From the nearest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Node,
    Zone,
    Any,
}

impl ServiceName {
    /// The Service that a name such as `web.shop.svc.cluster.local` or `web.shop.svc` is of.
    #[must_use]
    pub fn of(host: &Host) -> Option<Self> {
        let host = host.as_str();
        let (name, namespace) =
            host.strip_suffix(DOMAIN).or_else(|| host.strip_suffix(".svc"))?.split_once('.')?;
        let is_one = !namespace.contains('.');
        is_one.then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// The hosts that are Services of the cluster, and the others. A shorter name is left out where the whole one is among them.
#[must_use]
pub fn split<'a>(hosts: impl IntoIterator<Item = &'a Host>) -> (BTreeSet<Host>, Vec<Host>) {
    let hosts: BTreeSet<&Host> = hosts.into_iter().collect();
    let is_short = |host: &Host| {
        [DOMAIN, ".svc", ".cluster.local"].iter().any(|rest| {
            let whole: Result<Host, _> = format!("{host}{rest}").parse();
            whole.is_ok_and(|whole| hosts.contains(&whole) && ServiceName::of(&whole).is_some())
        })
    };
    let (mut services, mut others) = (BTreeSet::new(), Vec::new());
    for host in hosts.iter().copied().filter(|host| !is_short(host)) {
        if ServiceName::of(host).is_some() {
            services.insert(host.clone());
        } else {
            others.push(host.clone());
        }
    }
    (services, others)
}

impl Services {
    #[must_use]
    pub fn new(node: String) -> Self {
        Self { place: Place { node, zone: None }, ..Self::default() }
    }

    /// These are needed from now on, and no others: by namespace, the names of the Services that are to be watched.
    pub fn need(&mut self, hosts: &BTreeSet<Host>) -> BTreeMap<String, BTreeSet<String>> {
        let mut needed = BTreeMap::<ServiceName, BTreeSet<Host>>::new();
        for host in hosts {
            let Some(name) = ServiceName::of(host) else { continue };
            if needed.len() >= MAX_SERVICES && !needed.contains_key(&name) {
                tracing::error!(
                    %host, most = MAX_SERVICES,
                    "policies name too many services; this one's connections go where they were dialled"
                );
                continue;
            }
            needed.entry(name).or_default().insert(host.clone());
        }
        self.needed.retain(|name, _| needed.contains_key(name));
        self.drop_slices(|_, slice| !needed.contains_key(&slice.service));
        let mut names = BTreeMap::<String, BTreeSet<String>>::new();
        for (name, hosts) in needed {
            names.entry(name.namespace.clone()).or_default().insert(name.name.clone());
            let known = self.needed.entry(name.clone()).or_default();
            // Whoever needs them may have forgotten in the meantime what it was told.
            (known.hosts, known.told) = (hosts, None);
            self.changed.insert(name);
        }
        names
    }

    /// The zone that the node is in, as its labels say.
    pub fn is_in_zone(&mut self, zone: String) {
        self.place.zone = Some(zone);
    }

    /// A Service as it is now.
    pub fn is(&mut self, object: &ServiceObject) {
        let Some(name) = name_of(object.metadata.namespace.as_deref(), object.metadata.name.as_deref())
        else {
            return;
        };
        if let Some(needed) = self.needed.get_mut(&name) {
            needed.spec = spec(object);
            self.changed.insert(name);
        }
    }

    pub fn gone(&mut self, object: &ServiceObject) {
        let name = name_of(object.metadata.namespace.as_deref(), object.metadata.name.as_deref());
        if let Some(name) = name
            && let Some(needed) = self.needed.get_mut(&name)
        {
            needed.spec = None;
            self.changed.insert(name);
        }
    }

    /// These are all Services of a namespace.
    pub fn only(&mut self, namespace: &str, there: &HashSet<String>) {
        for (name, needed) in self.needed.iter_mut().filter(|(name, _)| name.namespace == namespace) {
            needed.has_specs = true;
            if !there.contains(&name.name) {
                needed.spec = None;
            }
            self.changed.insert(name.clone());
        }
    }

    /// An EndpointSlice as it is now.
    pub fn is_slice(&mut self, object: &EndpointSlice) {
        let Some(place) = place_of(object) else { return };
        self.drop_slice(&place);
        let labels = object.metadata.labels.as_ref();
        let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
        let Some(service) = name_of(Some(&place.0), service.map(String::as_str)) else { return };
        if !self.needed.contains_key(&service) {
            return;
        }
        let Some(slice) = slice(object, &self.place, service.clone()) else { return };
        if self.weight + slice.weight() > MAX_ENDPOINTS {
            if !std::mem::replace(&mut self.is_full, true) {
                tracing::error!(
                    slice = place.1,
                    namespace = place.0,
                    most = MAX_ENDPOINTS,
                    "the services that policies name have too many endpoints; these are passed over"
                );
            }
            return;
        }
        self.weight += slice.weight();
        self.changed.insert(service);
        self.slices.insert(place, slice);
    }

    pub fn slice_gone(&mut self, object: &EndpointSlice) {
        if let Some(place) = place_of(object) {
            self.drop_slice(&place);
        }
    }

    /// These are all EndpointSlices of a namespace's needed Services.
    pub fn only_slices(&mut self, namespace: &str, there: &HashSet<String>) {
        self.drop_slices(|(of, name), _| of == namespace && !there.contains(name));
        for (name, needed) in self.needed.iter_mut().filter(|(name, _)| name.namespace == namespace) {
            needed.has_slices = true;
            self.changed.insert(name.clone());
        }
    }

    /// What each host has come to be since this was asked last.
    pub fn take_changes(&mut self) -> Vec<(Host, Option<Arc<Service>>)> {
        let mut changes = Vec::new();
        let mut slices = HashMap::<&ServiceName, Vec<(&(String, String), &Slice)>>::new();
        if !self.changed.is_empty() {
            for (place, slice) in &self.slices {
                slices.entry(&slice.service).or_default().push((place, slice));
            }
        }
        for name in std::mem::take(&mut self.changed) {
            let Some(needed) = self.needed.get_mut(&name) else { continue };
            if !needed.has_specs || !needed.has_slices {
                continue;
            }
            let mut slices = slices.remove(&name).unwrap_or_default();
            slices.sort_unstable_by_key(|(place, _)| *place);
            let slices: Vec<_> = slices.into_iter().map(|(_, slice)| slice).collect();
            let service = needed.spec.as_ref().map(|spec| Arc::new(service(spec, &slices)));
            if service.is_none() || service != needed.told {
                needed.told.clone_from(&service);
                changes.extend(needed.hosts.iter().map(|host| (host.clone(), service.clone())));
            }
        }
        changes
    }

    fn drop_slices(&mut self, are: impl Fn(&(String, String), &Slice) -> bool) {
        let places =
            self.slices.iter().filter(|(place, slice)| are(place, slice)).map(|(place, _)| place.clone());
        for place in places.collect::<Vec<_>>() {
            self.drop_slice(&place);
        }
    }

    fn drop_slice(&mut self, place: &(String, String)) {
        if let Some(slice) = self.slices.remove(place) {
            self.weight -= slice.weight();
            self.is_full = false;
            self.changed.insert(slice.service);
        }
    }
}

impl Slice {
    fn weight(&self) -> usize {
        1 + self.endpoints.len() * self.ports.len().max(1)
    }
}

fn name_of(namespace: Option<&str>, name: Option<&str>) -> Option<ServiceName> {
    Some(ServiceName { namespace: namespace?.to_owned(), name: name?.to_owned() })
}

fn place_of(object: &EndpointSlice) -> Option<(String, String)> {
    Some((object.metadata.namespace.clone()?, object.metadata.name.clone()?))
}

/// None for what has no addresses in the cluster: another name stands for it.
fn spec(object: &ServiceObject) -> Option<Spec> {
    let spec = object.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let addresses = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let addresses: BTreeSet<IpAddr> =
        addresses.take(MAX_PORTS).filter_map(|address| address.parse().ok()).collect();
    let ports = spec.ports.iter().flatten().take(MAX_PORTS).filter_map(|port| {
        let number = tcp_port(port.protocol.as_deref(), Some(port.port))?;
        Some((Box::from(port.name.as_deref().unwrap_or_default()), number))
    });
    Some(Spec {
        cluster_addresses: addresses.into_iter().collect(),
        ports: ports.collect(),
        keeps_clients: spec.session_affinity.as_deref() == Some("ClientIP"),
        is_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
    })
}

/// None where its addresses are none.
fn slice(object: &EndpointSlice, place: &Place, service: ServiceName) -> Option<Slice> {
    if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
        return None;
    }
    let ports = object.ports.iter().flatten().take(MAX_PORTS).filter_map(|port| {
        let number = tcp_port(port.protocol.as_deref(), port.port)?;
        Some((Box::from(port.name.as_deref().unwrap_or_default()), number))
    });
    let endpoints = object.endpoints.iter().filter_map(|one| endpoint(one, place));
    Some(Slice { service, ports: ports.collect(), endpoints: endpoints.collect() })
}

fn tcp_port(protocol: Option<&str>, port: Option<i32>) -> Option<u16> {
    let is_tcp = protocol.is_none_or(|protocol| protocol == "TCP");
    port.filter(|_| is_tcp).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

fn endpoint(object: &EndpointObject, place: &Place) -> Option<Endpoint> {
    // Of several addresses that one endpoint has, all but the first are meant for nobody.
    let address = object.addresses.first()?.parse::<IpAddr>().ok()?.to_canonical();
    let conditions = object.conditions.as_ref();
    let says = |condition: Option<bool>, default| condition.unwrap_or(default);
    let is_ready = says(conditions.and_then(|all| all.ready), true);
    let is_serving = says(conditions.and_then(|all| all.serving), is_ready);
    let is_terminating = says(conditions.and_then(|all| all.terminating), false);
    let state = match (is_ready, is_serving && is_terminating) {
        (true, _) => State::Ready,
        (false, true) => State::Leaving,
        (false, false) => State::Not,
    };
    let hints = object.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten();
    let rank = if nodes.into_iter().any(|node| node.name == place.node) {
        Rank::Node
    } else if zones.into_iter().any(|zone| Some(&zone.name) == place.zone.as_ref()) {
        Rank::Zone
    } else {
        Rank::Any
    };
    Some(Endpoint {
        address,
        state,
        rank,
        is_here: object.node_name.as_deref() == Some(&place.node),
        is_named: object.hostname.as_deref().is_some_and(|name| !name.is_empty()),
    })
}

/// A Service with the endpoints of its slices.
fn service(spec: &Spec, slices: &[&Slice]) -> Service {
    let endpoints = || slices.iter().flat_map(|slice| &slice.endpoints);
    let addresses: BTreeSet<IpAddr> = endpoints().map(|endpoint| endpoint.address).collect();
    let is_headless = spec.cluster_addresses.is_empty();
    let stickiness = if !is_headless && spec.keeps_clients {
        Stickiness::Clients
    } else if is_headless && !endpoints().any(|endpoint| endpoint.is_named) {
        Stickiness::None
    } else {
        Stickiness::Endpoints
    };
    let port = |name: &str, number| {
        let of_port = slices.iter().filter_map(|slice| Some((slice, *slice.ports.get(name)?)));
        let of_port = of_port.flat_map(|(slice, port)| slice.endpoints.iter().map(move |one| (one, port)));
        let of_port = of_port.filter(|(endpoint, _)| is_headless || !spec.is_local || endpoint.is_here);
        let (v4, v6) = of_port.partition::<Vec<_>, _>(|(endpoint, _)| endpoint.address.is_ipv4());
        ServicePort { number, v4: ordered(&v4), v6: ordered(&v6) }
    };
    Service {
        cluster_addresses: spec.cluster_addresses.clone(),
        endpoint_addresses: addresses.into_iter().collect(),
        ports: spec.ports.iter().map(|(name, number)| port(name, *number)).collect(),
        stickiness,
    }
}

/// Those that are ready, or, where none is, those that still serve on their way out.
fn ordered(endpoints: &[(&Endpoint, u16)]) -> Endpoints {
    let of_state = |state| {
        let those = endpoints.iter().filter(|(endpoint, _)| endpoint.state == state);
        // A slice that is being replaced may name an endpoint that its successor has, too.
        those
            .map(|(endpoint, port)| (endpoint.rank, SocketAddr::new(endpoint.address, *port)))
            .collect::<BTreeSet<_>>()
    };
    let mut all = of_state(State::Ready);
    if all.is_empty() {
        all = of_state(State::Leaving);
    }
    let nearest = all.first().map(|(rank, _)| *rank);
    let (near, far): (Vec<_>, Vec<_>) = all.into_iter().partition(|(rank, _)| Some(*rank) == nearest);
    let sockets = |list: Vec<(Rank, SocketAddr)>| list.into_iter().map(|(_, socket)| socket).collect();
    Endpoints { near: sockets(near), far: sockets(far) }
}

#[cfg(test)]
mod tests;
