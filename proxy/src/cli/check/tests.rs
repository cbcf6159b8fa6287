#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method itself is of a report with one lifetime, and any is asked for"
)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use tempfile::TempDir;

use super::{Arguments, Format, Report};
use crate::cli::options::DialectOptions;
use crate::dialect::{self, Code};

fn document(name: &str, spec: &str) -> String {
    format!("apiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {name}\nspec: {spec}\n")
}

/// A warning at line 4 of the first document, and none in the second.
fn two() -> String {
    document("{name: default}", "{budget: {percent: 0, minPerSecond: 0}}")
        + "---\n"
        + &document("{name: checkout, namespace: shop}", "{http: {retryOn: [reset-before-request]}}")
}

struct Folder(TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("p.yaml"), text).unwrap();
        Self(folder)
    }

    fn report<T>(&self, read: impl FnOnce(&Report<'_>) -> T) -> T {
        read(&Report::new(&dialect::load(&[self.0.path().to_path_buf()])))
    }

    fn short(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "")
    }

    fn text(&self) -> String {
        self.short(&self.report(|report| report.text()))
    }
}

#[test]
fn a_report_names_each_policy_and_each_warning() {
    assert_eq!(
        Folder::with("# nothing\n---\n").text(),
        "p.yaml: there is no document in it\n1 error, 0 warnings"
    );
    assert_eq!(
        Folder::with(&document("{name: a}", "{http: {}}")).text(),
        "a: ok (p.yaml:1)\n1 policy, 0 warnings"
    );
    assert_eq!(
        Folder::with(&two()).text(),
        "shop/checkout: ok (p.yaml:6)\n\
         default: ok (p.yaml:1)\n\
         p.yaml:4: spec.budget: warning[no-budget]: with 0 percent and 0 a second nothing is ever retried, connects \
         included; raise one of them\n\
         2 policies, 1 warning"
    );
}

#[test]
fn json_has_errors_warnings_and_policies() {
    let good = Folder::with(&two());
    let text = good.short(&good.report(|report| report.json()).to_string());
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&text).unwrap(),
        json!({
            "errors": [],
            "warnings": [{
                "code": "no-budget", "file": "p.yaml", "line": 4, "field": "spec.budget",
                "message": "with 0 percent and 0 a second nothing is ever retried, connects included; raise one of them",
            }],
            "policies": [
                {"name": "shop/checkout", "file": "p.yaml", "line": 6, "kind": "RetryPolicy"},
                {"name": "default", "file": "p.yaml", "line": 1, "kind": "RetryPolicy"},
            ],
        })
    );
    let bad = Folder::with(&document("{name: a}", "{budgets: {}}"));
    let text = bad.short(&bad.report(|report| report.json()).to_string());
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&text).unwrap(),
        json!({
            "errors": [{
                "file": "p.yaml", "line": 4, "field": "spec.budgets",
                "message": "there is no such field; did you mean budget? there are from, to, fallThrough, protocol, tcp, http, budget",
            }],
            "warnings": [],
            "policies": [],
        })
    );
}

#[test]
fn sarif_has_a_rule_for_each_code_and_a_place_for_each_result() {
    let sarif = Folder::with(&two()).report(|report| report.sarif());
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap();
    let ids: Vec<_> = rules.iter().map(|rule| rule["id"].as_str().unwrap()).collect();
    let codes = Code::ALL.map(Code::as_str);
    assert_eq!(ids, ["error"].into_iter().chain(codes).collect::<Vec<_>>());
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!((&result["ruleId"], &result["level"]), (&json!("no-budget"), &json!("warning")));
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["region"]["startLine"], 4);
    assert!(place["artifactLocation"]["uri"].as_str().unwrap().starts_with("file:///"));

    let sarif = Folder::with("a: [\n").report(|report| report.sarif());
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!((&result["ruleId"], &result["level"]), (&json!("error"), &json!("error")));
}

#[test]
fn the_exit_code_tells_warnings_errors_and_unreadable_paths_apart() {
    let code = |path: PathBuf, deny_warnings| {
        format!(
            "{:?}",
            Arguments {
                paths: vec![path],
                dialect: DialectOptions::default(),
                format: Format::Text,
                deny_warnings
            }
            .run()
        )
    };
    let expected = |code: u8| format!("{:?}", ExitCode::from(code));
    let good = Folder::with(&two());
    let path = good.0.path().to_path_buf();
    assert_eq!(code(path.clone(), false), expected(0));
    assert_eq!(code(path.clone(), true), expected(1));
    assert_eq!(code(path.join("missing.yaml"), false), expected(2));
    let empty = Folder::with("");
    assert_eq!(code(empty.0.path().to_path_buf(), false), expected(1));
    assert_eq!(code(TempDir::new().unwrap().path().to_path_buf(), false), expected(1));
}

#[test]
fn warnings_are_told_beside_errors() {
    let text = document("{name: a}", "{budget: {percent: 0, minPerSecond: 0}}")
        + "---\n"
        + &document("{name: b}", "{to: [{ports: [1]}], budgets: {}}");
    let folder = Folder::with(&text);
    let told = folder.text();
    assert!(told.contains("p.yaml:9: spec.budgets: there is no such field"), "{told}");
    assert!(told.contains("p.yaml:4: spec.budget: warning[no-budget]"), "{told}");
    assert!(told.ends_with("\n1 error, 1 warning"), "{told}");
    let sarif = folder.report(|report| report.sarif());
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        assert!(rules.iter().any(|rule| rule["id"] == result["ruleId"]), "{result}");
        assert!(["error", "warning"].contains(&result["level"].as_str().unwrap()), "{result}");
        assert!(result["message"]["text"].is_string(), "{result}");
        let place = &result["locations"][0]["physicalLocation"];
        assert!(place["artifactLocation"]["uri"].is_string(), "{result}");
        assert!(place["region"]["startLine"].as_u64().unwrap() >= 1, "{result}");
    }
}
