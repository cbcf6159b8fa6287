//! What documents are attached to: routes, rules of routes, and Gateways.

use std::borrow::Cow;
use std::cell::Cell;

use super::overlay::Overlay;
use super::{GATEWAY, is_same};
use crate::dialect::common::Metadata;
use crate::dialect::fields::{Field, Map, Problems};

/// How many targets, or selectors of targets, a document may have.
const MAX_TARGETS: usize = 16;

/// A document that says something of the requests of routes.
pub(super) struct Attached<'a> {
    pub(super) kind: &'static str,
    pub(super) metadata: Metadata<'a>,
    pub(super) root: Field<'a>,
    pub(super) aims: Vec<Aim<'a>>,
    pub(super) says: Overlay,
    pub(super) is_used: Cell<bool>,
}

/// What a document is attached to by its own word.
pub(super) struct Aim<'a> {
    pub(super) kind: &'static str,
    target: Target<'a>,
    namespace: Option<Cow<'a, str>>,
    pub(super) section: Option<&'a str>,
    /// Where the target is named.
    field: Field<'a>,
}

enum Target<'a> {
    Named(Cow<'a, str>),
    /// All that have these labels.
    Labelled(Vec<(&'a str, &'a str)>),
}

/// What a document may be attached to: a route and the names of its rules, or a Gateway.
pub(super) struct Place<'a> {
    kind: &'static str,
    name: Cow<'a, str>,
    namespace: Option<Cow<'a, str>>,
    labels: Vec<(&'a str, Cow<'a, str>)>,
    sections: Vec<Cow<'a, str>>,
}

impl<'a> Place<'a> {
    /// The places that a document tells of, whatever else is wrong with it.
    pub(super) fn all(kind: &'static str, root: &Field<'a>) -> Vec<Self> {
        let says = |field: &Field<'a>, name| field.child(name).and_then(|field| field.word());
        let metadata = |name| root.child("metadata").and_then(|metadata| says(&metadata, name));
        let Some(name) = metadata("name") else { return Vec::new() };
        let namespace = metadata("namespace");
        let labels = root.child("metadata").and_then(|metadata| metadata.child("labels"));
        let labels: Vec<_> = labels.iter().flat_map(Field::entries).collect();
        let labels = labels.iter().filter_map(|(name, value)| Some((*name, value.word()?))).collect();
        let listed = |name| {
            let list = root.child("spec").and_then(|spec| spec.child(name));
            list.into_iter().flat_map(|list| list.items().collect::<Vec<_>>())
        };
        let parents =
            listed("parentRefs").filter(|parent| says(parent, "kind").is_none_or(|kind| kind == "Gateway"));
        let gateway = |parent: Field<'a>| {
            let namespace = says(&parent, "namespace").or_else(|| namespace.clone());
            let (kind, labels, sections) = ("Gateway", Vec::new(), Vec::new());
            Some(Self { kind, name: says(&parent, "name")?, namespace, labels, sections })
        };
        let mut places: Vec<_> = parents.filter_map(gateway).collect();
        let sections = listed("rules").filter_map(|rule| says(&rule, "name")).collect();
        places.push(Self { kind, name, namespace: namespace.clone(), labels, sections });
        places
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|label| self.labels.iter().any(|(name, value)| (*name, &**value) == *label))
    }
}

impl<'a> Attached<'a> {
    pub(super) fn new(
        kind: &'static str,
        metadata: Metadata<'a>,
        root: &Field<'a>,
        mut aims: Vec<Aim<'a>>,
        says: Overlay,
    ) -> Self {
        for aim in &mut aims {
            aim.namespace = aim.namespace.take().or(metadata.namespace.map(Cow::Borrowed));
        }
        Self { kind, metadata, root: root.clone(), aims, says, is_used: Cell::new(false) }
    }

