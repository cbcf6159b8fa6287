//! etcd, the API server, the controllers and the scheduler; their namespace is also the switch between the nodes.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::pki::Pki;
use super::place::Place;
use super::programs::Programs;
use super::{PATIENCE, POLL, run};

pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 100);

/// The addresses of Services.
const SERVICES: &str = "10.96.0.0/16";

/// The first address of [`SERVICES`], by which pods know the API server.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

pub(super) const ADMIN: &str = "admin";

/// The switch.
pub(super) const BRIDGE: &str = "nodes";

pub(super) fn url() -> String {
    format!("https://{ADDRESS}:6443")
}

/// A namespace with a switch in it, and nothing on the switch yet.
pub(super) fn prepare() -> Result<Place> {
    let place = Place::new("control")?;
    place.netns.ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    place.netns.ip(&["address", "add", &format!("{ADDRESS}/24"), "dev", BRIDGE])?;
    place.netns.ip(&["link", "set", BRIDGE, "up"])?;
    Ok(place)
}

/// Starts everything in this order, and waits until the API can be used.
pub(super) fn start(place: &Place, programs: &Programs, pki: &Pki, files: &Path) -> Result<()> {
    pki.certificate(ADMIN, "/O=system:masters/CN=admin", &[])?;
    pki.certificate("apiserver", "/CN=kube-apiserver", &[ADDRESS, SERVICE, Ipv4Addr::LOCALHOST])?;
    let kubeconfig = pki.kubeconfig(ADMIN, &url())?;
    let start = |name: &str, arguments: Vec<OsString>| {
        let mut command = place.command(programs.find(name)?);
        command.args(arguments);
        place.start(name, command, &files.join(format!("{name}.log")))
    };
    let words = |words: &str| words.split_whitespace().map(OsString::from).collect::<Vec<_>>();
    let file = |option: &str, path: &Path| {
        let mut argument = OsString::from(format!("--{option}="));
        argument.push(path);
        argument
    };

    let mut etcd = words(
        "--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
         --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380
         --initial-cluster default=http://127.0.0.1:2380 --unsafe-no-fsync --log-level warn",
    );
    etcd.push(file("data-dir", &Path::new(super::place::RUN).join("etcd")));
    start("etcd", etcd)?;

    let mut server = words(
        "--etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --authorization-mode=Node,RBAC
         --service-account-issuer=https://kubernetes.default.svc --allow-privileged=true
         --kubelet-preferred-address-types=InternalIP",
    );
    for option in ["advertise-address", "bind-address"] {
        server.push(format!("--{option}={ADDRESS}").into());
    }
    server.push(format!("--service-cluster-ip-range={SERVICES}").into());
    for (option, name) in [
        ("client-ca-file", "ca.crt"),
        ("tls-cert-file", "apiserver.crt"),
        ("tls-private-key-file", "apiserver.key"),
        ("kubelet-client-certificate", "admin.crt"),
        ("kubelet-client-key", "admin.key"),
        ("service-account-key-file", "apiserver.crt"),
        ("service-account-signing-key-file", "apiserver.key"),
    ] {
        server.push(file(option, &pki.file(name)));
    }
    start("kube-apiserver", server)?;

    let deadline = Instant::now() + PATIENCE;
    while !run(place
        .command(programs.find("kubectl")?)
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .args(["get", "--raw", "/readyz"]))
    .is_ok_and(|said| said == "ok")
    {
        place.check()?;
        ensure!(Instant::now() < deadline, "the API server does not get ready");
        std::thread::sleep(POLL);
    }

    let mut controllers = words("--use-service-account-credentials=true");
    controllers.push(file("service-account-private-key-file", &pki.file("apiserver.key")));
    controllers.push(file("root-ca-file", &pki.file("ca.crt")));
    controllers.push(file("flex-volume-plugin-dir", &Path::new(super::place::RUN).join("volume-plugins")));
    for (name, mut arguments) in [("kube-controller-manager", controllers), ("kube-scheduler", Vec::new())] {
        for option in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            arguments.push(file(option, &kubeconfig));
        }
        arguments.extend(words("--leader-elect=false --bind-address=127.0.0.1"));
        start(name, arguments)?;
    }
    Ok(())
}
