//! Policy objects of every system, put into the API as their users do: what becomes of requests, and what is said of what
//! is wrong. The definitions are under `tests/documents/definitions`.

use std::cell::Cell;

use anyhow::{Context, Result, bail, ensure};
use redial_tests::cluster::{Cluster, Namespace, until};
use serde_json::{Value, json};

use crate::definitions::Definitions;
use crate::shipped::{Shipped, client, service};
use crate::{Run, Test};

pub(crate) const TESTS: &[Test] =
    &[("dialects::objects_of_every_system_are_in_force", Run::Api(objects_of_every_system_are_in_force))];

/// The other systems' kinds. They come later than the agents.
const DEFINITIONS: &[&str] = &[
    include_str!("../../documents/definitions/gateway.yaml"),
    include_str!("../../documents/definitions/kgateway.yaml"),
    include_str!("../../documents/definitions/kuma.yaml"),
    include_str!("../../documents/definitions/app-mesh.yaml"),
    include_str!("../../documents/definitions/istio.yaml"),
];

/// What one system's objects do for the requests of a Service `web` in the namespace `dialects`.
struct Case {
    /// How the name of the policy begins that holds by them.
    policy: &'static str,
    /// Each allows two retries of what is answered with 503.
    objects: &'static str,
    /// What the request says of itself.
    content_type: &'static str,
    /// An object `wrong` beside them, which the API server takes and redial does not.
    wrong: &'static str,
    /// Its kind, and the field that is wrong.
    refused: (&'static str, &'static str),
}

const CASES: &[Case] = &[
    Case {
        policy: "dialects/web",
        objects: "
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: web}
spec: {to: [{services: [{name: web}]}], http: {numRetries: 2}}
",
        content_type: "",
        wrong: "
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: wrong}
spec: {protocol: tcp, http: {}}
",
        refused: ("RetryPolicy", "spec.protocol: "),
    },
    Case {
        policy: "HTTPRoute/dialects/web",
        objects: "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 8080}]
  rules:
    - backendRefs: [{name: web, port: 8080}]
      retry: {codes: [503], attempts: 2, backoff: 10ms}
",
        content_type: "",
        wrong: "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: wrong}
spec:
  parentRefs: [{group: '', kind: Service, name: other}]
  rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}]}]
",
        refused: ("HTTPRoute", "spec.rules[0].filters[0]"),
    },
    Case {
        policy: "GRPCRoute/dialects/web",
        objects: "
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: web, annotations: {retry.linkerd.io/grpc: unavailable, retry.linkerd.io/limit: '2'}}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 8080}]
  rules: [{backendRefs: [{name: web, port: 8080}]}]
",
        content_type: "application/grpc",
        wrong: "
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: wrong}
spec:
  parentRefs: [{group: '', kind: Service, name: other}]
  rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}]}]
",
        refused: ("GRPCRoute", "spec.rules[0].filters[0]"),
    },
    Case {
        policy: "HTTPRoute/dialects/web",
        objects: "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 8080}]}]
---
apiVersion: gateway.kgateway.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: web}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]
  retry: {retryOn: [gateway-error], attempts: 2}
",
        content_type: "",
        wrong: "
apiVersion: gateway.kgateway.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: wrong}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: absent}]
  retry: {retryOn: [gateway-error]}
