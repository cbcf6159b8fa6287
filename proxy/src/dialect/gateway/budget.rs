//! `retryConstraint` of a backend traffic policy (GEP-3388): the retry budget of a Service.

use std::time::Duration;

use super::route::ReadRoute;
use super::{OBJECT, is_same};
use crate::dialect::common;
use crate::dialect::fields::{Field, Problems};
use crate::policy::{Policy, PolicyName, Setting, Sources};
use crate::retry::BudgetPolicy;

/// The budget of some Services.
pub(super) struct Constraint<'a> {
    kind: &'static str,
    root: Field<'a>,
    metadata: common::Metadata<'a>,
    services: Vec<&'a str>,
    budget: BudgetPolicy,
}

pub(super) fn read<'a>(
    kind: &'static str,
    root: &Field<'a>,
    problems: &mut Problems,
) -> Option<Constraint<'a>> {
    let metadata = common::metadata(root, problems);
    let spec = root.map_of(OBJECT, problems)?.required("spec", problems)?;
    let spec = spec.map_ignoring(&["targetRefs", "retryConstraint"], &["sessionPersistence"], problems)?;
    spec.required("targetRefs", problems)?;
    let services = spec.each("targetRefs", problems, |target, problems| {
        let target = target.map_of(&["group", "kind", "name"], problems)?;
        let group = target.optional("group", "", |field| field.one_of(&[("", ""), ("core", "")], problems));
        let kind = target.optional("kind", (), |field| field.one_of(&[("Service", ())], problems));
        let name = target.required("name", problems).and_then(|field| field.text(problems));
        group.and(kind).and(name)
    });
    let budget =
        spec.optional("retryConstraint", BudgetPolicy::default(), |field| constraint(&field, problems));
    Some(Constraint { kind, root: root.clone(), metadata: metadata?, services: services?, budget: budget? })
}

fn constraint(field: &Field<'_>, problems: &mut Problems) -> Option<BudgetPolicy> {
    let map = field.map_of(&["budget", "minRetryRate"], problems)?;
    let (default, ten) = (BudgetPolicy::default(), Duration::from_secs(10));
    let budget = map.optional("budget", (default.percent(), ten), |budget| {
        let map = budget.map_of(&["percent", "interval"], problems)?;
        let percent = map.optional("percent", default.percent(), |field| {
            field.whole(0..=BudgetPolicy::MAX_PERCENT, problems)
        });
        let interval = map.optional("interval", ten, |field| field.duration(problems));
        Some((percent?, interval?))
    });
    let rate = map.optional("minRetryRate", 10, |rate| {
        let map = rate.map_of(&["count", "interval"], problems)?;
        let count = map.optional("count", 10, |field| field.whole(1..=1_000_000, problems));
        let interval = map.optional("interval", Duration::from_secs(1), |field| field.duration(problems));
        let (count, interval) = (count?, interval?);
        per_second(count, interval).map_or_else(
            || {
                let message = format!(
                    "{count} in {interval:?} is no whole number of retries a second, which it must be here"
                );
                rate.problem(message, problems)
            },
            Some,
        )
    });
    let (percent, interval) = budget?;
    field.accept(BudgetPolicy::try_new(percent, rate?, interval), problems)
}

/// How many in a second; none where it is no whole number of 32 bits.
fn per_second(count: u32, interval: Duration) -> Option<u32> {
    let (count, interval) = (u128::from(count) * 1_000_000_000, interval.as_nanos());
    let rate = count.checked_div(interval).filter(|rate| rate * interval == count)?;
    u32::try_from(rate).ok()
}

/// Gives the policies of each Service its budget, and makes one for a Service that has none.
pub(super) fn apply(
    mut constraints: Vec<Constraint<'_>>,
    routes: &mut [ReadRoute<'_>],
    policies: &mut Vec<Policy>,
) {
    // Of several for one Service the oldest counts, so it has the last word.
    constraints.sort_by(|one, other| other.metadata.age().cmp(&one.metadata.age()));
    for Constraint { kind, root, metadata, services, budget } in constraints {
        let place = root.place(&["spec", "retryConstraint"]);
        let mut to = Vec::new();
        for name in services {
            let mut is_used = false;
            for route in routes.iter_mut() {
                let mut named = route.services.iter();
                if named
                    .any(|(service, namespace)| *service == name && is_same(*namespace, metadata.namespace))
                {
                    route.policy.budget = budget;
                    is_used = true;
                }
            }
            for policy in policies.iter_mut().filter(|policy| policy.name.kind() == Some("Service")) {
                if policy.name.name() == name && is_same(policy.name.namespace(), metadata.namespace) {
                    policy.budget = budget;
                    is_used = true;
                }
            }
            if !is_used {
                to.extend(super::service(name, metadata.namespace, None));
            }
        }
        if !to.is_empty() {
            let name = PolicyName::of_kind(kind, metadata.namespace, metadata.name);
            let to_at = (Setting::To, root.place(&["spec", "targetRefs"]));
            let sources = Sources::new([(Setting::Budget, place), to_at]).into();
            policies.push(Policy { budget, sources, ..super::policy(name, &root, to, Vec::new()) });
        }
    }
}
