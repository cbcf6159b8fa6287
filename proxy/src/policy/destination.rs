//! What a policy applies to: networks and host names, each with a port or any.

use std::borrow::Borrow;
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

/// One pattern of destinations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    pub address: Address,
    /// None: every port.
    pub port: Option<NonZeroU16>,
}

/// The address part of a [`Destination`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Any,
    Network(Network),
    /// A connection whose address is one of the host's, and a request whose authority is the host.
    Host(Host),
    /// A request whose authority ends so.
    Suffix(HostSuffix),
}

/// A wildcard such as `*.example.com`: the hosts below a DNS name, at any depth.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostSuffix(Host);

/// A range of addresses without host bits. An IPv4-mapped range is the IPv4 range that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

/// A DNS name in lowercase, without the dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Box<str>);

/// Why a text is no [`Network`]: completes "expected", as the other errors of documents do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NetworkError {
    #[error("a network such as 10.0.0.0/8 or fd00::/8, or a single address")]
    Syntax,
    #[error("a network without host bits, {0} perhaps")]
    HostBits(Network),
}

/// Why a text is no [`Host`]: completes "expected", as the other errors of documents do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    #[error(
        "a DNS name such as db.example.com: letters, digits, `-` and `_`, at most 63 to a label and 253 in all, \
         in ASCII (`xn--`)"
    )]
    Syntax,
    #[error("a full DNS name, or a wildcard such as *.example.com")]
    Wildcard,
    #[error("a DNS name; an address or network belongs in `cidrs`")]
    Address,
    #[error("a DNS name without a port; the port belongs in `ports`")]
    Port,
}

impl Network {
    #[must_use]
    pub fn get(self) -> IpNet {
        self.0
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| NetworkError::Syntax)?,
        };
        let network = canonical(net.trunc());
        if net.trunc() == net { Ok(Self(network)) } else { Err(NetworkError::HostBits(Self(network))) }
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Host {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.parse::<Network>() != Err(NetworkError::Syntax) {
            return Err(HostError::Address);
        }
        if text.split('.').any(|label| label == "*") {
            return Err(HostError::Wildcard);
        }
        let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if let Some((name, port)) = host.split_once(':')
            && is_name(name)
            && port.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(HostError::Port);
        }
        if is_name(&host) { Ok(Self(host.into_boxed_str())) } else { Err(HostError::Syntax) }
    }
}

impl HostSuffix {
    /// The name that the hosts are below.
    #[must_use]
    pub fn parent(&self) -> &Host {
        &self.0
    }
}

impl FromStr for HostSuffix {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        text.strip_prefix("*.").ok_or(HostError::Wildcard)?.parse().map(Self)
    }
}

impl Display for HostSuffix {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "*.{}", self.0)
    }
}

impl Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Display for Host {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn canonical(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(address) = v6.addr().to_ipv4_mapped()
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = IpNet::new(IpAddr::V4(address), length)
    {
        return v4;
    }
    net
}

/// The underscore is no host name's but DNS carries it, and names of services have it.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // No top-level domain is a number: 10.0.0.256 is an address gone wrong.
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(is_label) && !name.rsplit('.').next().is_some_and(numeric)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Host, HostError, Network, NetworkError};

    #[test]
    fn a_network_is_kept_in_one_form() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), network);
        }
    }

    #[test]
    fn a_network_gone_wrong_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "fd00::/129",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/-1",
            "db",
            "fe80::1%eth0",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Syntax), "{text}");
        }
        let error = "10.1.2.3/8".parse::<Network>().unwrap_err();
        assert_eq!(error, NetworkError::HostBits("10.0.0.0/8".parse().unwrap()));
    }

    #[test]
    fn a_host_is_kept_in_one_form() {
        for (text, host) in [
            ("db", "db"),
            ("DB.Example.COM.", "db.example.com"),
            ("my_db.shop", "my_db.shop"),
            ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
            ("1.example", "1.example"),
            (&"a.".repeat(127), &format!("a{}", ".a".repeat(126))),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().as_str(), host);
        }
    }

    #[test]
    fn a_host_gone_wrong_is_refused() {
        for (text, error) in [
            ("", HostError::Syntax),
            (".", HostError::Syntax),
            ("a..b", HostError::Syntax),
            ("-a.b", HostError::Syntax),
            ("a b", HostError::Syntax),
            ("münchen.example", HostError::Syntax),
            ("10.0.0.256", HostError::Syntax),
            (&"a".repeat(64), HostError::Syntax),
            (&"a.b".repeat(85), HostError::Syntax),
            ("http://a.b", HostError::Syntax),
            ("*.example.com", HostError::Wildcard),
            ("a.*.com", HostError::Wildcard),
            ("10.0.0.1", HostError::Address),
            ("10.0.0.0/8", HostError::Address),
            ("10.1.0.0/8", HostError::Address),
            ("::1", HostError::Address),
            ("db.example.com:5432", HostError::Port),
        ] {
            assert_eq!(text.parse::<Host>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_host_that_stays_itself_or_an_error(text in "\\PC{0,40}|[a-zA-Z0-9._*:-]{0,40}") {
            if let Ok(host) = text.parse::<Host>() {
                prop_assert_eq!(host.as_str().parse::<Host>().unwrap(), host);
            }
        }

        #[test]
        fn any_text_is_a_network_that_stays_itself_or_an_error(text in "\\PC{0,40}|[0-9a-f.:/]{0,40}") {
            if let Ok(network) = text.parse::<Network>() {
                prop_assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
            }
        }
    }
}
