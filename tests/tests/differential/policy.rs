//! One policy, said to redial and to Envoy.
//!
//! The fields are those of a native document's `spec.http`. Where a scenario leaves one out both systems are told the
//! same, whatever their own defaults are.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use redial_tests::exchange::Protocol;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::envoy;
use crate::scenario::Scenario;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Policy {
    #[serde(default)]
    pub retry_on: Vec<String>,
    pub num_retries: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retriable_status_codes: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retriable_headers: Vec<HeaderMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retriable_request_headers: Vec<HeaderMatch>,
    pub methods: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_idle_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    pub back_off: Option<BackOff>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limited_back_off: Option<RateLimited>,
    #[serde(default)]
    pub hedge_on_per_try_timeout: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_buffered_body: Option<Value>,
    pub honour_request_headers: Option<bool>,
    pub add_headers: Option<String>,
    pub on_connect_failure: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HeaderMatch {
    name: String,
    #[serde(rename = "type", default = "exact")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BackOff {
    base_interval: String,
    max_interval: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RateLimited {
    reset_headers: Vec<ResetHeader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_interval: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ResetHeader {
    name: String,
    format: String,
}

/// `spec.budget`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Budget {
    percent: u32,
    /// For Envoy the number of retries that are always allowed at once.
    min_per_second: u32,
}

fn exact() -> String {
    "Exact".to_owned()
}

/// The native document of a scenario whose upstream is at this port.
pub(crate) fn document(scenario: &Scenario, name: &str, port: u16) -> Result<Value> {
    let policy = &scenario.policy;
    let mut http = serde_json::to_value(policy)?;
    let fields = http.as_object_mut().context("a policy is an object")?;
    fields.insert("retryOn".to_owned(), json!(conditions(policy)));
    fields.insert("numRetries".to_owned(), json!(policy.num_retries.unwrap_or(1)));
    let back_off = policy.back_off.clone().unwrap_or_else(fast);
    fields.insert("backOff".to_owned(), serde_json::to_value(back_off)?);
    or(fields, "methods", json!("any"));
    or(fields, "honourRequestHeaders", json!(true));
    or(fields, "addHeaders", json!("none"));
    or(fields, "onConnectFailure", json!(503));
    let budget = scenario.budget.clone().unwrap_or(Budget { percent: 100, min_per_second: 1000 });
    let mut spec = json!({"to": [{"ports": [port]}], "protocol": "http", "http": http, "budget": budget});
    if let Some(ms) = scenario.connect_timeout {
        // A part about TCP speaks for the connects alone, so it says what would follow from the other.
        let about_connects = ["5xx", "gateway-error", "reset", "reset-before-request", "connect-failure"];
        let retries = policy.retry_on.iter().any(|condition| about_connects.contains(&condition.as_str()));
        let attempts = if retries { 1 + policy.num_retries.unwrap_or(1) } else { 1 };
        let back_off = spec["http"]["backOff"].clone();
        spec["tcp"] =
            json!({"connectTimeout": format!("{ms}ms"), "maxConnectAttempts": attempts, "backOff": back_off});
    }
    Ok(json!({
        "apiVersion": "redial.dev/v1alpha1",
        "kind": "RetryPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }))
}

fn or(fields: &mut Map<String, Value>, name: &str, value: Value) {
    if fields.get(name).is_none_or(Value::is_null) {
        fields.insert(name.to_owned(), value);
    }
}

/// A document cannot have none at all, and this is one that never comes true.
fn conditions(policy: &Policy) -> Vec<String> {
    if policy.retry_on.is_empty() {
        vec!["http3-post-connect-failure".to_owned()]
    } else {
        policy.retry_on.clone()
    }
}

/// What scenarios wait that say nothing about it.
fn fast() -> BackOff {
    BackOff { base_interval: "10ms".to_owned(), max_interval: "20ms".to_owned() }
}

/// The listener and the cluster that do to a scenario's requests what redial is asked to do.
pub(crate) fn envoy(
    scenario: &Scenario,
    protocol: Protocol,
    name: &str,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<(Value, Value)> {
    let policy = &scenario.policy;
    let adds = policy.add_headers.as_deref() == Some("envoy");
    let match_all = route(policy, name, &json!({"prefix": "/"}))?;
    let mut connect = route(policy, name, &json!({"connect_matcher": {}}))?;
    connect["route"]["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
    let host = json!({
        "include_request_attempt_count": adds,
        "include_attempt_count_in_response": adds,
        "include_is_timeout_retry_header": adds,
        "routes": [connect, match_all],
    });
    let mut cluster = envoy::cluster(protocol, name, to);
    cluster["connect_timeout"] = json!(seconds(&format!("{}ms", scenario.connect_timeout.unwrap_or(5000)))?);
    let thresholds = &mut cluster["circuit_breakers"]["thresholds"][0];
    if let Some(max) = policy.max_concurrent_retries {
        thresholds["max_retries"] = json!(max);
    }
    if let Some(budget) = &scenario.budget {
        thresholds["retry_budget"] = json!({
            "budget_percent": {"value": budget.percent},
            "min_retry_concurrency": budget.min_per_second,
        });
    }
    Ok((envoy::listener(protocol, name, from, host, adds), cluster))
}

fn route(policy: &Policy, cluster: &str, matching: &Value) -> Result<Value> {
    let mut action = json!({
        "cluster": cluster,
        "timeout": seconds(policy.timeout.as_deref().unwrap_or("0s"))?,
        "retry_policy": retry_policy(policy)?,
        "hedge_policy": {"hedge_on_per_try_timeout": policy.hedge_on_per_try_timeout},
    });
    if let Some(idle) = &policy.idle_timeout {
        action["idle_timeout"] = json!(seconds(idle)?);
    }
    // Envoy's own default depends on the version of HTTP.
    let limit = policy.max_buffered_body.as_ref().map_or(Ok(1024 * 1024), bytes)?;
    Ok(json!({"match": matching, "route": action, "request_body_buffer_limit": limit}))
}

fn retry_policy(policy: &Policy) -> Result<Value> {
    let mut conditions = conditions(policy);
    if !policy.retriable_status_codes.is_empty() {
        conditions.push("retriable-status-codes".to_owned());
    }
    if !policy.retriable_headers.is_empty() {
        conditions.push("retriable-headers".to_owned());
    }
    let back_off = policy.back_off.clone().unwrap_or_else(fast);
    let mut retry = json!({
        "retry_on": conditions.join(","),
        "num_retries": policy.num_retries.unwrap_or(1),
        "retriable_status_codes": policy.retriable_status_codes,
        "retriable_headers": matchers(&policy.retriable_headers)?,
        "retriable_request_headers": matchers(&policy.retriable_request_headers)?,
        "retry_back_off": {
            "base_interval": seconds(&back_off.base_interval)?,
            "max_interval": seconds(&back_off.max_interval)?,
        },
    });
    if let Some(timeout) = &policy.per_try_timeout {
        retry["per_try_timeout"] = json!(seconds(timeout)?);
    }
    if let Some(timeout) = &policy.per_try_idle_timeout {
        retry["per_try_idle_timeout"] = json!(seconds(timeout)?);
    }
    if let Some(limited) = &policy.rate_limited_back_off {
        let headers: Vec<_> = limited
            .reset_headers
            .iter()
            .map(|header| {
                let unix = header.format == "UnixTimestamp";
                json!({"name": header.name, "format": if unix { "UNIX_TIMESTAMP" } else { "SECONDS" }})
            })
            .collect();
        retry["rate_limited_retry_back_off"] = json!({"reset_headers": headers});
        if let Some(max) = &limited.max_interval {
            retry["rate_limited_retry_back_off"]["max_interval"] = json!(seconds(max)?);
        }
    }
    Ok(retry)
}

fn matchers(matches: &[HeaderMatch]) -> Result<Vec<Value>> {
    let known =
        |header| matcher(header).with_context(|| format!("a header match of no known type: {header:?}"));
    matches.iter().map(known).collect()
}

fn matcher(header: &HeaderMatch) -> Option<Value> {
    let value = header.value.as_deref();
    let rule = match header.kind.as_str() {
        "Present" => return Some(json!({"name": header.name, "present_match": true})),
        "Absent" => return Some(json!({"name": header.name, "present_match": false})),
        "Exact" => json!({"exact": value?}),
        "Prefix" => json!({"prefix": value?}),
        "Suffix" => json!({"suffix": value?}),
        "Contains" => json!({"contains": value?}),
        "RegularExpression" => json!({"safe_regex": {"regex": value?}}),
        _ => return None,
    };
    Some(json!({"name": header.name, "string_match": rule}))
}

/// A duration of ours (`250ms`, `2s`) as one of Envoy's (`0.25s`).
fn seconds(duration: &str) -> Result<String> {
    let milliseconds: u64 = match (duration.strip_suffix("ms"), duration.strip_suffix('s')) {
        (Some(number), _) => number.parse()?,
        (None, Some(number)) => number.parse::<u64>()? * 1000,
        (None, None) => anyhow::bail!("{duration} is not a duration in ms or s"),
    };
    Ok(format!("{}.{:03}s", milliseconds / 1000, milliseconds % 1000))
}

/// A size of ours: bytes, or `64KiB`, `1MiB`.
fn bytes(size: &Value) -> Result<u64> {
    let Some(text) = size.as_str() else {
        return size.as_u64().with_context(|| format!("{size} is not a size"));
    };
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => anyhow::bail!("{text} is not a size"),
    };
    Ok(number.parse::<u64>()? * unit)
}
