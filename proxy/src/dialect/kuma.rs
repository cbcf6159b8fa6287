//! Kuma's and Kong Mesh's retry policies: `Retry` and `MeshRetry`, each in its universal form and as a Kubernetes object.
//!
//! What both forms have in common is here: what a document is called, the hosts of a service, and the parts that both
//! policies have.

mod mesh_retry;
mod retry;

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use super::Document;
use super::common::{self, envoy_defaults};
use super::fields::{Field, Problems};
use crate::policy::{
    Address, Destination, Host, HttpPolicy, Policy, PolicyName, Precedence, Protocol, RequestMatch,
    RequestProtocol, Rest, Route, Setting, Sources, WorkloadSelector,
};
use crate::retry::connect::RetryOn;
use crate::retry::request::{Condition, Conditions};
use crate::retry::{Backoff, BudgetPolicy, ConnectRetry, RequestRetry};

pub(super) const DOCUMENTS: &str = "Kuma Retry and MeshRetry";

/// The tag that names a service.
const SERVICE: &str = "kuma.io/service";

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

pub(super) fn kind(root: &Field<'_>) -> Option<&'static str> {
    let universal = root.child("apiVersion").is_none().then(|| root.child("type")).flatten();
    let universal = universal.and_then(|field| field.word());
    ["Retry", "MeshRetry"]
        .into_iter()
        .find(|kind| universal.as_deref() == Some(*kind) || super::is_kind(root, "kuma.io", kind))
}

pub(super) fn policies(documents: &[Document<'_>], problems: &mut Problems) -> Vec<Policy> {
    let read = |document: &Document<'_>| match document.kind {
        "Retry" => retry::policy(&document.root, problems).into_iter().collect(),
        _ => mesh_retry::policies(&document.root, problems).unwrap_or_default(),
    };
    documents.iter().flat_map(read).collect()
}

/// A document without what names it.
struct Resource<'a> {
    root: Field<'a>,
    kind: &'static str,
    namespace: Option<&'a str>,
    name: &'a str,
    /// Where what it says is.
    spec: Field<'a>,
    /// The keys that lead there.
    path: &'static [&'static str],
}

/// Reads what is around what a document says. The universal form has that beside its name, if it is a `Retry`.
fn resource<'a>(
    root: &Field<'a>,
    kind: &'static str,
    beside: &[&str],
    problems: &mut Problems,
) -> Option<Resource<'a>> {
    if root.child("apiVersion").is_some() {
        let known = ["apiVersion", "kind", "mesh", "metadata", "spec", "status"];
        let map = root.map_of(&known, problems)?;
        let mesh = map.optional("mesh", None, |field| field.text(problems).map(Some));
        let metadata = common::metadata(root, problems);
        let spec = map.required("spec", problems)?;
        let (metadata, _) = (metadata?, mesh?);
        let (namespace, name) = (metadata.namespace, metadata.name);
        return Some(Resource { root: root.clone(), kind, namespace, name, spec, path: &["spec"] });
    }
    let known = ["type", "name", "mesh", "labels", "creationTime", "modificationTime", "kri", "status"];
    let known: Vec<_> = known.iter().chain(beside).copied().collect();
    let map = root.map_of(&known, problems)?;
    let mesh = map.optional("mesh", None, |field| field.text(problems).map(Some));
    let name = map.required("name", problems).and_then(|field| field.text(problems));
    let (spec, path): (_, &'static [_]) = if beside.contains(&"spec") {
        (map.required("spec", problems)?, &["spec"])
    } else {
        (root.clone(), &[])
    };
    mesh?;
    Some(Resource { root: root.clone(), kind, namespace: None, name: name?, spec, path })
}

/// What a policy says of its destinations, as far as it says it.
#[derive(Default)]
struct Sections {
    http: Option<HttpPolicy>,
    grpc: Option<HttpPolicy>,
    tcp: Option<NonZeroU32>,
}

