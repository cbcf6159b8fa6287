//! Every rule of the `http` section, and what is said where it is broken.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::super::tests::{expect_problems, one, parsed, problems, with_spec};
use crate::policy::{
    AddedHeaders, ConnectFailure, HeaderMatcher, HttpPolicy, Pattern, Protocol, UpstreamMode, ValueMatcher,
};
use crate::retry::connect::RetryOn;
use crate::retry::request::{
    Condition, Conditions, HostSelection, Methods, RateLimitedBackoff, RequestRetry, ResetFormat,
    ResetHeader, StatusCodes,
};
use crate::retry::{Backoff, ConnectRetry};

fn http(section: &str) -> HttpPolicy {
    let policy = one(&format!("{{http: {section}}}")).routes;
    HttpPolicy::clone(&policy[0].http)
}

fn retry(section: &str) -> RequestRetry {
    http(section).retry
}

fn matcher(name: &str, value: ValueMatcher, invert: bool) -> HeaderMatcher {
    HeaderMatcher { name: name.parse().unwrap(), value, invert }
}

#[test]
fn a_full_section_says_everything() {
    let policies = parsed(
        "
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {name: checkout}
spec:
  protocol: grpc
  http:
    retryOn: [5xx, reset-before-request, unavailable, envoy-ratelimited]
    numRetries: 7
    retriableStatusCodes: [429, 100, 599]
    retriableHeaders:
      - {name: X-Retry, value: 'yes'}
      - {name: x-busy, type: Present}
      - {name: ':status', type: RegularExpression, value: '4..'}
    retriableRequestHeaders:
      - {name: ':method', type: Exact, value: GET}
      - {name: ':path', type: Prefix, value: /api}
      - {name: x-a, type: Suffix, value: z}
      - {name: x-b, type: Contains, value: y}
      - {name: x-c, type: Absent}
    methods: [GET, POST]
    perTryTimeout: 2s
    perTryIdleTimeout: 1s
    timeout: 15s
    idleTimeout: 5m
    backOff: {baseInterval: 10ms, maxInterval: 1s}
    rateLimitedBackOff:
      resetHeaders: [{name: Retry-After}, {name: x-reset, format: UnixTimestamp}]
      maxInterval: 1m
    hostSelection: {avoidPrevious: false, maxAttempts: 3}
    hedgeOnPerTryTimeout: true
    maxConcurrentRetries: 100
    maxBufferedBody: 64KiB
    honourRequestHeaders: true
    addHeaders: envoy
    onConnectFailure: 503
    upstream: pool
",
    );
    let [policy] = &policies[..] else { panic!("{policies:?}") };
    let retry_on = [
        Condition::ServerError,
        Condition::ResetBeforeRequest,
        Condition::Unavailable,
        Condition::EnvoyRateLimited,
        Condition::RetriableStatusCodes,
        Condition::RetriableHeaders,
    ];
    let reset_headers = vec![
        ResetHeader { name: "retry-after".parse().unwrap(), format: ResetFormat::Seconds },
        ResetHeader { name: "x-reset".parse().unwrap(), format: ResetFormat::UnixTimestamp },
    ];
    let backoff = Backoff::try_new(Duration::from_millis(10), Some(Duration::from_secs(1))).unwrap();
    let retry = RequestRetry {
        retry_on: Conditions::of(&retry_on),
        status_codes: StatusCodes::try_new([100, 429, 599]).unwrap(),
        response_headers: vec![
            matcher("x-retry", ValueMatcher::Exact("yes".into()), false),
            matcher("x-busy", ValueMatcher::Present, false),
            matcher(":status", ValueMatcher::Regex(Pattern::try_new("4..").unwrap()), false),
        ],
        request_headers: vec![
            matcher(":method", ValueMatcher::Exact("GET".into()), false),
            matcher(":path", ValueMatcher::Prefix("/api".into()), false),
            matcher("x-a", ValueMatcher::Suffix("z".into()), false),
            matcher("x-b", ValueMatcher::Contains("y".into()), false),
            matcher("x-c", ValueMatcher::Present, true),
        ],
        methods: Methods::These(vec!["GET".parse().unwrap(), "POST".parse().unwrap()]),
        num_retries: 7,
        per_try_timeout: Some(Duration::from_secs(2)),
        per_try_idle_timeout: Some(Duration::from_secs(1)),
        backoff,
        rate_limited_backoff: Some(
            RateLimitedBackoff::try_new(reset_headers, Duration::from_mins(1)).unwrap(),
        ),
        hosts: HostSelection { avoid_previous: false, max_attempts: 3 },
        hedge_on_per_try_timeout: true,
        max_concurrent_retries: Some(100),
    };
    let expected = HttpPolicy {
        retry,
        timeout: Some(Duration::from_secs(15)),
        idle_timeout: Some(Duration::from_mins(5)),
        max_buffered_body: 65_536,
        honour_request_headers: true,
        added_headers: AddedHeaders::Envoy,
        connect_failure: ConnectFailure::Unavailable,
        upstream: UpstreamMode::Pool,
        timeout_alt_response: false,
    };
    assert_eq!(*policy.routes[0].http, expected);
    assert_eq!(policy.protocol, Protocol::Grpc);
}

