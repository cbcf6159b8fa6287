//! What the formats of systems that are built on Envoy, or run on Kubernetes, have in common.

use std::time::Duration;

use super::fields::{Field, Map, Problems};
use crate::policy::{Host, HttpPolicy};
use crate::retry::request::{Conditions, Methods};
use crate::retry::{Backoff, RequestRetry};

/// Envoy's own default for the time of a request.
pub(super) const ENVOY_TIMEOUT: Duration = Duration::from_secs(15);

/// The most matchers, methods, selectors or the like in one list: each is asked of every message or connection.
pub(super) const MAX_ENTRIES: usize = 64;

/// The labels and the rest of a Kubernetes object that are for other tools.
const METADATA: &[&str] = &[
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

/// Where a Kubernetes object is.
#[derive(Clone, Debug)]
pub(super) struct Metadata<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a str>,
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

/// The name and namespace of a Kubernetes object.
pub(super) fn metadata<'a>(root: &Field<'a>, problems: &mut Problems) -> Option<Metadata<'a>> {
    let metadata = root.map(problems)?.required("metadata", problems)?.map_of(METADATA, problems)?;
    let name = metadata.required("name", problems).and_then(|field| field.text(problems));
    let namespace = metadata.optional("namespace", None, |field| field.text(problems).map(Some));
    Some(Metadata { name: name?, namespace: namespace? })
}

/// The DNS names of a Kubernetes Service, from the shortest on. Without a namespace only its own name is known.
pub(super) fn service_hosts(name: &str, namespace: Option<&str>) -> Vec<Host> {
    let in_namespace = |suffix: &str| namespace.map(|namespace| format!("{name}.{namespace}{suffix}"));
    let names =
        [Some(name.to_owned()), in_namespace(""), in_namespace(".svc"), in_namespace(".svc.cluster.local")];
    names.into_iter().flatten().filter_map(|name| name.parse().ok()).collect()
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
