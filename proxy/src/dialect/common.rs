//! What the formats of systems that are built on Envoy, or run on Kubernetes, have in common.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::fields::{Field, Map, Problems};
use super::note::Code;
use crate::policy::{Address, Destination, DuplicateName, Host, HttpPolicy, Origin, PolicyName};
use crate::retry::request::{Condition, Conditions, Methods};
use crate::retry::{Backoff, RequestRetry};

/// Envoy's own default for the time of a request.
pub(super) const ENVOY_TIMEOUT: Duration = Duration::from_secs(15);

/// The most matchers, methods, selectors or the like in one list: each is asked of every message or connection.
pub(super) const MAX_ENTRIES: usize = 64;

/// The labels and the rest of a Kubernetes object that are for other tools.
pub(super) const METADATA: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Where the Services of a cluster are.
pub(super) const CLUSTER: &str = ".svc.cluster.local";

/// Where a Kubernetes object is.
#[derive(Clone, Debug)]
pub(super) struct Metadata<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a str>,
    /// When it was made, as the cluster writes it: in UTC, so that an earlier moment is a lesser text.
    created: Option<Cow<'a, str>>,
}

/// Where only one of several objects counts, the lesser: the oldest, then the first by name. What has not been made yet is
/// younger than all that has.
pub(super) type Age<'m> = (bool, Option<&'m str>, Option<&'m str>, &'m str);

impl Metadata<'_> {
    pub(super) fn age(&self) -> Age<'_> {
        (self.created.is_none(), self.created.as_deref(), self.namespace, self.name)
    }

    /// Whether it says when it was made.
    pub(super) fn is_made(&self) -> bool {
        self.created.is_some()
    }
}

/// What Envoy does where a route says nothing but that there is a retry policy: no conditions yet, one retry, 25 ms to
/// 250 ms of backoff, whatever the method, within 15 s.
pub(super) fn envoy_defaults() -> HttpPolicy {
    let retry = RequestRetry {
        retry_on: Conditions::default(),
        num_retries: 1,
        methods: Methods::Any,
        ..RequestRetry::default()
    };
    HttpPolicy { retry, timeout: Some(ENVOY_TIMEOUT), ..HttpPolicy::default() }
}

/// What one of Envoy's words means. Envoy passes over those that it does not know.
pub(super) fn condition(word: &str, field: &Field<'_>, problems: &mut Problems) -> Option<Condition> {
    let condition = Condition::parse(word);
    if condition.is_none() {
        let words: Vec<_> = Condition::ALL.into_iter().map(Condition::as_str).collect();
        let message = format!("{word:?} is no condition and does nothing; there are {}", words.join(", "));
        problems.note(Code::InertSetting, &field.here(), message);
    }
    condition
}

/// Tells which of these fields a map has, since they can't be honoured. Whether it has none.
pub(super) fn is_plain(map: &Map<'_>, refused: &[&str], problems: &mut Problems) -> bool {
    let mut is_plain = true;
    for field in refused.iter().filter_map(|name| map.get(name)) {
        let message = "it changes what requests get, and cannot be honoured here";
        is_plain &= field.problem::<()>(message, problems).is_some();
    }
    is_plain
}

/// The name and namespace of a Kubernetes object.
pub(super) fn metadata<'a>(root: &Field<'a>, problems: &mut Problems) -> Option<Metadata<'a>> {
    let metadata = root.map(problems)?.required("metadata", problems)?.map_of(METADATA, problems)?;
    let name = metadata.required("name", problems).and_then(|field| field.text(problems));
    let namespace = metadata.optional("namespace", None, |field| field.text(problems).map(Some));
    let created = metadata.get("creationTimestamp").and_then(|field| field.word());
    Some(Metadata { name: name?, namespace: namespace?, created })
}

/// The objects so far, where they were written.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<PolicyName, Origin>);

impl Names {
    /// Whether an object's name is not taken yet. Tells it where it is.
    pub(super) fn is_new(
        &mut self,
        kind: &'static str,
        (root, metadata): (&Field<'_>, &Metadata<'_>),
        problems: &mut Problems,
    ) -> bool {
        let name = PolicyName::of_kind(kind, metadata.namespace, metadata.name);
        let (first, second) = match self.0.entry(name.clone()) {
            Entry::Occupied(first) => (first.get().clone(), root.origin()),
            Entry::Vacant(entry) => {
                entry.insert(root.origin());
                return true;
            }
        };
        let place = root.child("metadata").and_then(|metadata| metadata.child("name"));
        let message = DuplicateName { name, first, second }.to_string();
        place.unwrap_or_else(|| root.clone()).problem::<()>(message, problems).is_some()
    }
}

/// The DNS names of a Kubernetes Service, from the shortest on. Without a namespace only its own name is known.
pub(super) fn service_hosts(name: &str, namespace: Option<&str>) -> Vec<Host> {
    let in_namespace = |suffix: &str| namespace.map(|namespace| format!("{name}.{namespace}{suffix}"));
    let names =
        [Some(name.to_owned()), in_namespace(""), in_namespace(".svc"), in_namespace(".svc.cluster.local")];
    names.into_iter().flatten().filter_map(|name| name.parse().ok()).collect()
}

/// Leaves the shortest name of each Service out: to other namespaces it is another one's.
pub(super) fn leave_out_short_names(to: &mut Vec<Destination>) {
    let mut services = HashSet::new();
    for Destination { address, port } in &*to {
        if let Address::Host(host) = address
            && host.as_str().ends_with(CLUSTER)
            && let Some((name, _)) = host.as_str().split_once('.')
            && let Ok(short) = name.parse::<Host>()
        {
            services.insert((short, *port));
        }
    }
    to.retain(|Destination { address, port }| match address {
        Address::Host(host) => !services.contains(&(host.clone(), *port)),
        Address::Any | Address::Network(_) | Address::Suffix(_) => true,
    });
}

/// A Service's whole name, if it can be one.
pub(super) fn whole_name(name: &str, namespace: &str) -> Option<Host> {
    format!("{name}.{namespace}{CLUSTER}").parse().ok()
}

/// Every item of a list that may not be long.
pub(super) fn some_of<'a, T>(
    map: &Map<'a>,
    name: &str,
    problems: &mut Problems,
    read: impl FnMut(&Field<'a>, &mut Problems) -> Option<T>,
) -> Option<Vec<T>> {
    let items = map.each(name, problems, read)?;
    if items.len() > MAX_ENTRIES {
        let message = format!("{} entries are too many; there may be {MAX_ENTRIES}", items.len());
        return map.get(name).and_then(|list| list.problem(message, problems));
    }
    Some(items)
}

/// The two intervals of an exponential backoff.
pub(super) fn backoff(backoff: &Field<'_>, problems: &mut Problems) -> Option<Backoff> {
    let map = backoff.map_of(&["baseInterval", "maxInterval"], problems)?;
    let base = map.required("baseInterval", problems).and_then(|field| field.duration(problems));
    let max = map.optional("maxInterval", None, |field| field.duration(problems).map(Some));
    let made = Backoff::try_new(base?, max?);
    map.get("maxInterval").as_ref().unwrap_or(backoff).accept(made, problems)
}