    /// Finds what is told by labels, and tells which targets are not there. Returns whether all are.
    pub(super) fn resolve(&mut self, places: &[Place<'a>], problems: &mut Problems) -> Option<()> {
        let mut is_sound = true;
        let mut aims = Vec::new();
        for aim in self.aims.drain(..) {
            let same = places.iter().filter(|place| {
                place.kind == aim.kind && is_same(place.namespace.as_deref(), aim.namespace.as_deref())
            });
            match &aim.target {
                Target::Named(name) => {
                    let named: Vec<_> = same.filter(|place| place.name == *name).collect();
                    is_sound &= aim.is_there(name, &named, problems).is_some();
                    aims.push(aim);
                }
                Target::Labelled(labels) => {
                    let labelled = same.filter(|place| place.has(labels));
                    aims.extend(labelled.map(|place| Aim {
                        target: Target::Named(place.name.clone()),
                        namespace: place.namespace.clone(),
                        field: aim.field.clone(),
                        ..aim
                    }));
                }
            }
        }
        self.aims = aims;
        is_sound.then_some(())
    }
}

impl Aim<'_> {
    /// Whether the target is this, of the aim's kind.
    pub(super) fn is_at(&self, name: &str, namespace: Option<&str>) -> bool {
        matches!(&self.target, Target::Named(known) if known == name)
            && is_same(namespace, self.namespace.as_deref())
    }

    fn is_there(&self, name: &str, places: &[&Place<'_>], problems: &mut Problems) -> Option<()> {
        let (key, message) = match self.section {
            _ if places.is_empty() => ("name", format!("no document is or names the {} {name:?}", self.kind)),
            Some(section) if !places.iter().any(|place| place.sections.iter().any(|one| one == section)) => {
                ("sectionName", format!("no rule of {name:?} is named {section:?}"))
            }
            _ => return Some(()),
        };
        self.field.child(key).unwrap_or_else(|| self.field.clone()).problem(message, problems)
    }
}

/// The targets that a `spec` names, and those that it tells by their labels.
pub(super) fn aims<'a>(spec: &Map<'a>, problems: &mut Problems) -> Option<Vec<Aim<'a>>> {
    let named = spec.each_up_to("targetRefs", MAX_TARGETS, problems, |field, problems| {
        aim(field, "name", problems, |name, problems| {
            Some(Target::Named(Cow::Borrowed(name.text(problems)?)))
        })
    });
    let labelled = spec.each_up_to("targetSelectors", MAX_TARGETS, problems, |field, problems| {
        aim(field, "matchLabels", problems, |labels, problems| {
            let labels = labels.map(problems)?;
            let label = |(name, value): (&'a str, Field<'a>)| Some((name, value.text(problems)?));
            labels.entries().map(label).collect::<Option<_>>().map(Target::Labelled)
        })
    });
    let mut aims = named?;
    aims.extend(labelled?);
    Some(aims)
}

fn aim<'a>(
    field: &Field<'a>,
    key: &str,
    problems: &mut Problems,
    target: impl FnOnce(&Field<'a>, &mut Problems) -> Option<Target<'a>>,
) -> Option<Aim<'a>> {
    let map = field.map_of(&["group", "kind", key, "namespace", "sectionName"], problems)?;
    let kinds = [("HTTPRoute", "HTTPRoute"), ("GRPCRoute", "GRPCRoute"), ("Gateway", "Gateway")];
    let kind = map.required("kind", problems).and_then(|field| field.one_of(&kinds, problems));
    let target = map.required(key, problems).and_then(|field| target(&field, problems));
    let group = map.optional("group", (), |field| field.one_of(&[(GATEWAY, ())], problems));
    let namespace = map.optional("namespace", None, |field| field.text(problems).map(Some));
    let section = map.optional("sectionName", None, |field| field.text(problems).map(Some));
    let (kind, section) = (kind?, section?);
    if let Some(listener) = map.get("sectionName").filter(|_| kind == "Gateway") {
        return listener
            .problem("there are no listeners here; leave it out to mean the whole Gateway", problems);
    }
    group?;
    let namespace = namespace?.map(Cow::Borrowed);
    Some(Aim { kind, target: target?, namespace, section, field: field.clone() })
}
