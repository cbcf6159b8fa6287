//! The policy objects that the API has, as documents. Pure.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use kube::api::DynamicObject;
use serde_json::{Map, Value, json};

use crate::dialect::{Kind, MAX_FILE_BYTES};

/// The most objects, and the most bytes of them, that are kept. Those that come later are refused.
const MAX_OBJECTS: usize = 20_000;
const MAX_BYTES: usize = 128 << 20;

/// An object, as a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub kind: &'static Kind,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
    pub resource_version: String,
    /// What stands for a file's path: `HTTPRoute.gateway.networking.k8s.io/shop/cart`.
    pub place: Arc<Path>,
    pub text: Arc<str>,
    /// Of its status what redial has a part in: the conditions of its own kind, the list of [`Entries`].
    pub status: Arc<Value>,
    /// What redial has an entry about in that list, as the object names it: Services that a route hangs on, targets of a policy.
    pub subjects: Arc<[Value]>,
}

/// The list in an object's status where every system has entries of its own, one for each thing that the object refers to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entries {
    /// Of its status.
    pub(super) list: &'static str,
    /// Of an entry: what it is about.
    pub(super) about: &'static str,
    /// Of its spec: what it refers to.
    refers: &'static str,
    /// What an entry says where the object is not in force.
    pub(super) refused: &'static str,
    /// How many entries the API server takes.
    pub(super) room: usize,
    /// How many redial has at most. By the Gateway API a policy whose list is full is none that a controller can implement.
    pub(super) own: usize,
}

/// The Gateway API's words.
const OF_ROUTE: Entries = Entries {
    list: "parents",
    about: "parentRef",
    refers: "parentRefs",
    refused: "UnsupportedValue",
    room: 32,
    own: 32,
};
const OF_POLICY: Entries = Entries {
    list: "ancestors",
    about: "ancestorRef",
    refers: "targetRefs",
    refused: "Invalid",
    room: 16,
    own: 8,
};

/// The objects that there are.
#[derive(Debug, Default)]
pub struct Objects {
    kept: BTreeMap<Arc<Path>, Object>,
    bytes: usize,
}

impl Kind {
    /// The kind whose CRD has this name: `httproutes.gateway.networking.k8s.io`.
    #[must_use]
    pub fn of_crd(name: &str) -> Option<&'static Self> {
        let (plural, group) = name.split_once('.')?;
        Self::watched().find(|kind| kind.plural == Some(plural) && kind.group == group)
    }

    /// `HTTPRoute`, where a user means every group that has it, or `HTTPRoute.gateway.networking.k8s.io`.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        match name.split_once('.') {
            Some((kind, group)) => self.kind == kind && self.group == group,
            None => self.kind == name,
        }
    }

    #[must_use]
    pub fn is_own(&self) -> bool {
        self.group == "redial.dev"
    }

    /// Routes of the Gateway API, and what is attached to them in its way.
    pub(super) fn entries(&self) -> Option<&'static Entries> {
        match (self.group, self.kind) {
            ("gateway.networking.k8s.io", "HTTPRoute" | "GRPCRoute") => Some(&OF_ROUTE),
            ("gateway.networking.k8s.io", "BackendTrafficPolicy")
            | ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy")
            | ("gateway.kgateway.dev", "TrafficPolicy") => Some(&OF_POLICY),
            _ => None,
        }
    }

    /// What redial writes of its status, if anything.
    fn status_field(&self) -> Option<&'static str> {
        if self.is_own() { Some("conditions") } else { self.entries().map(|entries| entries.list) }
    }

    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.kind, self.group)
    }

    pub(super) fn place(&self, namespace: &str, name: &str) -> Arc<Path> {
        let place = if namespace.is_empty() {
            format!("{}/{name}", self.full_name())
        } else {
            format!("{}/{namespace}/{name}", self.full_name())
        };
        Arc::from(Path::new(&place))
    }
}

