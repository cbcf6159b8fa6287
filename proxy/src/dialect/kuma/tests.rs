//! What the documents mean, and what is said where a rule is broken.

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

mod merged;
mod routes;

use super::{GRPC_DEFAULT, HTTP_DEFAULT, kind, policies};
use crate::dialect::fields::{Field, Problems};
use crate::dialect::kind::Kind;
use crate::dialect::{Document, Options, tree};
use crate::policy::{Address, LabelMatch, Policy, Protocol, RequestProtocol, Rest};
use crate::retry::request::{Condition, Conditions, RequestRetry};

fn read(text: &str) -> (Vec<Policy>, Vec<String>, Vec<String>) {
    let file: Arc<Path> = Arc::from(Path::new("k.yaml"));
    let nodes = tree::parse(text).unwrap();
    let roots = nodes.iter().map(|node| Field::root(&file, node));
    let documents: Vec<_> = roots
        .map(|root| {
            let known = Kind::of(&root).map(|kind| kind.kind).or_else(|| kind(&root));
            Document { kind: known.unwrap_or("MeshRetry"), root, options: Options::default() }
        })
        .collect();
    let mut problems = Problems::default();
    let policies = policies(&documents, &mut problems);
    let (found, said) = problems.into_parts();
    let text = |problem: &crate::dialect::Problem| problem.to_string();
    (policies, found.iter().map(text).collect(), said.iter().map(ToString::to_string).collect())
}

fn parsed(text: &str) -> Vec<Policy> {
    let (policies, problems, _) = read(text);
    assert_eq!(problems, <[String; 0]>::default(), "{text}");
    policies
}

fn retry(destination: &str, conf: &str) -> String {
    format!(
        "type: Retry\nname: r\nmesh: default\nsources: [{{match: {{kuma.io/service: '*'}}}}]\n\
         destinations: [{{match: {{{destination}}}}}]\nconf: {conf}\n"
    )
}

fn mesh_retry(default: &str) -> String {
    format!(
        "type: MeshRetry\nname: r\nmesh: default\nspec: {{targetRef: {{kind: Mesh}}, \
         to: [{{targetRef: {{kind: Mesh}}, default: {default}}}]}}\n"
    )
}

fn first(text: &str) -> RequestRetry {
    parsed(text)[0].routes[0].http.retry.clone()
}

fn hosts(policy: &Policy) -> Vec<String> {
    let text = |address: &Address| match address {
        Address::Host(host) => host.to_string(),
        other => format!("{other:?}"),
    };
    let to = policy.to.iter();
    to.map(|to| format!("{}:{}", text(&to.address), to.port.map_or(0, NonZeroU16::get))).collect()
}

const FULL: &str = "
apiVersion: kuma.io/v1alpha1
kind: Retry
mesh: default
metadata: {name: web-to-backend}
spec:
  sources: [{match: {kuma.io/service: web_kuma-demo_svc_80, version: '*'}}]
  destinations: [{match: {kuma.io/service: backend_kuma-demo_svc_3001}}]
  conf:
    http:
      numRetries: 5
      perTryTimeout: 0.0005m
      backOff: {baseInterval: 20ms, maxInterval: 1s}
      retriableStatusCodes: [418, 504]
      retriableMethods: [GET, DELETE]
      retryOn: [all_5xx, connect-failure]
    grpc: {numRetries: 2, retryOn: [cancelled, resource_exhausted]}
    tcp: {maxConnectAmount: 3}
";

