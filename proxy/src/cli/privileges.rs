//! What privileges an agent has to have, and that it keeps no others.

use anyhow::{Context as _, ensure};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

/// Without these nothing works, and what for.
const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_SYS_ADMIN, "to load kernel programs and to enter network namespaces"),
    (Capability::CAP_NET_RAW, "to answer held handshakes"),
    (Capability::CAP_SYS_PTRACE, "to find the network namespaces of processes"),
];

/// What is kept where it is there. CAP_NET_ADMIN is for older kernels, which ask for it to attach programs for packets (before
/// Linux 6.9: that is tried when they are loaded) and to set the marks of sockets (before 5.17). Files may be anybody's,
/// and metrics at any port.
const KEPT: [Capability; 6] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_NET_BIND_SERVICE,
];

/// Fails where a privilege is missing, and gives up all that an agent has no use for. Capabilities are a thread's: this comes
/// before there is another one.
pub fn keep_what_is_needed() -> anyhow::Result<()> {
    let effective = caps::read(None, CapSet::Effective).context("cannot read this process's capabilities")?;
    for (capability, reason) in NEEDED {
        ensure!(effective.contains(&capability), "{capability} is needed {reason}");
    }
    let kept: CapsHashSet = NEEDED.map(|(capability, _)| capability).into_iter().chain(KEPT).collect();
    let kept: CapsHashSet = kept.intersection(&effective).copied().collect();
    let give_up = || {
        for capability in caps::all() {
            // What the kernel does not know, or does not let go of without CAP_SETPCAP, is no loss.
            if !kept.contains(&capability) {
                let _ = caps::drop(None, CapSet::Bounding, capability);
            }
        }
        caps::clear(None, CapSet::Inheritable)?;
        caps::set(None, CapSet::Effective, &kept)?;
        caps::set(None, CapSet::Permitted, &kept)
    };
    give_up().context("cannot give up capabilities")?;
    prctl::set_no_new_privs().context("cannot give up what programs would bring")
}
