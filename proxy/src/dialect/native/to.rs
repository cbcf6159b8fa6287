//! Whose connections a document is about, and to where.

use std::num::NonZeroU16;

use crate::dialect::common;
use crate::dialect::fields::{Field, Problems};
use crate::policy::{Address, Destination, Host, LabelMatch, WorkloadSelector};

/// The most destinations that a document may have, each address counted with each of its ports.
const MAX_DESTINATIONS: usize = 4_096;

/// Some workloads.
pub(super) fn workload(entry: &Field<'_>, problems: &mut Problems) -> Option<WorkloadSelector> {
    let map = entry.map_of(&["podSelector", "namespace", "cgroup"], problems)?;
    let labels = map.optional("podSelector", Vec::new(), |field| labels(&field, problems));
    let namespace = map.optional("namespace", None, |field| some_text(&field, problems).map(Some));
    let cgroup = map.optional("cgroup", None, |field| some_text(&field, problems).map(Some));
    if map.entries().next().is_none() {
        return entry.problem("at least one of podSelector, namespace and cgroup is required", problems);
    }
    Some(WorkloadSelector { namespace: namespace?, labels: labels?, cgroup: cgroup? })
}

fn labels(selector: &Field<'_>, problems: &mut Problems) -> Option<Vec<(Box<str>, LabelMatch)>> {
    let labels = selector.map_of(&["matchLabels"], problems)?.required("matchLabels", problems)?;
    let labels = labels.map(problems)?;
    let read = labels.entries().map(|(name, field)| {
        let value = match field.text(problems)? {
            "*" => LabelMatch::Any,
            text => LabelMatch::Is(text.into()),
        };
        Some((name.into(), value))
    });
    // Each is read, whatever was wrong with those before it.
    let read: Vec<_> = read.collect();
    let mut read: Vec<(Box<str>, _)> = read.into_iter().collect::<Option<_>>()?;
    read.sort_by(|(one, _), (other, _)| one.cmp(other));
    Some(read)
}

fn some_text(field: &Field<'_>, problems: &mut Problems) -> Option<Box<str>> {
    match field.text(problems)? {
        "" => field.expected(&"text that is not empty", problems),
        text => Some(text.into()),
    }
}

/// A name, or a wildcard for those below one.
fn host(field: &Field<'_>, problems: &mut Problems) -> Option<Address> {
    if field.word().is_some_and(|word| word.starts_with("*.")) {
        field.parsed(problems).map(Address::Suffix)
    } else {
        field.parsed(problems).map(Address::Host)
    }
}

/// The names of a Kubernetes Service.
fn service(entry: &Field<'_>, namespace: Option<&str>, problems: &mut Problems) -> Option<Vec<Host>> {
    let map = entry.map_of(&["name", "namespace"], problems)?;
    let name = map.required("name", problems).and_then(|field| label(&field, problems));
    let namespace = map.optional("namespace", namespace, |field| label(&field, problems).map(Some));
    Some(common::service_hosts(name?, namespace?))
}

/// A name without dots, so that the names made of it are hosts.
fn label<'a>(field: &Field<'a>, problems: &mut Problems) -> Option<&'a str> {
    let text = field.text(problems)?;
    if text.contains('.') || text.parse::<Host>().is_err() {
        return field.expected(&"a name of letters, digits and `-`, at most 63", problems);
    }
    Some(text)
}

pub(super) fn destinations(
    to: &Field<'_>,
    namespace: Option<&str>,
    problems: &mut Problems,
) -> Option<Vec<Destination>> {
    let entries = to.list(problems)?;
    // Each entry is read, whatever was wrong with those before it.
    let patterns: Vec<_> = entries.iter().map(|entry| patterns(entry, namespace, problems)).collect();
    let patterns: Vec<_> = patterns.into_iter().collect::<Option<_>>()?;
    let count: usize = patterns.iter().map(|(addresses, ports)| addresses.len() * ports.len()).sum();
    if count > MAX_DESTINATIONS {
        let message = format!(
            "{count} destinations are too many, each address counted with each of its ports; a policy may have \
             {MAX_DESTINATIONS}"
        );
        return to.problem(message, problems);
    }
    let expanded = patterns.into_iter().flat_map(|(addresses, ports)| {
        addresses.into_iter().flat_map(move |address| {
            ports.clone().into_iter().map(move |port| Destination { address: address.clone(), port })
        })
    });
    Some(expanded.collect())
}

/// The addresses of an entry, and the ports that go with each of them.
fn patterns(
    entry: &Field<'_>,
    namespace: Option<&str>,
    problems: &mut Problems,
) -> Option<(Vec<Address>, Vec<Option<NonZeroU16>>)> {
    let map = entry.map_of(&["cidrs", "hosts", "services", "ports"], problems)?;
    let cidrs = map.each("cidrs", problems, |field, problems| field.parsed(problems).map(Address::Network));
    let hosts = map.each("hosts", problems, host);
    let services = map.each("services", problems, |field, problems| service(field, namespace, problems));
    let ports = map.each("ports", problems, |field, problems| {
        let port = field.whole(1..=u16::MAX.into(), problems)?;
        u16::try_from(port).ok().and_then(NonZeroU16::new).map(Some)
    });
    let (mut addresses, hosts, mut ports) = (cidrs?, hosts?, ports?);
    addresses.extend(hosts);
    addresses.extend(services?.into_iter().flatten().map(Address::Host));
    if addresses.is_empty() && ports.is_empty() {
        return entry.problem("at least one of cidrs, hosts, services and ports is required", problems);
    }
    if addresses.is_empty() {
        addresses.push(Address::Any);
    }
    if ports.is_empty() {
        ports.push(None);
    }
    Some((addresses, ports))
}
