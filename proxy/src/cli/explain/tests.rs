//! The whole of what is told, for documents of every format, and that it is what the engine does.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::Request;
use super::answer::Answer;
use crate::cli::options::identity;
use crate::dialect::{self, Options};
use crate::policy::Table;

struct Case {
    name: &'static str,
    documents: &'static [(&'static str, &'static str)],
    url: &'static str,
    method: &'static str,
    headers: &'static [(&'static str, &'static str)],
    address: Option<&'static str>,
    workload: Option<&'static str>,
}

const ANY: Case = Case {
    name: "",
    documents: &[],
    url: "http://shop.example/",
    method: "GET",
    headers: &[],
    address: None,
    workload: None,
};

/// Two policies, of which the less specific one says something else of the same requests.
const TWO: &[(&str, &str)] = &[(
    "two.yaml",
    "apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: shop}
spec:
  from: [{podSelector: {matchLabels: {app: web}}}]
  to:
    - hosts: [shop.example]
      ports: [80]
    - hosts: [shop.example]
  tcp: {maxConnectAttempts: 2, connectTimeout: 1s, retryOn: [refused, timeout]}
  http:
    perTryTimeout: 2s
    timeout: 10s
    routes:
      - match: {path: {prefix: /api}, headers: [{name: v, value: '2'}]}
        numRetries: 4
      - name: reads
        match: {methods: [GET, HEAD], headers: [{name: v, value: '2', invert: true}]}
        retriableStatusCodes: [429]
        rateLimitedBackOff: {resetHeaders: [{name: retry-after}], maxInterval: 2s}
      - match: {query: [{name: q, type: Prefix, value: a}], path: {segments: /api}}
        honourRequestHeaders: true
  budget: {percent: 10}
---
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: everything}
spec:
  http: {numRetries: 1}
---
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: other-port}
spec:
  to: [{ports: [81]}]
",
)];

const WEIGHTED: &[(&str, &str)] = &[(
    "weighted.yaml",
    "apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: canary, namespace: shop}
spec:
  to: [{cidrs: [10.0.0.0/8]}]
  tcp: {targets: [{original: true}]}
  http:
    perTryTimeout: 500ms
    hedgeOnPerTryTimeout: true
    idleTimeout: 4s
    retryOn: [5xx]
    upstream: pool
    routes:
      - name: split
        targets:
          - {name: old, addresses: [10.0.0.1, '[fd00::1]:8080'], port: 80, weight: 9}
          - {name: new, host: new.shop.example}
          - {name: off, original: true, weight: 0}
",
)];

const WILDCARD: &[(&str, &str)] = &[(
    "wildcard.yaml",
    "apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: partners}
spec:
  to: [{hosts: ['*.partner.example']}]
  tcp: {timeout: 7s}
  http: {}
",
)];

const ISTIO: &[(&str, &str)] = &[(
    "virtual-service.yaml",
    "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  http:
    - match: [{uri: {prefix: /v2}}, {headers: {end-user: {exact: jason}}}]
      route: [{destination: {host: reviews-v2.shop.svc.cluster.local}}]
      retries: {attempts: 3, perTryTimeout: 2s, retryOn: 'connect-failure,503'}
    - route: [{destination: {host: reviews}}]
",
)];

