//! The documents, as far as they are written.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::super::Comment;
use super::{MAX_MATCHES, MAX_RULES, Place, matches};
use crate::dialect::native::document::List;
use crate::policy::{HttpPolicy, Policy, PolicyName, Route, Target, TargetAddress};
use crate::retry::request::Condition;
use crate::retry::{Backoff, BudgetPolicy};

/// An HTTPRoute or GRPCRoute.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    api_version: &'static str,
    kind: &'static str,
    metadata: Value,
    spec: Spec,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_refs: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostnames: Option<List<String>>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    matches: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<Retry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeouts: Option<Timeouts>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backend_refs: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Retry {
    #[serde(skip_serializing_if = "Option::is_none")]
    codes: Option<Codes>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff: Option<String>,
}

/// Numbers on one line, however many.
#[derive(Clone, Debug, PartialEq)]
struct Codes(Vec<u16>);

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Timeouts {
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_request: Option<String>,
}

impl Serialize for Codes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_saphyr::FlowSeq(&self.0).serialize(serializer)
    }
}

fn metadata(name: &PolicyName) -> Value {
    match name.namespace() {
        None => json!({"name": name.name()}),
        Some(namespace) => json!({"name": name.name(), "namespace": namespace}),
    }
}

impl Document {
    pub(super) fn new(kind: &'static str, name: &PolicyName, place: &Place, rules: Vec<Rule>) -> Self {
        let parent_refs = match place {
            Place::Service { .. } => service(place, name.namespace()).map(|mut parent| {
                parent.insert("group".to_owned(), json!(""));
                parent.insert("kind".to_owned(), json!("Service"));
                vec![Value::Object(parent)]
            }),
            Place::Everywhere | Place::Hosts(_) => None,
        };
        let hostnames = match place {
            Place::Hosts(hosts) => Some(List(hosts.clone())),
            Place::Everywhere | Place::Service { .. } => None,
        };
        let spec = Spec { parent_refs, hostnames, rules };
        Self { api_version: "gateway.networking.k8s.io/v1", kind, metadata: metadata(name), spec }
    }
}

/// What names a Service, from a document in this namespace.
fn service(place: &Place, from: Option<&str>) -> Option<serde_json::Map<String, Value>> {
    let Place::Service { name, namespace, port } = place else { return None };
    let namespace = namespace.as_deref().filter(|namespace| Some(*namespace) != from);
    let fields = [
        Some(("name", json!(name))),
        namespace.map(|namespace| ("namespace", json!(namespace))),
        port.map(|port| ("port", json!(port))),
    ];
    Some(fields.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect())
}

type Part<'a> = (Vec<Rule>, Vec<&'a Route>);

/// The rules of these routes, as many documents as they need. What cannot be said at all is told, and left out.
pub(super) fn parts<'a>(
    routes: &[&'a Route],
    place: &Place,
    policy: &Policy,
    namespace: Option<&str>,
    comments: &mut Vec<Comment>,
) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'a>> = Vec::new();
    for route in routes {
        let read = matches::of_route(&route.matcher)
            .and_then(|matching| Ok((matching, backends(&route.targets, place, namespace)?)));
        let (matching, backend_refs) = match read {
            Ok(read) => read,
            Err(why) => {
                let text = format!("{}: {} is left out: {why}", policy.origin, route.name);
                comments.push(Comment::lost(text));
                continue;
            }
        };
        let name = Some(&*route.name).filter(|name| PolicyName::try_new(None, name).is_ok());
        let rule = Rule {
            name: name.map(str::to_owned),
            matches: vec![matching],
            retry: retry(&route.http),
            timeouts: timeouts(&route.http),
            backend_refs,
        };
        if parts.last().is_none_or(|(rules, _)| rules.len() >= MAX_RULES) {
            parts.push((Vec::new(), Vec::new()));
        }
        let Some((rules, said)) = parts.last_mut() else { break };
        // Several ways to match one rule.
        let same = rules.last_mut().filter(|last| {
            let before = said.last().is_some_and(|before| Arc::ptr_eq(&before.http, &route.http));
            let is_like = Rule { matches: last.matches.clone(), ..rule.clone() } == **last;
            before && is_like && last.matches.len() < MAX_MATCHES
        });
        match same {
            Some(last) => last.matches.extend(rule.matches),
            None => rules.push(rule),
        }
        said.push(*route);
    }
    for rule in parts.iter_mut().flat_map(|(rules, _)| rules) {
        // A rule is for everything that does not say.
        if let [only] = &rule.matches[..]
            && *only == json!({})
        {
            rule.matches.clear();
        }
    }
    parts
}

