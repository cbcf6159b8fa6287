//! Every rule: where it says something, and where it does not.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::{Finding, Setting, longest_pauses, of_requests};
use crate::dialect::{Code, Note, parse};
use crate::policy::{HttpPolicy, Protocol, Sources, Table};
use crate::retry::request::{Conditions, RequestRetry};
use crate::retry::{Backoff, Jitter};

/// The notes about a document whose spec, from line 4 on, is this.
fn notes(spec: &str) -> Vec<Note> {
    let text =
        format!("apiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: p}}\nspec: {spec}\n");
    match parse(Path::new("p.yaml"), &text) {
        Ok(parsed) => parsed.notes,
        Err(problems) => panic!("{problems:?}\n{text}"),
    }
}

fn codes(spec: &str) -> Vec<Code> {
    notes(spec).iter().map(|note| note.code).collect()
}

/// Each `http` section has this one note.
const NOTED: &[(&str, Code, &str)] = &[
    (
        "{retryOn: [reset, http3-post-connect-failure]}",
        Code::InertHttp3,
        "retryOn[1]: warning[inert-http3]: it can never be met, since redial does not speak HTTP/3; take it out",
    ),
    (
        "{retryOn: [reset, unavailable, cancelled]}",
        Code::InertGrpc,
        "retryOn[2]: warning[inert-grpc]: gRPC requests are POST, which may not be executed twice here: without an \
         Idempotency-Key none is retried for cancelled, unavailable; if they may be, list POST in `methods`",
    ),
    (
        "{methods: [GET], retryOn: [internal]}",
        Code::InertGrpc,
        "retryOn[0]: warning[inert-grpc]: gRPC requests are POST, which may not be executed twice here: without an \
         Idempotency-Key none is retried for internal; if they may be, list POST in `methods`",
    ),
    (
        "{methods: any, retryOn: [reset, 5xx, unavailable]}",
        Code::DangerousMethods,
        "methods: warning[dangerous-methods]: requests that the server may have executed are sent again, POST and all \
         (reset, 5xx); list the methods that may be executed twice, such as GET and PUT",
    ),
    (
        "{methods: any, retryOn: [connect-failure], retriableStatusCodes: [429, 500]}",
        Code::DangerousMethods,
        "methods: warning[dangerous-methods]: requests that the server may have executed are sent again, POST and all \
         (retriable-status-codes); list the methods that may be executed twice, such as GET and PUT",
    ),
    (
        "{methods: any, retryOn: [unavailable], hedgeOnPerTryTimeout: true, perTryTimeout: 1s}",
        Code::DangerousMethods,
        "methods: warning[dangerous-methods]: requests that the server may have executed are sent again, POST and all \
         (hedging); list the methods that may be executed twice, such as GET and PUT",
    ),
    (
        "{perTryTimeout: 2s, timeout: 2s}",
        Code::InertPerTryTimeout,
        "perTryTimeout: warning[inert-per-try-timeout]: it is ignored, since 2s for one attempt is not less than the 2s for \
         all of them; shorten it, or leave it out",
    ),
    (
        "{numRetries: 2, perTryTimeout: 5s, timeout: 15s}",
        Code::ShortTimeout,
        "timeout: warning[short-timeout]: the last attempts have less than their 5s or do not begin: 3 attempts and the \
         pauses between them may take 15.075s, and 15s end them; lengthen it, or allow for fewer or shorter attempts",
    ),
    (
        "{numRetries: 0, retryOn: [5xx]}",
        Code::InertConditions,
        "numRetries: warning[inert-conditions]: with no retries allowed, the conditions are in vain; allow at least 1, or \
         take the conditions out",
    ),
    (
        "{numRetries: 0, retriableStatusCodes: [429]}",
        Code::InertConditions,
        "numRetries: warning[inert-conditions]: with no retries allowed, the conditions are in vain; allow at least 1, or \
         take the conditions out",
    ),
    (
        "{hedgeOnPerTryTimeout: true}",
        Code::InertHedging,
        "hedgeOnPerTryTimeout: warning[inert-hedging]: nothing is hedged: that takes a timeout of each try, and at least one \
         retry",
    ),
    (
        "{hedgeOnPerTryTimeout: true, perTryTimeout: 1s, numRetries: 0}",
        Code::InertHedging,
        "hedgeOnPerTryTimeout: warning[inert-hedging]: nothing is hedged: that takes a timeout of each try, and at least one \
         retry",
    ),
    (
        "{retryOn: [reset, connect-failure], rateLimitedBackOff: {resetHeaders: [{name: retry-after}]}}",
        Code::InertRateLimitedBackoff,
        "rateLimitedBackOff: warning[inert-rate-limited-backoff]: only a response can ask for a pause, and no condition \
         retries one; add a condition such as envoy-ratelimited, or leave it out",
    ),
    (
        "{maxConcurrentRetries: 0}",
        Code::NoConcurrentRetries,
        "maxConcurrentRetries: warning[no-concurrent-retries]: with 0 no request is ever retried; leave it out, or allow at \
         least 1",
    ),
    (
        "{maxBufferedBody: 0}",
        Code::NoReplay,
        "maxBufferedBody: warning[no-replay]: with 0 no request is sent again once some of its body was sent; leave it out, \
         or allow some bytes",
    ),
    (
        "{perTryTimeout: 999us}",
        Code::TinyTimeout,
        "perTryTimeout: warning[tiny-timeout]: 999us is hardly enough for any server; is the unit right?",
    ),
    (
        "{perTryIdleTimeout: 1ns}",
        Code::TinyTimeout,
        "perTryIdleTimeout: warning[tiny-timeout]: 1ns is hardly enough for any server; is the unit right?",
    ),
    (
        "{timeout: 15us}",
        Code::TinyTimeout,
        "timeout: warning[tiny-timeout]: 15us is hardly enough for any server; is the unit right?",
    ),
    (
        "{idleTimeout: 0.3ms}",
        Code::TinyTimeout,
        "idleTimeout: warning[tiny-timeout]: 300us is hardly enough for any server; is the unit right?",
    ),
];

