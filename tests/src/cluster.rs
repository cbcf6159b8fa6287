//! A real Kubernetes: one that a test starts on this machine, or one that is there.
//!
//! [`Cluster`] is what the API has, whoever's it is. [`OwnCluster`] is one of the tests' own, whose nodes and programs can
//! be looked into and ended.
//!
//! There is no cluster DNS. Pods name each other by address or by `hostAliases`. Images come from archives and, unless the
//! cluster is somebody else's, never from a registry.

mod control_plane;
mod node;
mod own;
mod pki;
mod place;
mod programs;
mod subtree;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use node::Node;
pub use own::OwnCluster;

/// The image of `tests/pod`: what a test's pods run.
pub static POD: LazyLock<String> = LazyLock::new(|| image("redial.test/pod:1"));

/// The image of redial itself.
pub static REDIAL: LazyLock<String> = LazyLock::new(|| image(SHIPPED));

/// What the manifest calls it, and `cargo xtask image`.
pub const SHIPPED: &str = concat!("ghcr.io/redial-dev/redial:", env!("CARGO_PKG_VERSION"));

/// How long anything may take that goes well.
pub const PATIENCE: Duration = Duration::from_mins(2);
const TAKE_BACK: &[&str] = &["delete", "--ignore-not-found", "--timeout=120s"];
const POLL: Duration = Duration::from_millis(50);

/// Where a cluster has an image: under its own name, or where `REDIAL_IMAGE_PREFIX` says.
fn image(own: &str) -> String {
    match std::env::var("REDIAL_IMAGE_PREFIX") {
        Ok(prefix) => format!("{prefix}/{}", own.rsplit('/').next().unwrap_or(own)),
        Err(_) => own.to_owned(),
    }
}

/// A cluster, as its API has it.
#[derive(Debug)]
pub struct Cluster {
    /// What has a command run where the API server is reached.
    entry: Vec<OsString>,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    nodes: Vec<String>,
}

impl Cluster {
    /// The cluster of a kubeconfig's current context, by the kubectl on PATH.
    pub fn given(kubeconfig: &Path) -> Result<Self> {
        let mut cluster = Self {
            entry: Vec::new(),
            kubectl: "kubectl".into(),
            kubeconfig: kubeconfig.to_owned(),
            nodes: Vec::new(),
        };
        let nodes = cluster.get(&["nodes", "--selector=kubernetes.io/os=linux"])?;
        let nodes = nodes["items"].as_array().context("no nodes")?.iter();
        let nodes =
            nodes.filter(|node| takes_pods(node)).filter_map(|node| node["metadata"]["name"].as_str());
        cluster.nodes = nodes.map(str::to_owned).collect();
        ensure!(!cluster.nodes.is_empty(), "the cluster has no node that is ready and takes any pod");
        Ok(cluster)
    }

    /// The node that clients are on.
    #[must_use]
    pub fn near(&self) -> &str {
        self.nodes.first().map_or("", String::as_str)
    }

    /// Another node, where there is one.
    #[must_use]
    pub fn far(&self) -> &str {
        self.nodes.last().map_or("", String::as_str)
    }

    /// The names of its nodes.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.nodes
    }

    /// How the API server is reached as the cluster's admin, from where it can be reached.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// kubectl, as the cluster's admin.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = run_by(&self.entry, "timeout");
        command.args(["--kill-after=5", &(PATIENCE.as_secs() + 30).to_string()]);
        command.arg(&self.kubectl).arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    /// What kubectl says; an error where it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.command().args(arguments)).with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Helm, as the cluster's admin. It reads `values` where `--values=-` is said.
    pub fn helm(&self, arguments: &[&str], values: &str) -> Result<String> {
        let helm = std::env::var_os("HELM_BIN").context("HELM_BIN is not set: run `cargo xtask test`")?;
        let mut command = run_by(&self.entry, Path::new(&helm));
        command.args(arguments).arg("--kubeconfig").arg(&self.kubeconfig);
        run_with(&mut command, values).with_context(|| format!("helm {}", arguments.join(" ")))
    }

    /// An object or a list as it is now.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output=json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("reading {arguments:?}: {text}"))
    }

    /// Applies documents.
    pub fn apply(&self, documents: &str) -> Result<()> {
        with_documents(self.command(), &["apply"], documents).map(drop)
    }

    /// Which objects of these documents there are, one a line: `namespace/redial`.
    pub fn present(&self, documents: &str) -> Result<String> {
        with_documents(self.command(), &["get", "--ignore-not-found", "--output=name"], documents)
    }

    /// Deletes what was applied, and waits until it is gone.
    pub fn take_back(&self, documents: &str) -> Result<()> {
        with_documents(self.command(), TAKE_BACK, documents).map(drop)
    }

    /// Waits as `kubectl wait --for=` does.
    pub fn wait(&self, object: &str, state: &str) -> Result<()> {
        self.wait_with(&[], object, state)
    }

    fn wait_with(&self, before: &[&str], object: &str, state: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        let state = format!("--for={state}");
        let waited = self.kubectl(&[before, &["wait", object, &state, &timeout]].concat());
        waited.map(drop).map_err(|error| {
            let described = self.kubectl(&[before, &["describe", object]].concat());
            error.context(described.unwrap_or_else(|error| error.to_string()))
        })
    }

    /// Makes a namespace that pods can be made in.
    pub fn namespace(&self, name: &str) -> Result<Namespace<'_>> {
        self.kubectl(&["create", "namespace", name])?;
        let namespace = Namespace { cluster: self, name: name.to_owned() };
        namespace.wait("serviceaccount/default", "create")?;
        Ok(namespace)
    }
}