#[test]
fn what_is_left_out_is_the_default() {
    let retry = RequestRetry {
        retry_on: Conditions::of(&[
            Condition::GatewayError,
            Condition::Reset,
            Condition::ConnectFailure,
            Condition::RefusedStream,
        ]),
        status_codes: StatusCodes::default(),
        response_headers: Vec::new(),
        request_headers: Vec::new(),
        methods: Methods::Idempotent,
        num_retries: 2,
        per_try_timeout: None,
        per_try_idle_timeout: None,
        backoff: Backoff::try_new(Duration::from_millis(25), Some(Duration::from_millis(250))).unwrap(),
        rate_limited_backoff: None,
        hosts: HostSelection { avoid_previous: true, max_attempts: 5 },
        hedge_on_per_try_timeout: false,
        max_concurrent_retries: None,
    };
    let expected = HttpPolicy {
        retry,
        timeout: None,
        idle_timeout: None,
        max_buffered_body: 1_048_576,
        honour_request_headers: false,
        added_headers: AddedHeaders::None,
        connect_failure: ConnectFailure::Errno,
        upstream: UpstreamMode::Connection,
        timeout_alt_response: false,
    };
    assert_eq!(http("{}"), expected);
    let spelled_out = "{methods: idempotent, perTryTimeout: 0s, perTryIdleTimeout: 0s, timeout: 0s, idleTimeout: 0, \
                       hostSelection: {}, addHeaders: none, onConnectFailure: errno, upstream: connection}";
    assert_eq!(http(spelled_out), expected);
    let untouched = one("{}");
    assert_eq!((untouched.routes, untouched.protocol), (vec![], Protocol::Auto));
    assert_eq!(one("{protocol: tcp}").protocol, Protocol::Tcp);
    let limited = retry_limited("{resetHeaders: [{name: retry-after}]}");
    assert_eq!(limited.max(), Duration::from_mins(5));
}

fn retry_limited(section: &str) -> RateLimitedBackoff {
    retry(&format!("{{rateLimitedBackOff: {section}}}")).rate_limited_backoff.unwrap()
}

#[test]
fn codes_and_headers_are_retried_by_being_there() {
    let on = |section| retry(section).retry_on;
    let default = Conditions::DEFAULT;
    let codes = Conditions::of(&[Condition::RetriableStatusCodes]);
    let headers = Conditions::of(&[Condition::RetriableHeaders]);
    assert_eq!(on("{retriableStatusCodes: [429]}"), default.with(codes));
    assert_eq!(on("{retriableHeaders: [{name: x, type: Present}]}"), default.with(headers));
    assert_eq!(on("{retryOn: [retriable-status-codes], retriableStatusCodes: [429]}"), codes);
    // A request may bring its own.
    assert_eq!(on("{retryOn: [retriable-status-codes], honourRequestHeaders: true}"), codes);
}

