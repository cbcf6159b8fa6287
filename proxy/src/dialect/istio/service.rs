//! `VirtualService`: the document as a whole.

use std::collections::HashMap;

use super::route::{self, Entry};
use super::rules::{Cluster, Rules};
use super::split::{self, Whole};
use super::{Object, SERVICE, hosts};
use crate::dialect::common;
use crate::dialect::fields::{Field, Map, Problems};
use crate::dialect::note::Code;
use crate::policy::{Address, Destination, Host, Policy, PolicyName, Target};

/// How many hosts a document may be for: each has up to four names.
const MAX_HOSTS: usize = 1_024;
/// What workloads are, where a document names gateways.
const MESH: &str = "mesh";

/// What the parts of one document have to know of it.
pub(super) struct Context<'a> {
    pub(super) namespace: Option<&'a str>,
    /// The hosts that it is for, by all of their names.
    pub(super) own: Vec<Host>,
    /// Of the gateways that a match may name, those that stand for workloads here.
    pub(super) gateways: Vec<&'a str>,
}

/// The namespaces whose workloads a document is for. None: all.
type Exports = Option<Vec<Box<str>>>;

/// What documents are first for a host, by what it is for and by name.
type Taken = HashMap<Address, (Exports, PolicyName)>;

/// The policies of these, the oldest of which comes first.
pub(super) fn policies(
    objects: &[Object<'_, '_>],
    rules: &Rules<'_>,
    problems: &mut Problems,
) -> Vec<Policy> {
    // Without times the names tell the order, as they do between all policies.
    let has_times = objects.iter().any(|(_, metadata)| metadata.is_made());
    let mut taken = Taken::new();
    let mut policies = Vec::new();
    for (age, object) in (0..).zip(objects) {
        let age = if has_times { age } else { 0 };
        policies.extend(read(object, age, rules, &mut taken, problems).unwrap_or_default());
    }
    policies
}

fn read(
    (root, metadata): &Object<'_, '_>,
    age: u32,
    rules: &Rules<'_>,
    taken: &mut Taken,
    problems: &mut Problems,
) -> Option<Vec<Policy>> {
    let map = root.map_of(&["apiVersion", "kind", "metadata", "spec", "status"], problems)?;
    let field = map.required("spec", problems)?;
    let spec = field.map_of(&["hosts", "gateways", "exportTo", "http", "tcp", "tls"], problems)?;
    let namespace = metadata.namespace;
    let gateways = gateways(&spec, problems);
    let exports = exports(&spec, namespace, problems);
    spec.required("hosts", problems)?;
    let named = spec.each_up_to("hosts", MAX_HOSTS, problems, |field, problems| {
        Some((field.clone(), hosts(field, namespace, problems)?))
    });
    let (gateways, exports, named) = (gateways?, exports?, named?);
    if ["http", "tcp", "tls"].iter().all(|name| spec.get(name).is_none()) {
        return field.problem("at least one of http, tcp and tls is required", problems);
    }
    let own = named.iter().flat_map(|(_, to)| to).filter_map(|to| match &to.address {
        Address::Host(host) => Some(host.clone()),
        Address::Any | Address::Network(_) | Address::Suffix(_) => None,
    });
    let is_mesh = gateways.contains(&MESH);
    let context = Context { namespace, own: own.collect(), gateways };
    let entries = entries(&spec, &context, problems);
    let tcp = tcp(&spec, &context, problems);
    spec.each("tls", problems, Field::map)?;
    if let Some(tls) = spec.get("tls") {
        let message = "TLS is relayed as it is, to where it was sent; nothing is done about it";
        problems.note(Code::Ignored, &tls.here(), message);
    }
    let name = PolicyName::of_kind(SERVICE, namespace, metadata.name);
    // Gateways put together what several documents say of one host, workloads do not.
    let to = if is_mesh {
        untaken(named, &exports, &name, taken, problems)
    } else {
        named.into_iter().flat_map(|(_, to)| to).collect()
    };
    let (entries, (targets, clusters)) = (entries?, tcp?);
    if to.is_empty() {
        return None;
    }
    let whole = Whole {
        root,
        spec: field,
        name: metadata.name,
        namespace,
        to,
        exports,
        age,
        is_tcp: spec.get("http").is_none() && spec.get("tcp").is_some(),
        targets: targets.into(),
        clusters,
    };
    split::policies(&whole, &entries, rules, problems)
}

