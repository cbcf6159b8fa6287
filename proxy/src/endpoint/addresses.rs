//! The addresses of names as every thread sees them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Choice, Endpoints, Service, Weighted};
use crate::policy::{Host, Target, TargetAddress};

/// What is known of names, published by who follows them. A clone is the same.
///
/// Only a connection to a Service, and a request whose route leads to a name, look here, and then for as long as it takes
/// to copy a reference. A request that is led nowhere looks only whether something has changed.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<Published>);

#[derive(Debug, Default)]
struct Published {
    known: RwLock<HashMap<Host, Known>>,
    /// Counts the changes of Services.
    changes: AtomicU64,
}

#[derive(Clone, Debug)]
enum Known {
    Addresses(Arc<[IpAddr]>),
    Service(Arc<Service>),
}

impl Addresses {
    /// From here on these are a host's addresses.
    pub fn publish(&self, host: &Host, addresses: Vec<IpAddr>) {
        self.set(host, Some(Known::Addresses(addresses.into())));
    }

    /// From here on the host is this Service's.
    pub fn publish_service(&self, host: &Host, service: Arc<Service>) {
        self.set(host, Some(Known::Service(service)));
        self.0.changes.fetch_add(1, Ordering::Release);
    }

    pub fn forget(&self, host: &Host) {
        self.set(host, None);
        self.0.changes.fetch_add(1, Ordering::Release);
    }

    /// The Service whose the host is.
    #[must_use]
    pub fn service(&self, host: &Host) -> Option<Arc<Service>> {
        match self.get(host)? {
            Known::Service(service) => Some(service),
            Known::Addresses(_) => None,
        }
    }

    /// How often Services have changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Where these targets are for a connection that was dialled to `original`. Addresses of its family come first.
    #[must_use]
    pub fn of(&self, targets: &[Target], original: SocketAddr) -> Vec<Weighted> {
        let with_port = |address: IpAddr, port: Option<NonZeroU16>| {
            SocketAddr::new(address, port.map_or(original.port(), NonZeroU16::get))
        };
        let endpoints = |target: &Target| match &target.address {
            TargetAddress::Original => Endpoints::of_family([original], original),
            TargetAddress::Addresses(addresses) => {
                let addresses = addresses.iter().map(|(address, port)| with_port(*address, *port));
                Endpoints::of_family(addresses, original)
            }
            TargetAddress::Host { host, port } => match self.get(host) {
                Some(Known::Service(service)) => {
                    service.target(port.map_or(original.port(), NonZeroU16::get), original)
                }
                Some(Known::Addresses(addresses)) => {
                    let addresses = addresses.iter().map(|address| with_port(*address, *port));
                    Endpoints::of_family(addresses, original)
                }
                None => Endpoints::default(),
            },
        };
        targets
            .iter()
            .filter(|target| target.weight > 0)
            .map(|target| Weighted { weight: target.weight, endpoints: endpoints(target) })
            .collect()
    }

    fn get(&self, host: &Host) -> Option<Known> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    fn set(&self, host: &Host, known: Option<Known>) {
        let mut all = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some(known) => all.insert(host.clone(), known),
            None => all.remove(host),
        };
    }
}

/// Where the attempts of one connection go that nothing leads elsewhere.
#[derive(Debug)]
pub struct Way {
    choice: RefCell<Choice>,
    service: Option<Dialled>,
    /// The changes that the choice is of.
    changes: Cell<u64>,
}

/// What one connection was dialled to that is a Service's.
#[derive(Clone, Debug)]
pub struct Dialled {
    pub host: Host,
    pub address: SocketAddr,
    /// [`Addresses::changes`] before its endpoints were chosen.
    pub changes: u64,
    /// The endpoint that the connection has, which stays the first for as long as it does.
    pub endpoint: Option<SocketAddr>,
}

impl From<Choice> for Way {
    /// It stays as it is.
    fn from(choice: Choice) -> Self {
        Self::new(choice, None)
    }
}