",
        refused: ("TrafficPolicy", "spec.targetRefs[0]"),
    },
    Case {
        policy: "HTTPRoute/dialects/web",
        objects: "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
    - filters: [{type: ExtensionRef, extensionRef: {group: gateway.solo.io, kind: RouteOption, name: web}}]
      backendRefs: [{name: web, port: 8080}]
---
apiVersion: gateway.solo.io/v1
kind: RouteOption
metadata: {name: web}
spec: {options: {retries: {retryOn: 5xx, numRetries: 2, perTryTimeout: 5s}}}
",
        content_type: "",
        wrong: "
apiVersion: gateway.solo.io/v1
kind: RouteOption
metadata: {name: wrong}
spec: {options: {prefixRewrite: /elsewhere}}
",
        refused: ("RouteOption", "spec.options.prefixRewrite"),
    },
    Case {
        policy: "MeshRetry/",
        objects: "
apiVersion: kuma.io/v1alpha1
kind: MeshRetry
metadata: {name: web, labels: {kuma.io/mesh: default}}
spec:
  to:
    - targetRef: {kind: MeshService, name: web_dialects_svc_8080}
      default: {http: {numRetries: 2, retryOn: [5xx]}}
",
        content_type: "",
        wrong: "
apiVersion: kuma.io/v1alpha1
kind: MeshRetry
metadata: {name: wrong, labels: {kuma.io/mesh: default}}
spec:
  to:
    - targetRef: {kind: MeshService, name: other_dialects_svc_8080}
      default: {http: {numRetries: -1}}
",
        refused: ("MeshRetry", "spec.to[0].default.http.numRetries"),
    },
    Case {
        policy: "Retry/",
        objects: "
apiVersion: kuma.io/v1alpha1
kind: Retry
mesh: default
metadata: {name: web}
spec:
  sources: [{match: {kuma.io/service: '*'}}]
  destinations: [{match: {kuma.io/service: web_dialects_svc_8080}}]
  conf: {http: {numRetries: 2, retriableStatusCodes: [503], backOff: {baseInterval: 20ms, maxInterval: 1s}}}
",
        content_type: "",
        wrong: "
apiVersion: kuma.io/v1alpha1
kind: Retry
mesh: default
metadata: {name: wrong}
spec:
  sources: [{match: {kuma.io/service: '*'}}]
  destinations: [{match: {kuma.io/service: other_dialects_svc_8080}}]
  conf: {http: {numRetries: many}}
",
        refused: ("Retry", "spec.conf.http.numRetries"),
    },
    Case {
        policy: "VirtualRouter/dialects/web",
        objects: "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: mesh}
spec: {namespaceSelector: {matchLabels: {mesh: mesh}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  serviceDiscovery: {dns: {hostname: web.dialects}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {name: web}
spec:
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  routes:
    - name: all
      httpRoute:
        match: {prefix: /}
        action: {weightedTargets: [{virtualNodeRef: {name: web}, weight: 1}]}
        retryPolicy:
          maxRetries: 2
          perRetryTimeout: {unit: s, value: 5}
          httpRetryEvents: [gateway-error]
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: web}
spec: {provider: {virtualRouter: {virtualRouterRef: {name: web}}}}
",
        content_type: "",
        wrong: "
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {name: wrong}
spec:
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  routes:
    - name: all
      httpRoute:
        match: {prefix: /}
        action: {weightedTargets: [{virtualNodeRef: {name: web}, weight: 0}]}
",
        refused: ("VirtualRouter", "spec.routes[0].httpRoute.action.weightedTargets"),
    },
    Case {
        policy: "VirtualService/dialects/web",
        objects: "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
    - route: [{destination: {host: web, port: {number: 8080}}}]
      retries: {attempts: 2, perTryTimeout: 5s, retryOn: gateway-error}
",
        content_type: "",
        wrong: "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: wrong}
spec:
  hosts: [other]
  http: [{fault: {abort: {httpStatus: 500}}, route: [{destination: {host: other}}]}]
",
        refused: ("VirtualService", "spec.http[0].fault"),
    },
];

/// System after system: its objects hold and what is wrong beside them is told, until they are deleted.
fn objects_of_every_system_are_in_force(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("dialects")?;
    namespace.pod("server", cluster.far(), &["serve", "80", "unavailable=1000000"])?;
    let address = service(&namespace, "web", &json!({"app": "server"}))?;
    client(&namespace, "client")?;
    let shipped = Shipped::install(cluster)?;
    let definitions = Definitions::install(cluster, &DEFINITIONS.join("\n---\n"))?;
    let world = World { namespace: &namespace, shipped: &shipped, address, asked: Cell::new(0) };
    world.becomes("", None)?;
    for case in CASES {
        world.plays(case).with_context(|| format!("with{}", case.objects))?;
    }
    // With the kind its objects go.
    let case = CASES.last().context("no cases")?;
    namespace.apply(case.objects)?;
    world.becomes(case.content_type, Some(case.policy))?;
    drop(definitions);
    world.becomes(case.content_type, None)
}

/// How a kind says in its status what has become of the things that it refers to.
struct Entries {
    list: &'static str,
    about: &'static str,
    refers: &'static str,
    /// The reason where it is not in force.
    refused: &'static str,
}

const OF_ROUTE: Entries =
    Entries { list: "parents", about: "parentRef", refers: "parentRefs", refused: "UnsupportedValue" };
const OF_POLICY: Entries =
    Entries { list: "ancestors", about: "ancestorRef", refers: "targetRefs", refused: "Invalid" };

struct World<'a> {
    namespace: &'a Namespace<'a>,
    shipped: &'a Shipped<'a>,
    /// Of the Service.
    address: String,
    asked: Cell<usize>,
}

