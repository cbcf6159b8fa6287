//! Istio's `VirtualService` and `DestinationRule`.
//!
//! What the two have in common is here: how they call hosts.

mod matches;
mod retry;
mod route;
mod rules;
mod service;
mod split;

use std::num::NonZeroU16;

use super::fields::{Field, Problems};
use super::{Document, common};
use crate::policy::{Address, Destination, Host, Network, Policy};
use common::Metadata;

const SERVICE: &str = "VirtualService";
const RULE: &str = "DestinationRule";

/// A document, and who it is.
type Object<'d, 'a> = (&'d Field<'a>, Metadata<'a>);

pub(super) fn policies(documents: &[Document<'_>], problems: &mut Problems) -> Vec<Policy> {
    let mut names = common::Names::default();
    let mut objects = |kind: &'static str| {
        let mut objects = Vec::new();
        for Document { root, .. } in documents.iter().filter(|document| document.kind == kind) {
            if let Some(metadata) = common::metadata(root, problems)
                && names.is_new(kind, (root, &metadata), problems)
            {
                objects.push((root, metadata));
            }
        }
        objects.sort_by(|(_, one), (_, other)| one.age().cmp(&other.age()));
        objects
    };
    let (services, rules) = (objects(SERVICE), objects(RULE));
    let rules = rules::Rules::read(&rules, problems);
    let mut policies = service::policies(&services, &rules, problems);
    let of_rules = rules.policies(&policies, problems);
    policies.extend(of_rules);
    policies
}

/// The destinations that a host stands for.
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
    let service = text.strip_suffix(common::CLUSTER).and_then(|service| service.split_once('.'));
    match service {
        Some((name, of)) if !of.contains('.') => {
            let mut names = common::service_hosts(name, Some(of));
            names.retain(|known| namespace == Some(of) || known.as_str() != name);
            names
        }
        _ => vec![host.clone()],
    }
}

/// A host's whole name, as far as the document tells it.
fn whole_name(host: &Host, namespace: Option<&str>) -> Host {
    let whole = namespace.filter(|_| !host.as_str().contains('.'));
    let whole = whole.and_then(|namespace| common::whole_name(host.as_str(), namespace));
    whole.unwrap_or_else(|| host.clone())
}

fn port(field: &Field<'_>, problems: &mut Problems) -> Option<NonZeroU16> {
    let port = field.whole(1..=u16::MAX.into(), problems)?;
    u16::try_from(port).ok().and_then(NonZeroU16::new)
}

/// A port as `{number: 80}`.
fn numbered(field: &Field<'_>, problems: &mut Problems) -> Option<NonZeroU16> {
    let number = field.map_of(&["number"], problems)?.required("number", problems)?;
    port(&number, problems)
}

#[cfg(test)]
mod tests;
