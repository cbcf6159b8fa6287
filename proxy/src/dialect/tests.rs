//! What holds for the documents of every format.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;

use super::{MAX_DOCUMENTS, parse};

/// A document of each format, with something wrong in it, its name, and what is said of it.
const WRONG: [(&str, &str); 7] = [
    (
        "{apiVersion: redial.dev/v1alpha1, kind: RetryPolicy, metadata: {name: a}, spec: {tcp: 1}}",
        "spec.tcp: expected a map, found 1",
    ),
    (
        "{apiVersion: appmesh.k8s.aws/v1beta2, kind: VirtualRouter, metadata: {name: a}, spec: {routes: 1}}",
        "spec.routes: expected a list, found 1",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: MeshRetry, metadata: {name: a}, spec: 1}",
        "spec: expected a map, found 1",
    ),
    (
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {rules: 1}}",
        "spec.rules: expected a list, found 1",
    ),
    (
        "{apiVersion: gateway.kgateway.dev/v1alpha1, kind: RouteOption, metadata: {name: a}, spec: {options: 1}}",
        "spec.options: expected a map, found 1",
    ),
    (
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a}, spec: 1}",
        "spec: expected a map, found 1",
    ),
    (
        "{apiVersion: v1, kind: Service, metadata: {name: a, annotations: {retry.linkerd.io/limit: []}}}",
        "metadata.annotations[\"retry.linkerd.io/limit\"]: expected a whole number from 0 to 4294967295, found a list",
    ),
];

fn problems(text: &str) -> Vec<String> {
    parse(Path::new("p.yaml"), text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn a_list_has_documents_of_every_format() {
    let items = WRONG.map(|(document, _)| document).join("\n- ");
    let list = format!("apiVersion: v1\nitems:\n- {items}\nkind: List\nmetadata:\n  resourceVersion: ''\n");
    let expected = WRONG.iter().enumerate().map(|(index, (_, problem))| {
        let line = index + 3;
        format!("p.yaml:{line}: items[{index}].{problem}")
    });
    assert_eq!(problems(&list), expected.collect::<Vec<_>>());
}

#[test]
fn a_list_may_be_of_one_kind_or_empty() {
    let list = |items: &str| format!("{{apiVersion: kuma.io/v1alpha1, kind: MeshRetryList, items: {items}}}");
    let (document, problem) = WRONG[2];
    assert_eq!(problems(&list(&format!("[{document}]"))), [format!("p.yaml:1: items[0].{problem}")]);
    assert!(parse(Path::new("p.yaml"), &list("[]")).unwrap().policies.is_empty());
    assert_eq!(problems(&list("1")), ["p.yaml:1: items: expected a list, found 1"]);
    let many = vec!["{}"; MAX_DOCUMENTS + 1].join(", ");
    assert_eq!(
        problems(&list(&format!("[{many}]"))),
        ["p.yaml:1: items: the list may have at most 1000 items, and has 1001"]
    );
    // What kubectl gives without a list.
    let (document, _) = WRONG[4];
    let created = document
        .replace("name: a", "name: a, creationTimestamp: '2024-01-02T03:04:05Z', uid: u, generation: 1")
        .replace("options: 1", "options: {timeout: 1s}}, status: {ancestors: []");
    assert_eq!(parse(Path::new("p.yaml"), &created).unwrap().policies.len(), 1);
}

#[test]
fn routes_times_destinations_have_a_bound() {
    let ports = (1..=64).map(|port| port.to_string()).collect::<Vec<_>>().join(", ");
    let hosts = (0..64).map(|host| format!("h{host}.example")).collect::<Vec<_>>().join(", ");
    let routes = vec!["{}"; 256].join(", ");
    let document = |name: &str, routes: &str| {
        format!(
            "{{apiVersion: redial.dev/v1alpha1, kind: RetryPolicy, metadata: {{name: {name}}}, \
             spec: {{to: [{{hosts: [{hosts}], ports: [{ports}]}}], http: {{routes: [{routes}]}}}}}}"
        )
    };
    let mut all: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| document(name, &routes)).collect();
    all.push(document("few", "{}"));
    let told = "4096 destinations with 257 routes each are too many: of all documents together there may be 4194304 pairs of \
                the two";
    assert_eq!(problems(&all.join("\n---\n")), [format!("p.yaml:7: {told}")]);
}

#[test]
fn a_kind_that_is_nearly_one_is_told() {
    for (document, told) in [
        (
            "{apiVersion: gateway.networking.k8s.io/v1, kind: HttpRoute}",
            " did you mean apiVersion gateway.networking.k8s.io/v1 with kind HTTPRoute?",
        ),
        ("{apiVersion: istio.networking.io/v1, kind: VirtualService}", ""),
        (
            "{apiVersion: kuma.io/v1alpha, kind: MeshRetri}",
            " did you mean apiVersion kuma.io/v1alpha1 with kind MeshRetry?",
        ),
        (
            "{apiVersion: redial.de/v1alpha1, kind: RetryPolicy}",
            " did you mean apiVersion redial.dev/v1alpha1 with kind RetryPolicy?",
        ),
        ("{type: MeshRety}", " did you mean type MeshRetry?"),
        ("{apiVersion: apps/v1, kind: Deployment}", ""),
        ("{apiVersion: v1, kind: Servise}", " did you mean apiVersion v1 with kind Service?"),
    ] {
        let [problem] = &problems(document)[..] else { panic!("{document}") };
        assert!(
            problem.contains(&format!(" is not supported;{told} supported: redial.dev RetryPolicy; ")),
            "{problem}"
        );
    }
    assert_eq!(
        problems(
            "{apiVersion: kuma.io/v1beta1, kind: MeshRetry, metadata: {name: a}, spec: {to: [{targetRef: {kind: Mesh}, default: {tcp: {maxConnectAttempt: 2}}}]}}"
        ),
        ["p.yaml:1: apiVersion: expected one of kuma.io/v1alpha1, found \"kuma.io/v1beta1\""]
    );
}

/// The documents that fuzzing begins with.
static SEEDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/documents");
    let seeds = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    seeds.collect()
});

proptest! {
    /// Whatever becomes of a word of a document, there are policies or problems, and each is told on one line.
    #[test]
    fn no_word_is_too_much(seed in any::<Index>(), changes in proptest::collection::vec((any::<Index>(), any::<Index>()), 1..4)) {
        let seed = seed.get(&SEEDS[..]);
        let mut words: Vec<_> = seed.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).collect();
        let all: Vec<_> = SEEDS.iter().flat_map(|seed| seed.split([' ', '\n'])).collect();
        for (at, with) in changes {
            let at = at.index(words.len());
            words[at] = *with.get(&all[..]);
        }
        let told: Vec<_> = match parse(Path::new("p.yaml"), &words.concat()) {
            Ok(parsed) => parsed.notes.iter().map(ToString::to_string).collect(),
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                problems.iter().map(ToString::to_string).collect()
            }
        };
        prop_assert!(told.iter().all(|line| !line.contains('\n')), "{told:?}");
    }
}
