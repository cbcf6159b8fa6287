//! Which pods are enrolled: what they and their namespaces say, and change.

use anyhow::{Result, bail, ensure};
use redial_tests::cluster::{Cluster, Namespace, pod, until};
use serde_json::{Value, json};

use crate::shipped::{Shipped, policy};
use crate::{Run, Test};

pub(crate) const TESTS: &[Test] =
    &[("enrolment::labels_and_annotations_decide", Run::Api(labels_and_annotations_decide))];

/// Pods that are there before the agents and pods that come later.
fn labels_and_annotations_decide(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("enrolment")?;
    let clients = cluster.namespace("enrolment-clients")?;
    let server = namespace.pod("server", cluster.far(), &["serve", "80", "unavailable=1000000"])?;
    let address = format!("{}:80", server.address);
    client(&namespace, "early", Some("true"), false)?;
    client(&namespace, "apart", Some("false"), false)?;
    client(&clients, "silent", None, false)?;
    let shipped = Shipped::install(cluster)?;
    let spec = json!({"http": {}, "budget": {"percent": 100, "minPerSecond": 1000}});
    for namespace in [&namespace, &clients] {
        namespace.apply(&policy("all", &spec).to_string())?;
    }
    client(&namespace, "late", Some("true"), false)?;

    let attempts = |of: &Namespace<'_>, name: &str| {
        let before = namespace.logs("server")?.lines().count();
        let asked = of.ask(name, &[&address])?;
        ensure!(asked[0]["status"] == 503, "{asked:?}");
        Ok(namespace.logs("server")?.lines().count() - before)
    };
    let becomes = |of: &Namespace<'_>, name: &str, expected: usize| {
        until(&format!("{name} has {expected} attempts"), || match attempts(of, name)? {
            made if made == expected => Ok(Some(())),
            made => bail!("{made} attempts\n{}", shipped.said()?),
        })
    };
    becomes(&namespace, "early", 3)?;
    becomes(&namespace, "late", 3)?;
    assert_eq!(attempts(&namespace, "apart")?, 1);
    assert_eq!(attempts(&clients, "silent")?, 1);

    // What is said later holds from then on.
    cluster.kubectl(&["label", "namespace", clients.name(), "redial.dev/enroll=true"])?;
    becomes(&clients, "silent", 3)?;
    clients.kubectl(&["annotate", "pod", "silent", "redial.dev/enroll=false"])?;
    becomes(&clients, "silent", 1)?;
    clients.kubectl(&["annotate", "--overwrite", "pod", "silent", "redial.dev/enroll=true"])?;
    becomes(&clients, "silent", 3)?;

    // Of the node's network nothing but the pod's own sockets is taken.
    client(&namespace, "host", Some("true"), true)?;
    becomes(&namespace, "host", 3)?;
    client(&namespace, "host-apart", None, true)?;
    assert_eq!(attempts(&namespace, "host-apart")?, 1);

    // A container that starts again is in the same pod.
    namespace.end("early");
    namespace.wait("pod/early", "jsonpath={.status.containerStatuses[0].restartCount}=1")?;
    namespace.wait("pod/early", "condition=Ready")?;
    becomes(&namespace, "early", 3)
}

fn client(namespace: &Namespace<'_>, name: &str, enroll: Option<&str>, is_of_host: bool) -> Result<()> {
    let mut pod: Value = pod(name, namespace.cluster().near(), &["pause"]);
    if let Some(word) = enroll {
        pod["metadata"]["labels"]["redial.dev/enroll"] = word.into();
    }
    pod["spec"]["hostNetwork"] = is_of_host.into();
    namespace.apply(&pod.to_string())?;
    namespace.wait(&format!("pod/{name}"), "condition=Ready")
}
