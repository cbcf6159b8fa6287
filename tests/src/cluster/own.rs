//! A cluster that a test starts on this machine: a control plane and nodes, each in namespaces and a cgroup of its own.
//!
//! Nothing of the machine changes and nothing is left: networks, mounts and cgroups are the cluster's own, what nodes
//! keep is in memory, and every process is in a cgroup that is killed on drop, or when the tests' process is killed.

use std::ffi::OsString;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::pki::Pki;
use super::place::Place;
use super::programs::Programs;
use super::{Cluster, Node, Pod, control_plane};

/// A running cluster. Drop ends it.
#[derive(Debug)]
pub struct OwnCluster {
    cluster: Cluster,
    nodes: Vec<Node>,
    control: Place,
    programs: Programs,
    pki: Pki,
    files: TempDir,
}

impl OwnCluster {
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
        let cluster = Cluster {
            entry: control.entry(),
            kubectl: programs.find("kubectl")?,
            kubeconfig: pki.file(&format!("{}.kubeconfig", control_plane::ADMIN)),
            nodes: nodes.iter().map(|node| node.name().to_owned()).collect(),
        };
        let own = Self { cluster, nodes, control, programs, pki, files };
        own.nodes.iter().try_for_each(|node| node.register(&own.pki))?;
        for node in own.names() {
            let node = format!("node/{node}");
            own.wait(&node, "create")?;
            own.wait(&node, "condition=Ready")?;
        }
        Ok(own)
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

    /// A PATH that has its kubectl.
    pub fn path(&self) -> Result<OsString> {
        self.programs.path()
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

/// All that there is of any cluster.
impl Deref for OwnCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
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
