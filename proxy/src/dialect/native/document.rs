//! The native document as types: what its JSON Schema is made of, and what documents are written from.
//!
//! The readers next to this know the same fields, since they tell where what is wrong; a test holds the two together.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_saphyr::FlowSeq;

use super::http::MAX_BUFFERED_BODY;
use super::route::{MAX_ADDRESSES, MAX_ROUTES, MAX_TARGETS, MAX_WEIGHT};
use super::words::{MatchType, PresentType, Word};
use crate::dialect::common::{MAX_ENTRIES, METADATA};
use crate::policy::{AddedHeaders, ConnectFailure, Protocol, UpstreamMode};
use crate::retry::BudgetPolicy;
use crate::retry::connect::Failure;
use crate::retry::request::{Condition, HostSelection as Hosts, ResetFormat};

const DURATION: &str = r"^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";
const SIZE: &str = "^[0-9]+(KiB|MiB|GiB)?$";
const NAME: &str = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$";
const NAMESPACE: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";
const LABEL: &str = "^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?$";
const HOST: &str =
    r"^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$";
const HOST_OR_BELOW: &str =
    r"^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$";
const NETWORK: &str = "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$";
const ENDPOINT: &str = r"^(\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f:.]+)(:[0-9]+)?$";
const METHOD: &str = "^[A-Z][A-Z0-9_-]*$";
const HEADER: &str = "^(:(method|path|authority|scheme|status)|[A-Za-z0-9!#$%&'*+.^_`|~-]+)$";
const PATH: &str = "^/";

/// The JSON Schema of the document.
pub(in crate::dialect) fn schema() -> Value {
    let mut schema = schemars::schema_for!(RetryPolicy).into();
    tidy(&mut schema);
    server_made(&mut schema);
    schema
}

/// Allows what the API server adds to a document, which says nothing here: `kubectl get -o yaml` prints it.
fn server_made(schema: &mut Value) {
    let mut allow = |place: &str, names: &[&str]| {
        if let Some(Value::Object(fields)) = schema.pointer_mut(place) {
            for name in names {
                fields.entry(*name).or_insert_with(|| Value::Object(serde_json::Map::new()));
            }
        }
    };
    allow("/$defs/Metadata/properties", METADATA);
    allow("/properties", &["status"]);
}

/// Takes out the null that an optional field might be, since the parser wants it left out, and says what a number of a
/// Rust type's size can be in words that every validator knows.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(of @ ("uint16" | "uint32" | "uint64")) = fields.get("format").and_then(Value::as_str)
            {
                let max = if of == "uint16" { u16::MAX.into() } else { u32::MAX };
                fields.remove("format");
                fields.entry("maximum").or_insert(max.into());
            }
            for name in ["type", "enum", "anyOf"] {
                without_null(fields, name);
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn without_null(fields: &mut serde_json::Map<String, Value>, name: &str) {
    let Some(Value::Array(kinds)) = fields.get_mut(name) else { return };
    kinds.retain(|kind| {
        !kind.is_null() && kind != "null" && kind.get("type").is_none_or(|kind| kind != "null")
    });
    match (name, &mut kinds[..]) {
        ("type", [only]) => {
            let only = only.take();
            fields.insert(name.to_owned(), only);
        }
        ("anyOf", [only]) => {
            let only = only.take();
            fields.remove(name);
            if let Value::Object(only) = only {
                fields.extend(only);
            }
        }
        _ => {}
    }
}

/// A list that is written on one line where it is short.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::dialect) struct List<T>(pub Vec<T>);

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const MANY: usize = 16;
        if self.0.len() > MANY {
            self.0.serialize(serializer)
        } else {
            FlowSeq(&self.0).serialize(serializer)
        }
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Vec::<T>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<T>::json_schema(generator)
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

/// What redial does for connections to some destinations, and for the requests on them.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct RetryPolicy {
    pub api_version: ApiVersion,
    pub kind: Kind,
    pub metadata: Metadata,
    pub spec: Spec,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub(in crate::dialect) enum ApiVersion {
    #[serde(rename = "redial.dev/v1alpha1")]
    V1Alpha1,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub(in crate::dialect) enum Kind {
    RetryPolicy,
}

/// The requests that may be executed twice: `idempotent`, `any`, or these methods.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::dialect) enum Methods {
    Named(NamedMethods),
    These(
        #[schemars(length(min = 1, max = MAX_ENTRIES), inner(regex(pattern = METHOD), length(max = 64)))]
        List<String>,
    ),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(in crate::dialect) enum NamedMethods {
    Idempotent,
    Any,
}

/// A number of bytes, or a text such as `64KiB`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::dialect) enum Bytes {
    Number(#[schemars(range(max = MAX_BUFFERED_BODY))] u64),
    Text(#[schemars(regex(pattern = SIZE))] String),
}

/// The document's name. Labels and annotations are for other tools.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Metadata {
    #[schemars(regex(pattern = NAME), length(max = 253))]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = NAMESPACE), length(max = 63))]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What the policy says; all of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Spec {
    /// Whose connections it is about. Left out: everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub from: Option<Vec<From>>,
    /// Where it applies. Left out: everywhere that no other policy does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub to: Option<Vec<To>>,
    /// Whether requests that no route matches are asked of less specific policies, instead of being told by the section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall_through: Option<bool>,
    /// What is spoken there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Word<Protocol>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// Some workloads: those to which all of this applies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub(in crate::dialect) struct From {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<PodSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub cgroup: Option<String>,
}

/// Labels that workloads have; `*` is any value, or none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct PodSelector {
    pub match_labels: BTreeMap<String, String>,
}

/// Some destinations: each address with each port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub(in crate::dialect) struct To {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = NETWORK)))]
    pub cidrs: Option<List<String>>,
    /// DNS names, or wildcards such as *.example.com.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(regex(pattern = HOST_OR_BELOW), length(max = 256)))]
    pub hosts: Option<List<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub services: Option<Vec<Service>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(range(min = 1)))]
    pub ports: Option<List<u16>>,
}

