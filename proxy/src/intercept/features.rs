//! What the kernel must be able to do, asked of the kernel itself: distributions port features back, so that a version
//! says little.

use super::{netns, programs::HandshakeMode};
use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};
use nix::{libc, sys::utsname::uname};
use socket2::{Domain, Socket, Type};
use std::{
    fmt::{self, Display, Formatter},
    io,
};

/// A feature, with the Linux release that first had it.
struct Feature {
    name: &'static str,
    since: &'static str,
    probe: Probe,
    only_held: bool,
}

enum Probe {
    Map(MapType),
    Program(ProgramType),
    Helper(ProgramType, BpfHelper),
    Try(fn() -> io::Result<bool>),
}

const fn feature(name: &'static str, since: &'static str, probe: Probe) -> Feature {
    Feature { name, since, probe, only_held: false }
}

const fn held(name: &'static str, since: &'static str, probe: Probe) -> Feature {
    Feature { name, since, probe, only_held: true }
}

const NEEDED: [Feature; 12] = [
    feature("cgroup connect hooks", "4.17", Probe::Program(ProgramType::CgroupSockAddr)),
    feature("sock_ops programs", "4.13", Probe::Program(ProgramType::SockOps)),
    feature("socket storage", "5.2", Probe::Map(MapType::SkStorage)),
    feature("ring buffers", "5.8", Probe::Map(MapType::RingBuf)),
    feature("socket look-up in connect hooks", "5.0", in_connect(BpfHelper::BPF_FUNC_sk_lookup_tcp)),
    feature(
        "network namespace cookies in connect hooks",
        "5.7",
        in_connect(BpfHelper::BPF_FUNC_get_netns_cookie),
    ),
    feature("network namespace cookies of sockets", "5.14", Probe::Try(netns::cookies_are_known)),
    feature("socket storage in connect hooks", "5.10", in_connect(BpfHelper::BPF_FUNC_sk_storage_get)),
    feature(
        "socket storage in sock_ops programs",
        "5.10",
        Probe::Helper(ProgramType::SockOps, BpfHelper::BPF_FUNC_sk_storage_get),
    ),
    feature(
        "socket options in sock_ops programs",
        "4.13",
        Probe::Helper(ProgramType::SockOps, BpfHelper::BPF_FUNC_setsockopt),
    ),
    held("cgroup egress hooks", "4.10", Probe::Program(ProgramType::CgroupSkb)),
    held(
        "socket storage in cgroup egress hooks",
        "5.2",
        Probe::Helper(ProgramType::CgroupSkb, BpfHelper::BPF_FUNC_sk_storage_get),
    ),
];

const fn in_connect(helper: BpfHelper) -> Probe {
    Probe::Helper(ProgramType::CgroupSockAddr, helper)
}

/// A feature that redial works without, and what is then not as it should be.
struct Optional {
    feature: Feature,
    without: &'static str,
}

const MULTIPATH: Feature = feature(
    "Multipath TCP sockets in connect hooks",
    "5.19",
    in_connect(BpfHelper::BPF_FUNC_skc_to_mptcp_sock),
);

const OPTIONAL: [Optional; 2] = [
    Optional {
        feature: MULTIPATH,
        without: "Multipath TCP connections are intercepted, and fall back to TCP",
    },
    Optional {
        feature: feature("socket marks without CAP_NET_ADMIN", "5.17", Probe::Try(marks_are_allowed)),
        without: "connections of sockets that have a mark (SO_MARK) fail unless redial has CAP_NET_ADMIN",
    },
];

/// What the kernel lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    kernel: Kernel,
    features: Vec<(&'static str, &'static str)>,
    /// Whether only a held handshake needs them.
    only_held: bool,
}

impl Display for Missing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} lacks what redial needs:", self.kernel)?;
        for (index, (name, since)) in self.features.iter().enumerate() {
            write!(f, "{} {name} (Linux {since})", if index == 0 { "" } else { "," })?;
        }
        if self.only_held {
            f.write_str("; `--handshake eager` does without")?;
        }
        Ok(())
    }
}

/// Says what is missing for this kind of handshake, if anything is.
pub fn missing(handshake: HandshakeMode) -> Option<Missing> {
    let wanted = |feature: &&Feature| !feature.only_held || handshake == HandshakeMode::Held;
    let lacking: Vec<&Feature> =
        NEEDED.iter().filter(wanted).filter(|feature| ask(feature) == Some(false)).collect();
    report(&lacking)
}

/// Whether the connect hook can be told that a socket is part of a Multipath TCP connection.
pub fn knows_mptcp() -> bool {
    ask(&MULTIPATH) == Some(true)
}

/// Says in the log what the kernel lacks that redial works without.
pub fn tell_optional() {
    for Optional { feature, without } in OPTIONAL.iter().filter(|one| ask(&one.feature) == Some(false)) {
        tracing::warn!("{} lacks {} (Linux {}): {without}", Kernel::running(), feature.name, feature.since);
    }
}

/// The running kernel, by its release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel(String);

impl Kernel {
    #[must_use]
    pub fn running() -> Self {
        Self(uname().map_or_else(|_| String::new(), |name| name.release().to_string_lossy().into_owned()))
    }
}

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "this kernel ({})", self.0)
    }
}

/// Whether this process may give its sockets a mark.
fn marks_are_allowed() -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    match socket.set_mark(1) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        answer => answer.map(|()| true),
    }
}

fn report(lacking: &[&Feature]) -> Option<Missing> {
    (!lacking.is_empty()).then(|| Missing {
        kernel: Kernel::running(),
        features: lacking.iter().map(|feature| (feature.name, feature.since)).collect(),
        only_held: lacking.iter().all(|feature| feature.only_held),
    })
}

/// Whether the kernel has a feature; `None` where it does not say.
fn ask(feature: &Feature) -> Option<bool> {
    let answer = match feature.probe {
        Probe::Map(kind) => is_map_supported(kind).map_err(|error| error.to_string()),
        Probe::Program(kind) => is_program_supported(kind).map_err(|error| error.to_string()),
        Probe::Helper(program, helper) => {
            is_helper_supported(program, helper).map_err(|error| error.to_string())
        }
        Probe::Try(attempt) => attempt().map_err(|error| error.to_string()),
    };
    answer
        .inspect_err(|error| tracing::debug!(feature = feature.name, error, "a probe without an answer"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::{Feature, NEEDED, report};

    fn lacking(names: &[&str]) -> Vec<&'static Feature> {
        NEEDED.iter().filter(|feature| names.contains(&feature.name)).collect()
    }

    #[test]
    fn what_is_missing_is_named_with_its_release() {
        let message = report(&lacking(&["ring buffers", "cgroup egress hooks"])).unwrap().to_string();
        assert!(
            message.ends_with(
                "lacks what redial needs: ring buffers (Linux 5.8), cgroup egress hooks (Linux 4.10)"
            ),
            "{message}"
        );
        assert_eq!(report(&[]), None);
    }

    #[test]
    fn where_only_the_held_handshake_is_lacking_there_is_another_way() {
        let message = report(&lacking(&["cgroup egress hooks"])).unwrap().to_string();
        assert!(message.ends_with("; `--handshake eager` does without"), "{message}");
    }
}
