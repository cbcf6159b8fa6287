//! What several documents mean together: which holds for whom, and what it takes from the others.

use std::sync::Arc;

use super::{parsed, read};
use crate::policy::{Host, Identity, Policy, Setting, Table};

/// A `MeshRetry` with one destination.
pub(super) fn retries(name: &str, target: &str, to: &str, default: &str) -> String {
    format!(
        "---\ntype: MeshRetry\nname: {name}\nspec: {{targetRef: {target}, to: [{{targetRef: {to}, default: {default}}}]}}\n"
    )
}

/// In a namespace, with these labels.
fn in_namespace(namespace: &str, labels: &str, target: &str, to: &str, default: &str) -> String {
    format!(
        "---\napiVersion: kuma.io/v1alpha1\nkind: MeshRetry\nmetadata: {{name: r, namespace: {namespace}, labels: {labels}}}\n\
         spec: {{targetRef: {target}, to: [{{targetRef: {to}, default: {default}}}]}}\n"
    )
}

/// A workload by its labels; `namespace` is its namespace.
fn identity(labels: &[(&str, &str)]) -> Arc<Identity> {
    let namespace = labels.iter().find(|(name, _)| *name == "namespace").map(|(_, value)| (*value).into());
    let labels = labels.iter().filter(|(name, _)| *name != "namespace");
    Arc::new(Identity {
        namespace,
        labels: labels.map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    })
}

/// What holds for a request of a workload to a host: `policy/route`, retries, and attempts to connect.
pub(super) fn taken(
    policies: &[Policy],
    labels: &[(&str, &str)],
    host: &str,
    request: &[(&str, &str)],
) -> (String, u32, u32) {
    let table = Arc::new(Table::try_new(policies.to_vec()).unwrap());
    let hosts: Vec<Host> = vec![host.parse().unwrap()];
    let matched =
        table.lookup("192.0.2.1:80".parse().unwrap(), &Arc::from("x"), Some(&identity(labels)), &hosts);
    let connects = matched.patient.tcp.max_connect_attempts().get();
    let Some(asked) = matched.router else { return (matched.policy.name.to_string(), 0, connects) };
    let routed = asked.route(request);
    let (route, retries) =
        routed.route.map_or(("-", 0), |route| (&*route.name, route.http.retry.num_retries));
    (format!("{}/{route}", routed.policy.name), retries, connects)
}

const GET: &[(&str, &str)] = &[(":path", "/"), (":method", "GET")];
const MESH: &str = "{kind: Mesh}";
const WEB: &str = "{kind: Dataplane, labels: {app: web}}";
const BACKEND: &str = "{kind: MeshService, name: backend}";

#[test]
fn settings_that_one_leaves_out_are_the_other_s() {
    let text = retries(
        "all",
        MESH,
        MESH,
        "{http: {numRetries: 5, perTryTimeout: 16s, backOff: {baseInterval: 30ms, maxInterval: 2s}}, grpc: {numRetries: 4}, tcp: {maxConnectAttempt: 9}}",
    ) + &retries(
        "one",
        MESH,
        BACKEND,
        "{http: {numRetries: 1, backOff: {baseInterval: 10ms}, retryOn: [5xx]}, tcp: {maxConnectAttempt: 3}}",
    );
    let policies = parsed(&text);
    let names: Vec<_> = policies.iter().map(|policy| policy.name.to_string()).collect();
    assert_eq!(names, ["MeshRetry/all", "MeshRetry/one+all"]);
    let [_, one] = &policies[..] else { panic!() };
    let [grpc, http] = &one.routes[..] else { panic!() };
    let retry = &http.http.retry;
    let milliseconds = |duration: std::time::Duration| duration.as_millis();
    assert_eq!((retry.num_retries, retry.per_try_timeout.map(milliseconds)), (1, Some(16_000)));
    assert_eq!((milliseconds(retry.backoff.base()), milliseconds(retry.backoff.max())), (10, 2_000));
    assert_eq!(grpc.http.retry.num_retries, 4);
    let lines = [
        (Setting::NumRetries, 8, "numRetries"),
        (Setting::PerTryTimeout, 4, "perTryTimeout"),
        (Setting::Backoff, 8, "backOff.baseInterval"),
        (Setting::RetryOn, 8, "retryOn"),
    ];
    for (setting, line, field) in lines {
        let place = http.sources.place(setting).unwrap();
        let expected = format!("spec.to[0].default.http.{field}");
        assert_eq!((place.line, &place.field, place.is_said), (line, &expected, true), "{setting:?}");
    }
    assert!(!http.sources.is_said(Setting::HostSelection));
    assert_eq!(one.sources.place(Setting::ConnectAttempts).unwrap().line, 8);
    // Connects are as the service's own policy says, although that for all is more patient.
    assert_eq!(taken(&policies, &[], "backend", GET), ("MeshRetry/one+all/http".to_owned(), 1, 3));
    assert_eq!(taken(&policies, &[], "other", GET), ("MeshRetry/all/http".to_owned(), 5, 9));
}