/// `http` sections that there is nothing to say about: each is the nearest to one that there is.
const QUIET: &[&str] = &[
    "{}",
    "{retryOn: [reset-before-request]}",
    // gRPC.
    "{methods: [POST], retryOn: [unavailable, cancelled, deadline-exceeded, internal, resource-exhausted]}",
    "{methods: any, retryOn: [unavailable]}",
    "{retriableStatusCodes: [429], retryOn: [retriable-4xx]}",
    // Methods.
    "{methods: any, retryOn: [connect-failure, refused-stream, reset-before-request], retriableStatusCodes: [429, 499]}",
    "{methods: [GET, POST], retryOn: [5xx, reset, gateway-error]}",
    "{methods: idempotent, retryOn: [5xx]}",
    "{methods: any, numRetries: 0}",
    "{methods: any, retryOn: [unavailable], perTryTimeout: 1s}",
    // Timeouts.
    "{perTryTimeout: 2s}",
    "{perTryTimeout: 2s, timeout: 0s}",
    "{perTryTimeout: 0s, timeout: 2s}",
    "{perTryTimeout: 1999ms, timeout: 2s, numRetries: 0}",
    "{numRetries: 2, perTryTimeout: 5s, timeout: 15075ms}",
    "{numRetries: 2, perTryTimeout: 5s, timeout: 15001ms, backOff: {baseInterval: 500us, maxInterval: 500us}}",
    "{timeout: 1ms, idleTimeout: 1ms}",
    "{perTryTimeout: 1ms, perTryIdleTimeout: 1ms}",
    // Retries.
    "{numRetries: 0}",
    "{numRetries: 0, perTryTimeout: 1s, maxBufferedBody: 0, maxConcurrentRetries: 0}",
    "{hedgeOnPerTryTimeout: false}",
    "{hedgeOnPerTryTimeout: true, perTryTimeout: 1s}",
    "{rateLimitedBackOff: {resetHeaders: [{name: retry-after}]}}",
    "{retryOn: [envoy-ratelimited], rateLimitedBackOff: {resetHeaders: [{name: retry-after}]}}",
    "{retryOn: [reset], retriableStatusCodes: [429], rateLimitedBackOff: {resetHeaders: [{name: retry-after}]}}",
    "{maxConcurrentRetries: 1, maxBufferedBody: 1}",
    "{hostSelection: {avoidPrevious: true, maxAttempts: 1000}, upstream: pool, onConnectFailure: 503}",
    // A request may bring what is missing.
    "{numRetries: 0, retryOn: [5xx], honourRequestHeaders: true}",
    "{hedgeOnPerTryTimeout: true, numRetries: 0, honourRequestHeaders: true}",
    "{retryOn: [reset], rateLimitedBackOff: {resetHeaders: [{name: retry-after}]}, honourRequestHeaders: true}",
];

