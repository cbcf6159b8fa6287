//! The definition against the rules of structural schemas, and documents against it.

use std::path::Path;

use serde_json::{Value, json};

use super::super::document::tests::{check, document};
use super::{condition, definition};
use crate::dialect::{crd, parse};

fn schema() -> Value {
    definition().pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap()
}

fn faults(document: &Value) -> Vec<String> {
    let (schema, mut found) = (schema(), Vec::new());
    check(&schema, &schema, document, "", &mut found);
    found
}

#[test]
fn the_published_definition_is_this_one() {
    let published = include_str!("../../../../../deploy/helm/redial/files/retrypolicies.yaml");
    // To write it anew: redial schema --crd > deploy/helm/redial/files/retrypolicies.yaml
    assert!(published == crd(), "deploy/helm/redial/files/retrypolicies.yaml is another one");
    assert_eq!(serde_saphyr::from_str::<Value>(published).unwrap(), definition(), "nothing is lost in YAML");
}

/// What the API server's `ValidateStructural` asks for.
#[test]
fn the_schema_is_structural() {
    fn walk(schema: &Value, path: &str) {
        let fields = schema.as_object().unwrap();
        let has = |name: &str| fields.contains_key(name);
        for word in ["$ref", "$defs", "$schema", "title", "definitions", "oneOf", "allOf", "not"] {
            assert!(!has(word), "{path}: {word}");
        }
        let (either, open) = (has("x-kubernetes-int-or-string"), has("x-kubernetes-preserve-unknown-fields"));
        assert!(has("type") || either || open, "{path} has no type");
        assert!(!(has("type") && (either || open)), "{path} has a type and is of several");
        assert_eq!(has("anyOf"), either, "{path}: anyOf");
        assert!(fields.get("type") != Some(&json!("array")) || has("items"), "{path}: a list of what");
        assert!(!(has("properties") && has("additionalProperties")), "{path}: both sorts of fields");
        assert_ne!(fields.get("additionalProperties"), Some(&json!(false)), "{path}");
        for (name, schema) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(schema, &format!("{path}.{name}"));
        }
        for word in ["items", "additionalProperties"] {
            if let Some(schema) = fields.get(word) {
                walk(schema, &format!("{path}.{word}"));
            }
        }
    }
    let schema = schema();
    walk(&schema, "");
    assert_eq!(schema["properties"]["metadata"], json!({"type": "object"}));
    for (path, expected) in [
        ("/spec/properties/fallThrough/type", json!("boolean")),
        (
            "/spec/properties/http/properties/routes/items/properties/match/properties/path/maxProperties",
            json!(2),
        ),
        ("/spec/properties/http/properties/maxBufferedBody/maximum", json!(1 << 30)),
        ("/spec/properties/http/properties/methods/pattern", json!("^(idempotent|any)$")),
        ("/spec/properties/http/properties/methods/maxItems", json!(64)),
        ("/spec/properties/http/properties/methods/description", json!("What may be executed twice.")),
        ("/spec/properties/tcp/properties/backOff/required", json!(["baseInterval"])),
        ("/spec/properties/tcp/properties/backOff/description", json!("The pauses between attempts.")),
    ] {
        assert_eq!(schema["properties"].pointer(path), Some(&expected), "{path}");
    }
}

#[test]
fn every_native_document_that_is_shown_is_taken() {
    let manual = include_str!("../../../../../docs/policies.md").split("```yaml\n").skip(1);
    let manual = manual.filter_map(|block| block.split("```").next());
    let others = [
        include_str!("../../../../../fuzz/seeds/documents/native.yaml"),
        include_str!("../../../../../xtask/src/demo/policy.yaml"),
    ];
    let mut count = 0;
    for text in manual.chain(others).filter(|text| text.contains("kind: RetryPolicy")) {
        for document in serde_saphyr::from_multiple::<Value>(text).unwrap() {
            assert_eq!(faults(&document), [""; 0], "{document}");
            count += 1;
        }
    }
    assert!(count >= 4, "{count} documents");
}

#[test]
fn what_is_wrong_is_refused() {
    let good = [
        json!({}),
        json!({"http": {"methods": "any", "maxBufferedBody": "64KiB"}}),
        json!({"http": {"methods": ["GET", "M-SEARCH"], "maxBufferedBody": 65_536}}),
        json!({"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "to": [{"services": [{"name": "a"}]}]}),
    ];
    let bad = [
        json!({"http": {"methods": "some"}}),
        json!({"http": {"methods": ["get"]}}),
        json!({"http": {"methods": []}}),
        json!({"http": {"maxBufferedBody": "64KB"}}),
        json!({"http": {"maxBufferedBody": -1}}),
        json!({"http": {"maxBufferedBody": true}}),
        json!({"http": {"numRetries": -1}}),
        json!({"http": {"retryOn": ["sometimes"]}}),
        json!({"http": {"routes": [{"match": {"path": {}}}]}}),
        json!({"tcp": {"timeout": "5"}}),
        json!({"to": [{"ports": [0]}]}),
        json!({"protocol": "udp"}),
        json!([]),
    ];
    for (specs, is_good) in [(&good[..], true), (&bad[..], false)] {
        for spec in specs {
            assert_eq!(faults(&document(spec)).is_empty(), is_good, "{spec}: {:?}", faults(&document(spec)));
        }
    }
}

#[test]
fn what_the_api_server_prints_is_read() {
    let printed = "
apiVersion: v1
kind: List
items:
- apiVersion: redial.dev/v1alpha1
  kind: RetryPolicy
  metadata:
    annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}
    creationTimestamp: '2026-11-25T10:00:00Z'
    generation: 3
    managedFields: [{manager: kubectl, operation: Apply}]
    name: cart
    namespace: shop
    ownerReferences: [{kind: Application, name: shop}]
    resourceVersion: '812'
    uid: 5f1d8f2e-3a0e-4c5e-8d2a-000000000001
  spec: {http: {}}
  status:
    conditions:
    - {lastTransitionTime: '2026-11-25T10:00:01Z', message: '', observedGeneration: 3, reason: Accepted,
       status: 'True', type: Accepted}
    nodes: 2/2
";
    let policies = parse(Path::new("p.yaml"), printed).unwrap().policies;
    assert_eq!(policies.len(), 1);
    let mut found = Vec::new();
    let printed: Value = serde_saphyr::from_str(printed).unwrap();
    let document_schema = super::schema();
    check(&document_schema, &document_schema, &printed["items"][0], "", &mut found);
    assert_eq!(found, [""; 0]);
    assert_eq!(faults(&printed["items"][0]), [""; 0]);
}

#[test]
fn the_columns_name_what_there_is() {
    let columns = definition().pointer("/spec/versions/0/additionalPrinterColumns").cloned().unwrap();
    let names: Vec<_> = columns.as_array().unwrap().iter().map(|column| column["name"].as_str()).collect();
    assert_eq!(names, ["Accepted", "Programmed", "Nodes", "Age"].map(Some));
    assert_eq!(columns[0]["jsonPath"], condition("Accepted"));
}
