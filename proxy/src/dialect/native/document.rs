//! The native document as types: what its JSON Schema is made of.
//!
//! The readers next to this know the same fields, since they tell where what is wrong; a test holds the two together.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// The JSON Schema of the document.
pub(in crate::dialect) fn schema() -> Value {
    let mut schema = schemars::schema_for!(RetryPolicy).into();
    without_null(&mut schema);
    schema
}

/// Takes out the null that an optional field might be: the parser wants it left out.
fn without_null(schema: &mut Value) {
    let is_null = |value: &Value| value == "null" || value.get("type").is_some_and(|kind| kind == "null");
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let (true, Value::Array(kinds)) = (name == "type" || name == "anyOf", &mut *value) {
                    kinds.retain(|kind| !is_null(kind));
                }
                without_null(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What redial does for connections to some destinations, and for the requests on them.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct RetryPolicy {
    pub api_version: ApiVersion,
    pub kind: Kind,
    pub metadata: Metadata,
    pub spec: Spec,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::dialect) enum ApiVersion {
    #[serde(rename = "redial.dev/v1alpha1")]
    V1Alpha1,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::dialect) enum Kind {
    RetryPolicy,
}

/// The requests that may be executed twice: `idempotent`, `any`, or these methods.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::dialect) enum Methods {
    Named(String),
    These(Vec<String>),
}

/// A number of bytes, or a text such as `64KiB`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::dialect) enum Bytes {
    Number(u64),
    Text(String),
}

/// The document's name. Labels and annotations are for other tools.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Metadata {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What the policy says; all of it may be left out.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Spec {
    /// Whose connections it is about. Left out: everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<From>>,
    /// Where it applies. Left out: everywhere that no other policy does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<To>>,
    /// auto, http, grpc or tcp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// Some workloads: those to which all of this applies.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct From {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<PodSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// Labels that workloads have; `*` is any value, or none.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct PodSelector {
    pub match_labels: BTreeMap<String, String>,
}

/// Some destinations: each address with each port.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct To {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidrs: Option<Vec<String>>,
    /// DNS names, or wildcards such as *.example.com.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<Service>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<u16>>,
}

/// A Kubernetes Service; its namespace is the document's where it is left out.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Service {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// How connects are retried.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Tcp {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connect_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_off: Option<BackOff>,
    /// refused, timeout, unreachable or reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<Target>>,
}

/// The pauses between attempts.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct BackOff {
    pub base_interval: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_interval: Option<String>,
}

/// How many retries each destination may cost.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Budget {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
}

/// What holds for requests.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Http {
    /// When to retry: Envoy's conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retriable_status_codes: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retriable_headers: Option<Vec<Matcher>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retriable_request_headers: Option<Vec<Matcher>>,
    /// What may be executed twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Methods>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_idle_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// none or envoy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_headers: Option<String>,
    /// errno or 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_connect_failure: Option<String>,
    /// connection or pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// What holds for some of the requests, in this order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
}

/// What holds for some requests; what it does not say is as in its section.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Route {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<Match>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<Target>>,
    /// When to retry: Envoy's conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retriable_status_codes: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retriable_headers: Option<Vec<Matcher>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retriable_request_headers: Option<Vec<Matcher>>,
    /// What may be executed twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Methods>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_idle_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// none or envoy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_headers: Option<String>,
    /// errno or 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_connect_failure: Option<String>,
    /// connection or pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

/// The requests that a route is for: what matches all of this.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Match {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<Matcher>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<Vec<QueryMatcher>>,
}

/// One of exact, prefix, segments and regex.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct PathMatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_case: Option<bool>,
}

/// What a header has to be like: Exact, Prefix, Suffix, Contains, RegularExpression, Range, Present or Absent.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Matcher {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
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
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct QueryMatcher {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
}

/// Where requests or connections go: one of host, addresses and original.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct Target {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its share of the sum of all; 1 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<bool>,
}

