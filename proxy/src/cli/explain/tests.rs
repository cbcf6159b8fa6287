use std::path::Path;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::Request;
use super::answer::Answer;
use crate::dialect;
use crate::policy::Table;

fn table(text: &str) -> Table {
    Table::try_new(dialect::parse(Path::new("p.yaml"), text).unwrap().policies).unwrap()
}

fn document(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn text(documents: &str, url: &str) -> String {
    let request = Request::new("GET", url, None, &[]).unwrap();
    Answer::new(&request, &request.lookup(&Arc::new(table(documents)), None)).text()
}

#[test]
fn the_name_decides_a_tie_and_explain_says_so() {
    let documents = document("b", "{http: {}}") + &document("a", "{http: {}}");
    let text = text(&documents, "http://10.0.0.1/");
    assert!(
        text.starts_with("policy a (p.yaml:7)\nroute http\nbecause the address is in its networks"),
        "{text}"
    );
    assert!(
        text.contains("  b http (p.yaml:2): as specific; a port, and then the name, puts a first\n"),
        "{text}"
    );
}

#[test]
fn no_setting_is_without_its_source_and_the_timeout_cuts() {
    let spec = "{to: [{hosts: [shop]}], http: {numRetries: 3, perTryTimeout: 1s, timeout: 2s}}";
    let text = text(&document("a", spec), "http://shop/");
    assert!(text.contains("because the authority is shop, or below it\n"), "{text}");
    assert!(text.contains("  retries: 3  [p.yaml:5: spec.http.numRetries]\n"), "{text}");
    assert!(text.contains("  methods: idempotent  [default]\n"), "{text}");
    assert!(text.contains("total: 2s, when the timeout ends it\n"), "{text}");
}

proptest! {
    #[test]
    fn explain_says_what_the_engine_does(
        to in vec(select(&["{}", "{to: [{hosts: [shop]}], http: {}}", "{to: [{cidrs: [10.0.0.0/8]}], http: {}}", "{http: {}}"][..]), 0..4),
        url in select(&["http://shop/", "http://10.0.0.1/", "http://192.0.2.1/"][..]),
    ) {
        let names = ["c", "a", "d", "b"];
        let text: String = names.iter().zip(to).map(|(name, spec)| document(name, spec)).collect();
        let request = Request::new("GET", url, None, &[]).unwrap();
        let matched = request.lookup(&Arc::new(table(&text)), None);
        if let Some(router) = &matched.router {
            let routed = router.route(&request);
            let said = Answer::new(&request, &matched).text();
            let first = format!("policy {} ({})\n", routed.policy.name, routed.policy.origin);
            prop_assert!(said.starts_with(&first), "{}", said);
            let candidates = router.candidates(&request);
            prop_assert_eq!(candidates.first().map(|first| &first.policy.name), Some(&routed.policy.name));
        }
    }
}
