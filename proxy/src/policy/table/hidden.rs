//! Which policies never hold, since others take all that they are for.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU16;
use std::sync::Arc;

use super::{Rule, Says, Table};
use crate::policy::{Policy, PolicyName, WorkloadSelector};

/// The rules so far that leave nothing to what comes later, the first of each kind, and the first of another policy, with
/// their places. A policy does not hide itself.
#[derive(Default)]
struct Takers<'a>(HashMap<Kind<'a>, Vec<(usize, &'a Arc<Policy>)>>);

/// For whom a rule takes all, and whether it ends the asking.
type Kind<'a> = (Option<NonZeroU16>, &'a [WorkloadSelector], bool);

impl Table {
    /// The policies that never hold, each with one that takes all that they are for: where the same destinations are
    /// meant, the first that takes every request leaves nothing to those after it.
    #[must_use]
    pub fn hidden(&self) -> Vec<(&Arc<Policy>, &Arc<Policy>)> {
        let mut hiding = BTreeMap::<&PolicyName, (&Arc<Policy>, Option<&Arc<Policy>>)>::new();
        for tier in self.hosts.values().chain(self.suffixes.values()).chain(self.networks.values()) {
            let mut takers = Takers::default();
            for (place, rule) in tier.iter().enumerate() {
                let first = takers.before(rule);
                let known = hiding.entry(&rule.policy.name).or_insert((&rule.policy, first));
                if first.is_none() {
                    known.1 = None;
                    takers.add(place, rule);
                }
            }
        }
        hiding.into_values().filter_map(|(policy, first)| Some((policy, first?))).collect()
    }
}

impl<'a> Takers<'a> {
    /// The first policy that takes all that this rule is for.
    fn before(&self, rule: &'a Rule) -> Option<&'a Arc<Policy>> {
        if self.0.is_empty() {
            return None;
        }
        let Rule { port, policy, says: _ } = rule;
        let ports = [Some(None), Some(*port).filter(Option::is_some)];
        let all: &[WorkloadSelector] = &[];
        let workloads = [Some(all), Some(policy.from.as_slice()).filter(|from| !from.is_empty())];
        // What is said of connections counts up to where the asking ends.
        let ends = [Some(true), Some(false).filter(|_| !policy.routes.is_empty())];
        let ends = ends.into_iter().flatten();
        let kinds = ends.flat_map(|ends| {
            let ports = ports.into_iter().flatten();
            ports.flat_map(move |port| workloads.into_iter().flatten().map(move |from| (port, from, ends)))
        });
        let others = kinds.filter_map(|kind| self.0.get(&kind)).flatten();
        let others = others.filter(|(_, other)| other.name != policy.name);
        others.min_by_key(|(place, _)| *place).map(|(_, other)| *other)
    }

    fn add(&mut self, place: usize, rule: &'a Rule) {
        let Rule { port, policy, says } = rule;
        let takes_all = rule.route().map_or(*says == Says::Rest, |route| route.matcher.is_any());
        if takes_all {
            let known = self.0.entry((*port, &policy.from, *says == Says::Rest)).or_default();
            if known.len() < 2 && known.iter().all(|(_, other)| other.name != policy.name) {
                known.push((place, policy));
            }
        }
    }
}