#[test]
fn a_narrower_target_overrides_whatever_the_destination() {
    // From the least to the greatest, by the target of the policy, and then by the destination.
    let ordered = [
        (MESH, MESH),
        (MESH, BACKEND),
        (WEB, MESH),
        ("{kind: Dataplane, name: web-1}", MESH),
        ("{kind: MeshSubset, tags: {app: web}}", MESH),
        ("{kind: MeshService, name: web}", MESH),
        ("{kind: MeshServiceSubset, name: web, tags: {v: '1'}}", MESH),
    ];
    let workload =
        [("app", "web"), ("kuma.io/display-name", "web-1"), ("kuma.io/service", "web"), ("v", "1")];
    for count in 1..=ordered.len() {
        let text: String = ordered
            .iter()
            .take(count)
            .enumerate()
            .map(|(index, (target, to))| {
                // Names that would be in the opposite order.
                retries(
                    &format!("r{}", 9 - index),
                    target,
                    to,
                    &format!("{{http: {{numRetries: {}}}}}", index + 10),
                )
            })
            .collect();
        let (_, retries, _) = taken(&parsed(&text), &workload, "backend", GET);
        assert_eq!(usize::try_from(retries).unwrap(), count + 9, "{text}");
    }
    // Who is not among the target's workloads has nothing of it.
    let text = retries("a", MESH, MESH, "{http: {numRetries: 1}}")
        + &retries("b", WEB, BACKEND, "{http: {numRetries: 2}}");
    assert_eq!(taken(&parsed(&text), &[("app", "db")], "backend", GET).1, 1);
    // Among equals the name that is first wins.
    let text = retries("b", MESH, MESH, "{http: {numRetries: 1}}")
        + &retries("a", MESH, MESH, "{http: {numRetries: 2}}");
    assert_eq!(taken(&parsed(&text), &[], "x", GET), ("MeshRetry/a+b/http".to_owned(), 2, 3));
}

#[test]
fn workloads_that_several_are_for_get_something_of_each() {
    let text = retries("web", WEB, MESH, "{http: {numRetries: 7}}")
        + &retries("new", "{kind: MeshSubset, tags: {v: '2'}}", MESH, "{http: {perTryTimeout: 1s}}");
    let policies = parsed(&text);
    let timeout = |labels: &[(&str, &str)]| {
        let (name, retries, _) = taken(&policies, labels, "x", GET);
        let policy = policies.iter().find(|policy| format!("{}/http", policy.name) == name);
        (retries, policy.and_then(|policy| policy.routes[0].http.retry.per_try_timeout).is_some())
    };
    assert_eq!(timeout(&[("app", "web"), ("v", "2")]), (7, true));
    assert_eq!(timeout(&[("app", "web"), ("v", "1")]), (7, false));
    assert_eq!(timeout(&[("app", "db"), ("v", "2")]), (1, true));
    assert_eq!(timeout(&[("app", "db")]), (0, false));
}

