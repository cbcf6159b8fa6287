//! The kinds of Kubernetes objects that are documents: one list, for whoever reads them.

use super::fields::{self, Field, Problems};

/// A kind of objects.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Empty for Kubernetes' own.
    pub group: &'static str,
    pub kind: &'static str,
    /// What its CRD calls several of them. None: no CRD of this kind says anything of retries, or of where requests go.
    pub plural: Option<&'static str>,
    versions: &'static [&'static str],
}

const fn kind(
    group: &'static str,
    kind: &'static str,
    plural: Option<&'static str>,
    versions: &'static [&'static str],
) -> Kind {
    Kind { group, kind, plural, versions }
}

const GATEWAY: &str = "gateway.networking.k8s.io";
const EXPERIMENTS: &str = "gateway.networking.x-k8s.io";
const KGATEWAY: &str = "gateway.kgateway.dev";
const APP_MESH: &str = "appmesh.k8s.aws";
const ISTIO: &str = "networking.istio.io";

const OLD: &[&str] = &["v1", "v1beta1", "v1alpha2"];
const ALPHA: &[&str] = &["v1alpha1"];

/// What is refused in a version that it does not have.
pub static KINDS: [Kind; 30] = [
    kind("redial.dev", "RetryPolicy", Some("retrypolicies"), ALPHA),
    kind(GATEWAY, "HTTPRoute", Some("httproutes"), OLD),
    kind(GATEWAY, "GRPCRoute", Some("grpcroutes"), &["v1", "v1alpha2"]),
    kind(GATEWAY, "BackendTrafficPolicy", Some("backendtrafficpolicies"), &["v1", "v1alpha3"]),
    kind(EXPERIMENTS, "XBackendTrafficPolicy", Some("xbackendtrafficpolicies"), ALPHA),
    kind(KGATEWAY, "RouteOption", Some("routeoptions"), ALPHA),
    kind("gateway.solo.io", "RouteOption", Some("routeoptions"), &["v1"]),
    kind(KGATEWAY, "TrafficPolicy", Some("trafficpolicies"), ALPHA),
    kind(KGATEWAY, "Backend", Some("backends"), ALPHA),
    kind("kuma.io", "Retry", Some("retries"), ALPHA),
    kind("kuma.io", "MeshRetry", Some("meshretries"), ALPHA),
    kind("kuma.io", "MeshHTTPRoute", Some("meshhttproutes"), ALPHA),
    kind("kuma.io", "MeshService", Some("meshservices"), ALPHA),
    kind("kuma.io", "MeshExternalService", Some("meshexternalservices"), ALPHA),
    kind(APP_MESH, "Mesh", Some("meshes"), &["v1beta2"]),
    kind(APP_MESH, "VirtualRouter", Some("virtualrouters"), &["v1beta2"]),
    kind(APP_MESH, "VirtualService", Some("virtualservices"), &["v1beta2"]),
    kind(APP_MESH, "VirtualNode", Some("virtualnodes"), &["v1beta2"]),
    kind(ISTIO, "VirtualService", Some("virtualservices"), &["v1", "v1beta1", "v1alpha3"]),
    kind(ISTIO, "DestinationRule", Some("destinationrules"), &["v1", "v1beta1", "v1alpha3"]),
    kind("linkerd.io", "ServiceProfile", Some("serviceprofiles"), &["v1alpha2", "v1alpha1"]),
    kind(
        "policy.linkerd.io",
        "HTTPRoute",
        Some("httproutes"),
        &["v1beta3", "v1beta2", "v1beta1", "v1alpha1"],
    ),
    kind(EXPERIMENTS, "BackendTrafficPolicy", None, ALPHA),
    kind(GATEWAY, "Gateway", None, OLD),
    kind(GATEWAY, "GatewayClass", None, OLD),
    kind(GATEWAY, "ReferenceGrant", None, OLD),
    kind(GATEWAY, "BackendTLSPolicy", None, &["v1", "v1alpha3", "v1alpha2"]),
    kind(GATEWAY, "ListenerSet", None, &["v1"]),
    kind(EXPERIMENTS, "XListenerSet", None, ALPHA),
    kind("", "Service", None, &["v1"]),
];

impl Kind {
    /// Those that a cluster may have policies of.
    pub fn watched() -> impl Iterator<Item = &'static Self> {
        KINDS.iter().filter(|kind| kind.plural.is_some())
    }

    /// The kind that a document says that it is of.
    pub(super) fn of(root: &Field<'_>) -> Option<&'static Self> {
        let text = |name| root.child(name).and_then(|field| field.word());
        let (version, kind) = (text("apiVersion")?, text("kind")?);
        let (group, _) = version.rsplit_once('/').unwrap_or(("", &version));
        KINDS.iter().find(|known| known.group == group && known.kind == kind)
    }

    /// Tells a version that it does not have.
    pub(super) fn check_version(&self, root: &Field<'_>, problems: &mut Problems) {
        let known: Vec<_> = self.versions.iter().map(|version| self.in_version(version)).collect();
        let words: Vec<_> = known.iter().map(|known| (known.as_str(), ())).collect();
        let _ = root.child("apiVersion").and_then(|field| field.one_of(&words, problems));
    }

    /// What the `apiVersion` and the `kind` of a document that is none of these are likely to mean.
    pub(super) fn meant(version: &str, kind: &str) -> Option<String> {
        let kinds: Vec<_> = KINDS.iter().map(|known| known.kind).collect();
        let kind = fields::meant(kind, &kinds)?;
        let versions = KINDS.iter().filter(|known| known.kind == kind);
        let versions: Vec<_> = versions
            .flat_map(|known| known.versions.iter().map(|version| known.in_version(version)))
            .collect();
        let words: Vec<_> = versions.iter().map(String::as_str).collect();
        // Of another group the kind may be quite another.
        fields::meant(version, &words).map(|version| format!("apiVersion {version} with kind {kind}"))
    }

    fn in_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }
}
