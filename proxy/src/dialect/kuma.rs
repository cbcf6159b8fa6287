//! Kuma's and Kong Mesh's policies of retries and routes, each in its universal form and as a Kubernetes object.
//!
//! `Retry` is the policy of old; `MeshRetry` and `MeshHTTPRoute` are those of today. Documents of services tell what these
//! refer to. What all have in common is here.

mod conf;
mod document;
mod entry;
mod retry;
mod route;
mod services;
mod settle;
mod target;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use super::Document;
use super::common::envoy_defaults;
use super::fields::{Field, Problems};
use super::kind::KINDS;
use crate::policy::{HeaderMatcher, HttpPolicy, LabelMatch, Policy, ValueMatcher, WorkloadSelector};
use crate::retry::connect::RetryOn;
use crate::retry::request::{Condition, Conditions};
use crate::retry::{ConnectRetry, RequestRetry};
use conf::Conf;
use document::{Resource, resource};
use services::Services;
use settle::Mesh;
use target::Kind;

pub(super) const GROUP: &str = "kuma.io";
pub(super) const OTHERS: &str = "Kuma's in their universal form";

/// The tag that names a service.
const SERVICE: &str = "kuma.io/service";
/// The label that names a workload's mesh.
const MESH: &str = "kuma.io/mesh";

/// The backoff where nothing is said.
const BASE: Duration = Duration::from_millis(25);

/// What Kuma retries requests for where a document does not say.
const HTTP_DEFAULT: Conditions =
    Conditions::of(&[Condition::GatewayError, Condition::ConnectFailure, Condition::RefusedStream]);

/// The documentation promises the five codes of gRPC. The code instead promises some of them, connects and refused
/// streams, and also resets and gateway errors. This is all of it that is known not to have been executed, and the codes.
const GRPC_DEFAULT: Conditions = Conditions::of(&[
    Condition::Cancelled,
    Condition::DeadlineExceeded,
    Condition::Internal,
    Condition::ResourceExhausted,
    Condition::Unavailable,
    Condition::ConnectFailure,
    Condition::RefusedStream,
]);

/// What documents in the universal form call themselves, as those of Kubernetes do.
pub(super) fn types() -> impl Iterator<Item = &'static str> {
    KINDS.iter().filter(|kind| kind.group == GROUP).map(|kind| kind.kind)
}

pub(super) fn kind(root: &Field<'_>) -> Option<&'static str> {
    let said = root.child("type").filter(|_| root.child("apiVersion").is_none())?.word()?;
    types().find(|known| *known == said)
}

pub(super) fn policies(documents: &[Document<'_>], problems: &mut Problems) -> Vec<Policy> {
    let mut resources: Vec<Resource<'_>> = Vec::new();
    let mut taken = BTreeMap::new();
    for Document { kind, root, .. } in documents {
        let Some(resource) = resource(root, kind, problems) else { continue };
        let name = (resource.kind, resource.mesh, resource.namespace, resource.name);
        if let Some(first) = taken.get(&name) {
            let name = [resource.namespace, Some(resource.name)].into_iter().flatten().collect::<Vec<_>>();
            let message = format!("the name {kind}/{} is taken already, at {first}", name.join("/"));
            let at = root.child("metadata").unwrap_or_else(|| root.clone()).child("name");
            let _: Option<()> = at.as_ref().unwrap_or(root).problem(message, problems);
        } else {
            taken.insert(name, root.origin());
            resources.push(resource);
        }
    }
    let mut services = Services::default();
    for resource in &resources {
        if let Some((_, kind)) = Kind::ALL.into_iter().find(|(word, _)| *word == resource.kind) {
            let _: Option<()> = services.read(resource, kind, problems);
        }
    }
    let (mut old, mut retries, mut rules) = (Vec::new(), Vec::new(), Vec::new());
    for resource in &resources {
        match resource.kind {
            "Retry" => old.extend(retry::read(resource, problems)),
            "MeshRetry" => {
                let found = entry::entries(resource, "default", &services, problems, |at, _, problems| {
                    Conf::read(at, problems)
                });
                retries.extend(found.unwrap_or_default());
            }
            "MeshHTTPRoute" => rules.extend(route::read(resource, &services, problems).unwrap_or_default()),
            _ => {}
        }
    }
    settle::find_routes(&mut retries, &rules, &resources, problems);
    let is_service = |resource: &&Resource<'_>| Kind::ALL.iter().any(|(word, _)| *word == resource.kind);
    let meshes = resources.iter().filter(|resource| !is_service(resource));
    let meshes: BTreeSet<_> = meshes.map(|resource| resource.mesh).collect();
    let is_one_of_several = meshes.len() > 1;
    let mut policies = Vec::new();
    for mesh in meshes {
        let in_mesh = |resource: &Resource<'_>| resource.mesh == mesh;
        let old: Vec<_> = old.iter().filter(|retry| in_mesh(&retry.resource)).collect();
        policies.extend(retry::policies(&old, is_one_of_several, problems));
        let mesh = Mesh {
            retries: retries.iter().filter(|entry| in_mesh(&entry.head.resource)).collect(),
            rules: rules.iter().filter(|entry| in_mesh(&entry.head.resource)).collect(),
            is_one_of_several,
        };
        policies.extend(mesh.policies(problems));
    }
    policies
}

/// Those that are selected, of this mesh if there are several.
fn selector(selector: Option<WorkloadSelector>, mesh: Option<&str>) -> Option<WorkloadSelector> {
    let Some(mesh) = mesh else { return selector };
    let mut selector = selector.unwrap_or_default();
    selector.labels.push((MESH.into(), LabelMatch::Is(mesh.into())));
    Some(selector)
}

/// How connects are retried: so often, or as what is said of requests has it.
fn connects<'p>(
    attempts: Option<NonZeroU32>,
    requests: impl IntoIterator<Item = &'p HttpPolicy>,
) -> ConnectRetry {
    if let Some(attempts) = attempts {
        let backoff = ConnectRetry::default().backoff();
        // Without timeouts nothing is refused.
        return ConnectRetry::try_new(attempts, None, None, backoff, RetryOn::ALL).unwrap_or_default();
    }
    let patient = requests.into_iter().map(HttpPolicy::connect_retry);
    patient.max_by_key(ConnectRetry::max_connect_attempts).unwrap_or_default()
}

/// What Kuma has Envoy do: no timeout, which is another policy's.
fn defaults(retry_on: Conditions) -> HttpPolicy {
    let HttpPolicy { retry, .. } = envoy_defaults();
    HttpPolicy { retry: RequestRetry { retry_on, ..retry }, timeout: None, ..envoy_defaults() }
}

/// The most attempts to connect, whatever the field is called.
fn connect_attempts(tcp: &Field<'_>, names: &[&str], problems: &mut Problems) -> Option<NonZeroU32> {
    let map = tcp.map_of(names, problems)?;
    let said: Vec<_> = names.iter().filter_map(|name| map.get(name)).collect();
    match &said[..] {
        [] => tcp.problem(format!("{} is required", names.join(" or ")), problems),
        [attempts] => attempts.whole(1..=u32::MAX, problems).and_then(NonZeroU32::new),
        [_, second, ..] => {
            second.problem(format!("{} mean the same; leave one out", names.join(" and ")), problems)
        }
    }
}

/// What a request with this method matches.
fn by_method(method: &str) -> Option<HeaderMatcher> {
    let value = ValueMatcher::Exact(method.into());
    Some(HeaderMatcher { name: ":method".parse().ok()?, value, invert: false })
}

#[cfg(test)]
mod tests;
