//! One `VirtualService` as several policies: a policy says to which ports and whose connections it applies, and here each
//! match may.
//!
//! The order of the matches is kept. A port is more specific than none, so a port's policy has every route that holds for the
//! port. Policies that differ in their workloads are equally specific; their routes are told apart by their place in the
//! document.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::SERVICE;
use super::route::{Entry, Match};
use super::rules::{Cluster, Limits, Rules};
use crate::dialect::common;
use crate::dialect::fields::{Field, Problems};
use crate::dialect::note::Code;
use crate::policy::{
    Destination, HttpPolicy, Place, Policy, PolicyName, Precedence, Protocol, Rest, Route, Setting, Sources,
    Target, WorkloadSelector,
};
use crate::retry::{ConnectRetry, RequestRetry};

/// How many routes one document may come to.
const MAX_ROUTES: usize = 4_096;

/// What all policies of a document have in common.
pub(super) struct Whole<'w, 'a> {
    pub(super) root: &'w Field<'a>,
    pub(super) spec: Field<'a>,
    pub(super) name: &'w str,
    pub(super) namespace: Option<&'w str>,
    pub(super) to: Vec<Destination>,
    pub(super) exports: Option<Vec<Box<str>>>,
    pub(super) age: u32,
    pub(super) is_tcp: bool,
    pub(super) targets: Arc<[Target]>,
    /// Where connections go that are relayed as they are.
    pub(super) clusters: Vec<Cluster>,
}

/// What one policy is for.
struct Part<'e> {
    port: Option<NonZeroU16>,
    source: &'e WorkloadSelector,
    /// Where that is said.
    source_at: Option<&'e Place>,
    /// What its policy's name ends with.
    suffix: String,
}

pub(super) fn policies(
    whole: &Whole<'_, '_>,
    entries: &[Entry],
    rules: &Rules<'_>,
    problems: &mut Problems,
) -> Option<Vec<Policy>> {
    let everybody = WorkloadSelector::default();
    let matches = || entries.iter().flat_map(|entry| &entry.matches);
    let mut numbers: Vec<_> = matches().filter_map(|one| one.port).collect();
    numbers.extend(entries.iter().flat_map(|entry| rules.ports(&entry.clusters)));
    numbers.extend(rules.ports(&whole.clusters));
    numbers.sort_unstable();
    numbers.dedup();
    let mut sources = vec![(&everybody, None)];
    for one in matches() {
        if sources.len() <= common::MAX_ENTRIES && !sources.iter().any(|(known, _)| **known == one.source) {
            sources.push((&one.source, one.source_at.as_ref()));
        }
    }
    if sources.len() > common::MAX_ENTRIES || numbers.len() >= common::MAX_ENTRIES {
        let message =
            format!("at most {} ports and as many sources can be told apart", common::MAX_ENTRIES - 1);
        return whole.spec.problem(message, problems);
    }
    let part = |port: Option<NonZeroU16>, (index, (source, source_at))| {
        let port_suffix = port.map(|port| format!(":{port}")).unwrap_or_default();
        let source_suffix = if index == 0 { String::new() } else { format!(":source[{}]", index - 1) };
        Part { port, source, source_at, suffix: port_suffix + &source_suffix }
    };
    let parts: Vec<_> = [None]
        .into_iter()
        .chain(numbers.iter().copied().map(Some))
        .flat_map(|port| sources.iter().copied().enumerate().map(move |source| part(port, source)))
        .collect();
    // Each has one source, and is in the policy of every port that it does not rule out.
    let count = matches().map(|one| if one.port.is_some() { 1 } else { 1 + numbers.len() }).sum::<usize>();
    if count > MAX_ROUTES {
        let message = format!(
            "its matches, for each port that is told apart, come to {count} routes; there may be {MAX_ROUTES}"
        );
        return whole.spec.problem(message, problems);
    }
    let has_sources = sources.len() > 1;
    let mut policies = Vec::new();
    for part in &parts {
        let Some(policy) = part.policy(whole, entries, rules, has_sources) else {
            let namespace = part.source.namespace.as_deref().unwrap_or_default();
            let message = format!(
                "the matches for the namespace {namespace:?} are for nobody, since it is not named here"
            );
            let place = whole.spec.place(&["exportTo"]);
            if !namespace.is_empty() {
                problems.note(Code::InertSetting, &place, message);
            }
            continue;
        };
        // What has no routes may still say where connections go, and how they are made where there are no routes at all.
        let is_needed = !policy.routes.is_empty()
            || *part.source == everybody && (count == 0 || !whole.targets.is_empty());
        if is_needed {
            policies.push(policy);
        }
    }
    Some(policies)
}

