//! What is around what a Kuma document says: its name, its mesh, and the labels that give it a place among others.

use std::borrow::Cow;

use super::target::Named;
use crate::dialect::common;
use crate::dialect::fields::{Field, Map, Problems};
use crate::dialect::note::Code;

/// The longest name of a document.
const MAX_NAME: usize = 253;

/// The mesh of a document that does not say one.
const DEFAULT_MESH: &str = "default";

/// The namespaces of Kuma's and Kong Mesh's own control plane.
const SYSTEM_NAMESPACES: [&str; 2] = ["kuma-system", "kong-mesh-system"];

/// A document without what names it.
#[derive(Clone)]
pub(super) struct Resource<'a> {
    pub(super) root: Field<'a>,
    pub(super) kind: &'static str,
    pub(super) mesh: &'a str,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    labels: Option<Field<'a>>,
    /// Where what it says is.
    pub(super) spec: Field<'a>,
}

/// Whose policy it is, in the order in which one overrides another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// The operator's.
    System,
    /// A service's own, for all who call it.
    Producer,
    /// That of those who call, for themselves.
    Consumer,
    WorkloadOwner,
}

/// Reads what is around what a document says. The universal form of a `Retry` has that beside its name.
pub(super) fn resource<'a>(
    root: &Field<'a>,
    kind: &'static str,
    problems: &mut Problems,
) -> Option<Resource<'a>> {
    let beside: &[_] = if kind == "Retry" { &["sources", "destinations", "conf"] } else { &["spec"] };
    let is_kubernetes = root.child("apiVersion").is_some();
    let known: &[_] = if is_kubernetes {
        &["apiVersion", "kind", "mesh", "metadata", "spec", "status"]
    } else {
        &["type", "name", "mesh", "labels", "creationTime", "modificationTime", "kri", "status"]
    };
    let known: Vec<_> = known.iter().chain(beside.iter().filter(|_| !is_kubernetes)).copied().collect();
    let map = root.map_of(&known, problems)?;
    let (namespace, name, labels) = if is_kubernetes {
        let metadata = common::metadata(root, problems)?;
        let labels = root.child("metadata").and_then(|metadata| metadata.child("labels"));
        (metadata.namespace, metadata.name, labels)
    } else {
        (None, map.required("name", problems)?.text(problems)?, map.get("labels"))
    };
    if name.is_empty() || name.len() > MAX_NAME {
        return root.problem(format!("a name has 1 to {MAX_NAME} characters"), problems);
    }
    let label = labels.as_ref().and_then(|labels| labels.child("kuma.io/mesh"));
    let mesh = map.get("mesh").or(label).map_or(Some(DEFAULT_MESH), |field| field.text(problems))?;
    let spec = if is_kubernetes || beside.contains(&"spec") {
        map.required("spec", problems)?
    } else {
        root.clone()
    };
    Some(Resource { root: root.clone(), kind, mesh, namespace, name, labels, spec })
}

impl<'a> Resource<'a> {
    pub(super) fn called(&self) -> Named<'a> {
        Named { name: self.name, namespace: self.namespace }
    }

    fn label(&self, name: &str) -> Option<Field<'a>> {
        self.labels.as_ref().and_then(|labels| labels.child(name))
    }

    fn label_text(&self, name: &str) -> String {
        self.label(name).and_then(|field| field.word().map(String::from)).unwrap_or_default()
    }

    /// Whether it has this label, or would have it in Kuma.
    pub(super) fn has_label(&self, name: &str, value: &Field<'_>) -> bool {
        let implied = match name {
            super::target::DISPLAY_NAME => Some(self.name),
            super::workloads::NAMESPACE => self.namespace,
            _ => None,
        };
        let value = value.word();
        let said = self.label(name);
        said.as_ref().map_or(implied.map(Cow::Borrowed), Field::word).is_some_and(|own| Some(own) == value)
    }

    /// The fields of the specification, unless the document is one that only shows what it would do.
    pub(super) fn spec(&self, known: &[&str], problems: &mut Problems) -> Option<Map<'a>> {
        let map = self.spec.map_of(known, problems)?;
        if self.label_text("kuma.io/effect") != "shadow" {
            return Some(map);
        }
        let message = "a policy in shadow mode changes nothing in Kuma either";
        problems.note(Code::Ignored, &self.label("kuma.io/effect")?.here(), message);
        None
    }

    /// The name by which policies that are alike else are told apart.
    pub(super) fn display_name(&self) -> Box<str> {
        let label = self.label_text("kuma.io/display-name");
        if label.is_empty() { self.name.into() } else { label.into() }
    }

    /// A zone's own documents override those of all zones.
    pub(super) fn origin_rank(&self) -> u8 {
        match self.label_text("kuma.io/origin").as_str() {
            "zone" => 2,
            "global" => 1,
            _ => 0,
        }
    }

    /// Whose policy it is. Kuma says so in a label; without it, it is worked out as Kuma does: from the namespace, and
    /// from whether the destinations are services of that namespace.
    pub(super) fn role(&self, is_own: &[bool], problems: &mut Problems) -> Option<Role> {
        let said = match self.label_text("kuma.io/policy-role").as_str() {
            "system" => Some(Role::System),
            "producer" => Some(Role::Producer),
            "consumer" => Some(Role::Consumer),
            "workload-owner" => Some(Role::WorkloadOwner),
            _ => None,
        };
        let is_system = self.namespace.is_none_or(|namespace| SYSTEM_NAMESPACES.contains(&namespace));
        match (said, is_own.iter().all(|own| *own), is_own.iter().any(|own| *own)) {
            (Some(role), _, _) => Some(role),
            _ if is_system => Some(Role::System),
            (None, true, _) => Some(Role::Producer),
            (None, false, false) => Some(Role::Consumer),
            (None, false, true) => {
                let message = "services of its own namespace and others can't be in one policy; make it two";
                let to = self.spec.child("to").unwrap_or_else(|| self.spec.clone());
                to.problem(message, problems)
            }
        }
    }

    /// The namespace of what it refers to without saying one.
    pub(super) fn home(&self) -> Option<&'a str> {
        self.namespace.filter(|namespace| !SYSTEM_NAMESPACES.contains(namespace))
    }
}
