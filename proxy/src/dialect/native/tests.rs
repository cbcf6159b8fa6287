//! Every rule of the document, and what is said where it is broken.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use crate::dialect::parse;
use crate::policy::{Address, Policy};
use crate::reason::AttemptOutcome;
use crate::retry::{Backoff, BudgetPolicy, ConnectRetry};

pub(super) fn parsed(text: &str) -> Vec<Policy> {
    match parse(Path::new("p.yaml"), text) {
        Ok(parsed) => parsed.policies,
        Err(problems) => panic!("{problems:?}\n{text}"),
    }
}

/// The problems as they are shown.
pub(super) fn problems(text: &str) -> Vec<String> {
    match parse(Path::new("p.yaml"), text) {
        Ok(parsed) => panic!("nothing was wrong: {parsed:?}\n{text}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// A document whose spec, from line 4 on, is this.
pub(super) fn with_spec(spec: &str) -> String {
    format!("apiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: p}}\nspec: {spec}\n")
}

pub(super) fn one(spec: &str) -> Policy {
    let mut policies = parsed(&with_spec(spec));
    assert_eq!(policies.len(), 1);
    policies.remove(0)
}

#[test]
fn a_full_document_says_everything() {
    let policies = parsed(
        "
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata:
  name: checkout
  namespace: shop
  labels: {team: a}
spec:
  to:
    - cidrs: [10.0.0.0/8, 'fd00::/8', 192.0.2.1]
      ports: [8080, 8443]
    - hosts: [DB.shop.]
    - ports: [6379]
  tcp:
    maxConnectAttempts: 5
    connectTimeout: 1s
    timeout: 1m30.5s
    backOff: {baseInterval: 30000000ns, maxInterval: 0.3s}
    retryOn: [refused, unreachable]
  budget: {percent: 0, minPerSecond: 0, interval: 1h}
",
    );
    let [policy] = &policies[..] else { panic!("{policies:?}") };
    assert_eq!(policy.name.to_string(), "shop/checkout");
    assert_eq!(policy.origin.to_string(), "p.yaml:2");
    let to = policy.to.iter().map(|destination| {
        let address = match &destination.address {
            Address::Any => "any".to_owned(),
            Address::Network(network) => network.to_string(),
            Address::Host(host) => host.to_string(),
            Address::Suffix(suffix) => suffix.to_string(),
        };
        (address, destination.port.map_or(0, Into::into))
    });
    let expected = [
        ("10.0.0.0/8", 8080u16),
        ("10.0.0.0/8", 8443),
        ("fd00::/8", 8080),
        ("fd00::/8", 8443),
        ("192.0.2.1/32", 8080),
        ("192.0.2.1/32", 8443),
        ("db.shop", 0),
        ("any", 6379),
    ];
    assert_eq!(to.collect::<Vec<_>>(), expected.map(|(address, port)| (address.to_owned(), port)));
    assert_eq!(policy.tcp.max_connect_attempts().get(), 5);
    assert_eq!(policy.tcp.connect_timeout(), Some(Duration::from_secs(1)));
    assert_eq!(policy.tcp.timeout(), Some(Duration::from_millis(90_500)));
    let (base, max) = (Duration::from_millis(30), Duration::from_millis(300));
    assert_eq!(policy.tcp.backoff(), Backoff::try_new(base, Some(max)).unwrap());
    let retried = AttemptOutcome::ALL.into_iter().filter(|&outcome| policy.tcp.retry_on().contains(outcome));
    assert_eq!(
        retried.collect::<Vec<_>>(),
        [AttemptOutcome::Refused, AttemptOutcome::HostUnreachable, AttemptOutcome::NetworkUnreachable]
    );
    assert_eq!(policy.budget, BudgetPolicy::try_new(0, 0, Duration::from_hours(1)).unwrap());
}

#[test]
fn the_documentation_s_examples_are_right() {
    let documentation = include_str!("../../../../docs/policies.md");
    let examples = documentation.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let examples: Vec<_> = examples.map(|example| parse(Path::new("p.yaml"), example).unwrap()).collect();
    assert_eq!(examples.iter().map(|parsed| parsed.policies.len()).collect::<Vec<_>>(), [1, 1, 1]);
    assert!(examples.iter().all(|parsed| parsed.notes.is_empty()), "{examples:?}");
}

#[test]
fn what_is_left_out_is_the_default() {
    for spec in ["{}", "{tcp: {}, budget: {}}"] {
        let policy = one(spec);
        assert_eq!(policy.to, []);
        assert_eq!(policy.tcp, ConnectRetry::default());
        assert_eq!(policy.budget, BudgetPolicy::default());
    }
    let backoff = one("{tcp: {backOff: {baseInterval: 10ms}}}").tcp.backoff();
    assert_eq!(backoff.max(), Duration::from_millis(100));
}

#[test]
fn a_file_may_have_many_documents_or_none() {
    let second = with_spec("{}").replace("name: p", "name: q");
    let policies = parsed(&format!("# two\n---\n{}---\n---\n{second}---\n", with_spec("{}")));
    let seen: Vec<_> = policies.iter().map(|policy| format!("{} {}", policy.name, policy.origin)).collect();
    assert_eq!(seen, ["p p.yaml:3", "q p.yaml:9"]);
    assert!(parsed("").is_empty());
    let json = r#"{"apiVersion": "redial.dev/v1alpha1", "kind": "RetryPolicy", "metadata": {"name": "p"},
        "spec": {"tcp": {"maxConnectAttempts": 2}}}"#;
    assert_eq!(parsed(json)[0].tcp.max_connect_attempts().get(), 2);
}

/// Each spec has this one problem.
pub(super) fn expect_problems<S: AsRef<str>, const N: usize>(table: [(S, String); N]) {
    for (spec, problem) in table {
        let spec = spec.as_ref();
        assert_eq!(problems(&with_spec(spec)), [format!("p.yaml:4: {problem}")], "{spec}");
    }
}

#[test]
fn every_broken_rule_of_to_is_told_with_its_place() {
    let whole = "expected a whole number from";
    expect_problems([
        ("", "spec: expected a map, found no value".to_owned()),
        ("[]", "spec: expected a map, found a list".to_owned()),
        ("{form: []}", "spec.form: there is no such field; did you mean from? there are from, to, fallThrough, protocol, tcp, http, budget".to_owned()),
        ("{'a b\\n': 1}", "spec[\"a b\\\\n\"]: there is no such field; there are from, to, fallThrough, protocol, tcp, http, budget".to_owned()),
        ("{to: []}", "spec.to: the list is empty; leave the field out for its default".to_owned()),
        ("{to: {}}", "spec.to: expected a list, found a map".to_owned()),
        ("{to: [{}]}", "spec.to[0]: at least one of cidrs, hosts, services and ports is required".to_owned()),
        ("{to: [{ports: [1]}, 7]}", "spec.to[1]: expected a map, found 7".to_owned()),
        ("{to: [{port: 1, ports: [1]}]}", "spec.to[0].port: there is no such field; did you mean ports? there are cidrs, hosts, services, ports".to_owned()),
        ("{to: [{cidrs: 10.0.0.0/8}]}", "spec.to[0].cidrs: expected a list, found \"10.0.0.0/8\"".to_owned()),
        ("{to: [{cidrs: []}]}", "spec.to[0].cidrs: the list is empty; leave the field out for its default".to_owned()),
        (
            "{to: [{cidrs: [10.0.0.0/8, 10.0.0.0/33]}]}",
            "spec.to[0].cidrs[1]: expected a network such as 10.0.0.0/8 or fd00::/8, or a single address, found \
             \"10.0.0.0/33\""
                .to_owned(),
        ),
        (
            "{to: [{cidrs: [10.1.2.3/8]}]}",
            "spec.to[0].cidrs[0]: expected a network without host bits, 10.0.0.0/8 perhaps, found \"10.1.2.3/8\""
                .to_owned(),
        ),
        (
            "{to: [{cidrs: [10]}]}",
            "spec.to[0].cidrs[0]: expected text, in quotes where it looks like something else, found 10".to_owned(),
        ),
        (
            "{to: [{hosts: ['a.*.com']}]}",
            "spec.to[0].hosts[0]: expected a full DNS name, or a wildcard such as *.example.com, found \"a.*.com\""
                .to_owned(),
        ),
        (
            "{to: [{hosts: [10.0.0.1]}]}",
            "spec.to[0].hosts[0]: expected a DNS name; an address or network belongs in `cidrs`, found \"10.0.0.1\""
                .to_owned(),
        ),
        ("{to: [{ports: [0]}]}", format!("spec.to[0].ports[0]: {whole} 1 to 65535, found 0")),
        ("{to: [{ports: [65536]}]}", format!("spec.to[0].ports[0]: {whole} 1 to 65535, found 65536")),
        ("{to: [{ports: ['80']}]}", format!("spec.to[0].ports[0]: {whole} 1 to 65535, found \"80\"")),
        ("{to: [{ports: [-1]}]}", format!("spec.to[0].ports[0]: {whole} 1 to 65535, found -1")),
    ]);
}

#[test]
fn every_broken_rule_of_tcp_and_budget_is_told_with_its_place() {
    let duration = "expected a duration of more than 0, such as 250ms, 5s or 1m30s, found";
    let whole = "expected a whole number from";
    expect_problems([
        (
            "{tcp: {attempts: 1}}",
            "spec.tcp.attempts: there is no such field; there are maxConnectAttempts, connectTimeout, timeout, \
             backOff, retryOn, targets"
                .to_owned(),
        ),
        ("{tcp: }", "spec.tcp: expected a map, found no value".to_owned()),
        ("{tcp: {maxConnectAttempts: 0}}", format!("spec.tcp.maxConnectAttempts: {whole} 1 to 4294967295, found 0")),
        ("{tcp: {maxConnectAttempts: -1}}", format!("spec.tcp.maxConnectAttempts: {whole} 1 to 4294967295, found -1")),
        ("{tcp: {maxConnectAttempts: 1.5}}", format!("spec.tcp.maxConnectAttempts: {whole} 1 to 4294967295, found 1.5")),
        (
            "{tcp: {maxConnectAttempts: 4294967296}}",
            format!("spec.tcp.maxConnectAttempts: {whole} 1 to 4294967295, found 4294967296"),
        ),
        (
            "{tcp: {maxConnectAttempts: 99999999999999999999}}",
            format!("spec.tcp.maxConnectAttempts: {whole} 1 to 4294967295, found 1e20"),
        ),
        ("{tcp: {maxConnectAttempts: many}}", format!("spec.tcp.maxConnectAttempts: {whole} 1 to 4294967295, found \"many\"")),
        ("{tcp: {connectTimeout: 0}}", format!("spec.tcp.connectTimeout: {duration} 0: it is zero")),
        ("{tcp: {connectTimeout: 0s}}", format!("spec.tcp.connectTimeout: {duration} \"0s\": it is zero")),
        ("{tcp: {connectTimeout: 0.1ns}}", format!("spec.tcp.connectTimeout: {duration} \"0.1ns\": it is zero")),
        ("{tcp: {connectTimeout: ''}}", format!("spec.tcp.connectTimeout: {duration} \"\": it is empty")),
        ("{tcp: {connectTimeout: }}", format!("spec.tcp.connectTimeout: {duration} no value: it is empty")),
        (
            "{tcp: {connectTimeout: 5}}",
            format!("spec.tcp.connectTimeout: {duration} 5: the unit is missing after 5; the units are ns, us, ms, s, m and h"),
        ),
        (
            "{tcp: {connectTimeout: 1d}}",
            format!("spec.tcp.connectTimeout: {duration} \"1d\": there is no unit `d`; the units are ns, us, ms, s, m and h"),
        ),
        ("{tcp: {connectTimeout: soon}}", format!("spec.tcp.connectTimeout: {duration} \"soon\": a number is missing before `soon`")),
        ("{tcp: {timeout: -1s}}", format!("spec.tcp.timeout: {duration} \"-1s\": it is negative")),
        (
            "{tcp: {timeout: 9223372036854775808ns}}",
            format!("spec.tcp.timeout: {duration} \"9223372036854775808ns\": it is longer than Go's longest duration, some 292 years"),
        ),
        ("{tcp: {backOff: {}}}", "spec.tcp.backOff.baseInterval: the field is required".to_owned()),
        ("{tcp: {backOff: {maxInterval: 1s}}}", "spec.tcp.backOff.baseInterval: the field is required".to_owned()),
        ("{tcp: {backOff: {baseInterval: 0s}}}", format!("spec.tcp.backOff.baseInterval: {duration} \"0s\": it is zero")),
        (
            "{tcp: {backOff: {baseInterval: 25ms, maxInterval: 24ms}}}",
            "spec.tcp.backOff.maxInterval: the maximum interval 24ms must be at least the base interval 25ms".to_owned(),
        ),
        ("{tcp: {retryOn: []}}", "spec.tcp.retryOn: the list is empty; leave the field out for its default".to_owned()),
        (
            "{tcp: {retryOn: [refused, 5xx]}}",
            "spec.tcp.retryOn[1]: expected one of refused, timeout, unreachable, reset, found \"5xx\"".to_owned(),
        ),
        ("{budget: {perCent: 1}}", "spec.budget.perCent: there is no such field; did you mean percent? there are percent, minPerSecond, interval".to_owned()),
        ("{budget: {percent: 101}}", format!("spec.budget.percent: {whole} 0 to 100, found 101")),
        ("{budget: {percent: 20%}}", format!("spec.budget.percent: {whole} 0 to 100, found \"20%\"")),
        ("{budget: {minPerSecond: -1}}", format!("spec.budget.minPerSecond: {whole} 0 to 4294967295, found -1")),
        ("{budget: {interval: 999ms}}", "spec.budget.interval: the interval must be from 1s to 1h, not 999ms".to_owned()),
        ("{budget: {interval: 1h1ns}}", "spec.budget.interval: the interval must be from 1s to 1h, not 3600.000000001s".to_owned()),
    ]);
}

#[test]
fn every_broken_rule_around_the_spec_is_told_with_its_place() {
    let good = with_spec("{}");
    let name =
        "a name of lowercase letters, digits, `-` and `.`, with a letter or digit at both ends, 253 at most";
    let namespace =
        "a namespace of lowercase letters, digits and `-`, with a letter or digit at both ends, 63 at most";
    for (from, to, problem) in [
        ("apiVersion: redial.dev/v1alpha1\n", "", "1: apiVersion: the field is required".to_owned()),
        ("kind: RetryPolicy\n", "", "1: kind: the field is required".to_owned()),
        ("metadata: {name: p}\n", "", "1: metadata: the field is required".to_owned()),
        ("spec: {}\n", "", "1: spec: the field is required".to_owned()),
        (
            "v1alpha1",
            "v2",
            "1: apiVersion: expected one of redial.dev/v1alpha1, found \"redial.dev/v2\""
                .to_owned(),
        ),
        (
            "kind: RetryPolicy",
            "kind: MeshRetry",
            "1: apiVersion \"redial.dev/v1alpha1\" with kind \"MeshRetry\" is not supported"
                .to_owned(),
        ),
        ("kind: RetryPolicy", "kind: [a]", "2: kind: expected text, found a list".to_owned()),
        ("spec:", "spec: {}\nspecs:", "5: specs: there is no such field; did you mean spec? there are apiVersion, kind, metadata, spec, status".to_owned()),
        ("{name: p}", "{}", "3: metadata.name: the field is required".to_owned()),
        ("{name: p}", "{name: 7}", "3: metadata.name: expected text, in quotes where it looks like something else, found 7".to_owned()),
        ("{name: p}", "{name: P}", format!("3: metadata.name: expected {name}, found \"P\"")),
        ("{name: p}", "{name: p, namespace: a.b}", format!("3: metadata.namespace: expected {namespace}, found \"a.b\"")),
        (
            "{name: p}",
            "{name: p, label: {}}",
            "3: metadata.label: there is no such field; did you mean labels? there are annotations, creationTimestamp, deletionTimestamp, finalizers, generateName, generation, labels, managedFields, name, namespace, ownerReferences, resourceVersion, selfLink, uid".to_owned(),
        ),
        (
            "{name: p}\nspec: {}",
            "{name: default}\nspec:\n  to: [{ports: [1]}]",
            "5: spec.to: the policy named default holds where no other does; leave `to` out, or rename the policy".to_owned(),
        ),
    ] {
        assert!(good.contains(from), "{from}");
        // What is supported grows with the formats.
        let told = problems(&good.replacen(from, to, 1));
        let told: Vec<_> = told.iter().map(|told| told.split("; supported: ").next().unwrap()).collect();
        assert_eq!(told, [format!("p.yaml:{problem}")], "{from} -> {to}");
    }
    assert_eq!(problems("7"), ["p.yaml:1: expected a map, found 7"]);
    assert_eq!(problems("a: 1\na: 2\n").len(), 1);
}

#[test]
fn all_problems_are_told_at_once_across_documents() {
    let text = "
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: A}
spec:
  to:
    - cidrs: [10.0.0.1/8]
      ports: [0]
    - hosts: ['*']
  tcp:
    maxConnectAttempts: 0
    timeot: 1s
  budget: {percent: 200}
---
kind: RetryPolicy
";
    let places: Vec<_> =
        problems(text).iter().map(|shown| shown.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        places,
        [
            "p.yaml:4 metadata.name",
            "p.yaml:7 spec.to[0].cidrs[0]",
            "p.yaml:8 spec.to[0].ports[0]",
            "p.yaml:9 spec.to[1].hosts[0]",
            "p.yaml:11 spec.tcp.maxConnectAttempts",
            "p.yaml:12 spec.tcp.timeot",
            "p.yaml:13 spec.budget.percent",
            "p.yaml:15 apiVersion",
        ]
    );
}

#[test]
fn a_value_is_shown_in_part_and_on_one_line() {
    let spec = format!("{{tcp: {{retryOn: [\"a\\nb{}\"]}}}}", "x".repeat(1_000));
    let problems = problems(&with_spec(&spec));
    assert_eq!(problems.len(), 1);
    assert!(problems[0].len() < 250 && !problems[0].contains('\n'), "{problems:?}");
}

#[test]
fn too_many_destinations_are_refused() {
    let addresses = |count: usize| {
        let addresses: Vec<_> = (0..count).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
        format!("{{to: [{{cidrs: [{}], ports: [1, 2]}}]}}", addresses.join(", "))
    };
    assert_eq!(one(&addresses(2_048)).to.len(), 4_096);
    assert_eq!(
        problems(&with_spec(&addresses(2_049))),
        [
            "p.yaml:4: spec.to: 4098 destinations are too many, each address counted with each of its ports; a policy may \
          have 4096"
        ]
    );
}

/// A value for some field: right, wrong or of another kind.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-z.:/*-]{0,12}",
        "-?[0-9]{1,25}",
        "[0-9]{1,3}(ms|s|h)",
        Just("{}".into()),
        Just("[]".into()),
        "\\[\\PC{0,9}\\]"
    ]
}

proptest! {
    #[test]
    fn no_text_is_too_much(text in "\\PC{0,200}") {
        let _ = parse(Path::new("p.yaml"), &text);
    }

    /// Whatever the fields hold, there is a policy or a problem, and each problem is one line with its place.
    #[test]
    fn no_value_is_too_much(values in proptest::collection::vec(any_value(), 12)) {
        let [name, cidr, host, port, attempts, timeout, overall, base, max, on, percent, interval] = &values[..] else {
            unreachable!()
        };
        let text = format!(
            "apiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             to: [{{cidrs: [{cidr}], hosts: [{host}], ports: [{port}]}}]\n  \
             tcp: {{maxConnectAttempts: {attempts}, connectTimeout: {timeout}, timeout: {overall}, \
             backOff: {{baseInterval: {base}, maxInterval: {max}}}, retryOn: [{on}]}}\n  \
             budget: {{percent: {percent}, interval: {interval}}}\n"
        );
        match parse(Path::new("p.yaml"), &text) {
            Ok(parsed) => prop_assert_eq!(parsed.policies.len(), 1),
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    prop_assert!(problem.line.is_some(), "{}", problem);
                    prop_assert!(!problem.to_string().contains('\n'), "{}", problem);
                }
            }
        }
    }
}
