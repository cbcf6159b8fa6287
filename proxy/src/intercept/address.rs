//! Addresses as the kernel side stores them, and as the rest of the agent means them.

use redial_ebpf::Endpoint;
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

/// Where the application wanted to connect to. An IPv4 destination is IPv4, whatever family the socket was of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginalDestination(SocketAddr);

impl OriginalDestination {
    #[must_use]
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for OriginalDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&Endpoint> for OriginalDestination {
    fn from(endpoint: &Endpoint) -> Self {
        Self(SocketAddr::new(Ipv6Addr::from(endpoint.address).to_canonical(), endpoint.port))
    }
}

/// An address as the kernel side stores it.
pub(super) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { address: octets(address.ip()), port: address.port(), padding: [0; 6] }
}

pub(super) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::{OriginalDestination, endpoint};
    use std::net::SocketAddr;

    #[test]
    fn addresses_survive_the_way_to_the_kernel_and_back() {
        for text in ["10.1.2.3:80", "[2001:db8::1]:443", "255.0.255.0:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(OriginalDestination::from(&endpoint(address)).address(), address);
        }
    }

    #[test]
    fn a_mapped_destination_is_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:80".parse().unwrap();
        assert_eq!(OriginalDestination::from(&endpoint(mapped)).to_string(), "10.1.2.3:80");
    }
}
