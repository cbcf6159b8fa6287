//! Whose connections a Kuma policy is about, as something of which several can be true together.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::{LabelMatch, WorkloadSelector};

/// The most groups of workloads that policies for one destination may make.
const MAX_GROUPS: usize = 1_024;

/// The label, or tag, that says a workload's namespace.
pub(super) const NAMESPACE: &str = "k8s.kuma.io/namespace";

/// Those that are in this namespace and have these labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Workloads {
    pub(super) namespace: Option<Box<str>>,
    pub(super) labels: BTreeMap<Box<str>, Box<str>>,
}

impl Workloads {
    /// Adds what a label has to be; `*` is anything. False: nobody is left.
    pub(super) fn with(&mut self, name: &str, value: &str) -> bool {
        if value == "*" {
            return true;
        }
        if name == NAMESPACE {
            let before = self.namespace.replace(value.into());
            return before.is_none_or(|before| &*before == value);
        }
        let before = self.labels.insert(name.into(), value.into());
        before.is_none_or(|before| &*before == value)
    }

    /// Those that both are about.
    fn and(&self, other: &Self) -> Option<Self> {
        let mut both = self.clone();
        let namespace = other.namespace.as_deref().map(|namespace| (NAMESPACE, namespace));
        let mut labels = other.labels.iter().map(|(name, value)| (&**name, &**value)).chain(namespace);
        labels.all(|(name, value)| both.with(name, value)).then_some(both)
    }

    /// Whether all of these are among the others.
    pub(super) fn are_among(&self, others: &Self) -> bool {
        (others.namespace.is_none() || others.namespace == self.namespace)
            && others.labels.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }

    /// None where it is everybody.
    pub(super) fn selector(&self) -> Option<WorkloadSelector> {
        if *self == Self::default() {
            return None;
        }
        let labels = self.labels.iter().map(|(name, value)| (name.clone(), LabelMatch::Is(value.clone())));
        let labels = labels.collect();
        Some(WorkloadSelector { namespace: self.namespace.clone(), labels, cgroup: None })
    }
}

/// The groups that workloads are in which some of `own` are about, by which of all these are about them. None: too many.
pub(super) fn groups<'a>(
    own: impl IntoIterator<Item = &'a Workloads>,
    all: impl IntoIterator<Item = &'a Workloads>,
) -> Option<BTreeSet<Workloads>> {
    let mut groups: BTreeSet<_> = own.into_iter().cloned().collect();
    for workloads in all.into_iter().collect::<BTreeSet<_>>() {
        let both: Vec<_> = groups.iter().filter_map(|group| group.and(workloads)).collect();
        groups.extend(both);
        if groups.len() > MAX_GROUPS {
            return None;
        }
    }
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::{Workloads, groups};

    fn workloads(labels: &[(&str, &str)]) -> Workloads {
        let mut workloads = Workloads::default();
        assert!(labels.iter().all(|(name, value)| workloads.with(name, value)));
        workloads
    }

    #[test]
    fn groups_are_what_can_be_true_together() {
        let (everybody, web, api, new) = (
            Workloads::default(),
            workloads(&[("app", "web")]),
            workloads(&[("app", "api")]),
            workloads(&[("version", "2")]),
        );
        let found = groups([&everybody], [&everybody, &web, &api, &new]).unwrap();
        let both = |app| workloads(&[("app", app), ("version", "2")]);
        let expected = [everybody, web.clone(), api.clone(), new.clone(), both("web"), both("api")];
        assert_eq!(found, expected.into());
        assert_eq!(groups([&web], [&web, &api, &new]).unwrap(), [web, both("web")].into());
        let many: Vec<_> = (0..11).map(|number| workloads(&[(&number.to_string(), "1")])).collect();
        assert!(groups(&many, &many).is_none());
    }
}
