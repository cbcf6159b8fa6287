//! A node: containerd, kubelet and kube-proxy in a place of their own.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::control_plane::{self, BRIDGE};
use super::pki::Pki;
use super::place::{Place, RUN};
use super::programs::Programs;
use super::{PATIENCE, POLL, Pod, run};
use crate::netns::Netns;
use crate::world::helper;

/// The image of what holds a pod's namespaces.
const PAUSE: &str = "redial.test/pause:1";

/// The addresses of all pods.
const PODS: &str = "10.244.0.0/16";

/// The namespace of kubelet's containers.
const KUBELET: &str = "k8s.io";

/// One of a cluster's nodes.
#[derive(Debug)]
pub struct Node {
    name: String,
    number: u8,
    place: Place,
    programs: Programs,
    files: PathBuf,
}

impl Node {
    /// Joins a namespace to the switch and starts its container runtime.
    pub(super) fn new(number: u8, control: &Place, programs: &Programs, files: &Path) -> Result<Self> {
        let name = format!("node{number}");
        let place = Place::new(&name)?;
        let node = Self { name, number, place, programs: programs.clone(), files: files.to_owned() };
        node.join(&control.netns)?;
        node.place.run(|| node.configure())?;
        node.start_runtime()?;
        Ok(node)
    }

    fn start_runtime(&self) -> Result<()> {
        let mut containerd = self.command("containerd")?;
        containerd.arg("--config").arg(file("containerd.toml"));
        self.start("containerd", containerd)?;
        self.place.run(|| {
            let deadline = Instant::now() + PATIENCE;
            while let Err(error) = UnixStream::connect(file("containerd.sock")) {
                self.place.check()?;
                ensure!(Instant::now() < deadline, "containerd does not listen: {error}");
                sleep(POLL);
            }
            Ok(())
        })
    }

    /// Ends all that runs on it at once, as a loss of power does, and starts it again.
    pub(super) fn restart(&self, pki: &Pki) -> Result<()> {
        self.place.end_all()?;
        self.start_runtime()?;
        self.register(pki)
    }

