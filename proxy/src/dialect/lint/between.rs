//! What policies that are each good alone do to one another.

use std::collections::BTreeMap;

use super::{Finding, RESPONSES, may_repeat};
use crate::dialect::note::{Code, Note};
use crate::policy::{Address, LabelMatch, Policy, Route, Setting, Sources, Table, WorkloadSelector};
use crate::retry::request::Condition;

/// Notes what there is to know about the policies of a table together.
pub(in crate::dialect) fn between(table: &Table) -> Vec<Note> {
    let hidden = table.hidden().into_iter().filter_map(|(policy, hiding)| {
        let name = &hiding.name;
        let message = format!(
            "it never holds, since {name} is for the same destinations, comes first and takes all of it; narrow one of \
             them, or take one out"
        );
        let (sources, about) = match policy.routes.first() {
            Some(route) => (&route.sources, Setting::Matches),
            None => (&policy.sources, Setting::To),
        };
        note(sources, Finding::new(Code::UnreachableRoute, about, message))
    });
    hidden.chain(stacked_retries(table)).collect()
}

fn note(sources: &Sources, Finding { code, about, message }: Finding) -> Option<Note> {
    let place = sources.nearest(about)?;
    let (file, line, field) = (place.file.clone(), place.line, place.field.clone());
    Some(Note { code, file, line, field, message })
}

/// Requests to a workload that are retried where its own requests, which they wait for, are retried too.
fn stacked_retries(table: &Table) -> Vec<Note> {
    let mut by_service = BTreeMap::<&str, Vec<(&Policy, &WorkloadSelector, &Route)>>::new();
    for policy in table.policies() {
        let Some(route) = most_retried(policy, |_| true) else { continue };
        for selector in &policy.from {
            for service in services(selector) {
                by_service.entry(service).or_default().push((policy, selector, route));
            }
        }
    }
    let stacked = |policy: &Policy| {
        // What the workload gives up with comes as a response.
        let here = most_retried(policy, retries_server_errors)?;
        let hosts = policy.to.iter().filter_map(|destination| match &destination.address {
            Address::Host(host) => Some(host.as_str()),
            Address::Any | Address::Network(_) | Address::Suffix(_) => None,
        });
        let beyond = hosts.flat_map(|host| {
            let mut labels = host.split('.');
            let (service, namespace, is) = (labels.next().unwrap_or_default(), labels.next(), labels.next());
            // A name of the world's, such as api.example.com, is no service's.
            let there = by_service.get(named(service)).filter(|_| is.is_none_or(|is| is == "svc"));
            there.into_iter().flatten().filter(move |(_, selector, _)| {
                match (&selector.namespace, namespace) {
                    (Some(one), Some(other)) => **one == *other,
                    (Some(_) | None, None) | (None, Some(_)) => true,
                }
            })
        });
        let beyond = beyond.filter(|(other, ..)| other.name != policy.name);
        let (other, _, there) = beyond.max_by_key(|(.., route)| route.http.retry.num_retries)?;
        let tries = |route: &Route| u64::from(route.http.retry.num_retries) + 1;
        let (own, its) = (tries(here), tries(there));
        let message = format!(
            "each of {own} attempts here has the workload make up to {its} of its own, by {}: {} in all; retry in one of \
             the two places",
            other.name,
            own.saturating_mul(its)
        );
        note(&here.sources, Finding::new(Code::StackedRetries, Setting::NumRetries, message))
    };
    table.policies().filter_map(|policy| stacked(policy)).collect()
}

/// The route of a policy that retries the most, of those that say so.
fn most_retried(policy: &Policy, says: impl Fn(&Route) -> bool) -> Option<&Route> {
    let routes = policy.routes.iter().filter(|route| may_repeat(&route.http) && says(route));
    routes.max_by_key(|route| route.http.retry.num_retries)
}

fn retries_server_errors(route: &Route) -> bool {
    let retry = &route.http.retry;
    let by_code = (500..=504).any(|code| retry.status_codes.contains(code));
    retry.retry_on.iter().any(|condition| match condition {
        Condition::RetriableStatusCodes => by_code,
        condition => RESPONSES.contains(condition) && condition != Condition::EnvoyRateLimited,
    })
}

/// The names of services that the labels of a workload tell.
fn services(selector: &WorkloadSelector) -> impl Iterator<Item = &str> {
    const NAMES: [&str; 4] = ["app", "app.kubernetes.io/name", "k8s-app", "kuma.io/service"];
    selector.labels.iter().filter_map(|(name, value)| match value {
        LabelMatch::Is(value) if NAMES.contains(&&**name) => Some(named(value)),
        LabelMatch::Is(_) | LabelMatch::Any => None,
    })
}

/// The name of a service alone, of which Kuma makes `backend_kuma-demo_svc_3001`.
fn named(service: &str) -> &str {
    service.split_once('_').map_or(service, |(name, _)| name)
}