#[test]
fn a_full_retry_says_everything() {
    let policies = parsed(FULL);
    let [policy] = &policies[..] else { panic!("{policies:?}") };
    assert_eq!(policy.name.to_string(), "Retry/web-to-backend");
    assert_eq!(
        policy.from[0].labels,
        [
            ("kuma.io/service".into(), LabelMatch::Is("web_kuma-demo_svc_80".into())),
            ("version".into(), LabelMatch::Any)
        ]
    );
    let expected = [
        "backend:3001",
        "backend.kuma-demo:3001",
        "backend.kuma-demo.svc:3001",
        "backend.kuma-demo.svc.cluster.local:3001",
        "backend_kuma-demo_svc_3001.mesh:0",
        "backend.kuma-demo.svc.3001.mesh:0",
    ];
    assert_eq!(hosts(policy), expected);
    assert_eq!((policy.tcp.max_connect_attempts().get(), policy.rest), (3, Rest::GoesOn));
    let [grpc, http] = &policy.routes[..] else { panic!("{policy:?}") };
    assert_eq!(
        (grpc.matcher.protocol, http.matcher.protocol),
        (RequestProtocol::Grpc, RequestProtocol::Http)
    );
    assert_eq!((http.http.timeout, http.http.retry.num_retries), (None, 5));
    assert_eq!(http.http.retry.per_try_timeout, Some(Duration::from_millis(30)));
    assert_eq!(http.http.retry.backoff.max(), Duration::from_secs(1));
    assert_eq!(http.http.retry.status_codes.iter().collect::<Vec<_>>(), [418, 504]);
    assert_eq!(http.http.retry.request_headers.len(), 2);
    let expected = [Condition::ServerError, Condition::ConnectFailure, Condition::RetriableStatusCodes];
    assert_eq!(http.http.retry.retry_on, Conditions::of(&expected));
    let expected = [Condition::Cancelled, Condition::ResourceExhausted];
    assert_eq!(grpc.http.retry.retry_on, Conditions::of(&expected));
}

#[test]
fn what_a_retry_leaves_out_is_kuma_s_default() {
    let all = "kuma.io/service: '*'";
    assert_eq!(first(&retry(all, "{http: {}}")).retry_on, HTTP_DEFAULT);
    assert_eq!(first(&retry(all, "{http: {retryOn: []}}")).retry_on, HTTP_DEFAULT);
    assert_eq!(first(&retry(all, "{grpc: {}}")).retry_on, GRPC_DEFAULT);
    let codes = first(&retry(all, "{http: {retriableStatusCodes: [418]}}"));
    let expected = [Condition::RetriableStatusCodes, Condition::ConnectFailure, Condition::RefusedStream];
    assert_eq!((codes.retry_on, codes.num_retries), (Conditions::of(&expected), 1));
    // Without a part for TCP, connects are as patient as requests; with one alone nothing is said of requests.
    let attempts = |text: &str| parsed(text)[0].tcp.max_connect_attempts().get();
    assert_eq!(attempts(&retry(all, "{http: {numRetries: 4}}")), 5);
    let tcp = &parsed(&retry(all, "{tcp: {maxConnectAttempts: 7}}"))[0];
    assert_eq!((tcp.tcp.max_connect_attempts().get(), tcp.protocol, tcp.routes.len()), (7, Protocol::Tcp, 0));
    assert_eq!(hosts(tcp), ["Any:0"]);
    assert_eq!(
        hosts(&parsed(&retry("kuma.io/service: backend", "{tcp: {maxConnectAmount: 7}}"))[0]),
        ["backend:0", "backend.mesh:0"]
    );
}

/// By number of tags, then by those with a value.
#[test]
fn more_tags_of_the_workload_come_first() {
    let precedence = |tags: &str| {
        let text = retry("kuma.io/service: '*'", "{http: {}}").replacen("kuma.io/service: '*'", tags, 1);
        parsed(&text)[0].routes[0].precedence
    };
    assert!(precedence("a: b, c: d") < precedence("a: b"));
    assert!(precedence("a: '*', c: '*'") < precedence("a: b"));
    assert!(precedence("a: b") < precedence("a: '*'"));
}