const CASES: &[Case] = &[
    Case {
        name: "two-policies",
        documents: TWO,
        url: "http://shop.example/api/items?q=abc",
        headers: &[("v", "1")],
        workload: Some("app=web"),
        ..ANY
    },
    Case {
        name: "two-policies-post",
        documents: TWO,
        url: "http://shop.example/api/items?q=abc",
        method: "POST",
        workload: Some("app=web"),
        ..ANY
    },
    Case {
        name: "another-workload",
        documents: TWO,
        url: "http://shop.example:81/",
        workload: Some("app=db"),
        ..ANY
    },
    Case { name: "no-policy", documents: WEIGHTED, ..ANY },
    Case { name: "weighted-targets", documents: WEIGHTED, address: Some("10.1.2.3:80"), ..ANY },
    Case {
        name: "weighted-targets-post",
        documents: WEIGHTED,
        method: "POST",
        address: Some("10.1.2.3:80"),
        ..ANY
    },
    Case { name: "tls", documents: WILDCARD, url: "https://api.partner.example/", ..ANY },
    Case {
        name: "app-mesh",
        documents: &[(
            "route.json",
            include_str!("../../../../fuzz/seeds/documents/create-route-retry-policy.json"),
        )],
        ..ANY
    },
    Case {
        name: "kuma",
        documents: &[("retry.yaml", include_str!("../../../../fuzz/seeds/documents/retry.yaml"))],
        url: "http://backend:8080/",
        ..ANY
    },
    Case {
        name: "kgateway",
        documents: &[
            ("http-route.yaml", include_str!("../../../../fuzz/seeds/documents/http-route.yaml")),
            ("route-option.yaml", include_str!("../../../../fuzz/seeds/documents/route-option.yaml")),
        ],
        url: "http://retry.example/status/503",
        ..ANY
    },
    Case {
        name: "istio",
        documents: ISTIO,
        url: "http://reviews.shop:9080/v1",
        headers: &[("end-user", "jason")],
        ..ANY
    },
];

fn table(documents: &[(&str, &str)]) -> Arc<Table> {
    let files: Vec<_> = documents.iter().map(|(name, text)| (Arc::from(Path::new(name)), *text)).collect();
    Arc::new(Table::try_new(dialect::parse_all_with(Options::default(), &files).unwrap().policies).unwrap())
}

fn answer(case: &Case) -> Answer {
    let address = case.address.map(|address| address.parse::<SocketAddr>().unwrap());
    let headers: Vec<_> =
        case.headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let request = Request::new(case.method, case.url, address, &headers).unwrap();
    request.answer(&table(case.documents), case.workload.map(|text| identity(text).unwrap()).as_ref())
}

/// With `UPDATE_GOLDEN` set the files are written instead.
#[test]
fn all_that_is_told_is_as_it_was_written_down() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/cli/explain/golden");
    for case in CASES {
        let (told, file) = (answer(case).text(), folder.join(format!("{}.txt", case.name)));
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &told).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert!(told == expected, "{} differs:\n{told}", file.display());
    }
}

/// The documentation leaves lines out, where it says `...`.
#[test]
fn the_documentation_shows_what_is_told() {
    let documentation = include_str!("../../../../docs/policies.md");
    let section = documentation.split("\n## ").find(|section| section.starts_with("Explain\n")).unwrap();
    let block = |kind: &str| section.split(kind).nth(1).unwrap().split("```").next().unwrap();
    let url = "http://checkout.shop.example:8080/cart";
    let request = Request::new("GET", url, None, &[]).unwrap();
    let told = request.answer(&table(&[("checkout.yaml", block("```yaml\n"))]), None).text();
    let mut lines = told.lines();
    let shown = block("```text\n").lines().filter(|line| line.trim() != "...");
    for line in shown {
        assert!(lines.any(|told| told == line), "{line:?} is not told there:\n{told}");
    }
}

/// What a number has said nothing of is told as the text tells it.
#[test]
fn json_says_what_the_text_says() {
    for case in CASES {
        let answer = answer(case);
        let (text, json) = (answer.text(), answer.json());
        assert!(text.starts_with(&format!(
            "policy {} ({})\n",
            json["policy"].as_str().unwrap(),
            json["origin"].as_str().unwrap()
        )));
        let settings = &json["settings"];
        let lists = [&settings["policy"], &settings["request"], &settings["connects"]["settings"]];
        for setting in lists.iter().flat_map(|list| list.as_array().unwrap()) {
            let of = |key: &str| setting[key].as_str().unwrap();
            let line = format!("  {}: {}  [{}]\n", of("setting"), of("value"), of("source"));
            assert!(text.contains(&line), "{line}{text}");
        }
        for key in ["asked_before", "asked_later"] {
            for other in json[key].as_array().unwrap() {
                let (name, why) = (other["candidate"].as_str().unwrap(), other["why"].as_str().unwrap());
                assert!(text.contains(&format!("  {name}: {why}\n")), "{other}{text}");
            }
        }
        for (phase, worst) in json["worst_case"].as_object().unwrap() {
            if let Some(total) = worst["total"].as_str() {
                assert!(text.contains(&format!("  total: {total}\n")), "{phase} {text}");
            }
        }
    }
}

