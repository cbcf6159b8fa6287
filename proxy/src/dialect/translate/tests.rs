//! What becomes of documents in other formats.

use std::path::Path;
use std::sync::Arc;

use super::{Format, Translation, canonical, translate};
use crate::dialect::{Parsed, parse};
use crate::policy::{HttpPolicy, Origin, Policy, PolicyName, Precedence, Table, Target};

mod examples;
mod properties;

const APP_MESH: &str = include_str!("../../../../tests/documents/seeds/create-route-retry-policy.json");
const HTTP_ROUTE: &str = include_str!("../../../../tests/documents/seeds/http-route.yaml");
const ROUTE_OPTION: &str = include_str!("../../../../tests/documents/seeds/route-option.yaml");

const KUMA: &str = "
type: Retry
name: web-to-backend
mesh: default
sources:
  - match: {version: '*', kuma.io/service: web}
destinations:
  - match: {kuma.io/service: backend_kuma-demo_svc_3001}
conf:
  http:
    numRetries: 5
    backOff: {baseInterval: 20ms, maxInterval: 1s}
    retriableStatusCodes: [500, 504]
    retriableMethods: [GET]
  grpc: {numRetries: 3}
  tcp: {maxConnectAttempts: 7}
---
apiVersion: kuma.io/v1alpha1
kind: MeshRetry
metadata: {name: all, namespace: kuma-system}
spec:
  targetRef: {kind: MeshSubset, tags: {app: web}}
  to:
    - targetRef: {kind: Mesh}
      default:
        http:
          retryOn: ['5xx', '409']
          rateLimitedBackOff: {resetHeaders: [{name: retry-after, format: Seconds}], maxInterval: 30s}
          hostSelection: [{predicate: OmitPreviousHosts}]
        tcp: {maxConnectAttempt: 2}
";

const ISTIO: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews, '*.example.com', 10.0.0.0/8]
  http:
    - match:
        - uri: {prefix: /v2}
          ignoreUriCase: true
          method: {regex: GET|POST}
        - headers: {x-user: {exact: ''}, x-b: {prefix: b}, x-c: {}}
          queryParams: {v: {exact: '2'}}
        - uri: {prefix: ''}
          withoutHeaders: {x-skip: {regex: 'a+'}}
        - uri: {exact: '*'}
          method: {exact: OPTIONS}
      route:
        - destination: {host: v2.shop.svc.cluster.local, port: {number: 8080}}
          weight: 80
        - destination: {host: reviews}
          weight: 20
      retries: {attempts: 5, retryOn: '5xx,retriable-4xx,503', perTryTimeout: 2s, retryIgnorePreviousHosts: false}
      timeout: 10s
    - match: [{uri: {exact: /off}}]
      route: [{destination: {host: reviews}}]
      retries: {attempts: 0}
    - route: [{destination: {host: reviews}}]
";

const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: checkout, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: checkout, port: 8080}]
  rules:
    - matches:
        - path: {type: Exact, value: /a}
          method: GET
        - path: {type: PathPrefix, value: /b}
          headers: [{name: x-v, value: '2'}]
        - path: {type: RegularExpression, value: '/c+'}
          queryParams: [{name: q, value: x}]
      retry: {codes: [500, 503], attempts: 4, backoff: 100ms}
      timeouts: {request: 10s, backendRequest: 2s}
    - name: rest
      backendRefs:
        - {group: networking.istio.io, kind: Hostname, name: a.example, port: 80, weight: 3}
        - {group: networking.istio.io, kind: Hostname, name: b.example, port: 80}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: checkout, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: checkout, port: 8080}]
  rules:
    - matches: [{method: {service: shop.Cart, method: Add}}, {method: {service: shop.Cart}}]
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: checkout, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: checkout}]
  retryConstraint: {budget: {percent: 30, interval: 20s}, minRetryRate: {count: 3, interval: 1s}}
";