#[test]
fn whose_policy_it_is_decides_among_equals() {
    let none = "{}";
    let local = "{kind: MeshService, name: backend}";
    let policy = |namespace, labels: &str, retries| {
        in_namespace(namespace, labels, MESH, local, &format!("{{http: {{numRetries: {retries}}}}}"))
    };
    // A system policy names a service of any namespace by a label or namespace.
    let system = in_namespace(
        "kuma-system",
        none,
        MESH,
        "{kind: MeshService, name: backend, namespace: shop}",
        "{http: {numRetries: 1}}",
    );
    let producer = policy("shop", none, 2);
    let consumer = in_namespace(
        "front",
        none,
        MESH,
        "{kind: MeshService, name: backend, namespace: shop}",
        "{http: {numRetries: 3}}",
    );
    let text = format!("{system}{producer}{consumer}");
    let policies = parsed(&text);
    let retries = |namespace| taken(&policies, &[("namespace", namespace)], "backend.shop", GET).1;
    // A consumer's holds in its own namespace only.
    assert_eq!((retries("front"), retries("other")), (3, 2));
    // What the label says holds.
    let text =
        format!("{producer}{}", consumer.replace("labels: {}", "labels: {kuma.io/policy-role: system}"));
    let policies = parsed(&text);
    assert_eq!(taken(&policies, &[("namespace", "other")], "backend.shop", GET).1, 2);
    // A zone's own comes before that of all zones.
    let labelled = |origin: &str, name: &str, retries| {
        let labels = format!("labels: {{kuma.io/origin: {origin}}}");
        super::mesh_retry(&format!("{{http: {{numRetries: {retries}}}}}"))
            .replace("name: r\n", &format!("name: {name}\n{labels}\n"))
    };
    let text = format!("{}---\n{}", labelled("global", "a", 1), labelled("zone", "b", 2));
    assert_eq!(taken(&parsed(&text), &[], "x", GET).1, 2);
    let mixed = in_namespace("shop", none, MESH, local, "{tcp: {maxConnectAttempt: 1}}")
        .replace("to: [", "to: [{targetRef: {kind: Mesh}, default: {tcp: {maxConnectAttempt: 1}}}, ");
    assert_eq!(
        read(&mixed).1,
        ["k.yaml:5: spec.to: services of its own namespace and others can't be in one policy; make it two"]
    );
}

#[test]
fn documents_of_other_meshes_are_told_apart() {
    let of = |mesh: &str, retries| {
        super::mesh_retry(&format!("{{http: {{numRetries: {retries}}}}}"))
            .replace("default\n", &format!("{mesh}\n"))
    };
    let policies = parsed(&format!("{}---\n{}", of("a", 1), of("b", 2)));
    assert_eq!(taken(&policies, &[("kuma.io/mesh", "a")], "x", GET), ("MeshRetry/r@a/http".to_owned(), 1, 2));
    assert_eq!(taken(&policies, &[("kuma.io/mesh", "b")], "x", GET), ("MeshRetry/r@b/http".to_owned(), 2, 3));
    // In one mesh nobody is asked for its name, whatever services there are in others.
    let service = "---\ntype: MeshService\nname: s\nmesh: b\nspec: {}\n";
    let [alone] = &parsed(&(of("a", 1) + service))[..] else { panic!() };
    assert!(alone.from.is_empty());
    assert_eq!(
        read(&format!("{}---\n{}", of("a", 1), of("a", 2))).1,
        ["k.yaml:7: name: the name MeshRetry/r is taken already, at k.yaml:1"]
    );
}

#[test]
fn targets_that_mean_nothing_here_are_noted_or_refused() {
    let default = "{http: {numRetries: 1}}";
    for (target, field, note) in [
        (
            "{kind: Mesh, proxyTypes: [Gateway]}",
            "spec.targetRef.proxyTypes",
            "it is about gateways alone, and no workload here is one",
        ),
        (
            "{kind: MeshGateway, name: edge}",
            "spec.targetRef",
            "it is about a gateway's requests, and no workload here is one",
        ),
    ] {
        let (policies, problems, notes) = read(&retries("r", target, MESH, default));
        assert_eq!((policies.len(), problems.len()), (0, 0), "{problems:?}");
        assert_eq!(notes, [format!("k.yaml:4: {field}: warning[ignored]: {note}")]);
    }
    for target in ["{kind: Mesh, proxyTypes: [Sidecar]}", "{kind: Mesh, proxyTypes: []}"] {
        assert_eq!(parsed(&retries("r", target, MESH, default)).len(), 1);
    }
    let shadow =
        super::mesh_retry(default).replace("name: r\n", "name: r\nlabels: {kuma.io/effect: shadow}\n");
    let (policies, _, notes) = read(&shadow);
    assert_eq!(policies.len(), 0);
    assert_eq!(
        notes,
        [
            "k.yaml:3: labels[\"kuma.io/effect\"]: warning[ignored]: a policy in shadow mode changes nothing in Kuma either"
        ]
    );
    for (target, to, problem) in [
        (
            "{kind: Pod}",
            MESH,
            "spec.targetRef.kind: expected one of Mesh, Dataplane, MeshSubset, MeshService, MeshServiceSubset, MeshHTTPRoute, MeshGateway, found \"Pod\"",
        ),
        (
            "{kind: Dataplane, sectionName: http}",
            MESH,
            "spec.targetRef.sectionName: a target of kind \"Dataplane\" has no such field",
        ),
        (
            "{kind: Dataplane, name: a, labels: {a: b}}",
            MESH,
            "spec.targetRef.name: name and labels exclude each other",
        ),
        (
            "{kind: Mesh, tags: {a: b}}",
            MESH,
            "spec.targetRef.tags: a target of kind \"Mesh\" has no such field",
        ),
        (
            MESH,
            "{kind: MeshSubset, tags: {a: b}}",
            "spec.to[0].targetRef.kind: expected one of Mesh, MeshService, MeshExternalService, MeshMultiZoneService, MeshHTTPRoute, found \"MeshSubset\"",
        ),
        (MESH, "{kind: MeshService}", "spec.to[0].targetRef: one of name and labels is required"),
        (
            MESH,
            "{kind: MeshService, name: '*'}",
            "spec.to[0].targetRef.name: expected the name of a service or route; kind Mesh is all of them, found \"*\"",
        ),
        (
            MESH,
            "{kind: MeshService, labels: {team: a}}",
            "spec.to[0].targetRef.labels: no document of a service with these labels is here, so which ones are meant can't be told; add it, or name the service",
        ),
        (
            MESH,
            "{kind: MeshService, name: a, sectionName: http}",
            "spec.to[0].targetRef.sectionName: expected the number of a port, or its name in the document of the service, which has to be here, found \"http\"",
        ),
        (
            MESH,
            "{kind: MeshService, name: a_b_svc_0}",
            "spec.to[0].targetRef.name: expected a port from 1 to 65535 behind _svc_, found \"a_b_svc_0\"",
        ),
    ] {
        assert_eq!(read(&retries("r", target, to, default)).1, [format!("k.yaml:4: {problem}")]);
    }
}