#[test]
fn connects_follow_requests_where_nothing_is_said_of_them() {
    let attempts = |spec: &str| one(spec).tcp.max_connect_attempts().get();
    for (condition, follows) in [
        ("5xx", true),
        ("gateway-error", true),
        ("reset", true),
        ("reset-before-request", true),
        ("connect-failure", true),
        ("refused-stream", false),
        ("retriable-4xx", false),
        ("envoy-ratelimited", false),
        ("http3-post-connect-failure", false),
        ("cancelled", false),
        ("deadline-exceeded", false),
        ("internal", false),
        ("resource-exhausted", false),
        ("unavailable", false),
    ] {
        let spec = format!("{{http: {{retryOn: [{condition}], numRetries: 4}}}}");
        assert_eq!(attempts(&spec), if follows { 5 } else { 1 }, "{condition}");
    }
    assert_eq!(attempts("{http: {retryOn: [refused-stream], retriableStatusCodes: [503]}}"), 1);
    assert_eq!(attempts("{http: {}}"), 3);
    assert_eq!(attempts("{http: {numRetries: 0}}"), 1);
    assert_eq!(attempts("{http: {numRetries: 4294967295}}"), u32::MAX);
    assert_eq!(attempts("{http: {numRetries: 4}, tcp: {}}"), 3);
    assert_eq!(attempts("{http: {numRetries: 4}, tcp: {maxConnectAttempts: 2}}"), 2);
    let tcp = one("{http: {timeout: 1s, perTryTimeout: 10ms, backOff: {baseInterval: 1s}}}").tcp;
    assert_eq!(tcp.backoff(), Backoff::try_new(Duration::from_secs(1), None).unwrap());
    assert_eq!(
        (tcp.timeout(), tcp.connect_timeout()),
        (None, None),
        "a request's timeouts begin after the connect"
    );
    assert_eq!(tcp.retry_on(), RetryOn::ALL);
    assert_eq!(one("{}").tcp, ConnectRetry::default());
}

#[test]
fn sizes_are_bounded() {
    let size = |size: &str| http(&format!("{{maxBufferedBody: {size}}}")).max_buffered_body;
    for (text, bytes) in [("0", 0), ("4096", 4_096), ("'4096'", 4_096), ("2MiB", 2 << 20), ("1GiB", 1 << 30)]
    {
        assert_eq!(size(text), bytes);
    }
}

/// Each section has this one problem.
fn expect_http_problems<const N: usize>(table: [(&str, &str); N]) {
    expect_problems(
        table.map(|(section, problem)| (format!("{{http: {section}}}"), format!("spec.http{problem}"))),
    );
}

