//! What the API says of pods and namespaces, as far as it is needed.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::core::Object as Typed;
use serde::{Deserialize, Serialize};

use super::Told;
use crate::kubernetes::PodUid;
use crate::kubernetes::roster::{Change, Pod, Roster, Word};

/// The annotation of a static pod with the hash of its manifest.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// The parts of a pod that are needed. Whatever else it has is not kept.
pub type PodObject = Typed<PodSpec, PodStatus>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    host_network: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    phase: String,
}

pub(super) fn uid(pod: &PodObject) -> Option<String> {
    pod.metadata.uid.clone()
}

pub fn of_pods(roster: &mut Roster, told: Told<PodObject>) -> Vec<Change> {
    match told {
        Told::Is(object) => match pod(object) {
            // A pod that has ended has no process left, and its name may be another's soon.
            Some((pod, true)) => roster.pod_gone(pod.uid).into_iter().collect(),
            Some((pod, false)) => roster.pod(pod).into_iter().collect(),
            None => Vec::new(),
        },
        Told::Gone(object) => pod(object).and_then(|(pod, _)| roster.pod_gone(pod.uid)).into_iter().collect(),
        Told::All(there) => roster.only_pods(&there.iter().filter_map(|uid| PodUid::parse(uid)).collect()),
        Told::Failed => Vec::new(),
    }
}

pub fn of_namespaces(roster: &mut Roster, told: Told<PartialObjectMeta<Namespace>>) -> Vec<Change> {
    match told {
        Told::Is(PartialObjectMeta { metadata, .. }) => {
            let says = word("namespace", &metadata);
            metadata.name.map(|name| roster.namespace(&name, says)).unwrap_or_default()
        }
        Told::Gone(PartialObjectMeta { metadata, .. }) => {
            metadata.name.map(|name| roster.namespace(&name, Word::Nothing)).unwrap_or_default()
        }
        Told::All(there) => roster.only_namespaces(&there),
        Told::Failed => Vec::new(),
    }
}

/// A pod, and whether it has ended. None where the API server sends what is no pod.
fn pod(object: PodObject) -> Option<(Pod, bool)> {
    let PodObject { types: _, metadata, spec, status } = object;
    let says = word("pod", &metadata);
    let hash = metadata.annotations.as_ref().and_then(|annotations| annotations.get(CONFIG_HASH));
    let uid = metadata.uid.as_deref().and_then(PodUid::parse);
    let pod = Pod {
        uid: uid?,
        // A static pod's cgroup is named by the hash of its manifest.
        cgroup: hash.and_then(|hash| PodUid::parse(hash)).or(uid)?,
        namespace: metadata.namespace?.into(),
        name: metadata.name?.into(),
        labels: Arc::new(metadata.labels.unwrap_or_default()),
        host_network: spec.host_network,
        says,
    };
    let phase = status.unwrap_or_default().phase;
    Some((pod, matches!(phase.as_str(), "Succeeded" | "Failed")))
}

fn word(kind: &str, metadata: &ObjectMeta) -> Word {
    Word::of(metadata.labels.as_ref(), metadata.annotations.as_ref()).unwrap_or_else(|error| {
        tracing::warn!(namespace = metadata.namespace, name = metadata.name, "{kind}: {error}");
        Word::No
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Change, PodObject, Roster, Told, Word, of_pods, pod};

    fn object(status: &str) -> PodObject {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "web-0",
                "namespace": "shop",
                "uid": "0c9e1bd4-5d0f-4a3b-9d0e-52f1c2a3b4c5",
                "labels": {"app": "web"},
                "annotations": {"redial.dev/enroll": "true"},
            },
            "spec": {"hostNetwork": true, "containers": [{"name": "web"}]},
            "status": {"phase": status, "podIP": "10.0.0.1"},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_is_needed_of_a_pod_is_read() {
        let (pod, has_ended) = pod(object("Pending")).unwrap();
        assert_eq!(pod.to_string(), "shop/web-0");
        assert_eq!(pod.uid, pod.cgroup);
        assert!(pod.host_network && pod.says == Word::Yes && !has_ended);
        assert_eq!(pod.identity().namespace.as_deref(), Some("shop"));
        assert_eq!(pod.identity().labels.get("app").map(|value| &**value), Some("web"));
    }

    #[test]
    fn a_static_pods_cgroup_has_the_hash_of_its_manifest() {
        let mut object = object("Running");
        let hash = "0123456789abcdef0123456789abcdef";
        object.metadata.annotations =
            Some([("kubernetes.io/config.hash".to_owned(), hash.to_owned())].into());
        let (pod, _) = pod(object).unwrap();
        assert_eq!(pod.cgroup, super::PodUid::parse(hash).unwrap());
        assert_ne!(pod.uid, pod.cgroup);
    }

    #[test]
    fn a_pod_that_has_ended_leaves() {
        let mut roster = Roster::default();
        let changes = of_pods(&mut roster, Told::Is(object("Running")));
        assert!(matches!(&changes[..], [Change::Enrol(_)]));
        let changes = of_pods(&mut roster, Told::Is(object("Succeeded")));
        assert!(matches!(&changes[..], [Change::Leave(_)]));
        assert_eq!(of_pods(&mut roster, Told::Gone(object("Succeeded"))), []);
    }
}