#[test]
fn documents_of_services_tell_labels_and_ports() {
    let service = "type: MeshService\nname: backend\nlabels: {team: a}\nspec: {ports: [{name: http, port: 8080, targetPort: 80, appProtocol: http}]}\n";
    for to in [
        "{kind: MeshService, labels: {team: a}, sectionName: http}",
        "{kind: MeshService, name: backend, sectionName: http}",
    ] {
        let text = format!("{service}{}", retries("r", MESH, to, "{http: {numRetries: 1}}"));
        assert_eq!(
            super::hosts(&parsed(&text)[0]),
            ["backend:8080", "backend.mesh:8080", "backend.svc.mesh.local:8080"]
        );
    }
    let to = "{kind: MeshService, labels: {kuma.io/display-name: backend, k8s.kuma.io/namespace: shop, kuma.io/zone: east}}";
    let (policies, _, notes) = read(&retries("r", MESH, to, "{http: {numRetries: 1}}"));
    assert!(super::hosts(&policies[0]).contains(&"backend.shop.svc.cluster.local:0".to_owned()));
    assert_eq!(notes.len(), 1, "{notes:?}");
}

/// Kuma takes one `Retry`, by the tags of the workload and the service together.
#[test]
fn one_retry_is_taken() {
    let retry = |name: &str, sources: &str, destination: &str, conf: &str| {
        format!(
            "---\ntype: Retry\nname: {name}\nsources: [{{match: {{{sources}}}}}]\ndestinations: [{{match: {{kuma.io/service: \
             '{destination}'}}}}]\nconf: {conf}\n"
        )
    };
    let web = [("kuma.io/service", "web"), ("v", "1")];
    let any = "kuma.io/service: '*'";
    let http = |retries: u32| format!("{{http: {{numRetries: {retries}}}}}");
    let text = retry("a", any, "*", &http(1)) + &retry("b", any, "backend", &http(2));
    assert_eq!(taken(&parsed(&text), &web, "backend", GET).1, 2);
    assert_eq!(taken(&parsed(&text), &web, "x", GET).1, 1);
    // Two tags of the workload count more than the name of the service.
    let text = retry("a", "kuma.io/service: '*', v: '*'", "*", &http(1))
        + &retry("b", "kuma.io/service: web", "backend", &http(2));
    assert_eq!(taken(&parsed(&text), &web, "backend", GET).1, 1);
    // Of as many tags those with values.
    let text = retry("a", "kuma.io/service: web", "*", &http(1)) + &retry("b", any, "backend", &http(2));
    assert_eq!(taken(&parsed(&text), &web, "backend", GET).0, "Retry/a/http");
    let text = text + &retries("m", MESH, "{kind: MeshService, name: backend}", &http(4));
    assert_eq!(taken(&parsed(&text), &web, "backend", GET).0, "MeshRetry/m/http");
    // What the one that is taken does not say, no other says.
    let text = retry("a", any, "*", "{grpc: {numRetries: 3}}") + &retry("b", any, "backend", &http(2));
    let grpc: &[_] = &[(":path", "/"), ("content-type", "application/grpc")];
    assert_eq!(taken(&parsed(&text), &web, "backend", grpc), ("Retry/b/grpc".to_owned(), 0, 3));
    let (_, _, notes) = read(&retry("a", any, "*", "{http: {retryOn: [retriable_headers]}}"));
    assert_eq!(
        notes,
        [
            "k.yaml:6: conf.http.retryOn: warning[inert-setting]: retriable_headers retries nothing, since a Retry can't name the headers; use a MeshRetry"
        ]
    );
}

