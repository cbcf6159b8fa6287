//! Parts of policies in words.

use std::fmt::Display;
use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::policy::route::Part;
use crate::policy::table::{Before, By, Considered, Passed};
use crate::policy::{
    Address, Destination, HeaderMatcher, LabelMatch, PathMatch, QueryMatcher, RequestMatch, RequestProtocol,
    Target, TargetAddress, ValueMatcher, WorkloadSelector,
};

/// How many of a long list are shown.
const SHOWN: usize = 8;

/// All of these in a row, or some where there are many.
pub(super) fn list<T: Display>(all: impl ExactSizeIterator<Item = T>, nothing: &str) -> String {
    let more = all.len().saturating_sub(SHOWN);
    let mut words: Vec<_> = all.take(SHOWN).map(|one| one.to_string()).collect();
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    if words.is_empty() { nothing.to_owned() } else { words.join(", ") }
}

/// How a policy was found.
pub(super) fn by(by: By<'_>) -> String {
    match by {
        By::Authority(host) => format!("the host is {host}"),
        By::Resolved(host) => format!("the address is one of {host}"),
        By::Below(host) => format!("the host is in *.{host}"),
        By::Network(network) if network.prefix_len() == 0 => "it is for every address".to_owned(),
        By::Network(network) => format!("the address is in {network}"),
        By::Fallback => "it is for what no other policy is for".to_owned(),
    }
}

/// Why the second is asked after the first.
pub(super) fn later(first: &Considered<'_>, second: &Considered<'_>) -> String {
    let name = &first.policy.name;
    match first.before(second) {
        Before::Destination => format!("less specific: {}", by(second.by)),
        Before::Host => format!("{}, and what is said of that host comes later", by(second.by)),
        Before::Port => "as specific, but it names no port".to_owned(),
        Before::Precedence => "as specific, and later by the precedence of its system".to_owned(),
        Before::Name => format!("as specific, and its policy's name comes after {name}"),
        Before::Within if second.route.is_none() => "it comes after all routes of the policy".to_owned(),
        Before::Within => "a later route of the same policy".to_owned(),
    }
}

/// Why one does not hold.
pub(super) fn passed(passed: Passed<'_>) -> String {
    match passed {
        Passed::Port(port) => format!("it is for port {port}"),
        Passed::Workload => "it is for other workloads".to_owned(),
        Passed::Connections => "it says nothing of requests".to_owned(),
        Passed::Part(of) => format!("the request does not match: {}", part(of)),
    }
}

/// All that a route asks of a request.
pub(super) fn matcher(matcher: &RequestMatch) -> String {
    let parts: Vec<_> = matcher.parts().map(part).collect();
    if parts.is_empty() { "every request".to_owned() } else { parts.join(", ") }
}

pub(super) fn part(part: Part<'_>) -> String {
    match part {
        Part::Protocol(RequestProtocol::Any) => "every request".to_owned(),
        Part::Protocol(RequestProtocol::Http) => "no gRPC".to_owned(),
        Part::Protocol(RequestProtocol::Grpc) => "gRPC".to_owned(),
        Part::Path(of) => path(of),
        Part::Query(QueryMatcher { name, value: of }) => {
            format!("query {}: {}", name.escape_debug(), value(of))
        }
        Part::Header(of) => header(of),
    }
}

fn path(path: &PathMatch) -> String {
    let case = |ignored: bool| if ignored { ", in upper or lower case" } else { "" };
    match path {
        PathMatch::Any => "every path".to_owned(),
        PathMatch::Exact { path, ignore_case } => {
            format!("path exact {}{}", path.escape_debug(), case(*ignore_case))
        }
        PathMatch::Prefix { path, ignore_case } => {
            format!("path prefix {}{}", path.escape_debug(), case(*ignore_case))
        }
        PathMatch::Segments(path) => format!("path segments {}", path.escape_debug()),
        PathMatch::Regex(pattern) => format!("path regex {}", pattern.as_str().escape_debug()),
    }
}

pub(super) fn header(matcher: &HeaderMatcher) -> String {
    let HeaderMatcher { name, value: of, invert } = matcher;
    let subject = match name.as_str().strip_prefix(':') {
        Some(pseudo) => pseudo.to_owned(),
        None => format!("header {name}"),
    };
    match (of, invert) {
        (ValueMatcher::Present, true) => format!("{subject}: absent"),
        (of, true) => format!("{subject}: not {}", value(of)),
        (of, false) => format!("{subject}: {}", value(of)),
    }
}

fn value(value: &ValueMatcher) -> String {
    match value {
        ValueMatcher::Present => "present".to_owned(),
        ValueMatcher::Exact(text) => format!("exact {text:?}"),
        ValueMatcher::Prefix(text) => format!("prefix {text:?}"),
        ValueMatcher::Suffix(text) => format!("suffix {text:?}"),
        ValueMatcher::Contains(text) => format!("contains {text:?}"),
        ValueMatcher::Regex(pattern) => format!("regex {:?}", pattern.as_str()),
        ValueMatcher::Range { start, end } => format!("a number from {start} to less than {end}"),
    }
}

pub(super) fn workload(selector: &WorkloadSelector) -> String {
    let WorkloadSelector { namespace, labels, cgroup } = selector;
    let namespace = namespace.iter().map(|namespace| format!("namespace {}", namespace.escape_debug()));
    let labels = labels.iter().map(|(name, value)| match value {
        LabelMatch::Any => format!("{}=*", name.escape_debug()),
        LabelMatch::Is(value) => format!("{}={}", name.escape_debug(), value.escape_debug()),
    });
    let cgroup = cgroup.iter().map(|cgroup| format!("cgroup {}", cgroup.escape_debug()));
    namespace.chain(labels).chain(cgroup).collect::<Vec<_>>().join(" and ")
}

pub(super) fn destination(destination: &Destination) -> String {
    let Destination { address, port } = destination;
    let address = match address {
        Address::Any => "every address".to_owned(),
        Address::Network(network) => network.to_string(),
        Address::Host(host) => host.to_string(),
        Address::Suffix(suffix) => suffix.to_string(),
    };
    port.map_or_else(|| address.clone(), |port| format!("{address} port {port}"))
}

/// A target with its share of the requests.
pub(super) fn target(target: &Target, all: &[Target]) -> String {
    let Target { name: _, weight, address } = target;
    let sum: u64 = all.iter().map(|target| u64::from(target.weight)).sum();
    let with_port = |address: String, port: Option<NonZeroU16>, is_v6: bool| match port {
        Some(port) if is_v6 => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
        None => address,
    };
    let address = match address {
        TargetAddress::Original => "where it was dialled to".to_owned(),
        TargetAddress::Host { host, port } => with_port(host.to_string(), *port, false),
        TargetAddress::Addresses(all) => {
            let one =
                |(address, port): &(IpAddr, _)| with_port(address.to_string(), *port, address.is_ipv6());
            list(all.iter().map(one), "nowhere")
        }
    };
    format!("{address}, {weight} of {sum}")
}
