//! The schema against the parser.

use std::path::Path;

use regex::Regex;
use serde_json::{Value, json};

use super::schema;
use crate::dialect::parse;

#[test]
fn the_published_schema_is_this_one() {
    let published = include_str!("../../../../../docs/retrypolicy.schema.json");
    // To write it anew: redial schema > docs/retrypolicy.schema.json
    let is_published = serde_json::from_str::<Value>(published).unwrap() == schema();
    assert!(is_published, "docs/retrypolicy.schema.json is another one");
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
        ("PathMatch", "metadata: {name: p}, spec: {http: {routes: [{match: {path: {zzz: 1, exact: /}}}]}}"),
        ("Matcher", "metadata: {name: p}, spec: {http: {retriableHeaders: [{zzz: 1, name: a, value: b}]}}"),
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
        let mut parser: Vec<_> = problem.message.split("there are ").nth(1).unwrap().split(", ").collect();
        let properties = schema["$defs"][definition]["properties"].as_object().unwrap();
        let mut schema: Vec<_> = properties.keys().map(String::as_str).collect();
        parser.sort_unstable();
        schema.sort_unstable();
        assert_eq!(schema, parser, "{definition}");
    }
}

/// A spec that says this word.
type Saying = fn(&str) -> Value;

/// Every set of words, with a spec that says one of them.
const WORDS: &[(&str, Saying)] = &[
    ("Spec/properties/protocol", |word| match word {
        "tcp" => json!({"protocol": word}),
        _ => json!({"protocol": word, "http": {}}),
    }),
    ("Tcp/properties/retryOn/items", |word| json!({"tcp": {"retryOn": [word]}})),
    ("Http/properties/retryOn/items", |word| {
        let headers = json!([{"name": "a", "value": "b"}]);
        json!({"http": {"retryOn": [word], "retriableStatusCodes": [500], "retriableHeaders": headers}})
    }),
    ("Http/properties/addHeaders", |word| json!({"http": {"addHeaders": word}})),
    ("Http/properties/onConnectFailure", |word| json!({"http": {"onConnectFailure": word}})),
    ("Http/properties/upstream", |word| json!({"http": {"upstream": word}})),
    ("Methods/anyOf/0", |word| json!({"http": {"methods": word}})),
    (
        "ResetHeader/properties/format",
        |word| json!({"http": {"rateLimitedBackOff": {"resetHeaders": [{"name": "a", "format": word}]}}}),
    ),
    ("Matcher/properties/type", |word| json!({"http": {"retriableHeaders": [matcher(word)]}})),
    (
        "QueryMatcher/properties/type",
        |word| json!({"http": {"routes": [{"match": {"query": [matcher(word)]}}]}}),
    ),
    ("Target/properties/original", |_| json!({"tcp": {"targets": [{"original": true}]}})),
];

fn matcher(kind: &str) -> Value {
    match kind {
        "Range" => json!({"name": "a", "type": kind, "start": 1, "end": 2}),
        "Present" | "Absent" => json!({"name": "a", "type": kind}),
        _ => json!({"name": "a", "type": kind, "value": "b"}),
    }
}

#[test]
fn the_parser_takes_every_word_of_the_schema() {
    let schema = schema();
    let mut known: Vec<&Value> = Vec::new();
    for (place, spec) in WORDS {
        let words = &schema.pointer(&format!("/$defs/{place}/enum")).unwrap();
        known.push(words);
        for word in words.as_array().unwrap() {
            let document = document(&spec(word.as_str().unwrap_or_default()));
            assert_eq!(faults(&schema, &document), [""; 0], "{place}: {word}");
            parse(Path::new("p.yaml"), &document.to_string()).unwrap();
        }
        let other = document(&spec("other"));
        if *place != "Target/properties/original" {
            assert_ne!(faults(&schema, &other), [""; 0], "{place}");
            parse(Path::new("p.yaml"), &other.to_string()).unwrap_err();
        }
    }
    let mut all = Vec::new();
    sets(&schema, &mut all);
    let heads = [json!(["redial.dev/v1alpha1"]), json!(["RetryPolicy"])];
    let unknown: Vec<_> = all.iter().filter(|set| !known.contains(set) && !heads.contains(set)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

fn sets<'a>(schema: &'a Value, all: &mut Vec<&'a Value>) {
    match schema {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| match name.as_str() {
            "enum" => all.push(value),
            _ => sets(value, all),
        }),
        Value::Array(items) => items.iter().for_each(|item| sets(item, all)),
        _ => {}
    }
}

