//! A real Kubernetes on this machine: a control plane and nodes, each in namespaces and a cgroup of its own.
//!
//! Nothing of the machine changes and nothing is left: networks, mounts and cgroups are the cluster's own, what nodes
//! keep is in memory, and every process is in a cgroup that is killed on drop, or when the tests' process is killed.
//!
//! There is no cluster DNS. Pods name each other by address or by `hostAliases`. Images come from archives and never
//! from a registry.

mod control_plane;
mod node;
mod pki;
mod place;
mod programs;
mod subtree;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

pub use node::Node;
use pki::Pki;
use place::Place;
use programs::Programs;

/// The image of `tests/pod`: what a test's pods run.
pub const POD: &str = "redial.test/pod:1";

/// The image of redial itself, as `cargo xtask image` makes it.
pub const REDIAL: &str = concat!("ghcr.io/redial-dev/redial:", env!("CARGO_PKG_VERSION"));

/// The image of what holds a pod's namespaces.
const PAUSE: &str = "redial.test/pause:1";

/// The addresses of pods and of services.
const PODS: &str = "10.244.0.0/16";
const SERVICES: &str = "10.96.0.0/16";

/// How long anything may take that goes well.
pub const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(50);

/// A running cluster. Drop ends it.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    control: Place,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    pki: Pki,
    files: TempDir,
}

impl Cluster {
    /// Starts a control plane and so many nodes (`node1`, `node2`, ...), with all images of the tests, and waits until
    /// every node is ready.
    pub fn start(nodes: u8) -> Result<Self> {
        let programs = Programs::locate()?;
        let images = images()?;
        let files = TempDir::new()?;
        let pki = Pki::new(&files.path().join("pki"))?;
        let control = control_plane::prepare()?;
        // The runtimes start and load their images while the API server starts.
        let nodes = thread::scope(|scope| {
            let node = |number| {
                let (control, programs, files, images) = (&control, &programs, files.path(), &images);
                scope.spawn(move || {
                    let node = Node::new(number, control, programs, files)?;
                    images.iter().try_for_each(|image| node.load(image))?;
                    Ok(node)
                })
            };
            let nodes: Vec<_> = (1..=nodes).map(node).collect();
            control_plane::start(&control, &programs, &pki, files.path())?;
            let join = |node: thread::ScopedJoinHandle<'_, Result<Node>>| {
                node.join().map_err(|_| anyhow!("a node's thread panicked"))?
            };
            nodes.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let kubectl = programs.find("kubectl")?;
        let kubeconfig = pki.file(&format!("{}.kubeconfig", control_plane::ADMIN));
        let cluster = Self { nodes, control, kubectl, kubeconfig, pki, files };
        for node in &cluster.nodes {
            node.register(&cluster.pki)?;
        }
        for node in &cluster.nodes {
            let node = format!("node/{}", node.name());
            cluster.wait(&node, "create")?;
            cluster.wait(&node, "condition=Ready")?;
        }
        Ok(cluster)
    }

    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Ends all that runs on a node at once, and starts the node again. Its pods come back when they do.
    pub fn restart(&self, node: &Node) -> Result<()> {
        node.restart(&self.pki)
    }

    /// The node that a pod is on.
    pub fn node_of(&self, pod: &Pod) -> Result<&Node> {
        let named = self.nodes.iter().find(|node| node.name() == pod.node);
        named.with_context(|| format!("there is no node {}", pod.node))
    }

    /// How the API server is reached from inside the control plane's and the nodes' networks, as the cluster's admin.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// kubectl, as the cluster's admin.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.control.command("timeout");
        command.args(["--kill-after=5", &(PATIENCE.as_secs() + 30).to_string()]);
        command.arg(&self.kubectl).arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    /// What kubectl says; an error where it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.command().args(arguments)).map_err(|error| match self.check() {
            Ok(()) => error,
            Err(ended) => error.context(ended),
        })
    }

    /// An object or a list as it is now.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output=json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("reading {arguments:?}: {text}"))
    }

    /// Applies documents.
    pub fn apply(&self, documents: &str) -> Result<()> {
        with_documents(self.command(), "apply", documents)
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

    /// Gives every node the images of an archive.
    pub fn load(&self, archive: &Path) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.load(archive))
    }

    /// What a program of the control plane has said: `etcd`, `kube-apiserver`, `kube-controller-manager`,
    /// `kube-scheduler`.
    pub fn log(&self, program: &str) -> Result<String> {
        Ok(fs::read_to_string(self.files.path().join(format!("{program}.log")))?)
    }

    /// Sends a signal to a program of the control plane.
    pub fn signal(&self, program: &str, signal: Signal) -> Result<()> {
        self.control.signal(program, signal).with_context(|| format!("{signal} to {program}"))
    }

    /// A command that runs in the control plane's network: for what talks to the API server and is on no node.
    #[must_use]
    pub fn run_here(&self, program: impl AsRef<Path>) -> Command {
        self.control.command(program)
    }

    /// The root of the control plane's cgroups, where the machine has cgroup2.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        self.control.cgroup()
    }

    /// Copies what every program has said to where it stays.
    pub fn keep_logs(&self) -> Result<PathBuf> {
        let kept = std::env::temp_dir().join("redial-kubernetes-logs");
        fs::create_dir_all(&kept)?;
        for file in fs::read_dir(self.files.path())?.flatten().filter(|file| file.path().is_file()) {
            fs::copy(file.path(), kept.join(file.file_name()))?;
        }
        Ok(kept)
    }

    /// Fails where a program of the cluster has ended.
    pub fn check(&self) -> Result<()> {
        self.control.check()?;
        self.nodes.iter().try_for_each(Node::check)
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
        with_documents(self.command(), "apply", documents)
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

    pub fn logs(&self, pod: &str) -> Result<String> {
        self.kubectl(&["logs", pod])
    }

    /// Deletes what was applied, and waits until it is gone.
    pub fn take_back(&self, documents: &str) -> Result<()> {
        with_documents(self.command(), "delete", documents)
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
            "containers": [{"name": name, "image": POD, "args": arguments}],
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

fn with_documents(mut kubectl: Command, verb: &str, documents: &str) -> Result<()> {
    run_with(kubectl.args([verb, "--filename=-"]), documents)
        .with_context(|| format!("kubectl {verb} of\n{documents}"))?;
    Ok(())
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
    // Without what leads to where the command runs.
    let mut words = command.get_args();
    words.by_ref().filter(|word| *word == "--").nth(1);
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    ensure!(output.status.success(), "{}: {}\n{failure}{said}", words.join(" "), output.status);
    Ok(said.into_owned())
}

/// The archives that `cargo xtask test` makes: redial's image and those of the tests' pods.
fn images() -> Result<Vec<PathBuf>> {
    let folder = std::env::var_os("REDIAL_IMAGES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image"), PathBuf::from);
    let archives = ["pause", "pod", "redial"].map(|name| folder.join(format!("{name}.tar")));
    for archive in &archives {
        ensure!(
            archive.is_file(),
            "there is no {}; run these tests with `cargo xtask test --kubernetes`",
            archive.display()
        );
    }
    Ok(archives.into())
}