/// A Kubernetes Service; its namespace is the document's where it is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Service {
    #[schemars(regex(pattern = LABEL), length(max = 63))]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = LABEL), length(max = 63))]
    pub namespace: Option<String>,
}

/// How connects are retried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Tcp {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connect_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub connect_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_off: Option<BackOff>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub retry_on: Option<List<Word<Failure>>>,
    /// Where connections go that are relayed untouched.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_TARGETS))]
    pub targets: Option<Vec<Target>>,
}

/// The pauses between attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct BackOff {
    #[schemars(regex(pattern = DURATION))]
    pub base_interval: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub max_interval: Option<String>,
}

/// How many retries each destination may cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Budget {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = BudgetPolicy::MAX_PERCENT))]
    pub percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub interval: Option<String>,
}

/// What holds for requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Http {
    #[serde(flatten)]
    pub settings: Settings,
    /// What holds for some of the requests, in this order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ROUTES))]
    pub routes: Option<Vec<Route>>,
}

/// What may be said of all requests, or of a route's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::dialect) struct Settings {
    /// When to retry: Envoy's conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub retry_on: Option<List<Word<Condition>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1), inner(range(min = 100, max = 599)))]
    pub retriable_status_codes: Option<List<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ENTRIES))]
    pub retriable_headers: Option<Vec<Matcher>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ENTRIES))]
    pub retriable_request_headers: Option<Vec<Matcher>>,
    /// What may be executed twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Methods>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub per_try_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub per_try_idle_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub idle_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_off: Option<BackOff>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limited_back_off: Option<RateLimitedBackOff>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_selection: Option<HostSelection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge_on_per_try_timeout: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_buffered_body: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub honour_request_headers: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_headers: Option<Word<AddedHeaders>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_connect_failure: Option<Word<ConnectFailure>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Word<UpstreamMode>>,
}

/// What holds for some requests; what it does not say is as in its section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Route {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Its place among the routes of all policies for the same destination: the lower comes first; 0 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<Match>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_TARGETS))]
    pub targets: Option<Vec<Target>>,
    #[serde(flatten)]
    pub settings: Settings,
}

/// The requests that a route is for: what matches all of this.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Match {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = METHOD), length(max = 64))]
    pub method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ENTRIES), inner(regex(pattern = METHOD), length(max = 64)))]
    pub methods: Option<List<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ENTRIES))]
    pub headers: Option<Vec<Matcher>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ENTRIES))]
    pub query: Option<Vec<QueryMatcher>>,
}

/// One of exact, prefix, segments and regex.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 2))]
pub(in crate::dialect) struct PathMatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PATH))]
    pub exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PATH))]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PATH))]
    pub segments: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1_024))]
    pub regex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_case: Option<bool>,
}

/// What a header has to be like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Matcher {
    #[schemars(regex(pattern = HEADER), length(max = 256))]
    pub name: String,
    /// Exact where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<Word<MatchType>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invert: Option<bool>,
}

/// What a parameter of the query has to be like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct QueryMatcher {
    pub name: String,
    /// Exact where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<Word<PresentType>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
}

/// Where requests or connections go: one of host, addresses and original.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub(in crate::dialect) struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Its share of the sum of all; 1 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_WEIGHT))]
    pub weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = HOST), length(max = 254))]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ADDRESSES), inner(regex(pattern = ENDPOINT)))]
    pub addresses: Option<List<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [true]))]
    pub original: Option<bool>,
}

/// The pauses that a response asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct RateLimitedBackOff {
    #[schemars(length(min = 1, max = MAX_ENTRIES))]
    pub reset_headers: Vec<ResetHeader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION))]
    pub max_interval: Option<String>,
}

/// A header that says how long to wait.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct ResetHeader {
    #[schemars(regex(pattern = HEADER), length(max = 256))]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Word<ResetFormat>>,
}

/// Where a retry goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct HostSelection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avoid_previous: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = Hosts::MAX_ATTEMPTS))]
    pub max_attempts: Option<u32>,
}

#[cfg(test)]
pub(super) mod tests;