/// A namespace of a cluster. Drop deletes what is in it, and does not wait.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Namespace<'_> {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        self.cluster
    }

    /// kubectl in this namespace.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.cluster.command();
        command.args(["--namespace", &self.name]);
        command
    }

    /// What kubectl says in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// An object or a list as it is now.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        self.cluster.get(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Applies documents; those that say no namespace are for this one.
    pub fn apply(&self, documents: &str) -> Result<()> {
        with_documents(self.command(), &["apply"], documents).map(drop)
    }

    /// Waits as `kubectl wait --for=` does: `condition=Ready`, `delete`, `jsonpath={.status.phase}=Succeeded`.
    pub fn wait(&self, object: &str, state: &str) -> Result<()> {
        self.cluster.wait_with(&["--namespace", &self.name], object, state)
    }

    /// Waits until a workload has all its pods: `deployment/...`, `daemonset/...`.
    pub fn rolled_out(&self, object: &str) -> Result<()> {
        self.kubectl(&["rollout", "status", object, &format!("--timeout={}s", PATIENCE.as_secs())])?;
        Ok(())
    }

    /// Starts a pod of the tests' image on a node and waits until it is ready. `arguments` are those of `tests/pod`.
    pub fn pod(&self, name: &str, node: &str, arguments: &[&str]) -> Result<Pod> {
        self.apply(&pod(name, node, arguments).to_string())?;
        self.wait(&format!("pod/{name}"), "condition=Ready")?;
        self.find(name)
    }

    /// A pod as it is now.
    pub fn find(&self, name: &str) -> Result<Pod> {
        Pod::read(&self.get(&["pod", name])?)
    }

    /// Runs a command in a pod's first container.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
    }

    /// Has a pod of the tests' image ask, and reads what it saw: a value for each line.
    pub fn ask(&self, pod: &str, arguments: &[&str]) -> Result<Vec<Value>> {
        let said = self.exec(pod, &[&["/pod", "ask"], arguments].concat())?;
        said.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// Has what a pod of the tests' image runs end.
    pub fn end(&self, pod: &str) {
        // The command may end with its container, before it can say how that went.
        drop(self.exec(pod, &["/pod", "end"]));
    }

    pub fn logs(&self, pod: &str) -> Result<String> {
        self.kubectl(&["logs", pod])
    }

    /// Deletes what was applied, and waits until it is gone.
    pub fn take_back(&self, documents: &str) -> Result<()> {
        with_documents(self.command(), TAKE_BACK, documents).map(drop)
    }

    /// Deletes an object and waits until it is gone.
    pub fn delete(&self, object: &str) -> Result<()> {
        self.kubectl(&["delete", object, &format!("--timeout={}s", PATIENCE.as_secs())])?;
        Ok(())
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        drop(self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]));
    }
}

/// What a test wants to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub address: String,
    pub node: String,
}

impl Pod {
    /// Of the API's object. Fails where it has no node or address yet.
    pub fn read(object: &Value) -> Result<Self> {
        let text = |pointer: &str| {
            let text = object.pointer(pointer).and_then(Value::as_str);
            text.map(str::to_owned).with_context(|| format!("the pod has no {pointer}: {object}"))
        };
        Ok(Self {
            name: text("/metadata/name")?,
            uid: text("/metadata/uid")?,
            address: text("/status/podIP")?,
            node: text("/spec/nodeName")?,
        })
    }
}

/// The document of a pod of the tests' image, labelled `app: NAME`.
#[must_use]
pub fn pod(name: &str, node: &str, arguments: &[&str]) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 2,
            "containers": [{"name": name, "image": *POD, "args": arguments}],
        },
    })
}

/// Asks again until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = match ask() {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        ensure!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}: {last}");
        sleep(POLL);
    }
}

fn with_documents(mut kubectl: Command, words: &[&str], documents: &str) -> Result<String> {
    run_with(kubectl.args(words).arg("--filename=-"), documents)
        .with_context(|| format!("kubectl {} of\n{documents}", words.join(" ")))
}

fn run(command: &mut Command) -> Result<String> {
    run_with(command, "")
}

fn run_with(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    // A command that ends early does not read all of it, and says why.
    drop(child.stdin.take().context("no stdin")?.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    let (said, failure) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}\n{failure}{said}", output.status);
    Ok(said.into_owned())
}

/// A command behind the words that have it run somewhere.
fn run_by(entry: &[OsString], program: impl AsRef<Path>) -> Command {
    let mut words = entry.iter().map(OsString::as_os_str).chain([program.as_ref().as_os_str()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null());
    command
}

/// Whether a node is ready, and keeps no pods away.
fn takes_pods(node: &Value) -> bool {
    let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
    let conditions = node["status"]["conditions"].as_array();
    let taints = node["spec"]["taints"].as_array().map_or(0, Vec::len);
    taints == 0 && conditions.is_some_and(|all| all.iter().any(is_ready))
}