const MESH: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: colors, namespace: shop}
spec: {awsName: colors.shop.svc.cluster.local, provider: {virtualRouter: {virtualRouterRef: {name: colors}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: blue, namespace: shop}
spec:
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  serviceDiscovery: {dns: {hostname: blue.shop.svc.cluster.local}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {name: colors, namespace: shop}
spec:
  routes:
    - name: metadata
      priority: 5
      grpcRoute:
        match:
          serviceName: shop.Cart
          metadata: [{name: x-a, invert: true, match: {range: {start: 1, end: 9}}}, {name: x-b, match: {suffix: z}}]
        action: {weightedTargets: [{virtualNodeRef: {name: blue}, weight: 1}]}
        retryPolicy:
          maxRetries: 2
          perRetryTimeout: {unit: ms, value: 200}
          grpcRetryEvents: [unavailable, internal]
    - name: blue
      priority: 10
      httpRoute:
        match: {prefix: /blue, method: GET, scheme: http, port: 8080, queryParameters: [{name: q, match: {exact: a b}}]}
        action: {weightedTargets: [{virtualNodeRef: {name: blue}, weight: 3}, {virtualNodeRef: {name: gone}, weight: 0}]}
        timeout: {perRequest: {unit: s, value: 0}, idle: {unit: s, value: 7}}
    - name: bytes
      tcpRoute: {action: {weightedTargets: [{virtualNodeRef: {name: blue}, weight: 1}]}}
";

const ANNOTATED: &str = "
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  annotations: {retry.linkerd.io/http: 5xx, retry.linkerd.io/limit: '4', timeout.linkerd.io/request: 3s}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.kgateway.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: retry, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}]
  retry: {attempts: 2, retryOn: [gateway-error, reset], statusCodes: [418], perTryTimeout: 1s, backoffBaseInterval: 30ms}
  timeouts: {request: 20s, streamIdle: 90s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec: {hostnames: ['*.a.example'], rules: [{matches: [{path: {value: /x}}]}, {retry: {codes: [503]}}]}
";

fn parsed(text: &str) -> Parsed {
    parse(Path::new("p.yaml"), text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
}

fn native(parsed: &Parsed) -> Translation {
    translate(parsed, Format::Native)
}

fn gateway(parsed: &Parsed) -> Translation {
    translate(parsed, Format::GatewayApi)
}

/// The documents without what is said above them.
fn bare(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect()
}

/// A policy but for what it is called, where it is from, and which of its routes comes where.
fn unnamed(policy: &Policy) -> Policy {
    let mut policy = canonical::policy(policy);
    policy.name = PolicyName::default();
    policy.origin = Origin::BuiltIn;
    policy.sources = Arc::default();
    for route in &mut policy.routes {
        route.sources = Arc::default();
        route.name = "route".into();
        route.precedence = Precedence::default();
    }
    policy
}

/// What holds for some requests: how they are retried, and where they go.
fn answers(policies: &[Policy]) -> Vec<Option<(Arc<HttpPolicy>, Vec<Target>)>> {
    let table = Arc::new(Table::try_new(policies.to_vec()).unwrap());
    let mut answers = Vec::new();
    let authorities = ["reviews", "a.example.com", "checkout.shop", "backend.kuma-demo", "retry.example"];
    let others = ["b.a.example", "colors.shop.svc.cluster.local", "web.shop", "other"];
    for authority in authorities.into_iter().chain(others) {
        for (path, method, header) in [
            ("/", "GET", ("x-v", "1")),
            ("/a", "GET", ("x-v", "2")),
            ("/a", "POST", ("x-user", "")),
            ("/b/c", "PUT", ("x-v", "2")),
            ("/bc?v=2", "GET", ("x-b", "b1")),
            ("/cc?q=x", "GET", ("x-skip", "aa")),
            ("/V2x", "POST", ("x-skip", "b")),
            ("/off", "GET", ("x-skip", "aa")),
            ("*", "OPTIONS", ("x-skip", "aa")),
            ("/blue/x?q=a b", "GET", (":scheme", "http")),
            ("/shop.Cart/Add", "POST", ("content-type", "application/grpc")),
            ("/shop.Cart/Remove", "POST", ("content-type", "application/grpc")),
        ] {
            for destination in ["192.0.2.1:8080", "10.1.2.3:3001"] {
                let found = table.lookup(destination.parse().unwrap(), &Arc::from("web"), None, &Vec::new());
                let request =
                    [(":authority", authority), (":path", path), (":method", method), (header.0, header.1)];
                let router = found.router.as_ref();
                let route = router.and_then(|router| router.route(&request[..]).route.map(canonical::route));
                answers.push(route.map(|route| (route.http, route.targets.to_vec())));
            }
        }
    }
    answers
}

#[test]
fn documents_of_other_systems_mean_the_same_in_redial_s_own() {
    let all = [ROUTES, KUMA, ISTIO, MESH, ANNOTATED].join("---\n");
    for (text, losses) in [
        (APP_MESH, 0),
        (HTTP_ROUTE, 0),
        (&[HTTP_ROUTE, ROUTE_OPTION].join("---\n"), 0),
        (KUMA, 0),
        (ISTIO, 0),
        (ROUTES, 1),
        (MESH, 0),
        (ANNOTATED, 0),
        // The name decides between Kuma's and Istio's.
        (&all, 1),
    ] {
        let before = parsed(text);
        let translation = native(&before);
        let after = parsed(&translation.text);
        assert_eq!(translation.losses, losses, "{}", translation.text);
        let named = |parsed: &Parsed| parsed.policies.iter().map(unnamed).collect::<Vec<_>>();
        assert_eq!(named(&after), named(&before), "{}", translation.text);
        assert_eq!(answers(&after.policies), answers(&before.policies), "{}", translation.text);
        assert!(answers(&before.policies).iter().any(Option::is_some), "{text}");
        let routes = gateway(&before);
        assert!(!parsed(&routes.text).policies.is_empty(), "{}", routes.text);
        let again = native(&after);
        assert_eq!((again.text, again.losses), (bare(&translation.text), 0));
    }
}

#[test]
fn names_are_kept_as_far_as_they_can_be() {
    let retry = |name: &str| {
        format!(
            "{{type: Retry, name: {name}, sources: [{{match: {{app: a}}}}], destinations: [{{match: {{kuma.io/service: '*'}}}}], conf: {{tcp: {{maxConnectAttempts: 2}}}}}}\n"
        )
    };
    let own = "{apiVersion: redial.dev/v1alpha1, kind: RetryPolicy, metadata: {name: a}, spec: {to: [{ports: [1]}]}}\n";
    let names = ["a", "default", "'A_b/c..d'", "'---'", "A"].map(retry).join("---\n");
    let translation = native(&parsed(&[names.as_str(), own].join("---\n")));
    let after = parsed(&translation.text);
    let names: Vec<_> = after.policies.iter().map(|policy| policy.name.to_string()).collect();
    assert_eq!(
        names,
        ["a", "a-retry", "default-retry", "a-b-c.d", "policy", "a-retry-2"],
        "{}",
        translation.text
    );
}

#[test]
fn a_gateway_s_documents_are_written_as_they_were() {
    let before = parsed(ROUTES);
    let translation = gateway(&before);
    let after = parsed(&translation.text);
    let named = |parsed: &Parsed| parsed.policies.iter().map(unnamed).collect::<Vec<_>>();
    assert_eq!(named(&after), named(&before), "{}", translation.text);
    assert_eq!(answers(&after.policies), answers(&before.policies), "{}", translation.text);
    assert_eq!(translation.losses, 0, "{}", translation.text);
}

const CHECKOUT: &str = "
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: checkout, namespace: shop}
spec:
  from: [{cgroup: web}]
  to:
    - services: [{name: checkout}]
      ports: [8080]
    - cidrs: [10.0.0.0/8]
  tcp: {maxConnectAttempts: 2, connectTimeout: 1s}
  budget: {percent: 30}
  http:
    numRetries: 3
    timeout: 1m30.5s
    retriableStatusCodes: [429]
    rateLimitedBackOff: {resetHeaders: [{name: retry-after}]}
    routes:
      - name: static
        match: {path: {prefix: /static}, methods: [GET, HEAD]}
        numRetries: 0
      - match: {path: {exact: /static/x}}
        retryOn: [connect-failure, refused-stream]
        methods: any
        idleTimeout: 5m
      - match: {headers: [{name: x-a, type: Range, start: 1}]}
---
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: db}
spec: {to: [{hosts: [db], ports: [5432]}]}
";

/// As the Gateway API can say it.
const CHECKOUT_ROUTE: &str = r#"# p.yaml:2: shop/checkout
# p.yaml:2: to: networks cannot be said: 10.0.0.0/8
# p.yaml:2: routes[2] is left out: the range of the header x-a cannot be said
# p.yaml:2: from: [{cgroup: web}] cannot be said; it becomes everybody
# p.yaml:11: spec.tcp.maxConnectAttempts: 2 cannot be said; it becomes 4
# p.yaml:11: spec.tcp.connectTimeout: 1s cannot be said; it becomes none
# p.yaml:20: spec.http.routes[0].match: path {prefix: /static} cannot be said; it becomes {segments: /static}
# p.yaml:25: spec.http.routes[1].idleTimeout: 5m cannot be said; it becomes none
# p.yaml:17: spec.http.rateLimitedBackOff: {resetHeaders: [{name: retry-after}]} cannot be said; it becomes none
# p.yaml:14: spec.http.retryOn: reset cannot be said
# p.yaml:14: spec.http.methods: idempotent cannot be said; it becomes any
# p.yaml:2: routes[1] is asked after static, and in the Gateway API before it, since it is more specific
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: checkout
  namespace: shop
spec:
  parentRefs:
    - group: ""
      kind: Service
      name: checkout
      port: 8080
  rules:
    - name: static
      matches:
        - method: GET
          path:
            type: PathPrefix
            value: /static
        - method: HEAD
          path:
            type: PathPrefix
            value: /static
      timeouts:
        request: 1m30s500ms
      backendRefs:
        - name: checkout
          port: 8080
    - matches:
        - path:
            type: Exact
            value: /static/x
      retry:
        codes: [429]
        attempts: 3
      timeouts:
        request: 1m30s500ms
      backendRefs:
        - name: checkout
          port: 8080
    - name: http
      retry:
        codes: [429, 502, 503, 504]
        attempts: 3
      timeouts:
        request: 1m30s500ms
      backendRefs:
        - name: checkout
          port: 8080
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata:
  name: checkout
  namespace: shop
spec:
  retryConstraint:
    budget:
      interval: 10s
      percent: 30
    minRetryRate:
      count: 10
      interval: 1s
  targetRefs:
    - group: ""
      kind: Service
      name: checkout
---
# p.yaml:28: db
# p.yaml:28: it says nothing of requests, which are all that is written in this format
"#;

#[test]
fn what_the_gateway_api_cannot_say_is_a_comment() {
    let translation = gateway(&parsed(CHECKOUT));
    assert_eq!(translation.text, CHECKOUT_ROUTE);
    assert_eq!(translation.losses, 12);
    parsed(&translation.text);
}

#[test]
fn a_service_is_known_by_its_whole_name() {
    let Translation { text, .. } = gateway(&parsed(MESH));
    let expected = "# p.yaml:14: VirtualRouter/shop/colors:8080
# p.yaml:33: spec.routes[1].httpRoute.match: headers [{name: :scheme, value: http}] cannot be said; it becomes anything
# p.yaml:33: spec.routes[1].httpRoute.match: path {prefix: /blue} cannot be said; it becomes {segments: /blue}
# p.yaml:33: spec.routes[1].httpRoute.retryPolicy: unavailable, reset cannot be said
# p.yaml:35: spec.routes[1].httpRoute.timeout.idle: 7s cannot be said; it becomes none
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: colors-8080
  namespace: shop
spec:
  parentRefs:
    - group: \"\"
      kind: Service
      name: colors
      port: 8080
";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn what_is_ignored_is_a_comment_too() {
    let text = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a}
spec:
  hostnames: [a.example]
  rules:
    - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: b}}}]
";
    let translation = native(&parsed(text));
    let expected = "# p.yaml:1: HTTPRoute/a
# p.yaml:7: spec.rules[0].filters[0]: it has no meaning here, and nothing is done about it
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata:
  name: a
spec:
  to:
    - hosts: [a.example]
  fallThrough: true
  http:
    numRetries: 0
    routes:
      - name: rules[0]
        priority: 2
";
    assert_eq!((translation.text.as_str(), translation.losses), (expected, 1));
}

#[test]
fn no_comment_leaves_its_line() {
    let text = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: \"a\\nb: c\"}, spec: {hostnames: [a.example]}}";
    let Translation { text, .. } = native(&parsed(text));
    assert!(text.starts_with("# p.yaml:1: HTTPRoute/a b: c\n"), "{text}");
    assert_eq!(parsed(&text).policies.len(), 1);
}