impl Object {
    /// None where it has no name: the API server sends no such objects.
    #[must_use]
    pub fn new(kind: &'static Kind, object: DynamicObject) -> Option<Self> {
        let DynamicObject { types, metadata, data } = object;
        let name = metadata.name?;
        let namespace = metadata.namespace.unwrap_or_default();
        let mut annotations = metadata.annotations.unwrap_or_default();
        // The whole object once more.
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        let mut said = Map::new();
        said.insert("name".to_owned(), json!(name));
        if !namespace.is_empty() {
            said.insert("namespace".to_owned(), json!(namespace));
        }
        if let Some(labels) = metadata.labels.filter(|labels| !labels.is_empty()) {
            said.insert("labels".to_owned(), json!(labels));
        }
        if !annotations.is_empty() {
            said.insert("annotations".to_owned(), json!(annotations));
        }
        if let Some(created) = metadata.creation_timestamp.filter(|_| !kind.is_own()) {
            said.insert("creationTimestamp".to_owned(), json!(created));
        }
        let types = types.map(|types| (types.api_version, types.kind));
        let (api_version, kind_name) =
            types.unwrap_or_else(|| (format!("{}/v1", kind.group), kind.kind.to_owned()));
        let mut document = Map::new();
        document.insert("apiVersion".to_owned(), json!(api_version));
        document.insert("kind".to_owned(), json!(kind_name));
        document.insert("metadata".to_owned(), Value::Object(said));
        let mut status = Value::Null;
        if let Value::Object(fields) = data {
            for (field, value) in fields {
                if field == "status" {
                    let part = kind.status_field().and_then(|part| value.get(part));
                    status = part.cloned().unwrap_or_default();
                } else {
                    document.insert(field, value);
                }
            }
        }
        let entries = kind.entries();
        let refers = entries.and_then(|entries| document.get("spec")?.get(entries.refers)?.as_array());
        // What a route says of Gateways is theirs.
        let is_ours = |subject: &&Value| entries == Some(&OF_POLICY) || is_service(subject);
        let subjects = refers.into_iter().flatten().filter(is_ours).cloned().collect();
        Some(Self {
            kind,
            uid: metadata.uid.unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            place: kind.place(&namespace, &name),
            namespace,
            name,
            subjects,
            text: Value::Object(document).to_string().into(),
            status: Arc::new(status),
        })
    }
}

fn is_service(parent: &Value) -> bool {
    let says = |field| parent.get(field).and_then(Value::as_str);
    says("kind") == Some("Service") && matches!(says("group"), Some("" | "core"))
}

impl Objects {
    /// Says whether policies change by it.
    pub fn is(&mut self, object: Object) -> bool {
        let before = self.kept.remove(&object.place);
        self.bytes -= before.as_ref().map_or(0, |before| before.text.len());
        let length = object.text.len();
        if self.kept.len() >= MAX_OBJECTS || self.bytes + length > MAX_BYTES || length > MAX_FILE_BYTES {
            tracing::error!(object = %object.place.display(), bytes = length, "too large, or one too many; it is passed over");
            return before.is_some();
        }
        self.bytes += length;
        let changed =
            before.is_none_or(|before| before.text != object.text || before.status != object.status);
        self.kept.insert(Arc::clone(&object.place), object);
        changed
    }

    /// Says whether it was there.
    pub fn gone(&mut self, place: &Path) -> bool {
        let gone = self.kept.remove(place);
        self.bytes -= gone.as_ref().map_or(0, |gone| gone.text.len());
        gone.is_some()
    }

    /// These are all objects of a kind. Says whether others were there.
    pub fn only(&mut self, kind: &Kind, there: &HashSet<String>) -> bool {
        let gone: Vec<_> = self
            .kept
            .values()
            .filter(|object| object.kind == kind && !there.contains(&*object.place.to_string_lossy()))
            .map(|object| Arc::clone(&object.place))
            .collect();
        gone.iter().filter(|place| self.gone(place)).count() > 0
    }

    /// All of them, in the order of their names.
    #[must_use]
    pub fn all(&self) -> Arc<[Object]> {
        self.kept.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Kind, MAX_FILE_BYTES, Object, Objects};
    use crate::dialect::KINDS;

    fn object(kind: &'static Kind, name: &str, more: &serde_json::Value) -> Object {
        let mut object = json!({
            "apiVersion": format!("{}/v1alpha1", kind.group),
            "kind": kind.kind,
            "metadata": {
                "name": name, "namespace": "shop", "uid": "u", "generation": 3, "resourceVersion": "12",
                "creationTimestamp": "2026-11-25T00:00:00Z",
                "managedFields": [{"manager": "kubectl"}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "x"},
            },
        });
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Object::new(kind, serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn what_the_server_adds_is_left_out() {
        let conditions = json!([{"type": "Accepted"}]);
        let object =
            object(&KINDS[0], "a", &json!({"spec": {"tcp": {}}, "status": {"conditions": conditions}}));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&object.text).unwrap(),
            json!({
                "apiVersion": "redial.dev/v1alpha1",
                "kind": "RetryPolicy",
                "metadata": {"name": "a", "namespace": "shop", "annotations": {"note": "x"}},
                "spec": {"tcp": {}},
            })
        );
        assert_eq!(object.place.display().to_string(), "RetryPolicy.redial.dev/shop/a");
        assert_eq!((object.generation, &*object.resource_version), (3, "12"));
        assert_eq!(*object.status, conditions);
        let parsed = crate::dialect::parse(&object.place, &object.text).unwrap();
        assert_eq!(parsed.policies[0].name.to_string(), "shop/a");
    }