impl Part<'_> {
    fn has(&self, one: &Match) -> bool {
        one.source == *self.source && (one.port.is_none() || one.port == self.port)
    }

    /// None where it is for nobody.
    fn policy(
        &self,
        whole: &Whole<'_, '_>,
        entries: &[Entry],
        rules: &Rules<'_>,
        has_sources: bool,
    ) -> Option<Policy> {
        let mut routes = Vec::new();
        let mut limits: Option<Limits> = None;
        let mut limit = |clusters: &[Cluster]| {
            let own = rules.limits(clusters, self.port);
            let all = limits.take().map_or_else(|| own.clone(), |limits| limits.or_more(own.clone()));
            limits = Some(all);
            own
        };
        if !whole.clusters.is_empty() {
            limit(&whole.clusters);
        }
        for entry in entries {
            let mut matches = entry.matches.iter().filter(|one| self.has(one)).peekable();
            if matches.peek().is_none() {
                continue;
            }
            let max = limit(&entry.clusters).max_retries;
            let places = max.iter().map(|(_, place)| (Setting::MaxConcurrentRetries, place.clone()));
            let sources = Arc::new(Sources::new(entry.places.iter().cloned().chain(places)));
            let retry = RequestRetry {
                max_concurrent_retries: max.as_ref().map(|(max, _)| *max),
                ..entry.http.retry.clone()
            };
            let http = Arc::new(HttpPolicy { retry, ..entry.http.clone() });
            routes.extend(matches.map(|one| Route {
                name: one.name.clone(),
                precedence: Precedence {
                    among_all: [whole.age, if has_sources { one.place } else { 0 }, 0, 0, 0],
                    within: one.place,
                },
                matcher: one.matcher.clone(),
                http: Arc::clone(&http),
                targets: Arc::clone(&entry.targets),
                sources: Arc::clone(&sources),
            }));
        }
        let limits = limits.unwrap_or_default();
        let patient = routes.iter().map(|route| route.http.connect_retry());
        let tcp = patient.max_by_key(ConnectRetry::max_connect_attempts).unwrap_or_default();
        let mut places = vec![
            (Setting::Targets, whole.root.place(&["spec", "tcp"])),
            (Setting::To, whole.root.place(&["spec", "hosts"])),
        ];
        let exported = whole.exports.as_ref().map(|_| whole.root.place(&["spec", "exportTo"]));
        places.extend(self.source_at.cloned().or(exported).map(|place| (Setting::From, place)));
        Some(Policy {
            name: PolicyName::of_kind(SERVICE, whole.namespace, &format!("{}{}", whole.name, self.suffix)),
            origin: whole.root.origin(),
            from: self.from(whole.exports.as_deref())?,
            to: whole.to.iter().map(|to| Destination { port: self.port, ..to.clone() }).collect(),
            tcp: limits.connects(&tcp),
            protocol: if whole.is_tcp { Protocol::Tcp } else { Protocol::Auto },
            targets: Arc::clone(&whole.targets),
            routes,
            rest: Rest::GoesOn,
            budget: limits.budget(),
            sources: Arc::new(Sources::new(places.into_iter().chain(limits.places()))),
        })
    }

    /// The workloads that are meant by the match, among those that the document is for.
    fn from(&self, exports: Option<&[Box<str>]>) -> Option<Vec<WorkloadSelector>> {
        let Some(exports) = exports else {
            let all = WorkloadSelector::default();
            return Some([self.source].into_iter().filter(|source| **source != all).cloned().collect());
        };
        let is_meant =
            |name: &str| self.source.namespace.as_deref().is_none_or(|namespace| namespace == name);
        let from: Vec<_> = exports
            .iter()
            .filter(|name| is_meant(name))
            .map(|name| WorkloadSelector { namespace: Some(name.clone()), ..self.source.clone() })
            .collect();
        Some(from).filter(|from| !from.is_empty())
    }
}