#[test]
fn every_rule_says_what_and_where() {
    for (section, code, expected) in NOTED {
        let notes = notes(&format!("{{http: {section}}}"));
        let shown: Vec<_> = notes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, [format!("p.yaml:4: spec.http.{expected}")], "{section}");
        assert_eq!(notes[0].code, *code);
    }
}

#[test]
fn nothing_is_said_where_nothing_is_the_matter() {
    for section in QUIET {
        assert_eq!(notes(&format!("{{http: {section}}}")), [], "{section}");
    }
    for spec in [
        "{}",
        "{tcp: {connectTimeout: 1ms, timeout: 1ms}}",
        "{protocol: grpc, http: {}}",
        "{protocol: grpc, http: {methods: [POST], retryOn: [unavailable, retriable-4xx]}}",
        "{budget: {percent: 0}}",
        "{budget: {minPerSecond: 0}}",
        "{tcp: {maxConnectAttempts: 1}, budget: {percent: 0, minPerSecond: 0}}",
        "{http: {numRetries: 0}, budget: {percent: 0, minPerSecond: 0}}",
    ] {
        assert_eq!(notes(spec), [], "{spec}");
    }
}

#[test]
fn connects_and_the_budget_have_rules_too() {
    let no_budget = "{percent: 0, minPerSecond: 0}";
    for (spec, expected) in [
        (
            "{tcp: {connectTimeout: 250us}}".to_owned(),
            "spec.tcp.connectTimeout: warning[tiny-timeout]: 250us is hardly enough for any server; is the unit right?",
        ),
        (
            "{tcp: {timeout: 1us}}".to_owned(),
            "spec.tcp.timeout: warning[tiny-timeout]: 1us is hardly enough for any server; is the unit right?",
        ),
        (
            format!("{{budget: {no_budget}}}"),
            "spec.budget: warning[no-budget]: with 0 percent and 0 a second nothing is ever retried, connects included; \
             raise one of them",
        ),
        (
            format!("{{tcp: {{maxConnectAttempts: 1}}, http: {{}}, budget: {no_budget}}}"),
            "spec.budget: warning[no-budget]: with 0 percent and 0 a second nothing is ever retried, connects included; \
             raise one of them",
        ),
    ] {
        let shown: Vec<_> = notes(&spec).iter().map(ToString::to_string).collect();
        assert_eq!(shown, [format!("p.yaml:4: {expected}")], "{spec}");
    }
}

#[test]
fn where_all_is_grpc_no_response_counts_without_post() {
    let only_responses = "retriableStatusCodes: [503], retriableHeaders: [{name: x, type: Present}]";
    let spec = |protocol: &str| {
        format!(
            "{{protocol: {protocol}, http: {{retryOn: [retriable-4xx, envoy-ratelimited], {only_responses}}}}}"
        )
    };
    assert_eq!(codes(&spec("auto")), []);
    let [note] = &notes(&spec("grpc"))[..] else { panic!() };
    assert_eq!((note.code, note.field.as_str()), (Code::InertGrpc, "spec.http.retryOn[1]"));
    let named = "for envoy-ratelimited, retriable-status-codes, retriable-headers, retriable-4xx;";
    assert!(note.message.contains(named), "{note}");
    let implied = format!("{{protocol: grpc, http: {{retryOn: [reset], {only_responses}}}}}");
    assert_eq!(notes(&implied)[0].field, "spec.http.retriableStatusCodes");
}

#[test]
fn each_note_has_its_line_and_they_are_told_in_their_order() {
    let spec = "
  http:
    timeout: 1s
    methods: any
    retryOn:
      - reset
      - http3-post-connect-failure
    perTryTimeout: 1s
  budget:
    percent: 0
    minPerSecond: 0";
    let places: Vec<_> =
        notes(spec).iter().map(|note| format!("{} {} {}", note.line, note.field, note.code)).collect();
    assert_eq!(
        places,
        [
            "7 spec.http.methods dangerous-methods",
            "10 spec.http.retryOn[1] inert-http3",
            "11 spec.http.perTryTimeout inert-per-try-timeout",
            "13 spec.budget no-budget",
        ]
    );
    // What is left out has the line of what it would be in.
    let default = notes(
        "\n  protocol: auto\n  http:\n    retriableStatusCodes: [500]\n    methods: any\n    numRetries: 1",
    );
    assert_eq!((default[0].line, default[0].field.as_str()), (8, "spec.http.methods"));
}

