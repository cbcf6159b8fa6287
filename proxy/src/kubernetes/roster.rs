//! Which of this node's pods are enrolled, from what the API says of pods and namespaces. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use super::PodUid;
use crate::policy::{Identity, label_pairs};

/// The label or annotation, on a pod or its namespace, that says whether the pod is enrolled.
pub const ENROLL: &str = "redial.dev/enroll";

/// A pod of this node, as far as redial is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub uid: PodUid,
    /// What its cgroup is named by.
    pub cgroup: PodUid,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub labels: Arc<BTreeMap<String, String>>,
    /// Its processes are in the node's network namespace.
    pub host_network: bool,
    /// What it says itself of being enrolled.
    pub says: Word,
}

/// What an object says of being enrolled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Word {
    Yes,
    No,
    #[default]
    Nothing,
}

/// A value of [`ENROLL`] that is neither `true` nor `false`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{ENROLL}: expected \"true\" or \"false\", found {0:?}; it counts as \"false\"")]
pub struct BadWord(pub String);

/// Labels that a pod must have to be enrolled where nothing is said of it: `app=web,tier=front`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<(String, String)>);

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// To be enrolled, or enrolled and of other labels now.
    Enrol(Pod),
    Leave(PodUid),
}

/// The node's pods and every namespace's word.
#[derive(Debug, Default)]
pub struct Roster {
    selector: Option<Selector>,
    pods: HashMap<PodUid, Pod>,
    namespaces: HashMap<Arc<str>, Word>,
    enrolled: HashSet<PodUid>,
}

impl Word {
    /// What labels and annotations say. `false` in either wins; what cannot be read counts as `false`.
    pub fn of(
        labels: Option<&BTreeMap<String, String>>,
        annotations: Option<&BTreeMap<String, String>>,
    ) -> Result<Self, BadWord> {
        let mut word = Self::Nothing;
        for values in [labels, annotations].into_iter().flatten() {
            match values.get(ENROLL).map(String::as_str) {
                Some("true") if word == Self::Nothing => word = Self::Yes,
                None | Some("true") => {}
                Some("false") => word = Self::No,
                Some(other) => return Err(BadWord(other.chars().take(64).collect())),
            }
        }
        Ok(word)
    }
}

impl Selector {
    /// `name=value` pairs with commas between them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let pairs =
            label_pairs(text).map(|pair| pair.map(|(name, value)| (name.to_owned(), value.to_owned())));
        pairs.collect::<Result<_, _>>().map(Self)
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

impl Pod {
    /// What policies know it by.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let labels = self.labels.iter();
        Identity {
            namespace: Some((&*self.namespace).into()),
            labels: labels.map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect(),
        }
    }
}

/// What logs, metrics and `redial status` call it.
impl Display for Pod {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Roster {
    #[must_use]
    pub fn new(selector: Option<Selector>) -> Self {
        Self { selector, ..Self::default() }
    }

    pub fn pod(&mut self, pod: Pod) -> Option<Change> {
        let before = self.pods.insert(pod.uid, pod.clone());
        self.decide(pod, before.as_ref())
    }

    pub fn pod_gone(&mut self, uid: PodUid) -> Option<Change> {
        self.pods.remove(&uid);
        self.enrolled.remove(&uid).then_some(Change::Leave(uid))
    }

    /// These are all pods that there are.
    pub fn only_pods(&mut self, there: &HashSet<PodUid>) -> Vec<Change> {
        let gone: Vec<_> = self.pods.keys().filter(|uid| !there.contains(uid)).copied().collect();
        gone.into_iter().filter_map(|uid| self.pod_gone(uid)).collect()
    }

    pub fn namespace(&mut self, name: &str, says: Word) -> Vec<Change> {
        if says == Word::Nothing {
            self.namespaces.remove(name);
        } else {
            self.namespaces.insert(name.into(), says);
        }
        let of_it: Vec<_> = self.pods.values().filter(|pod| &*pod.namespace == name).cloned().collect();
        of_it.into_iter().filter_map(|pod| self.decide(pod.clone(), Some(&pod))).collect()
    }

    /// These are all namespaces that there are.
    pub fn only_namespaces(&mut self, there: &HashSet<String>) -> Vec<Change> {
        let gone: Vec<_> = self.namespaces.keys().filter(|name| !there.contains(&***name)).cloned().collect();
        gone.into_iter().flat_map(|name| self.namespace(&name, Word::Nothing)).collect()
    }

    #[must_use]
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    fn decide(&mut self, pod: Pod, before: Option<&Pod>) -> Option<Change> {
        if self.is_wanted(&pod) {
            let is_new = self.enrolled.insert(pod.uid);
            (is_new || before != Some(&pod)).then_some(Change::Enrol(pod))
        } else {
            self.enrolled.remove(&pod.uid).then_some(Change::Leave(pod.uid))
        }
    }