/// The pauses that a response asks for.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct RateLimitedBackOff {
    pub reset_headers: Vec<ResetHeader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_interval: Option<String>,
}

/// A header that says how long to wait.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct ResetHeader {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// Where a retry goes.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::dialect) struct HostSelection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avoid_previous: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::schema;
    use crate::dialect::parse;

    #[test]
    fn the_published_schema_is_this_one() {
        let published = include_str!("../../../../docs/retrypolicy.schema.json");
        // To write it anew: redial schema > docs/retrypolicy.schema.json
        assert_eq!(serde_json::from_str::<Value>(published).unwrap(), schema());
    }

    /// What the parser lists where it finds a field that it does not know, against what the schema has there.
    #[test]
    fn the_parser_and_the_schema_have_the_same_fields() {
        let schema = schema();
        for (definition, document) in [
            ("Metadata", "metadata: {name: p, zzz: 1}, spec: {}"),
            ("Spec", "metadata: {name: p}, spec: {zzz: 1}"),
            ("From", "metadata: {name: p}, spec: {from: [{zzz: 1, namespace: a}]}"),
            ("PodSelector", "metadata: {name: p}, spec: {from: [{podSelector: {zzz: 1, matchLabels: {}}}]}"),
            ("To", "metadata: {name: p}, spec: {to: [{zzz: 1, ports: [1]}]}"),
            ("Service", "metadata: {name: p}, spec: {to: [{services: [{zzz: 1, name: a}]}]}"),
            ("Tcp", "metadata: {name: p}, spec: {tcp: {zzz: 1}}"),
            ("BackOff", "metadata: {name: p}, spec: {tcp: {backOff: {zzz: 1, baseInterval: 1s}}}"),
            ("Budget", "metadata: {name: p}, spec: {budget: {zzz: 1}}"),
            ("Http", "metadata: {name: p}, spec: {http: {zzz: 1}}"),
            ("Route", "metadata: {name: p}, spec: {http: {routes: [{zzz: 1}]}}"),
            ("Match", "metadata: {name: p}, spec: {http: {routes: [{match: {zzz: 1}}]}}"),
            (
                "PathMatch",
                "metadata: {name: p}, spec: {http: {routes: [{match: {path: {zzz: 1, exact: /}}}]}}",
            ),
            (
                "Matcher",
                "metadata: {name: p}, spec: {http: {retriableHeaders: [{zzz: 1, name: a, value: b}]}}",
            ),
            (
                "QueryMatcher",
                "metadata: {name: p}, spec: {http: {routes: [{match: {query: [{zzz: 1, name: a, value: b}]}}]}}",
            ),
            ("Target", "metadata: {name: p}, spec: {tcp: {targets: [{zzz: 1, host: a}]}}"),
            (
                "RateLimitedBackOff",
                "metadata: {name: p}, spec: {http: {rateLimitedBackOff: {zzz: 1, resetHeaders: [{name: a}]}}}",
            ),
            (
                "ResetHeader",
                "metadata: {name: p}, spec: {http: {rateLimitedBackOff: {resetHeaders: [{zzz: 1, name: a}]}}}",
            ),
            ("HostSelection", "metadata: {name: p}, spec: {http: {hostSelection: {zzz: 1}}}"),
        ] {
            let text = format!("{{apiVersion: redial.dev/v1alpha1, kind: RetryPolicy, {document}}}");
            let problems = parse(Path::new("p.yaml"), &text).unwrap_err();
            let [problem] = &problems[..] else { panic!("{problems:?}") };
            let mut parser: Vec<_> =
                problem.message.split("there are ").nth(1).unwrap().split(", ").collect();
            let properties = schema["$defs"][definition]["properties"].as_object().unwrap();
            let mut schema: Vec<_> = properties.keys().map(String::as_str).collect();
            parser.sort_unstable();
            schema.sort_unstable();
            assert_eq!(schema, parser, "{definition}");
        }
    }
}
