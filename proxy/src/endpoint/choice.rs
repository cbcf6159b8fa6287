//! The order in which the attempts of one connection go to the endpoints. Pure.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The endpoints of one connection. The first attempt goes where the application wanted to go; each retry prefers
/// one that was not tried yet.
#[derive(Clone, Debug)]
pub struct Choice {
    endpoints: Arc<[SocketAddr]>,
    next: usize,
}

impl Choice {
    /// Addresses of the other family are left out: the application could tell.
    #[must_use]
    pub fn new(original: SocketAddr, others: impl IntoIterator<Item = IpAddr>) -> Self {
        let same_family = |address: &IpAddr| address.is_ipv4() == original.is_ipv4();
        let others = others.into_iter().filter(same_family).filter(|address| *address != original.ip());
        let endpoints = std::iter::once(original)
            .chain(others.map(|address| SocketAddr::new(address, original.port())))
            .collect();
        Self { endpoints, next: 0 }
    }

    /// The same endpoints, from this one on.
    #[must_use]
    pub fn starting_at(mut self, endpoint: Option<SocketAddr>) -> Self {
        self.next = self.endpoints.iter().position(|one| Some(*one) == endpoint).unwrap_or_default();
        self
    }

    /// The endpoint of the attempt before, or of the first one before there is any.
    #[must_use]
    pub fn same_endpoint(&self) -> SocketAddr {
        self.endpoints[self.next.saturating_sub(1) % self.endpoints.len()]
    }

    /// The endpoint for the next attempt. After the last one it is the first one's turn again.
    pub fn next_endpoint(&mut self) -> SocketAddr {
        let endpoint = self.endpoints[self.next % self.endpoints.len()];
        self.next = self.next.wrapping_add(1);
        endpoint
    }
}

#[cfg(test)]
mod tests {
    use super::Choice;
    use std::net::SocketAddr;

    #[test]
    fn every_address_is_tried_before_one_is_tried_again() {
        let original: SocketAddr = "10.0.0.2:80".parse().unwrap();
        let others = ["10.0.0.1", "10.0.0.2", "2001:db8::1", "10.0.0.3"].map(|text| text.parse().unwrap());
        let mut choice = Choice::new(original, others);
        let order: Vec<String> = (0..5).map(|_| choice.next_endpoint().to_string()).collect();
        assert_eq!(order, ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.3:80", "10.0.0.2:80", "10.0.0.1:80"]);
    }
}
