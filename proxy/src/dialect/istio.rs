//! Istio's `VirtualService`.
//!
//! The document as a whole, and the hosts that it is for, are here.

mod matches;
mod retry;
mod route;

use std::sync::Arc;

use super::fields::{Field, Map, Problems};
use super::note::Code;
use super::{Document, common, is_kind};
use crate::policy::{
    Address, Destination, Host, HttpPolicy, Network, Policy, PolicyName, Protocol, Rest, Setting, Sources,
    Target,
};
use crate::retry::ConnectRetry;
use common::Metadata;

pub(super) const DOCUMENTS: &str = "networking.istio.io VirtualService";

const GROUP: &str = "networking.istio.io";
const KIND: &str = "VirtualService";
/// What a Service's whole name ends with.
const CLUSTER: &str = ".svc.cluster.local";

pub(super) fn kind(root: &Field<'_>) -> Option<&'static str> {
    is_kind(root, GROUP, KIND).then_some(KIND)
}

pub(super) fn policies(documents: &[Document<'_>], problems: &mut Problems) -> Vec<Policy> {
    documents.iter().filter_map(|document| policy(&document.root, problems)).collect()
}

/// What the parts of one document have to know of it.
struct Context<'a> {
    namespace: Option<&'a str>,
    /// The hosts that it is for, by all of their names.
    own: Vec<Host>,
}

fn policy(root: &Field<'_>, problems: &mut Problems) -> Option<Policy> {
    let map = root.map_of(&["apiVersion", "kind", "metadata", "spec", "status"], problems)?;
    let metadata = common::metadata(root, problems);
    let field = map.required("spec", problems)?;
    let spec = field.map_ignoring(&["hosts", "gateways", "http", "tcp", "tls"], &["exportTo"], problems)?;
    let Metadata { name, namespace } = metadata?;
    gateways(&spec, problems)?;
    spec.required("hosts", problems)?;
    let to = spec.each("hosts", problems, |field, problems| hosts(field, namespace, problems))?;
    let to: Vec<_> = to.into_iter().flatten().collect();
    let own = to.iter().filter_map(|destination| match &destination.address {
        Address::Host(host) => Some(host.clone()),
        Address::Any | Address::Network(_) | Address::Suffix(_) => None,
    });
    let context = Context { namespace, own: own.collect() };
    if ["http", "tcp", "tls"].iter().all(|name| spec.get(name).is_none()) {
        return field.problem("at least one of http, tcp and tls is required", problems);
    }
    let mut routes = Vec::new();
    let mut is_sound = true;
    if let Some(http) = spec.get("http") {
        for (index, entry) in http.list(problems)?.iter().enumerate() {
            let first = u32::try_from(routes.len()).unwrap_or(u32::MAX);
            match route::read(entry, (index, first), &context, problems) {
                Some(read) => routes.extend(read),
                None => is_sound = false,
            }
        }
    }
    let targets = tcp(&spec, &context, problems);
    if let Some(tls) = spec.get("tls") {
        let message = "TLS is relayed as it is, to where it was sent; nothing is done about it";
        problems.note(Code::Ignored, &tls.here(), message);
    }
    is_sound.then_some(())?;
    let patient = routes.iter().map(|route| &*route.http).map(HttpPolicy::connect_retry);
    let tcp = patient.max_by_key(ConnectRetry::max_connect_attempts).unwrap_or_default();
    let is_tcp = spec.get("http").is_none() && spec.get("tcp").is_some();
    Some(Policy {
        name: PolicyName::of_kind(KIND, namespace, name),
        origin: root.origin(),
        to,
        tcp,
        protocol: if is_tcp { Protocol::Tcp } else { Protocol::Auto },
        targets: targets?,
        routes,
        rest: Rest::GoesOn,
        sources: Arc::new(Sources::new([(Setting::Targets, field.place(&["tcp"]))])),
        ..Policy::built_in()
    })
}

fn gateways(spec: &Map<'_>, problems: &mut Problems) -> Option<()> {
    let names = spec.each("gateways", problems, Field::text)?;
    if let Some(field) = spec.get("gateways").filter(|_| names.iter().any(|name| *name != "mesh")) {
        let message =
            "there are no gateways here; what the document says is done for the requests of workloads";
        problems.note(Code::Ignored, &field.here(), message);
    }
    Some(())
}

/// The destinations that one of the hosts stands for.
fn hosts(field: &Field<'_>, namespace: Option<&str>, problems: &mut Problems) -> Option<Vec<Destination>> {
    let text = field.text(problems)?;
    let addresses = if text == "*" {
        vec![Address::Any]
    } else if text.starts_with("*.") {
        vec![Address::Suffix(field.parsed(problems)?)]
    } else if let Ok(network) = text.parse::<Network>() {
        vec![Address::Network(network)]
    } else {
        let host: Host = field.parsed(problems)?;
        names(&host, namespace).into_iter().map(Address::Host).collect()
    };
    Some(addresses.into_iter().map(|address| Destination { address, port: None }).collect())
}

/// All names of a host. The shortest of a Service's is its own only to those in its namespace.
fn names(host: &Host, namespace: Option<&str>) -> Vec<Host> {
    let text = host.as_str();
    if !text.contains('.') {
        return common::service_hosts(text, namespace);
    }
    let service = text.strip_suffix(CLUSTER).and_then(|service| service.split_once('.'));
    match service {
        Some((name, of)) if !of.contains('.') => {
            let mut names = common::service_hosts(name, Some(of));
            names.retain(|known| namespace == Some(of) || known.as_str() != name);
            names
        }
        _ => vec![host.clone()],
    }
}

/// Where connections go that are relayed as they are.
fn tcp(spec: &Map<'_>, context: &Context<'_>, problems: &mut Problems) -> Option<Arc<[Target]>> {
    let Some(field) = spec.get("tcp") else { return Some(Arc::default()) };
    let entries = spec.each("tcp", problems, |entry, problems| {
        let map = entry.map_of(&["match", "route"], problems)?;
        map.required("route", problems)?;
        Some((map.get("match").is_some(), route::targets(&map, entry, context, problems)?))
    })?;
    match &entries[..] {
        [(false, targets)] if targets.len() < 2 => Some(targets.clone().into()),
        _ => {
            let message = "only one route without a match and with one destination has a meaning here; connections \
                           go where they were sent";
            problems.note(Code::Ignored, &field.here(), message);
            Some(Arc::default())
        }
    }
}

#[cfg(test)]
mod tests;
