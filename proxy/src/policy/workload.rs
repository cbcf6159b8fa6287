//! Whose connections a policy is about.

use std::collections::BTreeMap;

/// What is known of a workload besides its cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub namespace: Option<Box<str>>,
    /// Labels, or tags: `app`, `kuma.io/service`.
    pub labels: BTreeMap<Box<str>, Box<str>>,
}

/// One workload, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// The path of its cgroup.
    pub cgroup: &'a str,
    /// None where nobody said: then no policy asks for it, since a document has to work alone.
    pub identity: Option<&'a Identity>,
}

/// Some workloads: those to which all of this applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkloadSelector {
    pub namespace: Option<Box<str>>,
    pub labels: Vec<(Box<str>, LabelMatch)>,
    /// The cgroup, or one above it: `system.slice/web.service`.
    pub cgroup: Option<Box<str>>,
}

/// What the value of a label has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LabelMatch {
    /// Any, and it may be missing: what `*` means where labels are tags.
    Any,
    Is(Box<str>),
}

/// The pairs of a text such as `app=web,tier=front`, or what is wrong with it.
pub fn label_pairs(text: &str) -> impl Iterator<Item = Result<(&str, &str), String>> {
    text.split(',').map(str::trim).map(|pair| {
        pair.split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| format!("expected label=value pairs with commas between them, found {pair:?}"))
    })
}

impl WorkloadSelector {
    #[must_use]
    pub fn matches(&self, workload: Workload<'_>) -> bool {
        let Self { namespace, labels, cgroup } = self;
        let by_cgroup = cgroup.as_deref().is_none_or(|cgroup| {
            workload
                .cgroup
                .trim_start_matches('/')
                .strip_prefix(cgroup.trim_matches('/'))
                .is_some_and(|below| below.is_empty() || below.starts_with('/'))
        });
        by_cgroup
            && workload.identity.is_none_or(|identity| {
                namespace.as_ref().is_none_or(|namespace| identity.namespace.as_ref() == Some(namespace))
                    && labels.iter().all(|(name, value)| match value {
                        LabelMatch::Any => true,
                        LabelMatch::Is(value) => identity.labels.get(name) == Some(value),
                    })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, LabelMatch, Workload, WorkloadSelector};

    #[test]
    fn a_selector_takes_what_all_of_it_applies_to() {
        let identity = Identity {
            namespace: Some("shop".into()),
            labels: [("app".into(), "web".into()), ("v".into(), "1".into())].into(),
        };
        let label = |name: &str, value: Option<&str>| {
            let value = value.map_or(LabelMatch::Any, |value| LabelMatch::Is(value.into()));
            WorkloadSelector { labels: vec![(name.into(), value)], ..WorkloadSelector::default() }
        };
        let namespace =
            |name: &str| WorkloadSelector { namespace: Some(name.into()), ..WorkloadSelector::default() };
        let cgroup =
            |path: &str| WorkloadSelector { cgroup: Some(path.into()), ..WorkloadSelector::default() };
        // By what is known, and by a workload of which nothing is.
        for (selector, known, unknown) in [
            (WorkloadSelector::default(), true, true),
            (label("app", Some("web")), true, true),
            (label("app", Some("db")), false, true),
            (label("missing", Some("x")), false, true),
            (label("missing", None), true, true),
            (namespace("shop"), true, true),
            (namespace("other"), false, true),
            (cgroup("system.slice/web.service"), true, true),
            (cgroup("/system.slice/"), true, true),
            (cgroup("system.slice/web"), false, false),
        ] {
            for (identity, expected) in [(Some(&identity), known), (None, unknown)] {
                let workload = Workload { cgroup: "/system.slice/web.service", identity };
                assert_eq!(selector.matches(workload), expected, "{selector:?}");
            }
        }
    }
}