    /// Starts what makes it a node of the cluster.
    pub(super) fn register(&self, pki: &Pki) -> Result<()> {
        let name = &self.name;
        pki.certificate(name, &format!("/O=system:nodes/CN=system:node:{name}"), &[self.address()])?;
        let admin = pki.file(&format!("{}.kubeconfig", control_plane::ADMIN));
        let kubelet_config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address(),
            "authentication": {
                "anonymous": {"enabled": false}, "x509": {"clientCAFile": pki.file("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": pki.file(&format!("{name}.crt")),
            "tlsPrivateKeyFile": pki.file(&format!("{name}.key")),
            "containerRuntimeEndpoint": format!("unix://{}", file("containerd.sock").display()),
            "resolvConf": file("resolv.conf"),
            "volumePluginDir": file("volume-plugins"),
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": false,
            "failSwapOn": false,
            "enforceNodeAllocatable": [],
            "makeIPTablesUtilChains": false,
            "oomScoreAdj": 0,
            "maxOpenFiles": 20000,
            // The machine's disk and memory are not the node's.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
        });
        let proxy_config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": PODS,
            "detectLocalMode": "ClusterCIDR",
            "hostnameOverride": name,
            "clientConnection": {"kubeconfig": admin},
            // These are the machine's.
            "conntrack": {
                "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
            },
            "oomScoreAdj": 0,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
        });
        self.place.run(|| {
            fs::write(file("kubelet.yaml"), kubelet_config.to_string())?;
            Ok(fs::write(file("proxy.yaml"), proxy_config.to_string())?)
        })?;
        let mut kubelet = self.command("kubelet")?;
        kubelet.arg("--config").arg(file("kubelet.yaml")).arg("--root-dir").arg(file("kubelet"));
        kubelet.arg("--kubeconfig").arg(pki.kubeconfig(name, &control_plane::url())?);
        kubelet.args(["--hostname-override", name, "--node-ip", &self.address().to_string()]);
        self.start("kubelet", kubelet)?;
        let mut proxy = self.command("kube-proxy")?;
        proxy.arg("--config").arg(file("proxy.yaml"));
        self.start("kube-proxy", proxy)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of the node itself, and of its hostNetwork pods.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, 0, self.number)
    }

    /// The network that the node and its hostNetwork pods are in.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.place.netns
    }

    /// The root of the node's cgroups, where the machine has cgroup2.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        self.place.cgroup()
    }

    /// The cgroup of one of the node's pods, where the machine has cgroup2.
    pub fn pod_cgroup(&self, pod: &Pod) -> Result<PathBuf> {
        let mut folders = vec![self.cgroup().join("kubepods")];
        while let Some(folder) = folders.pop() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            if name == format!("pod{}", pod.uid) {
                return Ok(folder);
            }
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
        }
        bail!("{} has no cgroup of {}", self.name, pod.name)
    }

    /// Kills every process of one of the node's pods but the one that holds its namespaces, as the OOM killer does.
    pub fn kill(&self, pod: &Pod) -> Result<()> {
        self.signal(pod, Signal::SIGKILL)
    }

    /// Sends a signal to the same.
    pub fn signal(&self, pod: &Pod, signal: Signal) -> Result<()> {
        self.processes(pod)?.into_iter().try_for_each(|process| Ok(kill(process, signal)?))
    }

    /// A command that runs on the node, among its mounts and in its network, as root.
    #[must_use]
    pub fn run_here(&self, program: impl AsRef<Path>) -> Command {
        self.place.command(program)
    }

    /// Puts a seccomp profile where kubelet looks for those that a pod calls `Localhost`.
    pub fn add_seccomp_profile(&self, name: &str, profile: &str) -> Result<()> {
        self.place.run(|| {
            let folder = file("kubelet").join("seccomp");
            fs::create_dir_all(&folder)?;
            Ok(fs::write(folder.join(name), profile)?)
        })
    }

    /// The processes of one of the node's pods, without the one that holds its namespaces.
    pub fn processes(&self, pod: &Pod) -> Result<Vec<Pid>> {
        let mut found = Vec::new();
        for container in fs::read_dir(self.pod_cgroup(pod)?)?.flatten().map(|entry| entry.path()) {
            let Ok(processes) = fs::read_to_string(container.join("cgroup.procs")) else { continue };
            for process in processes.lines() {
                let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
                if !command.starts_with(b"/pod\0pause\0sandbox\0") {
                    found.push(Pid::from_raw(process.parse()?));
                }
            }
        }
        Ok(found)
    }

    /// What `containerd`, `kubelet` or `kube-proxy` has said here.
    pub fn log(&self, program: &str) -> Result<String> {
        Ok(fs::read_to_string(self.log_file(program))?)
    }

    /// Gives the container runtime the images of an archive.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let mut ctr = self.command("ctr")?;
        ctr.arg("--address").arg(file("containerd.sock")).args(["--namespace", KUBELET, "images", "import"]);
        run(ctr.arg(archive)).with_context(|| format!("loading {}", archive.display()))?;
        Ok(())
    }

    pub(super) fn check(&self) -> Result<()> {
        self.place.check().with_context(|| format!("on {}; see {}", self.name, self.files.display()))
    }

    /// The addresses of its pods.
    fn pods(number: u8) -> String {
        format!("10.244.{number}.0/24")
    }

    /// Every node can reach every other, and its pods.
    fn join(&self, switch: &Netns) -> Result<()> {
        let (netns, name) = (&self.place.netns, self.name.as_str());
        Netns::connect((netns, "eth0"), (switch, name))?;
        switch.ip(&["link", "set", name, "master", BRIDGE, "up"])?;
        switch.ip(&["route", "add", &Self::pods(self.number), "via", &self.address().to_string()])?;
        netns.ip(&["address", "add", &format!("{}/24", self.address()), "dev", "eth0"])?;
        netns.ip(&["link", "set", "eth0", "up"])?;
        netns.ip(&["route", "add", "default", "via", &control_plane::ADDRESS.to_string()])?;
        netns.sysctl("net/ipv4/ip_forward", "1")?;
        switch.sysctl("net/ipv4/ip_forward", "1")
    }

    fn configure(&self) -> Result<()> {
        // There is no cluster DNS, and none of the machine's is to be asked: a name is unknown at once.
        fs::write(file("resolv.conf"), "nameserver 127.0.0.1\n")?;
        fs::create_dir(file("cni"))?;
        let network = json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": Self::pods(self.number)}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}},
            ],
        });
        fs::write(file("cni/pods.conflist"), network.to_string())?;
        let runtime =
            if may_raise_limits()? { self.programs.find("runc")? } else { helper("runc-no-resource")? };
        let text = include_str!("containerd.toml")
            .replace("{run}", RUN)
            .replace("{cni}", &self.programs.folder("debian/usr/lib/cni").display().to_string())
            .replace("{pause}", PAUSE)
            .replace("{runtime}", &runtime.display().to_string());
        Ok(fs::write(file("containerd.toml"), text)?)
    }

    fn command(&self, program: &str) -> Result<Command> {
        let mut command = self.place.command(self.programs.find(program)?);
        command.env("PATH", self.programs.path()?);
        Ok(command)
    }

    fn start(&self, program: &str, command: Command) -> Result<()> {
        self.place.start(program, command, &self.log_file(program))
    }

    fn log_file(&self, program: &str) -> PathBuf {
        self.files.join(format!("{}-{program}.log", self.name))
    }
}

/// A file of the node's own, by its name among the node's mounts.
fn file(name: &str) -> PathBuf {
    Path::new(RUN).join(name)
}

/// Whether a container can be given all that runc gives it: inside a container of another runtime often not.
fn may_raise_limits() -> Result<bool> {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let status = fs::read_to_string("/proc/self/status")?;
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("no CapBnd")?;
    Ok(u64::from_str_radix(bounding.trim(), 16)? & CAP_SYS_RESOURCE != 0)
}