fn retry(http: &HttpPolicy) -> Option<Retry> {
    let retry = &http.retry;
    let on = |condition| retry.retry_on.contains(condition);
    if retry.num_retries == 0 || retry.retry_on.is_empty() {
        return None;
    }
    let own = retry.status_codes.iter().filter(|_| on(Condition::RetriableStatusCodes));
    let of = [
        (Condition::Retriable4xx, 409..=409),
        (Condition::GatewayError, 502..=504),
        (Condition::ServerError, 500..=599),
    ];
    let of = of.into_iter().filter(|(condition, _)| on(*condition)).flat_map(|(_, codes)| codes);
    let mut codes: Vec<_> = own.chain(of).filter(|code| *code >= 400).collect();
    codes.sort_unstable();
    codes.dedup();
    let backoff = retry.backoff.base();
    Some(Retry {
        codes: (!codes.is_empty()).then_some(Codes(codes)),
        attempts: retry.num_retries,
        backoff: (backoff != Backoff::default().base()).then(|| duration(backoff)),
    })
}

fn timeouts(http: &HttpPolicy) -> Option<Timeouts> {
    let (request, each) = (http.timeout, http.retry.per_try_timeout);
    // One that is not shorter is not looked at.
    let each = each.filter(|each| request.is_none_or(|request| *each < request));
    let is_said = request.is_some() || each.is_some();
    is_said.then(|| Timeouts { request: request.map(duration), backend_request: each.map(duration) })
}

/// A duration of GEP-2257: whole numbers down to milliseconds.
fn duration(duration: Duration) -> String {
    const NANOS: u128 = 1_000_000;
    let millis = duration.as_nanos().div_ceil(NANOS);
    let parts = [
        (millis / 3_600_000, "h"),
        (millis / 60_000 % 60, "m"),
        (millis / 1_000 % 60, "s"),
        (millis % 1_000, "ms"),
    ];
    let said = parts.into_iter().filter(|(number, _)| *number > 0);
    let text = said.map(|(number, unit)| format!("{number}{unit}")).collect::<Vec<_>>().concat();
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn backends(targets: &[Target], place: &Place, namespace: Option<&str>) -> Result<Vec<Value>, String> {
    const MAX: usize = 16;
    let dialled = || service(place, namespace).map(Value::Object);
    if targets.is_empty() {
        return Ok(dialled().into_iter().collect());
    }
    if targets.len() > MAX {
        return Err(format!("it has {} targets, and there may be {MAX} backendRefs", targets.len()));
    }
    let all = targets.iter().map(|target| {
        let mut backend = match &target.address {
            TargetAddress::Host { host, port } => {
                let mut backend =
                    json!({"group": "networking.istio.io", "kind": "Hostname", "name": host.as_str()});
                if let (Some(port), Some(fields)) = (port, backend.as_object_mut()) {
                    fields.insert("port".to_owned(), json!(port));
                }
                backend
            }
            TargetAddress::Original => {
                dialled().ok_or("a target that is where requests were sent cannot be said")?
            }
            TargetAddress::Addresses(_) => return Err("targets that are addresses cannot be said".to_owned()),
        };
        if let (true, Some(fields)) = (target.weight != 1, backend.as_object_mut()) {
            fields.insert("weight".to_owned(), json!(target.weight));
        }
        Ok(backend)
    });
    all.collect()
}

/// The budget of a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Budget {
    policy: BudgetPolicy,
    service: String,
    namespace: Option<String>,
}

/// The budget of a Service, where it is not redial's own.
pub(super) fn budget(budget: BudgetPolicy, place: &Place) -> Option<Budget> {
    let Place::Service { name, namespace, port: _ } = place else { return None };
    let is_own = budget == BudgetPolicy::default();
    (!is_own).then(|| Budget { policy: budget, service: name.clone(), namespace: namespace.clone() })
}

impl Budget {
    /// The document, in the Service's namespace.
    pub(super) fn named(&self, name: &PolicyName) -> Value {
        let Self { policy: budget, service, namespace } = self;
        let floor = json!({"count": budget.min_per_second(), "interval": "1s"});
        let share = json!({"percent": budget.percent(), "interval": duration(budget.interval())});
        let mut constraint = json!({"budget": share});
        // Nothing at all cannot be said.
        if let (true, Some(fields)) = (budget.min_per_second() > 0, constraint.as_object_mut()) {
            fields.insert("minRetryRate".to_owned(), floor);
        }
        let metadata = match namespace {
            None => json!({"name": name.name()}),
            Some(namespace) => json!({"name": name.name(), "namespace": namespace}),
        };
        json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1",
            "kind": "XBackendTrafficPolicy",
            "metadata": metadata,
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": service}],
                "retryConstraint": constraint,
            },
        })
    }
}