/// A native document can't say that there is none.
#[test]
fn a_policy_without_conditions_is_noted() {
    let found = |http: HttpPolicy| {
        of_requests(&http, Protocol::Auto, &Sources::default(), &Sources::default())
            .into_iter()
            .map(|Finding { code, about, .. }| (code, about))
            .collect::<Vec<_>>()
    };
    let retry = RequestRetry { retry_on: Conditions::default(), ..RequestRetry::default() };
    let http = HttpPolicy { retry, ..HttpPolicy::default() };
    assert_eq!(found(http.clone()), [(Code::NoConditions, Setting::RetryOn)]);
    assert_eq!(found(HttpPolicy { honour_request_headers: true, ..http.clone() }), []);
    let never = RequestRetry { num_retries: 0, ..http.retry.clone() };
    assert_eq!(found(HttpPolicy { retry: never, ..http.clone() }), []);
    let per_try_timeout = Some(Duration::from_secs(1));
    let hedging = RequestRetry { hedge_on_per_try_timeout: true, per_try_timeout, ..http.retry.clone() };
    assert_eq!(found(HttpPolicy { retry: hedging, ..http }), []);
}

#[test]
fn a_route_that_an_earlier_one_hides_is_noted() {
    let routes = |routes: &str| notes(&format!("{{http: {{routes: [{routes}]}}}}"));
    let [note] = &routes("{match: {path: {segments: /a}}}, {match: {path: {exact: /a/b}, method: GET}}")[..]
    else {
        panic!()
    };
    assert_eq!(
        note.to_string(),
        "p.yaml:4: spec.http.routes[1].match: warning[unreachable-route]: no request takes it, since routes[0] comes \
         first and takes them all; reorder them"
    );
    assert_eq!(routes("{match: {path: {exact: /a/b}, method: GET}}, {match: {path: {segments: /a}}}"), []);
    // That nothing is left for what the section says of all other requests is no mistake.
    assert_eq!(routes("{match: {}}"), []);
}

#[test]
fn a_route_that_turns_retries_off_needs_not_take_back_what_it_inherits() {
    let section =
        "retryOn: [5xx], retriableStatusCodes: [429], perTryTimeout: 1s, hedgeOnPerTryTimeout: true";
    let of = |route: &str| {
        codes(&format!("{{http: {{{section}, routes: [{{match: {{method: GET}}, {route}}}]}}}}"))
    };
    assert_eq!(of("numRetries: 0"), []);
    assert_eq!(of("numRetries: 0, retryOn: [reset]"), [Code::InertConditions]);
    assert_eq!(of("numRetries: 0, retriableStatusCodes: [500]"), [Code::InertConditions]);
    assert_eq!(of("numRetries: 0, hedgeOnPerTryTimeout: true"), [Code::InertHedging]);
}

#[test]
fn methods_are_dangerous_only_where_such_requests_come() {
    let of = |rest: &str| codes(&format!("{{http: {{methods: any, retryOn: [5xx], {rest}}}}}"));
    let retried = |matcher: &str| {
        codes(&format!(
            "{{fallThrough: true, http: {{methods: any, retryOn: [5xx], routes: [{{match: {{{matcher}}}}}]}}}}"
        ))
    };
    assert_eq!(of("retriableRequestHeaders: [{name: ':method', value: GET}]"), []);
    let either = "[{name: ':method', value: GET}, {name: x, type: Present}]";
    assert_eq!(of(&format!("retriableRequestHeaders: {either}")), [Code::DangerousMethods]);
    for (matcher, expected) in [
        ("method: GET", &[][..]),
        ("methods: [GET, PUT]", &[]),
        ("method: POST", &[Code::DangerousMethods]),
        ("methods: [GET, PATCH]", &[Code::DangerousMethods]),
        ("headers: [{name: ':method', value: GET, invert: true}]", &[Code::DangerousMethods]),
        ("path: {prefix: /a}", &[Code::DangerousMethods]),
    ] {
        assert_eq!(retried(matcher), expected, "{matcher}");
    }
}