#[test]
fn every_broken_rule_is_told_with_its_place() {
    let all = "kuma.io/service: '*'";
    let table = [
        (
            retry(all, "{http: {numRetries: 0}}"),
            "k.yaml:6: conf.http.numRetries: expected a whole number from 1 to 4294967295, found 0",
        ),
        (
            retry(all, "{http: {perTryTimeout: 0s}}"),
            "k.yaml:6: conf.http.perTryTimeout: expected a duration of more than 0, such as 250ms, 5s or 1m30s, found \"0s\": it is zero",
        ),
        (
            retry(all, "{http: {backOff: {maxInterval: 1s}}}"),
            "k.yaml:6: conf.http.backOff.baseInterval: the field is required",
        ),
        (
            retry(all, "{http: {retryOn: [retriable_status_codes]}}"),
            "k.yaml:6: conf.http.retryOn: retriable_status_codes is in the list, but there are no retriableStatusCodes",
        ),
        (
            retry(all, "{grpc: {retryOn: [reset]}}"),
            "k.yaml:6: conf.grpc.retryOn[0]: expected one of cancelled, deadline_exceeded, internal, resource_exhausted, unavailable, deadline-exceeded, resource-exhausted, found \"reset\"",
        ),
        (retry(all, "{tcp: {}}"), "k.yaml:6: conf.tcp: maxConnectAttempts or maxConnectAmount is required"),
        (
            retry(all, "{tcp: {maxConnectAttempts: 1, maxConnectAmount: 2}}"),
            "k.yaml:6: conf.tcp.maxConnectAmount: maxConnectAttempts and maxConnectAmount mean the same; leave one out",
        ),
        (retry(all, "{}"), "k.yaml:6: conf: at least one of http, grpc and tcp is required"),
        (
            retry("version: v1", "{http: {}}"),
            "k.yaml:5: destinations[0].match.version: destinations are told by kuma.io/service alone; leave this tag out",
        ),
        (
            retry("kuma.io/service: a_b_svc_0", "{http: {}}"),
            "k.yaml:5: destinations[0].match[\"kuma.io/service\"]: expected a port from 1 to 65535 behind _svc_, found \"a_b_svc_0\"",
        ),
        (
            retry(all, "{http: {retryOn: [5xx]}}"),
            "k.yaml:6: conf.http.retryOn[0]: expected one of all_5xx, gateway_error, reset, connect_failure, envoy_ratelimited, retriable_4xx, refused_stream, retriable_status_codes, retriable_headers, http3_post_connect_failure, all-5xx, gateway-error, connect-failure, envoy-ratelimited, retriable-4xx, refused-stream, retriable-status-codes, retriable-headers, http3-post-connect-failure, found \"5xx\"",
        ),
        (
            retry(all, &format!("{{http: {{retriableStatusCodes: [{}]}}}}", ["500"; 65].join(", "))),
            "k.yaml:6: conf.http.retriableStatusCodes: 65 entries are too many; there may be 64",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(read(&text).1, [expected], "{text}");
    }
}

#[test]
fn every_broken_rule_of_a_mesh_retry_is_told_with_its_place() {
    let table = [
        (
            mesh_retry("{tcp: {}}"),
            "k.yaml:4: spec.to[0].default.tcp: maxConnectAttempt or maxConnectAttempts is required",
        ),
        (
            mesh_retry("{http: {retriableRequestHeaders: [{name: a, type: Present, value: b}]}}"),
            "k.yaml:4: spec.to[0].default.http.retriableRequestHeaders[0].value: a matcher of this type has no value",
        ),
        (mesh_retry("{}"), "k.yaml:4: spec.to[0].default: at least one of http, grpc and tcp is required"),
        (
            mesh_retry("{http: {}}"),
            "k.yaml:4: spec.to[0].default.http: at least one setting is required; leave the section out instead",
        ),
        (
            mesh_retry("{grpc: {retryOn: [Reset]}}"),
            "k.yaml:4: spec.to[0].default.grpc.retryOn[0]: expected one of Canceled, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, found \"Reset\"",
        ),
        (
            mesh_retry("{http: {retryOn: [all_5xx]}}"),
            "k.yaml:4: spec.to[0].default.http.retryOn[0]: expected one of 5xx, 5XX, GatewayError, Reset, Retriable4xx, ConnectFailure, EnvoyRatelimited, RefusedStream, Http3PostConnectFailure, HttpMethod with a method such as HttpMethodGet, or a status code, found \"all_5xx\"",
        ),
        (
            mesh_retry("{http: {retryOn: ['600']}}"),
            "k.yaml:4: spec.to[0].default.http.retryOn[0]: expected one of 5xx, 5XX, GatewayError, Reset, Retriable4xx, ConnectFailure, EnvoyRatelimited, RefusedStream, Http3PostConnectFailure, HttpMethod with a method such as HttpMethodGet, or a status code, found \"600\"",
        ),
        (
            mesh_retry("{http: {backOff: {}}}"),
            "k.yaml:4: spec.to[0].default.http.backOff: one of baseInterval and maxInterval is required",
        ),
        (
            mesh_retry("{http: {backOff: {baseInterval: 2s, maxInterval: 1s}}}"),
            "k.yaml:4: spec.to[0].default.http.backOff.maxInterval: the maximum interval 1s must be at least the base interval 2s",
        ),
        (
            mesh_retry("{http: {rateLimitedBackOff: {maxInterval: 1s}}}"),
            "k.yaml:4: spec.to[0].default.http.rateLimitedBackOff.resetHeaders: the field is required",
        ),
        (
            mesh_retry("{http: {retriableRequestHeaders: [{name: ':status', value: '200'}]}}"),
            "k.yaml:4: spec.to[0].default.http.retriableRequestHeaders[0].name: expected the name of a header; one that begins with : is none in Kuma, found \":status\"",
        ),
        (
            mesh_retry("{http: {hostSelection: [{predicate: OmitHostsWithTags}]}}"),
            "k.yaml:4: spec.to[0].default.http.hostSelection[0].tags: the field is required",
        ),
        (
            mesh_retry("{http: {hostSelection: [{predicate: OmitPreviousPriorities, updateFrequency: 0}]}}"),
            "k.yaml:4: spec.to[0].default.http.hostSelection[0].updateFrequency: expected a whole number from 1 to 2147483647, found 0",
        ),
        (
            mesh_retry(
                "{http: {hostSelection: [{predicate: OmitPreviousPriorities}, {predicate: OmitPreviousPriorities}]}}",
            ),
            "k.yaml:4: spec.to[0].default.http.hostSelection[1]: OmitPreviousPriorities may be there only once",
        ),
        (
            mesh_retry("{tcp: {maxConnectAttempt: 0}}"),
            "k.yaml:4: spec.to[0].default.tcp.maxConnectAttempt: expected a whole number from 1 to 4294967295, found 0",
        ),
        (
            mesh_retry(&format!("{{http: {{retryOn: [{}]}}}}", ["500"; 65].join(", "))),
            "k.yaml:4: spec.to[0].default.http.retryOn: the list may have at most 64 items, and has 65",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(read(&text).1, [expected], "{text}");
    }
}

#[test]
fn a_mesh_retry_says_what_kuma_s_documentation_promises() {
    let http = first(&mesh_retry(
        "{http: {numRetries: 3, retryOn: [5XX, '429', 418, HttpMethodGet], retriableResponseHeaders: [{name: x-retry, type: Present}], \
         rateLimitedBackOff: {resetHeaders: [{name: retry-after, format: Seconds}]}, backOff: {maxInterval: 2s}, \
         hostSelection: [{predicate: OmitPreviousHosts}], hostSelectionMaxAttempts: 4}}",
    ));
    let expected = [Condition::ServerError, Condition::RetriableStatusCodes, Condition::RetriableHeaders];
    assert_eq!(http.retry_on, Conditions::of(&expected));
    assert_eq!(http.status_codes.iter().collect::<Vec<_>>(), [418, 429]);
    assert_eq!(
        (http.hosts.avoid_previous, http.hosts.max_attempts, http.request_headers.len()),
        (true, 4, 1)
    );
    assert_eq!(
        (http.backoff.base(), http.backoff.max()),
        (Duration::from_millis(25), Duration::from_secs(2))
    );
    assert!(http.rate_limited_backoff.is_some());
    for word in ["Canceled", "Cancelled"] {
        let grpc = first(&mesh_retry(&format!("{{grpc: {{retryOn: [{word}]}}}}")));
        assert_eq!(grpc.retry_on, Conditions::of(&[Condition::Cancelled]));
    }
    // Methods say which requests are retried, and not when.
    assert_eq!(first(&mesh_retry("{http: {retryOn: [HttpMethodGet]}}")).retry_on, HTTP_DEFAULT);
    assert_eq!(first(&mesh_retry("{http: {retryOn: []}}")).retry_on, HTTP_DEFAULT);
    // A code is retried beside what is retried anyway.
    let codes = first(&mesh_retry("{http: {retryOn: ['429']}}")).retry_on;
    assert_eq!(codes, HTTP_DEFAULT.with(Conditions::of(&[Condition::RetriableStatusCodes])));
    for section in ["http", "grpc"] {
        let off = first(&mesh_retry(&format!("{{{section}: {{numRetries: 0, perTryTimeout: 1s}}}}")));
        assert_eq!((off.num_retries, off.per_try_timeout), (0, None));
    }
}

#[test]
fn a_mesh_retry_may_have_several_destinations() {
    let policies = parsed(
        "
apiVersion: kuma.io/v1alpha1
kind: MeshRetry
metadata: {name: r, namespace: kuma-system, labels: {kuma.io/mesh: default}}
spec:
  targetRef: {kind: Dataplane, labels: {app: web}}
  to:
    - targetRef: {kind: MeshService, name: backend, namespace: demo, sectionName: '80'}
      default: {tcp: {maxConnectAttempt: 5}}
    - targetRef: {kind: MeshExternalService, name: ext}
      default: {http: {numRetries: 2}}
",
    );
    let [backend, external] = &policies[..] else { panic!("{policies:?}") };
    assert_eq!(backend.name.to_string(), "MeshRetry/kuma-system/r/to[0]");
    assert!(hosts(backend).contains(&"backend.demo.svc.cluster.local:80".to_owned()), "{:?}", hosts(backend));
    assert!(hosts(external).contains(&"ext.extsvc.mesh.local:0".to_owned()), "{:?}", hosts(external));
    assert_eq!(backend.from, external.from);
    assert_eq!(backend.from[0].labels, [("app".into(), LabelMatch::Is("web".into()))]);
}

#[test]
fn a_choice_of_endpoints_that_is_not_known_here_is_noted() {
    let text =
        mesh_retry("{http: {hostSelection: [{predicate: OmitPreviousPriorities, updateFrequency: 2}]}}");
    let (policies, problems, notes) = read(&text);
    assert_eq!((policies.len(), problems.len(), notes.len()), (1, 0, 1));
    assert!(notes[0].contains("spec.to[0].default.http.hostSelection[0]: warning[ignored]"), "{notes:?}");
    assert!(!policies[0].routes[0].http.retry.hosts.avoid_previous);
}

fn any_value() -> impl Strategy<Value = String> {
    let odd = [
        "0",
        "-1",
        "4294967296",
        "1e9",
        "''",
        "null",
        "true",
        "[]",
        "{}",
        "[{}]",
        "\"a\\nb\"",
        "'*'",
        "1s",
        "0s",
        "[5XX]",
        "{match: {a: b}}",
        "[{match: {kuma.io/service: a_b_svc_}}]",
        "{kind: Mesh}",
        "{http: {}}",
    ];
    select(odd.to_vec()).prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn no_value_is_too_much(v in proptest::collection::vec(any_value(), 12)) {
        let retry = format!(
            "type: Retry\nname: {}\nmesh: {}\nsources: {}\ndestinations: {}\nconf: {{http: {{numRetries: {}, perTryTimeout: {}, backOff: {}, retriableStatusCodes: {}, retriableMethods: {}, retryOn: {}}}, tcp: {}, grpc: {}}}",
            v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11]);
        let mesh = format!(
            "type: MeshRetry\nname: {}\nspec: {{targetRef: {}, to: [{{targetRef: {{kind: MeshService, name: {}, namespace: {}, sectionName: {}}}, default: {{http: {{numRetries: {}, hostSelection: {}, retryOn: {}, retriableRequestHeaders: {}, rateLimitedBackOff: {}, backOff: {}}}, tcp: {}}}}}]}}",
            v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11]);
        let route = format!(
            "type: MeshHTTPRoute\nname: {}\nspec: {{targetRef: {}, to: [{{targetRef: {{kind: MeshService, name: {}, labels: {}}}, rules: [{{matches: [{{path: {{type: Exact, value: {}}}, headers: {}, queryParams: {}}}], default: {{filters: {}, backendRefs: [{{kind: MeshExternalService, name: {}, weight: {}}}]}}}}]}}]}}\n---\n\
             type: MeshService\nname: a\nlabels: {}\nspec: {{ports: {}}}\n---\ntype: MeshExternalService\nname: a\nspec: {{match: {{port: {}}}, endpoints: [{{address: {}, port: {}}}]}}",
            v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[0], v[1], v[2]);
        for text in [retry, mesh, route] {
            let (_, problems, notes) = read(&text);
            for message in problems.iter().chain(&notes) {
                prop_assert!(!message.contains('\n'), "{message:?}");
            }
        }
    }
}