#[test]
fn every_broken_rule_of_conditions_is_told_with_its_place() {
    let conditions = "expected one of envoy-ratelimited, retriable-status-codes, retriable-headers, cancelled, \
                      deadline-exceeded, resource-exhausted, internal, unavailable, retriable-4xx, connect-failure, \
                      http3-post-connect-failure, refused-stream, reset-before-request, reset, gateway-error, 5xx, found";
    let types =
        "expected one of Exact, Prefix, Suffix, Contains, RegularExpression, Range, Present, Absent, found";
    expect_http_problems([
        ("", ": expected a map, found no value"),
        ("[]", ": expected a map, found a list"),
        (
            "{retries: 1}",
            ".retries: there is no such field; there are retryOn, numRetries, retriableStatusCodes, retriableHeaders, \
             retriableRequestHeaders, methods, perTryTimeout, perTryIdleTimeout, timeout, idleTimeout, backOff, \
             rateLimitedBackOff, hostSelection, hedgeOnPerTryTimeout, maxConcurrentRetries, maxBufferedBody, \
             honourRequestHeaders, addHeaders, onConnectFailure, upstream, routes",
        ),
        ("{retryOn: []}", ".retryOn: the list is empty; leave the field out for its default"),
        ("{retryOn: 5xx}", ".retryOn: expected a list, found \"5xx\""),
        ("{retryOn: [5xx, 5XX]}", &format!(".retryOn[1]: {conditions} \"5XX\"")),
        ("{retryOn: [503]}", &format!(".retryOn[0]: {conditions} 503")),
        (
            "{retryOn: [retriable-status-codes]}",
            ".retryOn: retriable-status-codes is in the list, but there are no retriableStatusCodes",
        ),
        (
            "{retryOn: [retriable-headers]}",
            ".retryOn: retriable-headers is in the list, but there are no retriableHeaders",
        ),
        ("{numRetries: -1}", ".numRetries: expected a whole number from 0 to 4294967295, found -1"),
        (
            "{retriableStatusCodes: [99]}",
            ".retriableStatusCodes[0]: expected a whole number from 100 to 599, found 99",
        ),
        (
            "{retriableStatusCodes: [5xx]}",
            ".retriableStatusCodes[0]: expected a whole number from 100 to 599, found \"5xx\"",
        ),
        (
            "{retriableStatusCodes: [200, 600]}",
            ".retriableStatusCodes[1]: expected a whole number from 100 to 599, found 600",
        ),
        ("{retriableStatusCodes: 503}", ".retriableStatusCodes: expected a list, found 503"),
        ("{retriableHeaders: [x-retry]}", ".retriableHeaders[0]: expected a map, found \"x-retry\""),
        ("{retriableHeaders: [{value: a}]}", ".retriableHeaders[0].name: the field is required"),
        (
            "{retriableHeaders: [{name: a b, value: a}]}",
            ".retriableHeaders[0].name: expected the name of a header, such as x-retry, found \"a b\"",
        ),
        (
            "{retriableHeaders: [{name: ':method', value: a}]}",
            ".retriableHeaders[0].name: expected the name of a header, such as x-retry, or :status, found \":method\"",
        ),
        (
            "{retriableRequestHeaders: [{name: ':status', value: '200'}]}",
            ".retriableRequestHeaders[0].name: expected the name of a header, such as x-retry, or :method, :path, \
             :authority, :scheme, found \":status\"",
        ),
        ("{retriableHeaders: [{name: a}]}", ".retriableHeaders[0].value: the field is required"),
        (
            "{retriableHeaders: [{name: a, value: ''}]}",
            ".retriableHeaders[0].value: expected text that is not empty, found \"\"",
        ),
        (
            "{retriableHeaders: [{name: a, value: 5}]}",
            ".retriableHeaders[0].value: expected text, in quotes where it looks like something else, found 5",
        ),
        (
            "{retriableHeaders: [{name: a, type: exact, value: b}]}",
            &format!(".retriableHeaders[0].type: {types} \"exact\""),
        ),
        (
            "{retriableHeaders: [{name: a, type: Absent, value: b}]}",
            ".retriableHeaders[0].value: a matcher of this type has no value",
        ),
        (
            "{retriableHeaders: [{name: a, type: RegularExpression}]}",
            ".retriableHeaders[0].value: the field is required",
        ),
        (
            "{retriableHeaders: [{name: a, type: RegularExpression, value: '('}]}",
            ".retriableHeaders[0].value: expected a regular expression; unclosed group, found \"(\"",
        ),
        (
            "{retriableHeaders: [{name: a, inverted: true, value: b}]}",
            ".retriableHeaders[0].inverted: there is no such field; did you mean invert? there are name, type, value, start, end, invert",
        ),
        (
            "{methods: safe}",
            ".methods: expected idempotent, any, or a list of methods such as [GET, POST], found \"safe\"",
        ),
        (
            "{methods: {}}",
            ".methods: expected idempotent, any, or a list of methods such as [GET, POST], found a map",
        ),
        ("{methods: []}", ".methods: the list is empty; leave the field out for its default"),
        (
            "{methods: [GET, post]}",
            ".methods[1]: expected a method in capital letters, such as GET, found \"post\"",
        ),
    ]);
}

