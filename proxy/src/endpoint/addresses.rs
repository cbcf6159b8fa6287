//! The addresses of names as every thread sees them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::{Arc, PoisonError, RwLock};

use super::Weighted;
use crate::policy::{Host, Target, TargetAddress};

/// What is known of names, published by who follows them. A clone is the same.
///
/// Only a request whose route leads to a name looks here, and then for as long as it takes to copy its addresses.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<RwLock<HashMap<Host, Arc<[IpAddr]>>>>);

impl Addresses {
    /// From here on these are a host's addresses.
    pub fn publish(&self, host: &Host, addresses: Vec<IpAddr>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(host.clone(), addresses.into());
    }

    pub fn forget(&self, host: &Host) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// Where these targets are for a connection that was dialled to `original`. Addresses of its family come first.
    #[must_use]
    pub fn of(&self, targets: &[Target], original: SocketAddr) -> Vec<Weighted> {
        let with_port = |address: IpAddr, port: Option<NonZeroU16>| {
            SocketAddr::new(address, port.map_or(original.port(), NonZeroU16::get))
        };
        let endpoints = |target: &Target| {
            let mut endpoints: Vec<_> = match &target.address {
                TargetAddress::Original => vec![original],
                TargetAddress::Addresses(addresses) => {
                    addresses.iter().map(|(address, port)| with_port(*address, *port)).collect()
                }
                TargetAddress::Host { host, port } => {
                    let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
                    let addresses = known.get(host).map(Arc::clone).unwrap_or_default();
                    addresses.iter().map(|address| with_port(*address, *port)).collect()
                }
            };
            if endpoints.iter().any(|endpoint| endpoint.is_ipv4() == original.is_ipv4()) {
                endpoints.retain(|endpoint| endpoint.is_ipv4() == original.is_ipv4());
            }
            endpoints
        };
        targets
            .iter()
            .filter(|target| target.weight > 0)
            .map(|target| Weighted { weight: target.weight, endpoints: endpoints(target) })
            .collect()
    }
}