#[test]
fn a_wrong_url_is_told() {
    for url in ["shop.example", "ftp://shop.example/", "http://", "/", ""] {
        let error = Request::new("GET", url, None, &[]).unwrap_err();
        assert_eq!(error, format!("expected a URL such as http://shop.example/cart, found {url:?}"));
    }
}

fn document(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

const SPECS: &[&str] = &[
    "{}",
    "{tcp: {maxConnectAttempts: 7}}",
    "{to: [{hosts: [shop.a]}], http: {}}",
    "{to: [{hosts: ['*.a'], ports: [80]}], http: {routes: [{match: {path: {prefix: /x}}}]}}",
    "{to: [{cidrs: [10.0.0.0/8]}], http: {routes: [{match: {method: PUT}}, {match: {method: GET}}]}}",
    "{from: [{namespace: other}], http: {}}",
    "{http: {numRetries: 3, perTryTimeout: 1s, hedgeOnPerTryTimeout: true}}",
    "{to: [{ports: [80]}], http: {timeout: 3s}}",
];

proptest! {
    #[test]
    fn explain_says_what_the_engine_does(
        specs in vec(select(SPECS), 0..5),
        url in select(&["http://shop.a/", "http://b.a/x", "http://10.0.0.1/", "http://192.0.2.1:81/x"][..]),
        with_identity in any::<bool>(),
    ) {
        let names = ["c", "a", "d", "b", "e"];
        let text: String = names.iter().zip(specs).map(|(name, spec)| document(name, spec)).collect();
        let table = table(&[("p.yaml", &text)]);
        let identity = with_identity.then(|| identity("namespace=shop").unwrap());
        let request = Request::new("GET", url, None, &[]).unwrap();
        let matched = table.lookup(request.destination, &Arc::from(""), identity.as_ref(), &request);
        let said = request.answer(&table, identity.as_ref()).text();
        let (policy, route) = match &matched.router {
            Some(router) => {
                let routed = router.route(&request);
                (routed.policy, routed.route)
            }
            None => (&matched.policy, None),
        };
        let first = format!("policy {} ({})\n", policy.name, policy.origin);
        prop_assert!(said.starts_with(&first), "{}", said);
        let has_route = said.lines().nth(1).is_some_and(|line| line.starts_with("route "));
        prop_assert_eq!(has_route, route.is_some());
        let patient = format!("\nconnects, by the most patient policy that may apply, {}:\n", matched.patient.name);
        prop_assert!(said.contains(&patient), "{}", said);
    }
}

/// A section of a policy's requests, and when a request of this method is over at worst.
fn worst(method: &str, http: &str) -> String {
    let spec = format!("{{tcp: {{connectTimeout: 1s}}, http: {http}}}");
    let request = Request::new(method, "http://10.0.0.1/", None, &[]).unwrap();
    let answer = request.answer(&table(&[("p.yaml", &document("a", &spec))]), None);
    answer.json()["worst_case"]["request"]["total"].as_str().unwrap().to_owned()
}

#[test]
fn every_timeout_is_part_of_the_worst_case() {
    let any = "; the rest may take any time";
    let head = |time: &str, rest: &str| format!("{time} to the head of a response{rest}");
    for (method, http, expected) in [
        ("GET", "{numRetries: 0, perTryTimeout: 2s}", head("3s", any)),
        ("GET", "{numRetries: 1, perTryTimeout: 2s}", head("6.025s", any)),
        // It is not retried where it may have been executed, but where there was no connection.
        ("POST", "{numRetries: 1, perTryTimeout: 2s}", head("4.025s", any)),
        ("POST", "{numRetries: 1, perTryTimeout: 2s, retryOn: [refused-stream]}", head("3s", any)),
        ("GET", "{numRetries: 1}", "as long as the server and the client wait".to_owned()),
        ("GET", "{numRetries: 1, timeout: 9s}", "9s, when the timeout ends it".to_owned()),
        // What is idle is ended by the shorter of the two; the pause and the connect after it may be too long as well.
        ("GET", "{numRetries: 1, perTryTimeout: 2s, perTryIdleTimeout: 500ms}", head("3.025s", any)),
        (
            "GET",
            "{numRetries: 1, perTryTimeout: 2s, idleTimeout: 1500ms}",
            head("5.025s", "; the rest may take any time, but not be silent for 1.5s"),
        ),
        (
            "GET",
            "{numRetries: 1, perTryTimeout: 2s, idleTimeout: 1010ms}",
            "3.02s, when nothing was sent for 1.01s".to_owned(),
        ),
        (
            "GET",
            "{numRetries: 1, perTryTimeout: 2s, idleTimeout: 1s}",
            "1s, when nothing was sent for 1s".to_owned(),
        ),
        // The last attempt that is hedged goes on.
        (
            "GET",
            "{numRetries: 1, perTryTimeout: 2s, hedgeOnPerTryTimeout: true}",
            "as long as the server and the client wait".to_owned(),
        ),
        (
            "GET",
            "{numRetries: 1, perTryTimeout: 2s, hedgeOnPerTryTimeout: true, timeout: 20s}",
            "20s, when the timeout ends it".to_owned(),
        ),
        (
            "GET",
            "{numRetries: 1, perTryTimeout: 2s, hedgeOnPerTryTimeout: true, idleTimeout: 4s}",
            head("8.025s", "; the rest may take any time, but not be silent for 4s"),
        ),
        (
            "GET",
            "{numRetries: 1, perTryTimeout: 2s, retriableStatusCodes: [503], rateLimitedBackOff: {resetHeaders: [{name: a}], \
             maxInterval: 10s}}",
            head("21s", any),
        ),
        (
            "GET",
            "{numRetries: 4294967295, perTryTimeout: 2s}",
            "more than 54m9.375s, for 1000 attempts".to_owned(),
        ),
        (
            "POST",
            "{numRetries: 4294967295, perTryTimeout: 2s}",
            "more than 20m49.375s, for 1000 attempts".to_owned(),
        ),
    ] {
        assert_eq!(worst(method, http), expected, "{method} {http}");
    }
}

#[test]
fn the_timeout_of_all_connects_ends_them() {
    let total = |tcp: &str| {
        let request = Request::new("GET", "http://10.0.0.1/", None, &[]).unwrap();
        let answer = request.answer(&table(&[("p.yaml", &document("a", &format!("{{tcp: {tcp}}}")))]), None);
        answer.json()["worst_case"]["connection"]["total"].as_str().unwrap().to_owned()
    };
    for (tcp, expected) in [
        ("{maxConnectAttempts: 2, connectTimeout: 1s}", "2.025s"),
        ("{maxConnectAttempts: 2}", "as long as the client waits"),
        ("{maxConnectAttempts: 2, timeout: 3s}", "3s, when the timeout ends it"),
        ("{maxConnectAttempts: 3, connectTimeout: 1s, timeout: 1010ms}", "1.01s, when the timeout ends it"),
        ("{maxConnectAttempts: 2, connectTimeout: 1s, retryOn: [refused]}", "2.025s"),
    ] {
        assert_eq!(total(tcp), expected, "{tcp}");
    }
}