#[test]
fn what_is_out_of_range_is_refused_by_both() {
    let schema = schema();
    let route = |route: Value| json!({"http": {"routes": [route]}});
    let many = |item: Value, count: usize| Value::Array(vec![item; count]);
    let good = [
        json!({"to": [{"cidrs": ["10.0.0.0/8", "::1"], "hosts": ["*.a.b", "A_b.c."], "ports": [1, 65_535]}]}),
        json!({"tcp": {"connectTimeout": "1h30m", "timeout": ".5s", "backOff": {"baseInterval": "1\u{b5}s"}}}),
        json!({"http": {"timeout": "0", "perTryTimeout": "+0s", "maxBufferedBody": "64KiB", "numRetries": u32::MAX}}),
        json!({"http": {"maxBufferedBody": 1_u64 << 30, "methods": ["GET", "M-SEARCH"]}}),
        json!({"tcp": {"targets": [{"addresses": ["10.0.0.1", "[::1]:80", "10.0.0.1:1"], "weight": 1_000_000}]}}),
        route(json!({"match": {"headers": [{"name": ":path", "type": "Range", "start": i64::MIN}]}})),
    ];
    let bad = [
        json!({"from": [{}]}),
        json!({"from": []}),
        json!({"from": [{"namespace": ""}]}),
        json!({"to": [{}]}),
        json!({"to": [{"cidrs": ["ten"]}]}),
        json!({"to": [{"hosts": ["a b"]}]}),
        json!({"to": [{"hosts": ["a..b"]}]}),
        json!({"to": [{"hosts": ["*"]}]}),
        json!({"to": [{"hosts": []}]}),
        json!({"to": [{"ports": [0]}]}),
        json!({"to": [{"ports": [65_536]}]}),
        json!({"to": [{"services": [{"name": "a.b"}]}]}),
        json!({"tcp": {"maxConnectAttempts": 0}}),
        json!({"tcp": {"maxConnectAttempts": 1_u64 << 32}}),
        json!({"tcp": {"timeout": "5"}}),
        json!({"tcp": {"timeout": "-5s"}}),
        json!({"tcp": {"timeout": "5 s"}}),
        json!({"tcp": {"backOff": {}}}),
        json!({"tcp": {"retryOn": []}}),
        json!({"budget": {"percent": 101}}),
        json!({"budget": {"minPerSecond": -1}}),
        json!({"http": {"numRetries": -1}}),
        json!({"http": {"numRetries": "2"}}),
        json!({"http": {"retriableStatusCodes": [99]}}),
        json!({"http": {"retriableStatusCodes": [600]}}),
        json!({"http": {"methods": ["get"]}}),
        json!({"http": {"methods": many(json!("GET"), 65)}}),
        json!({"http": {"maxBufferedBody": "64KB"}}),
        json!({"http": {"maxBufferedBody": (1_u64 << 30) + 1}}),
        json!({"http": {"hostSelection": {"maxAttempts": 0}}}),
        json!({"http": {"hostSelection": {"maxAttempts": 1_001}}}),
        json!({"http": {"retriableHeaders": [{"name": "a b", "value": "c"}]}}),
        json!({"http": {"hedgeOnPerTryTimeout": "yes"}}),
        json!({"http": {"rateLimitedBackOff": {"resetHeaders": []}}}),
        route(json!({"match": {"path": {}}})),
        route(json!({"match": {"path": {"exact": "a"}}})),
        route(json!({"match": {"path": {"exact": "/a", "prefix": "/a", "regex": "/a"}}})),
        route(json!({"match": {"method": "Get"}})),
        route(json!({"name": ""})),
        route(json!({"name": "a".repeat(254)})),
        route(json!({"targets": [{"host": "a", "weight": 1_000_001}]})),
        route(json!({"targets": [{"host": "*.a"}]})),
        route(json!({"targets": [{"addresses": ["x.y"]}]})),
        route(json!({"targets": [{"original": false}]})),
        route(json!({"targets": many(json!({"host": "a"}), 65)})),
        json!({"http": {"routes": many(json!({}), 257)}}),
    ];
    for (specs, is_good) in [(&good[..], true), (&bad[..], false)] {
        for spec in specs {
            let document = document(spec);
            let found = faults(&schema, &document);
            assert_eq!(found.is_empty(), is_good, "{spec}: {found:?}");
            let parsed = parse(Path::new("p.yaml"), &document.to_string());
            assert_eq!(parsed.is_ok(), is_good, "{spec}: {parsed:?}");
        }
    }
}