/// What is noted of these policies together.
fn between(specs: &[&str]) -> Vec<String> {
    let documents = specs.iter().zip('a'..).map(|(spec, name)| {
        format!("---\napiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    });
    let policies = parse(Path::new("p.yaml"), &documents.collect::<String>()).unwrap().policies;
    let notes = super::between(&Table::try_new(policies).unwrap());
    notes.iter().map(ToString::to_string).collect()
}

#[test]
fn retries_that_multiply_from_hop_to_hop_are_noted() {
    let to_web = "{to: [{hosts: [web.shop]}], http: {numRetries: 2}}";
    let from_web =
        "{from: [{podSelector: {matchLabels: {app: web}}}], to: [{hosts: [db]}], http: {numRetries: 3}}";
    assert_eq!(
        between(&[to_web, from_web]),
        [
            "p.yaml:5: spec.http.numRetries: warning[stacked-retries]: each of 3 attempts here has the workload make up to 4 \
          of its own, by b: 12 in all; retry in one of the two places"
        ]
    );
    for (one, other) in [
        (to_web, "{from: [{podSelector: {matchLabels: {app: api}}}], to: [{hosts: [db]}], http: {}}"),
        (
            to_web,
            "{from: [{namespace: other, podSelector: {matchLabels: {app: web}}}], to: [{hosts: [db]}], http: {}}",
        ),
        ("{to: [{hosts: [web.shop]}], http: {retryOn: [connect-failure]}}", from_web),
        ("{to: [{hosts: [web.example.com]}], http: {numRetries: 2}}", from_web),
        ("{to: [{hosts: [web.shop]}], http: {numRetries: 0}}", from_web),
        ("{tcp: {maxConnectAttempts: 3}, to: [{hosts: [x]}], http: {numRetries: 2}}", from_web),
    ] {
        assert_eq!(between(&[one, other]), [""; 0], "{one} {other}");
    }
}

#[test]
fn a_policy_that_another_hides_is_noted() {
    assert_eq!(
        between(&["{http: {}}", "{http: {timeout: 1s}}"]),
        [
            "p.yaml:10: spec.http: warning[unreachable-route]: it never holds, since a is for the same destinations, comes \
          first and takes all of it; narrow one of them, or take one out"
        ]
    );
    for (one, other) in [
        ("{from: [{namespace: a}], http: {}}", "{http: {}}"),
        ("{to: [{ports: [80]}], http: {}}", "{http: {}}"),
        ("{to: [{cidrs: [10.0.0.0/8]}], http: {}}", "{to: [{cidrs: [10.0.0.0/9]}], http: {}}"),
    ] {
        assert_eq!(between(&[one, other]), [""; 0], "{one} {other}");
    }
}

#[test]
fn a_wildcard_that_only_connects_would_follow_is_noted() {
    let [note] = &notes("{to: [{hosts: ['*.a.test']}], tcp: {timeout: 1s}}")[..] else { panic!() };
    assert_eq!((note.code, note.field.as_str()), (Code::InertSetting, "spec.to"));
    assert_eq!(notes("{to: [{hosts: ['*.a.test']}], http: {}}"), []);
    assert_eq!(notes("{to: [{hosts: [a.test]}], tcp: {timeout: 1s}}"), []);
}

#[test]
fn the_documentation_has_every_code_and_each_is_tested() {
    let documentation = include_str!("../../../../docs/policies.md");
    let documented = |code: &Code| documentation.contains(&format!("\n| `{code}` | "));
    assert_eq!(Code::ALL.into_iter().filter(|code| !documented(code)).collect::<Vec<_>>(), []);
    // Those have tests of their own in this file.
    let alone = [Code::NoBudget, Code::NoConditions, Code::StackedRetries, Code::UnreachableRoute];
    // Those are noted by the readers of other systems' documents, whose tests have them.
    let foreign = [Code::AppliesEverywhere, Code::Ignored, Code::InertSetting, Code::UnresolvedTarget];
    let tested: HashSet<_> = NOTED.iter().map(|(_, code, _)| *code).chain(alone).chain(foreign).collect();
    assert_eq!(tested, HashSet::from(Code::ALL));
    assert_eq!(Code::ALL.map(Code::as_str).iter().collect::<HashSet<_>>().len(), Code::ALL.len());
}

proptest! {
    /// The sum is that of the pauses, and none of many retries takes long to add up.
    #[test]
    fn the_longest_pauses_are_the_sum_of_each(base in 1..=1_000_000u64, factor in 1..=5_000u64, retries in 0..200u32) {
        let backoff = Backoff::try_new(Duration::from_micros(base), Some(Duration::from_micros(base * factor))).unwrap();
        let each = (1..=retries).map(|retry| backoff.delay(retry, Jitter::from_bits(u64::MAX)));
        // A pause is drawn from below its end, by a nanosecond at least.
        let (sum, longest) = (each.sum::<Duration>(), longest_pauses(backoff, retries));
        prop_assert!(sum <= longest && longest <= sum + Duration::from_nanos(retries.into()), "{:?} {:?}", sum, longest);
        prop_assert!(longest_pauses(backoff, u32::MAX) >= longest);
    }
}
