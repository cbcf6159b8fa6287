//! What is read back, of documents of every shape.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::document::{
    ApiVersion, BackOff, Budget, Bytes, From, HostSelection, Http, Kind, List, Match, Matcher, Metadata,
    Methods, NamedMethods, PathMatch, PodSelector, QueryMatcher, RateLimitedBackOff, ResetHeader,
    RetryPolicy, Route, Service, Settings, Spec, Target, Tcp, To,
};
use super::super::words::{MatchType, PresentType, Word, Words};
use super::document;
use crate::dialect::native::tests::parsed;
use crate::dialect::parse;
use crate::dialect::translate::yaml;
use crate::policy::{Origin, Policy};
use crate::retry::request::Condition;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z]{1,8}",
        1 => "\\PC{1,12}",
        1 => select(vec!["true", "null", "~", "010", "1e3", "0x1f", "12:30:00", "- a", "a: b", "#x", "'", "\"\\", " a ", "*", "2024-01-01", "a\nb", "a\tb", "\u{85}", "%a", "@a", "yes", "=", "<<", "{}", "[", "!a", "&a", "|", ">", "?"])
            .prop_map(str::to_owned),
    ]
}

fn duration() -> impl Strategy<Value = String> {
    prop_oneof![
        (1..100_000_u64).prop_map(|ms| format!("{ms}ms")),
        (1..500_u64).prop_map(|n| format!("{n}.5us")),
        "[1-9]h30m"
    ]
}

fn word<T: Words + std::fmt::Debug>() -> impl Strategy<Value = Word<T>> {
    select(T::words().into_iter().map(|(_, word)| Word(word)).collect::<Vec<_>>())
}

fn list<T: std::fmt::Debug>(items: impl Strategy<Value = T>, most: usize) -> impl Strategy<Value = List<T>> {
    vec(items, 1..=most).prop_map(List)
}

fn host() -> impl Strategy<Value = String> {
    "[a-z]{1,3}(\\.[a-z_]{1,3}){0,3}"
}

fn method() -> impl Strategy<Value = String> {
    "[A-Z][A-Z0-9_-]{0,6}"
}

fn backoff() -> BoxedStrategy<BackOff> {
    (1..1_000_u64, of(1..20_u64))
        .prop_map(|(base, factor)| BackOff {
            base_interval: format!("{base}ms"),
            max_interval: factor.map(|factor| format!("{}ms", base * factor)),
        })
        .boxed()
}