    fn is_wanted(&self, pod: &Pod) -> bool {
        let of_namespace = self.namespaces.get(&pod.namespace).copied().unwrap_or_default();
        let first = [pod.says, of_namespace].into_iter().find(|word| *word != Word::Nothing);
        match first {
            Some(word) => word == Word::Yes,
            None => self.selector.as_ref().is_some_and(|selector| selector.selects(&pod.labels)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};
    use std::sync::Arc;

    use super::{Change, ENROLL, Pod, PodUid, Roster, Selector, Word};

    fn uid(number: u8) -> PodUid {
        PodUid::parse(&format!("{number:032x}")).unwrap()
    }

    fn pod(number: u8, says: Word) -> Pod {
        Pod {
            uid: uid(number),
            cgroup: uid(number),
            namespace: "shop".into(),
            name: format!("web-{number}").into(),
            labels: Arc::new([("app".to_owned(), "web".to_owned())].into()),
            host_network: false,
            says,
        }
    }

    fn values(value: &str) -> BTreeMap<String, String> {
        [(ENROLL.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn false_wins_and_what_cannot_be_read_is_told() {
        let (yes, no, bad) = (values("true"), values("false"), values("yes"));
        for (labels, annotations, expected) in [
            (None, None, Word::Nothing),
            (Some(&yes), None, Word::Yes),
            (None, Some(&yes), Word::Yes),
            (Some(&no), Some(&yes), Word::No),
            (Some(&yes), Some(&no), Word::No),
        ] {
            assert_eq!(Word::of(labels, annotations), Ok(expected));
        }
        assert_eq!(
            Word::of(Some(&yes), Some(&bad)).unwrap_err().to_string(),
            r#"redial.dev/enroll: expected "true" or "false", found "yes"; it counts as "false""#
        );
    }

    /// The pod's word, its namespace's, and what becomes of it with the selector that selects it, and without one.
    #[test]
    fn the_pods_word_comes_before_its_namespaces_and_this_before_the_selector() {
        let selector = Selector::parse("app=web").unwrap();
        for (of_pod, of_namespace, selected, otherwise) in [
            (Word::Nothing, Word::Nothing, true, false),
            (Word::Nothing, Word::Yes, true, true),
            (Word::Nothing, Word::No, false, false),
            (Word::Yes, Word::No, true, true),
            (Word::No, Word::Yes, false, false),
        ] {
            for (selector, expected) in [(Some(selector.clone()), selected), (None, otherwise)] {
                let mut roster = Roster::new(selector);
                assert_eq!(roster.namespace("shop", of_namespace), []);
                let enrolled = matches!(roster.pod(pod(1, of_pod)), Some(Change::Enrol(_)));
                assert_eq!(enrolled, expected, "{of_pod:?} {of_namespace:?}");
            }
        }
    }

    #[test]
    fn changes_are_told_once() {
        let mut roster = Roster::new(None);
        assert_eq!(roster.pod(pod(1, Word::Nothing)), None);
        assert_eq!(roster.namespace("other", Word::Yes), []);
        assert_eq!(roster.namespace("shop", Word::Yes), [Change::Enrol(pod(1, Word::Nothing))]);
        assert_eq!(roster.namespace("shop", Word::Yes), []);
        assert_eq!(roster.pod(pod(1, Word::Nothing)), None);
        let relabelled = Pod { labels: Arc::default(), ..pod(1, Word::Nothing) };
        assert_eq!(roster.pod(relabelled.clone()), Some(Change::Enrol(relabelled)));
        assert_eq!(roster.pod(pod(1, Word::No)), Some(Change::Leave(uid(1))));
        assert_eq!(roster.pod_gone(uid(1)), None);
        assert_eq!(roster.pod(pod(2, Word::Nothing)), Some(Change::Enrol(pod(2, Word::Nothing))));
        assert_eq!(roster.pods(), 1);
        assert_eq!(roster.only_namespaces(&HashSet::new()), [Change::Leave(uid(2))]);
        assert_eq!(roster.pod(pod(3, Word::Yes)), Some(Change::Enrol(pod(3, Word::Yes))));
        assert_eq!(roster.only_pods(&[uid(2)].into()), [Change::Leave(uid(3))]);
    }

    #[test]
    fn a_selector_is_pairs() {
        assert_eq!(
            Selector::parse("app").unwrap_err(),
            "expected label=value pairs with commas between them, found \"app\""
        );
        let both = Selector::parse("app=web, tier=front").unwrap();
        assert!(!both.selects(&[("app".to_owned(), "web".to_owned())].into()));
    }
}
