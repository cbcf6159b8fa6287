//! The kernel side: programs, network namespaces, cgroups, raw packets. The only place that names aya, and the only
//! place besides the relay where unsafe code is allowed.
//!
//! Nothing is pinned: everything that this module does to the system is undone when its values are dropped, or when
//! the process dies.

mod address;
mod cgroup;
mod event;
mod features;
mod listener;
mod netns;
mod packet;
mod programs;
mod raw;

pub use address::OriginalDestination;
pub use cgroup::{Cgroup, CgroupError, CgroupRoot, OwnedCgroup};
pub use event::{Event, EventStream, Handshake};
pub use features::{Kernel, Missing};
pub use listener::Listener;
pub use netns::{NetworkNamespace, NetworkNamespaceError};
pub use packet::{Answer, Packet, Syn};
pub use programs::{
    Attachment, Exclusions, HandshakeMode, InterceptError, KernelCounters, Original, Programs,
};
pub use raw::RawSocket;