fn matcher(names: &'static str) -> BoxedStrategy<Matcher> {
    (names, of(word::<MatchType>()), text(), of(any::<i64>()), of(any::<i64>()), of(any::<bool>()))
        .prop_map(|(name, r#type, value, start, end, invert)| {
            let (value, start, end) = valued(r#type.map(|Word(kind)| kind), value, start, end);
            Matcher { name, r#type, value, start, end, invert }
        })
        .boxed()
}

fn valued(
    kind: Option<MatchType>,
    value: String,
    start: Option<i64>,
    end: Option<i64>,
) -> (Option<String>, Option<i64>, Option<i64>) {
    match kind {
        Some(MatchType::Range) => (None, start, end),
        Some(MatchType::Present | MatchType::Absent) => (None, None, None),
        Some(MatchType::RegularExpression) => (Some(regex::escape(&value)), None, None),
        _ => (Some(value), None, None),
    }
}

fn query() -> BoxedStrategy<QueryMatcher> {
    (text(), of(word::<PresentType>()), text(), of(any::<i64>()), of(any::<i64>()))
        .prop_map(|(name, r#type, value, start, end)| {
            let (value, start, end) = valued(r#type.map(|Word(PresentType(kind))| kind), value, start, end);
            QueryMatcher { name, r#type, value, start, end }
        })
        .boxed()
}

fn path() -> BoxedStrategy<PathMatch> {
    (0..4, "/[a-zA-Z/.*]{0,6}", of(any::<bool>()))
        .prop_map(|(kind, path, ignore_case)| {
            let none = PathMatch::default();
            match kind {
                0 => PathMatch { exact: Some(path), ignore_case, ..none },
                1 => PathMatch { prefix: Some(path), ignore_case, ..none },
                2 => PathMatch { segments: Some(path), ..none },
                _ => PathMatch { regex: Some(path.replace('*', ".*")), ..none },
            }
        })
        .boxed()
}

fn matches() -> BoxedStrategy<Match> {
    let methods = prop_oneof![
        2 => Just((None, None)),
        1 => method().prop_map(|method| (Some(method), None)),
        1 => list(method(), 3).prop_map(|methods| (None, Some(methods))),
    ];
    let headers = vec(matcher("[a-z-]{1,4}|:method|:path|:authority"), 1..3);
    (of(any::<bool>()), of(path()), methods, of(headers), of(vec(query(), 1..3)))
        .prop_map(|(grpc, path, (method, methods), headers, query)| Match {
            grpc,
            path,
            method,
            methods,
            headers,
            query,
        })
        .boxed()
}

fn targets() -> BoxedStrategy<Vec<Target>> {
    let addresses = prop_oneof![
        "10\\.0\\.0\\.[1-9]",
        "\\[fd00::[1-9]\\]:80",
        "10\\.0\\.0\\.[1-9]:[1-9]0",
        "::ffff:10\\.0\\.0\\.1"
    ];
    let target = (0..3, of("[ -~]{1,8}"), of(1..9_u32), host(), of(1..9_u16), list(addresses, 3)).prop_map(
        |(kind, name, weight, host, port, addresses)| {
            let named = Target { name, weight, ..Target::default() };
            match kind {
                0 => Target { host: Some(host), port, ..named },
                1 => Target { addresses: Some(addresses), port, ..named },
                _ => Target { original: Some(true), ..named },
            }
        },
    );
    vec(target, 1..4).boxed()
}

fn settings() -> BoxedStrategy<Settings> {
    let methods = prop_oneof![
        Just(Methods::Named(NamedMethods::Any)),
        Just(Methods::Named(NamedMethods::Idempotent)),
        list(method(), 3).prop_map(Methods::These)
    ];
    let bytes = prop_oneof![(0..9_999_u64).prop_map(Bytes::Number), Just(Bytes::Text("64KiB".to_owned()))];
    let limit = || of(prop_oneof![duration(), Just("0s".to_owned())]);
    let resets =
        vec(("[a-z]{1,4}", of(word())).prop_map(|(name, format)| ResetHeader { name, format }), 1..3);
    let rate_limited = (resets, of(duration()))
        .prop_map(|(reset_headers, max_interval)| RateLimitedBackOff { reset_headers, max_interval });
    let hosts = (of(any::<bool>()), of(1..=1_000_u32))
        .prop_map(|(avoid_previous, max_attempts)| HostSelection { avoid_previous, max_attempts });
    let headers = || of(vec(matcher("[a-z-]{1,4}"), 1..3));
    let retries = (
        of(list(word::<Condition>(), 4)),
        of(0..4_u32),
        of(list(100..600_u16, 3)),
        headers(),
        headers(),
        of(methods),
        of(backoff()),
        of(rate_limited),
        of(hosts),
    );
    let retries = retries.boxed();
    let limits = (limit(), limit(), limit(), limit());
    let switches =
        (of(any::<bool>()), of(0..4_u32), of(bytes), of(any::<bool>()), of(word()), of(word()), of(word()));
    (retries, limits, switches)
        .prop_map(|(retries, limits, switches)| {
            let (retry_on, num_retries, codes, headers, request_headers, methods, back_off, limited, hosts) =
                retries;
            let (per_try_timeout, per_try_idle_timeout, timeout, idle_timeout) = limits;
            let (hedge, concurrent, body, honour, added, failure, upstream) = switches;
            Settings {
                retry_on,
                num_retries,
                retriable_status_codes: codes,
                retriable_headers: headers,
                retriable_request_headers: request_headers,
                methods,
                per_try_timeout,
                per_try_idle_timeout,
                timeout,
                idle_timeout,
                back_off,
                rate_limited_back_off: limited,
                host_selection: hosts,
                hedge_on_per_try_timeout: hedge,
                max_concurrent_retries: concurrent,
                max_buffered_body: body,
                honour_request_headers: honour,
                add_headers: added,
                on_connect_failure: failure,
                upstream,
            }
        })
        .boxed()
}

/// Mostly few settings, so that routes and their section say the same here and there.
fn sparse() -> BoxedStrategy<Settings> {
    prop_oneof![
        1 => settings(),
        1 => Just(Settings::default()),
        1 => (0..2_u32).prop_map(|retries| Settings { num_retries: Some(retries), ..Settings::default() }),
        1 => (500..502_u16).prop_map(|code| Settings { retriable_status_codes: Some(List(vec![code])), ..Settings::default() }),
    ]
    .boxed()
}

fn route() -> BoxedStrategy<Route> {
    (of("[ -~]{1,8}"), of(0..3_u32), of(matches()), of(targets()), sparse())
        .prop_map(|(name, priority, r#match, targets, settings)| Route {
            name,
            priority,
            r#match,
            targets,
            settings,
        })
        .boxed()
}

fn to() -> BoxedStrategy<To> {
    let cidrs = prop_oneof!["10\\.[0-3]\\.0\\.0/16", "fd0[0-3]::/16", "::[1-3]", "10\\.0\\.0\\.[1-3]/32"];
    let hosts = prop_oneof![host(), host().prop_map(|host| format!("*.{host}"))];
    let service = ("[ab]", of("[cd]")).prop_map(|(name, namespace)| Service { name, namespace });
    (of(list(cidrs, 2)), of(list(hosts, 2)), of(vec(service, 1..3)), of(list(1..4_u16, 3)))
        .prop_map(|(cidrs, hosts, services, ports)| To { cidrs, hosts, services, ports })
        .prop_filter("it has to say something", |to| *to != To::default())
        .boxed()
}

fn from() -> BoxedStrategy<From> {
    let labels: BTreeMap<_, _> = BTreeMap::new();
    let labels = prop_oneof![Just(labels), btree_map(text(), text(), 1..3)];
    (of(labels), of("[a-z]{1,3}"), of("[a-z/]{1,6}"))
        .prop_map(|(labels, namespace, cgroup)| From {
            pod_selector: labels.map(|match_labels| PodSelector { match_labels }),
            namespace,
            cgroup,
        })
        .prop_filter("it has to say something", |from| *from != From::default())
        .boxed()
}

fn spec() -> BoxedStrategy<Spec> {
    let tcp =
        (of(1..5_u32), of(duration()), of(duration()), of(backoff()), of(list(word(), 3)), of(targets()));
    let tcp =
        tcp.prop_map(|(max_connect_attempts, connect_timeout, timeout, back_off, retry_on, targets)| Tcp {
            max_connect_attempts,
            connect_timeout,
            timeout,
            back_off,
            retry_on,
            targets,
        });
    let http = (sparse(), of(vec(route(), 1..4))).prop_map(|(settings, routes)| Http { settings, routes });
    let budget = (of(0..=100_u32), of(0..20_u32), of((1..60_u32).prop_map(|s| format!("{s}s"))));
    let budget =
        budget.prop_map(|(percent, min_per_second, interval)| Budget { percent, min_per_second, interval });
    (of(vec(from(), 1..3)), of(vec(to(), 1..4)), any::<bool>(), word(), of(tcp), of(http), of(budget))
        .prop_map(|(from, to, falls, protocol, tcp, mut http, budget)| {
            let falls = falls && http.as_ref().is_none_or(|http| http.routes.is_some());
            for route in http.iter_mut().filter(|_| !falls).flat_map(|http| http.routes.iter_mut().flatten())
            {
                route.priority = None;
            }
            let protocol = Some(protocol).filter(|Word(protocol)| match protocol {
                crate::policy::Protocol::Tcp => http.is_none(),
                crate::policy::Protocol::Auto => true,
                _ => http.is_some(),
            });
            Spec { from, to, fall_through: falls.then_some(true), protocol, tcp, http, budget }
        })
        .boxed()
}

pub(in crate::dialect) fn any_document() -> impl Strategy<Value = RetryPolicy> {
    ("[a-z]{1,5}", of("[cd]"), spec()).prop_map(|(name, namespace, spec)| RetryPolicy {
        api_version: ApiVersion::V1Alpha1,
        kind: Kind::RetryPolicy,
        metadata: Metadata { name, namespace, ..Metadata::default() },
        spec,
    })
}

fn again(policy: &Policy) -> (RetryPolicy, Policy) {
    let written = document(policy, &policy.name, |[first, ..]| first);
    let [again] = &parsed(&yaml::write(&written))[..] else { panic!("one document is one policy") };
    (written, Policy { origin: Origin::BuiltIn, ..again.clone() })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(document in any_document()) {
        let text = yaml::write(&document);
        let read = parse(Path::new("p.yaml"), &text);
        // Some shapes are refused: a condition without its list, an expression that is too long.
        prop_assume!(read.is_ok());
        let Ok([policy]) = <[Policy; 1]>::try_from(read.unwrap().policies) else { panic!("{text}") };
        let policy = Policy { origin: Origin::BuiltIn, ..policy };
        let (written, read) = again(&policy);
        prop_assert_eq!(&read, &policy, "{}\n{}", text, yaml::write(&written));
        let (once_more, _) = again(&read);
        prop_assert_eq!(&once_more, &written);
        prop_assert_eq!(yaml::write(&once_more), yaml::write(&written));
    }
}
