//! What is known of a Kubernetes Service: its own addresses, and for each of its ports where it leads. Pure.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Choice, Weighted};

/// A Service, as it was told last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The node's load balancer answers at these. A headless Service has none.
    pub cluster_addresses: Vec<IpAddr>,
    /// Those of all its endpoints, also of those that are not ready.
    pub endpoint_addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    pub stickiness: Stickiness,
}

/// Where a port of a Service leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    pub number: u16,
    pub v4: Endpoints,
    pub v6: Endpoints,
}

/// Endpoints that may be connected to. Their ports are their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    pub near: Arc<[SocketAddr]>,
    /// They come after those that are near.
    pub far: Arc<[SocketAddr]>,
}

/// Whether another endpoint may stand in for the one that an address means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stickiness {
    /// A cluster address means any endpoint. An endpoint's own address was asked for as such, and means it alone.
    #[default]
    Endpoints,
    /// The node's load balancer knows which endpoint a client had before, so it is asked first.
    Clients,
    /// A name that has all their addresses is the only way to them, so each stands for any.
    None,
}

impl Service {
    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.cluster_addresses.iter().chain(&self.endpoint_addresses).copied()
    }

    /// Where the attempts of a connection go that was dialled to one of its addresses. `draw` is that of
    /// [`Choice::weighted`].
    #[must_use]
    pub fn choice(&self, dialled: SocketAddr, draw: &mut dyn FnMut(u32) -> u32) -> Choice {
        let is_cluster = self.cluster_addresses.contains(&dialled.ip());
        let mut lists = self.ports.iter().map(|port| (port.number, port.of_family(dialled)));
        let found = if is_cluster {
            lists.find(|(number, _)| *number == dialled.port())
        } else if self.stickiness == Stickiness::None {
            lists.find(|(_, endpoints)| endpoints.contains(dialled))
        } else {
            None
        };
        let found = found.map(|(_, endpoints)| endpoints).filter(|endpoints| !endpoints.is_empty());
        let Some(endpoints) = found else { return Choice::new(dialled, []) };
        let first = (!is_cluster || self.stickiness == Stickiness::Clients).then_some(dialled);
        Choice::weighted(vec![Weighted { weight: 1, endpoints: endpoints.clone() }], draw).starting_at(first)
    }

    /// Whether no endpoint can take a connection that was dialled to a port of its own.
    #[must_use]
    pub fn lacks_endpoints(&self, dialled: SocketAddr) -> bool {
        self.cluster_addresses.contains(&dialled.ip())
            && self
                .ports
                .iter()
                .any(|port| port.number == dialled.port() && port.of_family(dialled).is_empty())
    }

    /// Where requests go that are led to a port of it, for a connection of that family where it can be.
    #[must_use]
    pub fn target(&self, port: u16, family: SocketAddr) -> Endpoints {
        if let Some(port) = self.ports.iter().find(|known| known.number == port) {
            let of_family = port.of_family(family);
            let other = if family.is_ipv4() { &port.v6 } else { &port.v4 };
            if let Some(endpoints) = [of_family, other].into_iter().find(|endpoints| !endpoints.is_empty()) {
                return endpoints.clone();
            }
        }
        // The node says what becomes of it.
        let addresses = if self.cluster_addresses.is_empty() {
            &self.endpoint_addresses
        } else {
            &self.cluster_addresses
        };
        Endpoints::of_family(addresses.iter().map(|address| SocketAddr::new(*address, port)), family)
    }
}

