//! Containers without Kubernetes: the agent in one, workloads in others, with the runtime's own cgroups.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use redial_tests::agent::binary;
use redial_tests::cgroup;
use redial_tests::cluster::{Cluster, Node, POD, images, until};
use redial_tests::netns::Netns;
use redial_tests::world::{SERVER_V4, World};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Test;

pub(crate) const TESTS: &[Test] =
    &[("containers::an_agent_in_a_container_serves_others", an_agent_in_a_container_serves_others)];

/// Of the runtime's: kubelet's containers are in another one.
const NAMESPACE: &str = "plain";
const AGENT: &str = "redial";
const POLICY: &str =
    "apiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {name: all}\nspec: {http: {}}\n";

/// Drop ends the containers.
struct Containers<'a> {
    node: &'a Node,
    folder: TempDir,
    names: Vec<&'static str>,
    asked: usize,
}

/// What the named container asks is retried, and what another one in the same network asks is not.
fn an_agent_in_a_container_serves_others(cluster: &Cluster) -> Result<()> {
    let node = cluster.nodes().first().context("no node")?;
    for image in images()? {
        node.load_for(NAMESPACE, &image)?;
    }
    let world = World::new("plain")?;
    let (pod, server) = (Network::new(&world.pod)?, Network::new(&world.server)?);
    let mut containers = Containers { node, folder: TempDir::new()?, names: Vec::new(), asked: 0 };
    containers.start("server", &[&server.option()], POD, &["/pod", "serve", "80", "unavailable=1000000"])?;
    containers.start("client", &[&pod.option(), "--cgroup=/plain/client"], POD, &["/pod", "pause"])?;
    containers.start("apart", &[&pod.option(), "--cgroup=/plain/apart"], POD, &["/pod", "pause"])?;

    let policies = containers.folder.path().join("policies");
    fs::create_dir(&policies)?;
    fs::write(policies.join("policy.yaml"), POLICY)?;
    let mount = cgroup::mount()?;
    let cgroup = mount.join("plain/client");
    let _agent = Agent::start(&containers, &cgroup, &policies)?;

    let made = until("requests of the client are retried", || {
        let made = containers.attempts("client")?;
        ensure!(made > 1, "{made} attempts; redial: {}", containers.log(AGENT)?);
        Ok(Some(made))
    })?;
    assert_eq!(made, 3);
    assert_eq!(containers.attempts("apart")?, 1);
    Ok(())
}

/// redial in a container of the host's network and processes, with no more privileges than it needs. The runtime's command
/// line has no word for the host's processes, so this one is run by runc itself.
struct Agent<'a>(&'a Node);

impl<'a> Agent<'a> {
    fn start(containers: &Containers<'a>, cgroup: &Path, policies: &Path) -> Result<Self> {
        let bundle = containers.folder.path().join("bundle");
        let root = bundle.join("rootfs");
        fs::create_dir_all(&root)?;
        fs::copy(binary()?, root.join("redial"))?;
        for folder in ["proc", "sys", "run", "policies", "etc", "tmp"] {
            fs::create_dir(root.join(folder))?;
        }
        // A resolver that nobody asks.
        fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n")?;
        let bind = |path: &str, from: &Path, option: &str| json!({"destination": path, "source": from, "type": "bind", "options": ["rbind", option]});
        let capabilities = json!(["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE"]);
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "noNewPrivileges": true,
                "args": ["/redial", "run", "--cgroup", cgroup, "--config", "/policies"],
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "source": "proc", "type": "proc"},
                bind("/sys", Path::new("/sys"), "ro"),
                {"destination": "/run", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid", "nodev"]},
                bind("/policies", policies, "ro"),
            ],
            "linux": {"namespaces": [{"type": "mount"}], "cgroupsPath": "/plain/redial"},
        });
        fs::write(bundle.join("config.json"), spec.to_string())?;
        let log = File::create(containers.folder.path().join(AGENT))?;
        let mut runc = containers.node.run_here("runc");
        runc.args(["run", "--detach", "--bundle"]).arg(&bundle).arg(AGENT);
        let status = runc.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).status()?;
        ensure!(status.success(), "runc: {status}: {}", containers.log(AGENT)?);
        Ok(Self(containers.node))
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        drop(self.0.run_here("runc").args(["delete", "--force", AGENT]).status());
    }
}

/// A network namespace, by a process in it: what is in `/run` is not the node's.
struct Network(Child);

impl Network {
    fn new(netns: &Netns) -> Result<Self> {
        Ok(Self(netns.spawn(Command::new("sleep").arg("600"))?))
    }

    fn option(&self) -> String {
        format!("--with-ns=network:/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Containers<'_> {
    fn start(&mut self, name: &'static str, options: &[&str], image: &str, command: &[&str]) -> Result<()> {
        let log = format!("--log-uri=file://{}", self.folder.path().join(name).display());
        let arguments = [&["run", "--detach", &log][..], options, &[image, name], command].concat();
        self.node.ctr(NAMESPACE, &arguments).with_context(|| format!("starting {name}"))?;
        self.names.push(name);
        Ok(())
    }

    fn log(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join(name))?)
    }

    /// How often the server was asked for one request.
    fn attempts(&mut self, client: &str) -> Result<usize> {
        let before = self.log("server")?.lines().count();
        self.asked += 1;
        let id = format!("--exec-id=ask-{}", self.asked);
        let ask = ["tasks", "exec", &id, client, "/pod", "ask", &format!("{SERVER_V4}:80")];
        let said = self.node.ctr(NAMESPACE, &ask)?;
        let asked: Value = serde_json::from_str(said.trim()).with_context(|| said.clone())?;
        ensure!(asked["status"] == 503, "{asked}");
        Ok(self.log("server")?.lines().count() - before)
    }
}

impl Drop for Containers<'_> {
    fn drop(&mut self) {
        for name in self.names.iter().rev() {
            drop(self.node.ctr(NAMESPACE, &["tasks", "delete", "--force", name]));
            drop(self.node.ctr(NAMESPACE, &["containers", "delete", name]));
        }
    }
}