#[test]
fn every_broken_rule_of_time_and_room_is_told_with_its_place() {
    let duration = "expected a duration such as 250ms, 5s or 1m30s, or 0s for none, found";
    let positive = "expected a duration of more than 0, such as 250ms, 5s or 1m30s, found";
    let size = "expected a number of bytes such as 65536, 64KiB or 1MiB, up to 1GiB, found";
    let name = "expected the name of a header, such as x-retry, found";
    expect_http_problems([
        (
            "{perTryTimeout: 5}",
            &format!(
                ".perTryTimeout: {duration} 5: the unit is missing after 5; the units are ns, us, ms, s, m and h"
            ),
        ),
        ("{perTryTimeout: }", &format!(".perTryTimeout: {duration} no value: it is empty")),
        ("{perTryIdleTimeout: -1s}", &format!(".perTryIdleTimeout: {duration} \"-1s\": it is negative")),
        ("{timeout: never}", &format!(".timeout: {duration} \"never\": a number is missing before `never`")),
        (
            "{idleTimeout: 1d}",
            &format!(
                ".idleTimeout: {duration} \"1d\": there is no unit `d`; the units are ns, us, ms, s, m and h"
            ),
        ),
        ("{backOff: {}}", ".backOff.baseInterval: the field is required"),
        ("{backOff: {baseInterval: 0s}}", &format!(".backOff.baseInterval: {positive} \"0s\": it is zero")),
        (
            "{backOff: {baseInterval: 2s, maxInterval: 1s}}",
            ".backOff.maxInterval: the maximum interval 1s must be at least the base interval 2s",
        ),
        ("{rateLimitedBackOff: {}}", ".rateLimitedBackOff.resetHeaders: the field is required"),
        (
            "{rateLimitedBackOff: {resetHeaders: []}}",
            ".rateLimitedBackOff.resetHeaders: the list is empty; leave the field out for its default",
        ),
        (
            "{rateLimitedBackOff: {resetHeaders: [{format: Seconds}]}}",
            ".rateLimitedBackOff.resetHeaders[0].name: the field is required",
        ),
        (
            "{rateLimitedBackOff: {resetHeaders: [{name: ':path'}]}}",
            &format!(".rateLimitedBackOff.resetHeaders[0].name: {name} \":path\""),
        ),
        (
            "{rateLimitedBackOff: {resetHeaders: [{name: 'a:'}]}}",
            &format!(".rateLimitedBackOff.resetHeaders[0].name: {name} \"a:\""),
        ),
        (
            "{rateLimitedBackOff: {resetHeaders: [{name: a, format: SECONDS}]}}",
            ".rateLimitedBackOff.resetHeaders[0].format: expected one of Seconds, UnixTimestamp, found \"SECONDS\"",
        ),
        (
            "{rateLimitedBackOff: {resetHeaders: [{name: a}], maxInterval: 0s}}",
            &format!(".rateLimitedBackOff.maxInterval: {positive} \"0s\": it is zero"),
        ),
        (
            "{hostSelection: {avoidPrevious: 1}}",
            ".hostSelection.avoidPrevious: expected true or false, found 1",
        ),
        (
            "{hostSelection: {maxAttempts: 0}}",
            ".hostSelection.maxAttempts: expected a whole number from 1 to 1000, found 0",
        ),
        (
            "{hostSelection: {attempts: 1}}",
            ".hostSelection.attempts: there is no such field; there are avoidPrevious, maxAttempts",
        ),
        ("{hedgeOnPerTryTimeout: 'true'}", ".hedgeOnPerTryTimeout: expected true or false, found \"true\""),
        (
            "{maxConcurrentRetries: many}",
            ".maxConcurrentRetries: expected a whole number from 0 to 4294967295, found \"many\"",
        ),
        ("{maxBufferedBody: 1MB}", &format!(".maxBufferedBody: {size} \"1MB\"")),
        ("{maxBufferedBody: -1}", &format!(".maxBufferedBody: {size} -1")),
        ("{maxBufferedBody: 1073741825}", &format!(".maxBufferedBody: {size} 1073741825")),
        ("{honourRequestHeaders: yes}", ".honourRequestHeaders: expected true or false, found \"yes\""),
        ("{addHeaders: all}", ".addHeaders: expected one of none, envoy, found \"all\""),
        ("{onConnectFailure: 502}", ".onConnectFailure: expected one of errno, 503, found 502"),
        ("{upstream: shared}", ".upstream: expected one of connection, pool, found \"shared\""),
    ]);
}