impl Resource<'_> {
    /// The policy of sections that are at this place below what the document says.
    fn policy(
        &self,
        name: &str,
        section: &Field<'_>,
        (from, to): (Vec<WorkloadSelector>, Vec<Destination>),
        among_all: [u32; 5],
        Sections { http, grpc, tcp }: Sections,
    ) -> Policy {
        let patient = [&http, &grpc].into_iter().flatten().map(HttpPolicy::connect_retry);
        let patient = patient.max_by_key(ConnectRetry::max_connect_attempts).unwrap_or_default();
        let tcp = tcp.map_or(patient, |attempts| {
            let backoff = ConnectRetry::default().backoff();
            // Without timeouts nothing is refused.
            ConnectRetry::try_new(attempts, None, None, backoff, RetryOn::ALL).unwrap_or_default()
        });
        let sections = [("grpc", RequestProtocol::Grpc, grpc), ("http", RequestProtocol::Http, http)];
        let routes: Vec<_> = (0..)
            .zip(sections)
            .filter_map(|(within, (name, protocol, http))| {
                Some(Route {
                    name: name.into(),
                    precedence: Precedence { among_all, within },
                    matcher: RequestMatch { protocol, ..RequestMatch::default() },
                    http: Arc::new(http?),
                    targets: Arc::default(),
                    sources: Arc::new(sources(section, name)),
                })
            })
            .collect();
        let protocol = if routes.is_empty() { Protocol::Tcp } else { Protocol::Auto };
        Policy {
            name: PolicyName::of_kind(self.kind, self.namespace, name),
            origin: self.root.origin(),
            from,
            to,
            tcp,
            protocol,
            targets: Arc::default(),
            routes,
            rest: Rest::GoesOn,
            budget: BudgetPolicy::default(),
            sources: Arc::new(sources(section, "tcp")),
        }
    }
}

/// Where the settings of a section are.
fn sources(conf: &Field<'_>, section: &str) -> Sources {
    let place = |name| conf.place(&[section, name]);
    let attempts = ["maxConnectAmount", "maxConnectAttempts", "maxConnectAttempt"];
    let attempts = attempts.into_iter().map(|name| conf.place(&["tcp", name]));
    let mut attempts: Vec<_> = attempts.collect();
    attempts.sort_by_key(|place| !place.is_said);
    let attempts = attempts.into_iter().map(|place| (Setting::ConnectAttempts, place));
    let methods =
        if place("retriableMethods").is_said { "retriableMethods" } else { "retriableRequestHeaders" };
    let settings = [
        (Setting::RetryOn, "retryOn"),
        (Setting::NumRetries, "numRetries"),
        (Setting::PerTryTimeout, "perTryTimeout"),
        (Setting::Backoff, "backOff"),
        (Setting::RateLimitedBackoff, "rateLimitedBackOff"),
        (Setting::StatusCodes, "retriableStatusCodes"),
        (Setting::ResponseHeaders, "retriableResponseHeaders"),
        (Setting::RequestHeaders, methods),
        (Setting::Methods, methods),
        (Setting::HostSelection, "hostSelection"),
    ];
    Sources::new(settings.map(|(setting, name)| (setting, place(name))).into_iter().chain(attempts))
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

/// An interval that is given only if the other system requires it.
fn backoff(field: &Field<'_>, default_base: Option<Duration>, problems: &mut Problems) -> Option<Backoff> {
    let map = field.map_of(&["baseInterval", "maxInterval"], problems)?;
    let base = match (map.get("baseInterval"), default_base) {
        (None, Some(base)) => Some(base),
        _ => map.required("baseInterval", problems).and_then(|field| field.duration(problems)),
    };
    let max = map.optional("maxInterval", None, |field| field.duration(problems).map(Some));
    let made = Backoff::try_new(base?, max?);
    map.get("maxInterval").as_ref().unwrap_or(field).accept(made, problems)
}

/// The destinations that a service's name stands for: `backend`, or `backend_kuma-demo_svc_3001` as Kuma calls the port
/// of a Kubernetes Service. The names below `.mesh` are on a port of Kuma's own, so that they are taken on every port.
fn service(field: &Field<'_>, problems: &mut Problems) -> Option<Vec<Destination>> {
    let name = field.text(problems)?;
    if name == "*" {
        return Some(vec![Destination { address: Address::Any, port: None }]);
    }
    let mut below_mesh: Vec<Host> = Vec::new();
    let whole: Result<Host, _> = format!("{name}.mesh").parse();
    match whole {
        Ok(host) => below_mesh.push(host),
        Err(error) => return field.expected(&format!("the name of a service, or *; {error}"), problems),
    }
    let parts: Vec<_> = name.split('_').collect();
    let (hosts, port) = match &parts[..] {
        [service, namespace, "svc", rest @ ..] if rest.len() < 2 => {
            below_mesh.extend(format!("{}.mesh", parts.join(".")).parse::<Host>().ok());
            let port = rest.first().map(|port| port.parse::<NonZeroU16>());
            match port.transpose() {
                Ok(port) => (common::service_hosts(service, Some(namespace)), port),
                Err(_) => return field.expected(&"a port from 1 to 65535 behind _svc_", problems),
            }
        }
        _ => (name.parse().into_iter().collect(), None),
    };
    let hosts = hosts.into_iter().map(|host| Destination { address: Address::Host(host), port });
    let below_mesh =
        below_mesh.into_iter().map(|host| Destination { address: Address::Host(host), port: None });
    Some(hosts.chain(below_mesh).collect())
}

#[cfg(test)]
mod tests;