impl World<'_> {
    fn plays(&self, case: &Case) -> Result<()> {
        self.namespace.apply(case.objects)?;
        self.becomes(case.content_type, Some(case.policy))?;
        self.namespace.apply(case.wrong)?;
        let (kind, field) = case.refused;
        until("what is wrong is told", || {
            let told = self.told(kind)?;
            if told.iter().any(|told| told.starts_with(field)) { Ok(Some(())) } else { bail!("{told:?}") }
        })?;
        match kind {
            "HTTPRoute" | "GRPCRoute" => self.status_says_so(kind, field, &OF_ROUTE)?,
            "TrafficPolicy" => self.status_says_so(kind, field, &OF_POLICY)?,
            _ => {}
        }
        // What is right stays in force beside it.
        self.is(case.content_type, Some(case.policy))?;
        for documents in [case.wrong, case.objects] {
            self.namespace.take_back(documents)?;
        }
        self.becomes(case.content_type, None)
    }

    fn becomes(&self, content_type: &str, policy: Option<&str>) -> Result<()> {
        until(&format!("requests are retried by {policy:?}"), || {
            self.is(content_type, policy).map(Some).with_context(|| self.shipped.said().unwrap_or_default())
        })
    }

    /// A request is retried twice where a policy is to hold, and else not at all.
    fn is(&self, content_type: &str, policy: Option<&str>) -> Result<()> {
        let path = format!("/{}", self.asked.replace(self.asked.get() + 1));
        let (path_option, content_type) = (format!("path={path}"), format!("type={content_type}"));
        let asked = self.namespace.ask("client", &[&self.address, &path_option, &content_type])?;
        ensure!(asked[0]["status"] == 503, "{asked:?}");
        let made = self.namespace.logs("server")?.matches(&format!("GET {path} HTTP")).count();
        let Some(policy) = policy else {
            ensure!(made == 1, "{made} attempts");
            return Ok(());
        };
        ensure!(made == 3, "{made} attempts");
        let records = self.shipped.requests(&path, 1)?;
        let held = records[0]["policy"].as_str().unwrap_or_default();
        ensure!(held.starts_with(policy), "{held} holds");
        Ok(())
    }

    /// In the status what is said of the one thing that the object refers to, beside what another controller says.
    fn status_says_so(&self, kind: &str, field: &str, entries: &Entries) -> Result<()> {
        let Entries { list, about, refers, refused } = *entries;
        let entries = |name: &str| {
            let object = self.namespace.get(&[kind, name])?;
            let entries = object["status"][list].as_array().cloned().unwrap_or_default();
            let (own, others): (Vec<Value>, Vec<Value>) =
                entries.into_iter().partition(|entry| entry["controllerName"] == "redial.dev/agent");
            ensure!(own.len() == 1, "{object}");
            ensure!(own[0][about] == object["spec"][refers][0], "{object}");
            Ok((own[0]["conditions"][0].clone(), others))
        };
        let (accepted, _) = until("it is accepted", || entries("web").map(Some))?;
        ensure!(accepted["type"] == "Accepted" && accepted["status"] == "True", "{accepted}");
        let (accepted, _) = until("it is refused", || entries("wrong").map(Some))?;
        ensure!(accepted["status"] == "False" && accepted["reason"] == refused, "{accepted}");
        ensure!(accepted["message"].as_str().is_some_and(|why| why.starts_with(field)), "{accepted}");

        let other = json!({
            about: {"name": "edge"}, "controllerName": "example.com/gateway",
            "conditions": [{
                "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        });
        let patch = json!({"status": {list: [other]}}).to_string();
        self.namespace.kubectl(&[
            "patch",
            kind,
            "web",
            "--subresource=status",
            "--type=merge",
            "--patch",
            &patch,
        ])?;
        until("both are there", || {
            let (_, others) = entries("web")?;
            Ok((others.len() == 1 && others[0]["controllerName"] == other["controllerName"]).then_some(()))
        })
    }

    /// What is said of the object that is wrong: by its condition where it is redial's, else by events.
    fn told(&self, kind: &str) -> Result<Vec<String>> {
        let messages = |all: &Value, is_one: &dyn Fn(&Value) -> bool| {
            let all = all.as_array().into_iter().flatten().filter(|one| is_one(one));
            all.filter_map(|one| one["message"].as_str().map(str::to_owned)).collect()
        };
        if kind == "RetryPolicy" {
            let object = self.namespace.get(&["retrypolicy", "wrong"])?;
            let is_refused = |one: &Value| one["type"] == "Accepted" && one["status"] == "False";
            return Ok(messages(&object["status"]["conditions"], &is_refused));
        }
        let events = ["events", "--all-namespaces", "--field-selector=reason=NotAccepted"];
        let events = self.namespace.cluster().get(&events)?;
        let is_of_it = |one: &Value| {
            let object = &one["involvedObject"];
            object["kind"] == kind && object["name"] == "wrong" && one["type"] == "Warning"
        };
        Ok(messages(&events["items"], &is_of_it))
    }
}