#[test]
fn the_protocol_goes_with_the_section() {
    let without = "without `http` everything is relayed untouched; `http: {}` is all its defaults";
    expect_problems([
        (
            "{protocol: HTTP}",
            "spec.protocol: expected one of auto, http, grpc, tcp, found \"HTTP\"".to_owned(),
        ),
        ("{protocol: http}", format!("spec.protocol: {without}")),
        ("{protocol: grpc}", format!("spec.protocol: {without}")),
        ("{protocol: tcp, http: {}}", "spec.protocol: tcp is relayed untouched; leave `http` out".to_owned()),
    ]);
    for (word, protocol) in [("auto", Protocol::Auto), ("http", Protocol::Http), ("grpc", Protocol::Grpc)] {
        assert_eq!(one(&format!("{{protocol: {word}, http: {{}}}}")).protocol, protocol);
    }
}

#[test]
fn lists_are_bounded() {
    let matchers = |count| {
        let matchers = vec!["{name: a, type: Present}"; count].join(", ");
        with_spec(&format!("{{http: {{retriableRequestHeaders: [{matchers}]}}}}"))
    };
    assert_eq!(parsed(&matchers(64)).len(), 1);
    assert_eq!(
        problems(&matchers(65)),
        ["p.yaml:4: spec.http.retriableRequestHeaders: 65 entries are too many; there may be 64"]
    );
}

#[test]
fn all_problems_of_a_section_are_told_at_once() {
    let section = "{http: {retryOn: [a], numRetries: b, retriableStatusCodes: [1], retriableHeaders: [{name: ''}], \
                   methods: c, timeout: d, backOff: {}, upstream: e}}";
    assert_eq!(problems(&with_spec(section)).len(), 9);
}

/// A value for some field: right, wrong or of another kind.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-zA-Z.:/*-]{0,12}",
        "-?[0-9]{1,25}",
        "[0-9]{1,3}(ms|s|h|KiB|MiB)",
        select(&["true", "false", "any", "idempotent", "envoy", "pool", "{}", "[]"][..])
            .prop_map(str::to_owned),
        "\\[[a-z0-9-]{0,12}\\]",
        "\\[\\{name: [a-z:]{1,8}, type: (Exact|Present|RegularExpression), value: '[a-z(+*\\[]{0,8}'\\}\\]",
    ]
}

proptest! {
    /// Whatever the fields hold, there is a policy or a problem, and each problem is one line with its place.
    #[test]
    fn no_value_is_too_much(values in proptest::collection::vec(any_value(), super::FIELDS.len())) {
        let fields: Vec<_> =
            super::FIELDS.iter().zip(values).map(|(field, value)| format!("{field}: {value}")).collect();
        for spec in [fields.join(", "), fields.iter().take(1).cloned().collect()] {
            let text = with_spec(&format!("{{http: {{{spec}}}}}"));
            match crate::dialect::parse(std::path::Path::new("p.yaml"), &text) {
                Ok(parsed) => {
                    prop_assert!(parsed.policies.len() == 1 && parsed.policies[0].routes.len() == 1);
                    for note in parsed.notes {
                        prop_assert!(!note.to_string().contains('\n'), "{}", note);
                    }
                }
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
}
