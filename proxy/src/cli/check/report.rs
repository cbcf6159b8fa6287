//! What is told of documents, as text, JSON and SARIF.

use std::path::Path;

use serde_json::{Value, json};

use crate::dialect::{Code, LoadError, Loaded, Note, Problem};
use crate::policy::{Origin, Policy};

pub(super) struct Report<'a> {
    errors: &'a [Problem],
    warnings: &'a [Note],
    /// With the file and line of each. What is built in is no document's.
    policies: Vec<(&'a Policy, &'a Path, u64)>,
}

impl<'a> Report<'a> {
    pub(super) fn new(loaded: &'a Result<Loaded, LoadError>) -> Self {
        match loaded {
            Err(error) => Self { errors: error.problems(), warnings: error.notes(), policies: Vec::new() },
            Ok(Loaded { table, notes }) => {
                let policies = table.policies().filter_map(|policy| match &policy.origin {
                    Origin::BuiltIn => None,
                    Origin::File { path, line } => Some((&**policy, &**path, *line)),
                });
                Self { errors: &[], warnings: notes, policies: policies.collect() }
            }
        }
    }

    pub(super) fn text(&self) -> String {
        let Self { errors, warnings, policies } = self;
        let lines = policies.iter().map(|(policy, ..)| format!("{}: ok ({})", policy.name, policy.origin));
        let lines = lines.chain(errors.iter().map(ToString::to_string));
        let lines = lines.chain(warnings.iter().map(ToString::to_string));
        let first = match errors.len() {
            0 => count(policies.len(), "policy", "policies"),
            errors => count(errors, "error", "errors"),
        };
        let last = format!("{first}, {}", count(warnings.len(), "warning", "warnings"));
        lines.chain([last]).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn json(&self) -> Value {
        let errors = self.errors.iter().map(|Problem { file, line, field, message }| {
            json!({"file": file.display().to_string(), "line": line, "field": field, "message": message})
        });
        let warnings = self.warnings.iter().map(|Note { code, file, line, field, message }| {
            let file = file.display().to_string();
            json!({"code": code.as_str(), "file": file, "line": line, "field": field, "message": message})
        });
        let policies = self.policies.iter().map(|(policy, file, line)| {
            let kind = policy.name.kind().unwrap_or("RetryPolicy");
            let file = file.display().to_string();
            json!({"name": policy.name.to_string(), "file": file, "line": line, "kind": kind})
        });
        json!({
            "errors": errors.collect::<Vec<_>>(),
            "warnings": warnings.collect::<Vec<_>>(),
            "policies": policies.collect::<Vec<_>>(),
        })
    }

    /// SARIF 2.1.0.
    pub(super) fn sarif(&self) -> Value {
        let rule = |id: &str, level: &str| {
            json!({
                "id": id,
                "shortDescription": {"text": id.replace('-', " ")},
                "defaultConfiguration": {"level": level},
            })
        };
        let rules = [rule("error", "error")];
        let rules = rules.into_iter().chain(Code::ALL.map(|code| rule(code.as_str(), "warning")));
        let errors = self.errors.iter().map(|Problem { file, line, field, message }| {
            result("error", "error", file, *line, field.as_deref(), message)
        });
        let warnings = self.warnings.iter().map(|Note { code, file, line, field, message }| {
            result(code.as_str(), "warning", file, Some(*line), Some(field), message)
        });
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": {"driver": {
                    "name": "redial",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules.collect::<Vec<_>>(),
                }},
                "results": errors.chain(warnings).collect::<Vec<_>>(),
            }],
        })
    }
}

fn result(
    rule: &str,
    level: &str,
    file: &Path,
    line: Option<u64>,
    field: Option<&str>,
    message: &str,
) -> Value {
    let mut physical = json!({"artifactLocation": {"uri": uri(file)}});
    if let (Some(line), Some(physical)) = (line, physical.as_object_mut()) {
        physical.insert("region".to_owned(), json!({"startLine": line.max(1)}));
    }
    let text = field.map_or_else(|| message.to_owned(), |field| format!("{field}: {message}"));
    json!({
        "ruleId": rule,
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": physical}],
    })
}

/// A path as a reference, absolute or not, whatever bytes it has.
fn uri(file: &Path) -> String {
    let path = file.as_os_str().as_encoded_bytes();
    let escaped = path.iter().map(|&byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    });
    let scheme = if file.is_absolute() { "file://" } else { "" };
    format!("{scheme}{}", escaped.collect::<String>())
}

fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}
