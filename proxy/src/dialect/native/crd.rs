//! The native document as a kind of Kubernetes objects: its `CustomResourceDefinition`, made of its JSON Schema.
//!
//! The API server takes structural schemas only: every definition where it is used, no word about fields that are not
//! known (it drops them, and tells who asked for strictness), and a value of two types described without its type.

use serde_json::{Map, Value, json};

use super::document::schema;

/// Deeper than any document is.
const MAX_DEPTH: usize = 32;

/// The definition that a cluster needs before it takes policies.
pub(in crate::dialect) fn definition() -> Value {
    let document = schema();
    let definitions = document.get("$defs").cloned().unwrap_or_default();
    let spec = definitions.get("Spec").map(|spec| structural(spec, &definitions, 0)).unwrap_or_default();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "retrypolicies.redial.dev",
            "labels": {"app.kubernetes.io/name": "redial"},
            // With the definition every policy goes. Helm is to leave both.
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": "redial.dev",
            "scope": "Namespaced",
            "names": {
                "kind": "RetryPolicy",
                "listKind": "RetryPolicyList",
                "plural": "retrypolicies",
                "singular": "retrypolicy",
                "shortNames": ["rp"],
                "categories": ["redial"],
            },
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Accepted", &condition("Accepted"), "Whether it is right and agents use it"),
                    column("Programmed", &condition("Programmed"), "Whether every node has it in force"),
                    column("Nodes", ".status.nodes", "The nodes that have it in force, of how many"),
                    json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}),
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": document.get("description"),
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec,
                        "status": status(),
                    },
                }},
            }],
        },
    })
}

fn condition(kind: &str) -> String {
    format!(".status.conditions[?(@.type==\"{kind}\")].status")
}

fn column(name: &str, path: &str, description: &str) -> Value {
    json!({"name": name, "type": "string", "jsonPath": path, "description": description})
}

/// What the agents write: see `kubernetes/status.rs`.
fn status() -> Value {
    let text = |most: u32| json!({"type": "string", "maxLength": most});
    json!({
        "type": "object",
        "description": "What has become of the policy. The agents write it.",
        "properties": {
            "nodes": {
                "type": "string",
                "description": "The nodes that have it in force, of how many: 2/3.",
            },
            "conditions": {
                "type": "array",
                "maxItems": 8,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                    "properties": {
                        "type": text(316),
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                        "lastTransitionTime": {"type": "string", "format": "date-time"},
                        "reason": text(1_024),
                        "message": text(32_768),
                    },
                },
            },
        },
    })
}

/// A schema as the API server takes it.
fn structural(schema: &Value, definitions: &Value, depth: usize) -> Value {
    let Some(said) = schema.as_object().filter(|_| depth < MAX_DEPTH) else { return schema.clone() };
    let inner = |schema: &Value| structural(schema, definitions, depth + 1);
    let mut made = Map::new();
    // What is said beside a reference, a description, goes before what is said there.
    let name = said.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix("#/$defs/"));
    if let Some(Value::Object(referred)) = name.and_then(|name| definitions.get(name)).map(inner) {
        made.extend(referred);
    }
    for (word, value) in said {
        match (word.as_str(), value) {
            ("$ref" | "title", _) | ("additionalProperties", Value::Bool(_)) => {}
            ("anyOf", Value::Array(ways)) => {
                let ways: Vec<_> = ways.iter().map(inner).collect();
                made.extend(any_of(&ways));
            }
            ("properties", Value::Object(fields)) => {
                let fields = fields.iter().map(|(name, schema)| (name.clone(), inner(schema)));
                made.insert(word.clone(), Value::Object(fields.collect()));
            }
            ("items" | "additionalProperties", schema) => {
                made.insert(word.clone(), inner(schema));
            }
            (_, value) => {
                made.insert(word.clone(), value.clone());
            }
        }
    }
    Value::Object(made)
}

/// A value of one of several types: what is said of each, without the types. Every word is for values of one type and
/// holds nobody else up, but `enum`, which is said as a pattern.
fn any_of(ways: &[Value]) -> Map<String, Value> {
    let is = |kind: &str| ways.iter().any(|way| way.get("type").is_some_and(|is| is == kind));
    let mut made = Map::new();
    for (word, value) in ways.iter().filter_map(Value::as_object).flatten() {
        match (word.as_str(), value) {
            ("type", _) => {}
            ("enum", Value::Array(words)) => {
                let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
                made.insert("pattern".to_owned(), json!(format!("^({})$", words.join("|"))));
            }
            (word, value) => {
                made.insert(word.to_owned(), value.clone());
            }
        }
    }
    if is("integer") && is("string") {
        made.insert("anyOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
        made.insert("x-kubernetes-int-or-string".to_owned(), json!(true));
    } else {
        made.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
    }
    made
}

#[cfg(test)]
mod tests;