impl Way {
    /// The choice stays as it is where it is no Service's.
    #[must_use]
    pub fn new(choice: Choice, service: Option<Dialled>) -> Self {
        let changes = service.as_ref().map_or(0, |service| service.changes);
        Self { choice: choice.into(), service, changes: changes.into() }
    }

    /// The endpoints as they are now.
    #[must_use]
    pub fn endpoints(&self, addresses: &Addresses) -> Choice {
        if let Some(Dialled { host, address, changes: _, endpoint }) = &self.service {
            let changes = addresses.changes();
            if self.changes.replace(changes) != changes
                && let Some(service) = addresses.service(host)
            {
                let choice = service.choice(*address, &mut |below| fastrand::u32(..below));
                *self.choice.borrow_mut() = choice.starting_at(*endpoint);
            }
        }
        self.choice.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Addresses, Choice, Dialled, Endpoints, Service, Way};
    use crate::endpoint::ServicePort;
    use crate::policy::{Host, Target, TargetAddress};

    fn service(endpoint: &str) -> Arc<Service> {
        let near = [endpoint.parse().unwrap()].into();
        Arc::new(Service {
            cluster_addresses: vec!["10.0.0.1".parse().unwrap()],
            ports: vec![ServicePort {
                number: 80,
                v4: Endpoints { near, far: Arc::default() },
                v6: Endpoints::default(),
            }],
            ..Service::default()
        })
    }

    #[test]
    fn a_connection_to_a_service_goes_to_the_endpoints_that_there_are_now() {
        let (addresses, dialled) = (Addresses::default(), "10.0.0.1:80".parse().unwrap());
        let host: Host = "web.shop.svc.cluster.local".parse().unwrap();
        addresses.publish_service(&host, service("10.1.0.1:8080"));
        let way = |endpoint: Option<&str>| {
            let endpoint = endpoint.map(|endpoint| endpoint.parse().unwrap());
            let service = Dialled { host: host.clone(), address: dialled, changes: 0, endpoint };
            Way::new(Choice::new(dialled, []), Some(service))
        };
        let now = |way: &Way| {
            let mut choice = way.endpoints(&addresses);
            [choice.next_endpoint(), choice.next_endpoint()].map(|endpoint| endpoint.to_string())
        };
        let (free, connected) = (way(None), way(Some("10.1.0.1:8080")));
        assert_eq!(now(&free), ["10.1.0.1:8080"; 2]);
        addresses.publish_service(&host, service("10.1.0.2:8080"));
        assert_eq!(now(&free), ["10.1.0.2:8080"; 2]);
        // What a connection has is its own for as long as it has it.
        assert_eq!(now(&connected), ["10.1.0.1:8080", "10.1.0.2:8080"]);
        assert_eq!(now(&Choice::new(dialled, []).into()), ["10.0.0.1:80"; 2]);
        addresses.forget(&host);
        assert_eq!(now(&free), ["10.1.0.2:8080"; 2], "nothing better is known");
    }

    #[test]
    fn a_target_that_is_a_service_is_its_endpoints() {
        let (addresses, original) = (Addresses::default(), "10.0.0.9:80".parse().unwrap());
        let host: Host = "web.shop.svc.cluster.local".parse().unwrap();
        let targets = |port: u16| {
            let address = TargetAddress::Host { host: host.clone(), port: port.try_into().ok() };
            [Target { name: "web".into(), weight: 1, address }]
        };
        assert!(addresses.of(&targets(80), original)[0].endpoints.is_empty());
        addresses.publish_service(&host, service("10.1.0.1:8080"));
        for (port, endpoint) in [(80, "10.1.0.1:8080"), (0, "10.1.0.1:8080"), (81, "10.0.0.1:81")] {
            let of = &addresses.of(&targets(port), original)[0].endpoints.near;
            assert_eq!(of.iter().map(ToString::to_string).collect::<Vec<_>>(), [endpoint]);
        }
    }
}