fn entries(spec: &Map<'_>, context: &Context<'_>, problems: &mut Problems) -> Option<Vec<Entry>> {
    let Some(http) = spec.get("http") else { return Some(Vec::new()) };
    let mut entries = Vec::new();
    let (mut is_sound, mut first) = (true, 0);
    for (index, entry) in http.list(problems)?.iter().enumerate() {
        match route::read(entry, (index, first), context, problems) {
            Some(read) => {
                first = first.saturating_add(u32::try_from(read.matches.len()).unwrap_or(u32::MAX));
                entries.push(read);
            }
            None => is_sound = false,
        }
    }
    is_sound.then_some(entries)
}

/// The gateways that the document is for. Where workloads are not among them, all of them stand for workloads here, so
/// that the document does something.
fn gateways<'a>(spec: &Map<'a>, problems: &mut Problems) -> Option<Vec<&'a str>> {
    let names = spec.each_up_to("gateways", common::MAX_ENTRIES, problems, Field::text)?;
    let Some(field) = spec.get("gateways") else { return Some(vec![MESH]) };
    if names.contains(&MESH) {
        if names.len() > 1 {
            problems.note(Code::Ignored, &field.here(), "there are no gateways here besides mesh");
        }
        return Some(vec![MESH]);
    }
    let message = "there are no gateways here; what the document says is done for the requests of workloads";
    problems.note(Code::Ignored, &field.here(), message);
    Some(names)
}

fn exports(spec: &Map<'_>, namespace: Option<&str>, problems: &mut Problems) -> Option<Exports> {
    let names = spec.each_up_to("exportTo", common::MAX_ENTRIES, problems, Field::text)?;
    let Some(field) = spec.get("exportTo").filter(|_| !names.contains(&"*")) else { return Some(None) };
    let meant = names.iter().filter(|name| **name != "~").map(|name| match (*name, namespace) {
        (".", namespace) => namespace.map(Box::from),
        (name, _) => Some(Box::from(name)),
    });
    let Some(meant) = meant.collect::<Option<Vec<_>>>() else {
        let message = "without a namespace nothing tells who is meant, so it is for everybody";
        problems.note(Code::Ignored, &field.here(), message);
        return Some(None);
    };
    if meant.is_empty() {
        problems.note(Code::InertSetting, &field.here(), "it is for nobody, so the document does nothing");
    }
    Some(Some(meant))
}

/// What no older document for the same workloads is for. Istio has workloads look at one document for a host.
fn untaken(
    named: Vec<(Field<'_>, Vec<Destination>)>,
    exports: &Exports,
    name: &PolicyName,
    taken: &mut Taken,
    problems: &mut Problems,
) -> Vec<Destination> {
    let mut kept = Vec::new();
    for (field, to) in named {
        let first = to.iter().find_map(|to| {
            taken.get(&to.address).filter(|(of, _)| of.is_none() || of == exports).map(|(_, first)| first)
        });
        match first {
            Some(first) => {
                let message = format!(
                    "{first} is older, or the first by name, and for this host too; nothing of this document holds for it"
                );
                problems.note(Code::InertSetting, &field.here(), message);
            }
            None => kept.extend(to),
        }
    }
    for Destination { address, .. } in &kept {
        taken.entry(address.clone()).or_insert_with(|| (exports.clone(), name.clone()));
    }
    kept
}

/// Where connections go that are relayed as they are.
fn tcp(
    spec: &Map<'_>,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<(Vec<Target>, Vec<Cluster>)> {
    let Some(field) = spec.get("tcp") else { return Some((Vec::new(), Vec::new())) };
    let entries = spec.each("tcp", problems, |entry, problems| {
        let map = entry.map_of(&["match", "route"], problems)?;
        map.required("route", problems)?;
        map.each("match", problems, Field::map)?;
        Some((map.get("match").is_some(), route::targets(&map, entry, context, problems)?))
    })?;
    match &entries[..] {
        [(false, (targets, clusters))] if targets.len() < 2 => Some((targets.clone(), clusters.clone())),
        _ => {
            let message = "only one route without a match and with one destination has a meaning here; connections \
                           go where they were sent";
            problems.note(Code::Ignored, &field.here(), message);
            Some((Vec::new(), Vec::new()))
        }
    }
}