impl ServicePort {
    fn of_family(&self, address: SocketAddr) -> &Endpoints {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

impl Endpoints {
    /// Endpoints that are as near as each other. Where there are some of this family, the others are left out.
    #[must_use]
    pub fn of_family(endpoints: impl IntoIterator<Item = SocketAddr>, family: SocketAddr) -> Self {
        let mut endpoints: Vec<_> = endpoints.into_iter().collect();
        if endpoints.iter().any(|endpoint| endpoint.is_ipv4() == family.is_ipv4()) {
            endpoints.retain(|endpoint| endpoint.is_ipv4() == family.is_ipv4());
        }
        Self { near: endpoints.into(), far: Arc::default() }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.near.is_empty() && self.far.is_empty()
    }

    fn contains(&self, endpoint: SocketAddr) -> bool {
        self.near.contains(&endpoint) || self.far.contains(&endpoint)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::{Choice, Endpoints, Service, ServicePort, Stickiness};

    fn sockets(addresses: &[&str]) -> Arc<[SocketAddr]> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn service(stickiness: Stickiness) -> Service {
        let http = Endpoints {
            near: sockets(&["10.1.0.1:8080", "10.1.0.2:8080"]),
            far: sockets(&["10.1.0.3:8081"]),
        };
        let v6 = Endpoints { near: sockets(&["[fd01::1]:8080"]), far: sockets(&[]) };
        Service {
            cluster_addresses: ["10.0.0.1", "fd00::1"].map(|one| one.parse().unwrap()).into(),
            endpoint_addresses: ["10.1.0.1", "10.1.0.2", "10.1.0.3", "fd01::1"]
                .map(|one| one.parse().unwrap())
                .into(),
            ports: vec![
                ServicePort { number: 80, v4: http, v6 },
                ServicePort { number: 81, ..ServicePort::default() },
            ],
            stickiness,
        }
    }

    fn order(mut choice: Choice, count: usize) -> Vec<String> {
        (0..count).map(|_| choice.next_endpoint().to_string()).collect()
    }

    fn of(service: &Service, dialled: &str, drawn: u32, count: usize) -> Vec<String> {
        order(service.choice(dialled.parse().unwrap(), &mut |below| drawn.min(below - 1)), count)
    }

    #[test]
    fn a_cluster_address_leads_to_each_endpoint_the_near_ones_first() {
        let service = service(Stickiness::Endpoints);
        let all = ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8081", "10.1.0.1:8080"];
        assert_eq!(of(&service, "10.0.0.1:80", 0, 4), all);
        let all = ["10.1.0.2:8080", "10.1.0.1:8080", "10.1.0.3:8081", "10.1.0.2:8080"];
        assert_eq!(of(&service, "10.0.0.1:80", 1, 4), all);
        assert_eq!(of(&service, "[fd00::1]:80", 0, 2), ["[fd01::1]:8080", "[fd01::1]:8080"]);
    }

    #[test]
    fn what_has_no_endpoint_is_left_to_the_node() {
        let service = service(Stickiness::Endpoints);
        for (dialled, lacks) in
            [("10.0.0.1:81", true), ("10.0.0.1:82", false), ("10.0.0.1:80", false), ("10.1.0.1:81", false)]
        {
            assert_eq!(service.lacks_endpoints(dialled.parse().unwrap()), lacks, "{dialled}");
            if dialled != "10.0.0.1:80" {
                assert_eq!(of(&service, dialled, 0, 2), [dialled, dialled]);
            }
        }
    }

    #[test]
    fn what_was_dialled_comes_first_where_it_may_be_meant_alone() {
        assert_eq!(of(&service(Stickiness::Endpoints), "10.1.0.2:8080", 0, 2), ["10.1.0.2:8080"; 2]);
        let any = ["10.1.0.2:8080", "10.1.0.3:8081", "10.1.0.1:8080"];
        assert_eq!(of(&service(Stickiness::None), "10.1.0.2:8080", 0, 3), any);
        let node_first = ["10.0.0.1:80", "10.1.0.2:8080", "10.1.0.1:8080", "10.1.0.3:8081"];
        assert_eq!(of(&service(Stickiness::Clients), "10.0.0.1:80", 1, 4), node_first);
    }

    #[test]
    fn a_targets_port_is_the_services() {
        let (service, mut headless) = (service(Stickiness::Endpoints), service(Stickiness::None));
        headless.cluster_addresses.clear();
        let v4 = "10.9.9.9:1".parse().unwrap();
        assert_eq!(service.target(80, v4), service.ports[0].v4);
        assert_eq!(service.target(81, v4).near, sockets(&["10.0.0.1:81"]));
        assert_eq!(headless.target(9, v4).near, sockets(&["10.1.0.1:9", "10.1.0.2:9", "10.1.0.3:9"]));
        headless.ports[0].v4 = Endpoints::default();
        assert_eq!(
            headless.target(80, v4),
            headless.ports[0].v6,
            "of the other family where there is no choice"
        );
    }
}