/// What a few small documents can make of each other is bounded.
#[test]
fn there_are_no_more_policies_than_can_be_kept() {
    let workload = |number: usize| format!("{{kind: Dataplane, labels: {{l{number}: a}}}}");
    let text: String = (0..11)
        .map(|number| {
            retries(&format!("r{number}"), &workload(number), MESH, "{tcp: {maxConnectAttempt: 1}}")
        })
        .collect();
    let (policies, problems, _) = read(&text);
    assert_eq!(policies.len(), 0);
    assert_eq!(
        problems,
        [
            "k.yaml:4: spec.to[0].targetRef: there are too many combinations of the workloads that these policies are for"
        ]
    );
    let heavy = format!(
        "{{http: {{retriableRequestHeaders: [{}]}}}}",
        vec![format!("{{name: a, value: {}}}", "a".repeat(4_096)); 64].join(", ")
    );
    let services: String = (0..300)
        .map(|number| {
            retries(
                &format!("s{number}"),
                MESH,
                &format!("{{kind: MeshService, name: s{number}}}"),
                "{http: {numRetries: 1}}",
            )
        })
        .collect();
    let (policies, problems, _) = read(&(retries("all", MESH, MESH, &heavy) + &services));
    assert!(policies.len() < 300, "{}", policies.len());
    assert_eq!(
        problems,
        [
            "k.yaml:4: spec.to[0].targetRef: there are too many combinations of workloads and destinations to merge; narrow the policies that are for all of them"
        ]
    );
}

#[test]
fn a_retry_for_all_is_not_kept_for_all_that_others_name() {
    let retry = |number: usize, destinations: &str| {
        format!(
            "---\ntype: Retry\nname: r{number}\nsources: [{{match: {{a: '*', b: '*'}}}}]\ndestinations: [{destinations}]\nconf: {{tcp: \
             {{maxConnectAttempts: 1}}}}\n"
        )
    };
    let service = |name: String| format!("{{match: {{kuma.io/service: {name}}}}}");
    let named = |number| {
        let services =
            (0..64).map(|index| service(format!("s{number}-{index}_n_svc_80"))).collect::<Vec<_>>();
        retry(number, &services.join(", ")).replace("{a: '*', b: '*'}", "{a: '*'}")
    };
    let text: String = (0..10)
        .map(named)
        .chain((100..120).map(|number| retry(number, &service("'*'".to_owned()))))
        .collect();
    let (policies, problems, _) = read(&text);
    assert!(policies.len() < 30, "{}", policies.len());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("too many services that others name are told by policies for all services"));
}

#[test]
fn a_retry_says_where_its_settings_are() {
    let text = "type: Retry
name: r
sources: [{match: {kuma.io/service: '*'}}]
destinations: [{match: {kuma.io/service: '*'}}]
conf:
  http:
    numRetries: 3
    retriableStatusCodes: [500]
    retriableMethods: [GET]
  tcp:
    maxConnectAmount: 4
";
    let [policy] = &parsed(text)[..] else { panic!() };
    let sources = &policy.routes[0].sources;
    let place =
        |setting| sources.place(setting).map(|place| (place.line, place.field.as_str(), place.is_said));
    assert_eq!(place(Setting::NumRetries), Some((7, "conf.http.numRetries", true)));
    assert_eq!(place(Setting::StatusCodes), Some((8, "conf.http.retriableStatusCodes", true)));
    assert_eq!(place(Setting::Methods), Some((9, "conf.http.retriableMethods", true)));
    assert_eq!(place(Setting::Backoff), Some((7, "conf.http.backOff", false)));
    let attempts = policy.sources.place(Setting::ConnectAttempts).unwrap();
    assert_eq!((attempts.line, attempts.field.as_str()), (11, "conf.tcp.maxConnectAmount"));
}
