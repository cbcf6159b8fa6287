//! What holds for every document.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;

use super::{answers, gateway, native, parsed, unnamed};
use crate::dialect::native::document::RetryPolicy;
use crate::dialect::native::print::tests::any_document;
use crate::dialect::translate::{Translation, canonical, difference, yaml};
use crate::dialect::{Parsed, parse};
use crate::policy::{Origin, Policy, Table};

fn written(documents: &[RetryPolicy]) -> String {
    documents.iter().map(yaml::write).collect::<Vec<_>>().join("---\n")
}

/// What the Gateway API can say, as a native document.
fn sayable() -> impl Strategy<Value = String> {
    let paths = select(vec!["{exact: /a}", "{segments: /b/c}", "{regex: '/x+'}"]);
    let methods = select(vec!["", ", method: GET", ", methods: [GET, POST]"]);
    let headers = select(vec!["", ", headers: [{name: x-a, value: '1'}]"]);
    let retries = select(vec![
        "numRetries: 0",
        "retryOn: [connect-failure, refused-stream]",
        "retryOn: [connect-failure, refused-stream], retriableStatusCodes: [500, 429], numRetries: 7",
        "retryOn: [connect-failure, refused-stream], retriableStatusCodes: [503], backOff: {baseInterval: 75ms}",
    ]);
    let times = select(vec![
        "",
        ", timeout: 1h2m3s4ms",
        ", perTryTimeout: 250ms",
        ", timeout: 9s, perTryTimeout: 2s",
    ]);
    let targets =
        select(vec!["", ", targets: [{host: a.example, port: 80, weight: 3}, {host: b.example, port: 80}]"]);
    (paths, methods, headers, retries, times, targets).prop_map(
        |(path, method, headers, retries, times, targets)| {
            format!(
                "apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {{name: p}}
spec:
  fallThrough: true
  to: [{{services: [{{name: a, namespace: b}}], ports: [80]}}]
  http:
    methods: any
    routes:
      - {{match: {{path: {path}{method}{headers}}}, {retries}{times}{targets}}}
"
            )
        },
    )
}

/// A document, and the same with one part of another one.
fn neighbours() -> impl Strategy<Value = [RetryPolicy; 2]> {
    (any_document(), any_document(), 0..12).prop_map(|(one, other, part)| {
        let mut changed = one.clone();
        let (spec, of) = (&mut changed.spec, other.spec);
        match part {
            0 => spec.from = of.from,
            1 => spec.to = of.to,
            2 => spec.tcp = of.tcp,
            3 => spec.budget = of.budget,
            4 => spec.protocol = of.protocol,
            _ => {
                let (Some(http), Some(of)) = (&mut spec.http, of.http) else { return [one, changed] };
                let (settings, of_settings) = (&mut http.settings, of.settings);
                match part {
                    5 => settings.methods = of_settings.methods,
                    6 => settings.back_off = of_settings.back_off,
                    7 => settings.rate_limited_back_off = of_settings.rate_limited_back_off,
                    8 => *settings = of_settings,
                    _ => {
                        let pairs = http.routes.iter_mut().flatten().zip(of.routes.into_iter().flatten());
                        for (route, of) in pairs {
                            match part {
                                9 => route.r#match = of.r#match,
                                10 => route.targets = of.targets,
                                _ => route.settings = of.settings,
                            }
                        }
                    }
                }
            }
        }
        [one, changed]
    })
}

proptest! {
    /// So that nothing can get lost without a comment.
    #[test]
    fn what_is_not_the_same_is_a_difference(documents in neighbours()) {
        let read = documents.each_ref().map(|document| parse(Path::new("p.yaml"), &yaml::write(document)));
        prop_assume!(read.iter().all(Result::is_ok));
        let [one, other] = read.map(|read| unnamed(&read.unwrap().policies[0]));
        let found = difference::all(&one, &other);
        prop_assert_eq!(found.is_empty(), one == other, "{:?}", found);
    }

    #[test]
    fn redial_s_own_documents_stay_as_they_are(documents in proptest::collection::vec(any_document(), 1..4)) {
        let read = parse(Path::new("p.yaml"), &written(&documents));
        prop_assume!(read.is_ok());
        let before = read.unwrap();
        prop_assume!(Table::try_new(before.policies.clone()).is_ok());
        let once = native(&before);
        prop_assert_eq!(once.losses, 0, "{}", once.text);
        let after = parsed(&once.text);
        let policies = |parsed: &Parsed| {
            let all = parsed.policies.iter().map(|policy| Policy { origin: Origin::BuiltIn, ..policy.clone() });
            all.collect::<Vec<_>>()
        };
        prop_assert_eq!(policies(&after), policies(&before), "{}", once.text);
        prop_assert_eq!(native(&after), once);
    }

    #[test]
    fn the_gateway_api_s_documents_can_be_read(document in any_document()) {
        let read = parse(Path::new("p.yaml"), &yaml::write(&document));
        prop_assume!(read.is_ok());
        let Translation { text, losses } = gateway(&read.unwrap());
        let after = parsed(&text);
        prop_assert!(losses > 0 || !after.policies.is_empty(), "{}", text);
    }

    #[test]
    fn what_the_gateway_api_can_say_is_what_it_says(document in sayable()) {
        let before = parsed(&document);
        let translation = gateway(&before);
        prop_assert_eq!(translation.losses, 0, "{}\n{}", document, translation.text);
        let after = parsed(&translation.text);
        prop_assert_eq!(answers(&after.policies), answers(&before.policies), "{}\n{}", document, translation.text);
        let [one] = &after.policies[..] else { panic!("{}", translation.text) };
        let http = |policy: &Policy| canonical::route(&policy.routes[0]).http;
        prop_assert_eq!(http(one), http(&before.policies[0]));
    }
}