pub(in crate::dialect::native) fn document(spec: &Value) -> Value {
    json!({
        "apiVersion": "redial.dev/v1alpha1", "kind": "RetryPolicy", "metadata": {"name": "p"}, "spec": spec,
    })
}

/// What a schema finds wrong with a value. It knows what structural schemas of Kubernetes may have, and no more.
fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, value, "", &mut found);
    found
}

pub(in crate::dialect::native) fn check(
    root: &Value,
    schema: &Value,
    value: &Value,
    path: &str,
    found: &mut Vec<String>,
) {
    let number = |limit: &Value| limit.as_i64().map(i128::from).unwrap();
    let of = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    let length = match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        value => value.as_str().map_or(0, |text| text.chars().count()),
    };
    let length = i128::try_from(length).unwrap();
    for (keyword, limit) in schema.as_object().unwrap() {
        let holds = match (keyword.as_str(), limit) {
            (
                "$schema"
                | "$defs"
                | "title"
                | "description"
                | "x-kubernetes-list-type"
                | "x-kubernetes-list-map-keys",
                _,
            ) => true,
            ("format", format) => format == "int64" || format == "date-time",
            ("x-kubernetes-int-or-string", _) => value.is_string() || of.is_some(),
            ("x-kubernetes-preserve-unknown-fields", open) => open == true,
            ("additionalProperties", Value::Bool(false)) => {
                let known = |name| schema["properties"].get(name).is_some();
                value.as_object().is_none_or(|fields| fields.keys().all(known))
            }
            ("additionalProperties", of) => {
                let fields = value.as_object().into_iter().flatten();
                fields.for_each(|(name, value)| check(root, of, value, &format!("{path}/{name}"), found));
                true
            }
            ("$ref", name) => {
                let name = name.as_str().unwrap().trim_start_matches('#');
                check(root, root.pointer(name).unwrap(), value, path, found);
                true
            }
            ("anyOf", Value::Array(ways)) => ways.iter().any(|way| {
                let mut found = Vec::new();
                check(root, way, value, path, &mut found);
                found.is_empty()
            }),
            ("properties", Value::Object(properties)) => {
                for (name, schema) in properties {
                    if let Some(value) = value.get(name) {
                        check(root, schema, value, &format!("{path}/{name}"), found);
                    }
                }
                true
            }
            ("items", schema) => {
                let items = value.as_array().into_iter().flatten();
                items.for_each(|value| check(root, schema, value, &format!("{path}[]"), found));
                true
            }
            ("required", names) => {
                names.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            ("type", kind) => match kind.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => of.is_some(),
                other => panic!("type {other}"),
            },
            ("enum", words) => words.as_array().unwrap().contains(value),
            ("pattern", pattern) => {
                let pattern = Regex::new(pattern.as_str().unwrap()).unwrap();
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            ("minimum", limit) => of.is_none_or(|of| of >= number(limit)),
            ("maximum", limit) => of.is_none_or(|of| of <= number(limit)),
            ("minItems" | "minLength" | "minProperties", limit) => length >= number(limit),
            ("maxItems" | "maxLength" | "maxProperties", limit) => length <= number(limit),
            (keyword, _) => panic!("no structural schema has {keyword}"),
        };
        if !holds {
            found.push(format!("{path}: {keyword} {limit}"));
        }
    }
}
