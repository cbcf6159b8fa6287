//! redial as a node's agent: who is enrolled, and what becomes of their requests.

use anyhow::{Result, ensure};
use redial_tests::cluster::{Cluster, Namespace, REDIAL, pod, until};
use serde_json::{Value, json};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[("agent::enrolled_pods_are_served", enrolled_pods_are_served)];

/// Pods that are there before the agent and pods that come later; others go direct.
fn enrolled_pods_are_served(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("agent")?;
    let server = namespace.pod("server", "node2", &["serve", "80", "unavailable=1000000"])?;
    let address = format!("{}:80", server.address);
    let client = |name: &str, enroll: &str| {
        let mut pod = pod(name, "node1", &["pause"]);
        pod["metadata"]["labels"]["redial.dev/enroll"] = enroll.into();
        namespace.apply(&pod.to_string())?;
        namespace.wait(&format!("pod/{name}"), "condition=Ready")
    };
    client("early", "true")?;
    client("apart", "false")?;
    for document in documents() {
        namespace.apply(&document.to_string())?;
    }
    namespace.rolled_out("daemonset/redial")?;
    client("late", "true")?;

    let attempts = |name: &str| {
        let before = namespace.logs("server")?.lines().count();
        let asked = namespace.ask(name, &[&address])?;
        ensure!(asked[0]["status"] == 503, "{asked:?}");
        Ok(namespace.logs("server")?.lines().count() - before)
    };
    assert_eq!(attempts("apart")?, 1);
    for name in ["early", "late"] {
        let made = until("the pod's requests are retried", || match attempts(name)? {
            1 => anyhow::bail!("{}", said(&namespace)?),
            made => Ok(Some(made)),
        })?;
        assert_eq!(made, 3);
    }
    assert_eq!(attempts("apart")?, 1);
    Ok(())
}

fn said(namespace: &Namespace<'_>) -> Result<String> {
    namespace.kubectl(&["logs", "--selector=app=redial", "--tail=30", "--prefix"])
}

fn documents() -> Vec<Value> {
    let policy = json!({
        "apiVersion": "redial.dev/v1alpha1", "kind": "RetryPolicy", "metadata": {"name": "all"},
        "spec": {"http": {}},
    });
    vec![
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "policies"},
            "data": {"policy.yaml": policy.to_string()},
        }),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "redial"}}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "redial"},
            "rules": [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["get", "list", "watch"]}],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "redial"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "redial"},
            "subjects": [{"kind": "ServiceAccount", "name": "redial", "namespace": "agent"}],
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "redial"},
            "spec": {
                "selector": {"matchLabels": {"app": "redial"}},
                "template": {
                    "metadata": {"labels": {"app": "redial"}},
                    "spec": {
                        "serviceAccountName": "redial",
                        "hostNetwork": true,
                        "hostPID": true,
                        "terminationGracePeriodSeconds": 5,
                        "containers": [{
                            "name": "redial",
                            "image": REDIAL,
                            "args": ["run", "--kubernetes", "--config", "/policies"],
                            "env": [{
                                "name": "NODE_NAME",
                                "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
                            }],
                            "securityContext": {"privileged": true},
                            "volumeMounts": [
                                {"name": "cgroup", "mountPath": "/sys/fs/cgroup"},
                                {"name": "policies", "mountPath": "/policies"},
                                {"name": "run", "mountPath": "/run/redial"},
                            ],
                        }],
                        "volumes": [
                            {"name": "cgroup", "hostPath": {"path": "/sys/fs/cgroup"}},
                            {"name": "policies", "configMap": {"name": "policies"}},
                            {"name": "run", "hostPath": {"path": "/run/redial", "type": "DirectoryOrCreate"}},
                        ],
                    },
                },
            },
        }),
    ]
}