    #[test]
    fn what_an_object_refers_to_is_known() {
        let refers = json!([
            {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
            {"group": "", "kind": "Service", "name": "web", "port": 80},
            {"kind": "Service", "name": "of-another-group"},
            "odd",
        ]);
        let more = json!({
            "spec": {"parentRefs": refers, "targetRefs": [refers[0]]},
            "status": {"parents": [1], "conditions": [2], "ancestors": [3]},
        });
        let known = |kind: usize| {
            let object = object(&KINDS[kind], "a", &more);
            (object.subjects.to_vec(), (*object.status).clone())
        };
        let of = |name: &str| KINDS.iter().position(|kind| kind.full_name() == name).unwrap();
        assert_eq!(known(of("HTTPRoute.gateway.networking.k8s.io")), (vec![refers[1].clone()], json!([1])));
        assert_eq!(known(of("TrafficPolicy.gateway.kgateway.dev")), (vec![refers[0].clone()], json!([3])));
        assert_eq!(known(of("RouteOption.gateway.solo.io")), (vec![], json!(null)));
    }

    #[test]
    fn a_change_is_what_changes_policies() {
        let mut objects = Objects::default();
        let spec = |attempts: u32| json!({"spec": {"tcp": {"maxConnectAttempts": attempts}}});
        assert!(objects.is(object(&KINDS[0], "a", &spec(1))));
        assert!(!objects.is(object(&KINDS[0], "a", &spec(1))));
        assert!(objects.is(object(&KINDS[0], "a", &spec(2))));
        assert!(objects.is(object(&KINDS[1], "a", &spec(2))));
        assert!(!objects.only(&KINDS[0], &["RetryPolicy.redial.dev/shop/a".to_owned()].into()));
        assert!(objects.only(&KINDS[0], &[].into()));
        assert_eq!(objects.all().len(), 1);
        let place = objects.all()[0].place.clone();
        assert!(objects.gone(&place) && !objects.gone(&place));
        assert_eq!(objects.bytes, 0);
    }

    #[test]
    fn what_is_too_large_is_passed_over() {
        let mut objects = Objects::default();
        let large = json!({"spec": {"x": "y".repeat(MAX_FILE_BYTES)}});
        assert!(!objects.is(object(&KINDS[0], "a", &large)));
        assert!(objects.is(object(&KINDS[0], "a", &json!({"spec": {}}))));
        assert!(objects.is(object(&KINDS[0], "a", &large)));
        assert_eq!((objects.all().len(), objects.bytes), (0, 0));
    }

    #[test]
    fn the_chart_knows_every_kind() {
        let known: serde_json::Value =
            serde_saphyr::from_str(include_str!("../../../deploy/helm/redial/files/kinds.yaml")).unwrap();
        let kinds = Kind::watched().map(|known| {
            let mut entry = json!({"group": known.group, "kind": known.kind, "plural": known.plural});
            if known.status_field().is_some() {
                entry["status"] = true.into();
            }
            entry
        });
        assert_eq!(known["kinds"], kinds.collect::<serde_json::Value>());
    }

    #[test]
    fn kinds_are_found_by_their_crds_and_by_name() {
        let kind = Kind::of_crd("httproutes.gateway.networking.k8s.io").unwrap();
        assert_eq!(kind.full_name(), "HTTPRoute.gateway.networking.k8s.io");
        assert!(kind.is_named("HTTPRoute") && kind.is_named("HTTPRoute.gateway.networking.k8s.io"));
        assert!(!kind.is_named("HTTPRoute.networking.istio.io") && !kind.is_named("httproute"));
        assert_eq!(Kind::of_crd("httproutes.example.com"), None);
        assert_eq!(Kind::of_crd("x"), None);
    }
}
