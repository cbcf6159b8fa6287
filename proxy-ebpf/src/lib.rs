//! What the kernel programs and the agent say to each other: map keys and values, events, counters.
//!
//! Every type here is a plain value of integers and byte arrays with no implicit padding, because the kernel
//! compares keys byte by byte and the verifier refuses to copy uninitialised bytes. Sizes are asserted below.
//!
//! Addresses are 16 bytes in network order; an IPv4 address is stored as its IPv4-mapped IPv6 form, so that one
//! layout serves both families. Ports are in host order.

#![cfg_attr(target_arch = "bpf", no_std)]

use core::mem::size_of;
#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, IntoBytes};

/// The map that tells the programs which network namespaces have an engine: `netns cookie -> Engine`.
pub const ENGINES: &str = "ENGINES";
/// What the engine decided about a connection: `socket cookie -> Verdict`.
pub const VERDICTS: &str = "VERDICTS";
/// Original destinations of connections whose handshake was not held: `ClientKey -> Original`.
pub const ORIGINALS: &str = "ORIGINALS";
/// Per-CPU counters, indexed by [`Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// The ring buffer that carries [`Event`]s to the agent.
pub const EVENTS: &str = "EVENTS";
/// Destination ports that are never redirected: `port -> 1`.
pub const EXCLUDED_PORTS: &str = "EXCLUDED_PORTS";
/// Destination ranges that are never redirected; a longest-prefix-match trie over 16-byte addresses. The value is the
/// range's family, 4 or 6: `::/0` does not mean the IPv4 addresses that are stored below it.
pub const EXCLUDED_RANGES: &str = "EXCLUDED_RANGES";

/// When the agent's intake thread last turned, in nanoseconds of CLOCK_MONOTONIC: one entry.
pub const HEARTBEAT: &str = "HEARTBEAT";
/// An agent whose last turn is this long ago does not get connections.
pub const HEARTBEAT_LIMIT_NS: u64 = 5_000_000_000;

/// A global of the programs, set at load: 1 where the kernel can tell a Multipath TCP socket (Linux 5.19).
pub const KNOWS_MPTCP: &str = "KNOWS_MPTCP";

/// A TCP/IP header without payload is at most this long: 40 bytes of IPv6 or 60 of IPv4, then 60 of TCP.
pub const MAX_SYN: usize = 120;

/// An address and a port as both sides store it.
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Network order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Host order.
    pub port: u16,
    pub padding: [u8; 6],
}

/// The engine of one network namespace.
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Engine {
    /// The port on 127.0.0.1, host order; 0 where the engine does not listen on IPv4.
    pub port_v4: u16,
    /// The port on `::1`, host order; 0 where the engine does not listen on IPv6.
    pub port_v6: u16,
    /// [`ENGINE_HELD`], [`ENGINE_FULL`].
    pub flags: u32,
}

/// Hold the client's SYN until the upstream outcome is known.
pub const ENGINE_HELD: u32 = 1;
/// The engine is at its bound of connections: new ones go direct.
pub const ENGINE_FULL: u32 = 2;

/// A socket that was redirected, kept in the socket's own storage and so gone with it.
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Redirect {
    pub original: Endpoint,
    pub netns_cookie: u64,
    /// The cgroup of the task that called `connect()`.
    pub cgroup_id: u64,
    /// The engine's port that the socket was pointed at, host order.
    pub engine_port: u16,
    /// One of the `PHASE_` constants.
    pub phase: u16,
    /// `SO_MARK` of the socket at `connect()`.
    pub mark: u32,
}

/// Redirected; its SYN has not been seen yet and is to be held.
pub const PHASE_HOLD: u16 = 0;
/// Its SYN is with the engine; repeats of it are dropped until there is a verdict.
pub const PHASE_HELD: u16 = 1;
/// Accept first: the engine learns the original destination from [`ORIGINALS`].
pub const PHASE_EAGER: u16 = 2;

/// Names a redirected client connection from the engine's side, where only its source address is known.
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientKey {
    pub netns_cookie: u64,
    /// The client's source port, host order.
    pub port: u16,
    /// 4 or 6: whether the connection runs over 127.0.0.1 or `::1`.
    pub family: u16,
    pub padding: u32,
}

/// An original destination, with what else the engine needs of the client's socket.
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Original {
    pub socket_cookie: u64,
    pub cgroup_id: u64,
    pub destination: Endpoint,
    pub mark: u32,
    pub padding: u32,
}

/// What the engine decided about a client connection.
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict {
    /// With [`VERDICT_CONNECTED`], the upstream connection's local address: what `getsockname()` answers.
    pub local: Endpoint,
    /// One of the `VERDICT_` constants.
    pub kind: u32,
    pub padding: u32,
}

/// Nothing yet. The program adds this when the socket connects and removes the entry when it closes, and the engine only
/// ever changes an entry that is there: so none is left behind.
pub const VERDICT_PENDING: u32 = 0;
/// There is an upstream connection; SYNs pass.
pub const VERDICT_CONNECTED: u32 = 1;
/// The engine gave up without an answer from the network: the client's `connect()` ends with ETIMEDOUT when its own
/// SYN timer next fires.
pub const VERDICT_TIMED_OUT: u32 = 2;

/// What the programs tell the agent. One fixed size, so that the ring buffer's reservation is a constant.
#[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes))]
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// One of the `EVENT_` constants.
    pub kind: u32,
    /// With [`EVENT_HANDSHAKE`], how many bytes of `syn` count.
    pub syn_len: u32,
    pub netns_cookie: u64,
    pub original: Original,
    pub syn: [u8; MAX_SYN],
}

/// A client's SYN is held: `original` and `syn` are filled in.
pub const EVENT_HANDSHAKE: u32 = 1;
/// A client whose handshake was held left `SYN_SENT` without a connection: `original.socket_cookie` is filled in.
pub const EVENT_GONE: u32 = 2;
/// A connection was made in a network namespace without an engine: `netns_cookie` and `original.cgroup_id` are
/// filled in.
pub const EVENT_UNKNOWN_NETNS: u32 = 3;

/// What a program did with a `connect()` or a packet. The index into [`COUNTERS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    Redirected,
    Held,
    Eager,
    SynRepeated,
    PassedLoopback,
    PassedLinkLocal,
    PassedMulticast,
    PassedBound,
    PassedMptcp,
    PassedExcluded,
    PassedUnknownNetns,
    PassedNoListener,
    PassedHungAgent,
    PassedFull,
    RingFull,
    MapFull,
    OddSyn,
}

impl Counter {
    /// Every counter, in index order.
    pub const ALL: [Self; 17] = [
        Self::Redirected,
        Self::Held,
        Self::Eager,
        Self::SynRepeated,
        Self::PassedLoopback,
        Self::PassedLinkLocal,
        Self::PassedMulticast,
        Self::PassedBound,
        Self::PassedMptcp,
        Self::PassedExcluded,
        Self::PassedUnknownNetns,
        Self::PassedNoListener,
        Self::PassedHungAgent,
        Self::PassedFull,
        Self::RingFull,
        Self::MapFull,
        Self::OddSyn,
    ];

    /// The metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::Held => "held",
            Self::Eager => "eager",
            Self::SynRepeated => "syn_repeated",
            Self::PassedLoopback => "passed_loopback",
            Self::PassedLinkLocal => "passed_link_local",
            Self::PassedMulticast => "passed_multicast",
            Self::PassedBound => "passed_bound",
            Self::PassedMptcp => "passed_mptcp",
            Self::PassedExcluded => "passed_excluded",
            Self::PassedUnknownNetns => "passed_unknown_netns",
            Self::PassedNoListener => "passed_no_listener",
            Self::PassedHungAgent => "passed_hung_agent",
            Self::PassedFull => "passed_full",
            Self::RingFull => "ring_full",
            Self::MapFull => "map_full",
            Self::OddSyn => "odd_syn",
        }
    }
}

const _: () = {
    assert!(size_of::<Endpoint>() == 24);
    assert!(size_of::<Engine>() == 8);
    assert!(size_of::<Redirect>() == 48);
    assert!(size_of::<ClientKey>() == 16);
    assert!(size_of::<Original>() == 48);
    assert!(size_of::<Verdict>() == 32);
    assert!(size_of::<Event>() == 184);
};

#[cfg(not(target_arch = "bpf"))]
mod pod {
    use super::{ClientKey, Endpoint, Engine, Event, FromBytes, IntoBytes, Original, Redirect, Verdict};

    /// Every bit pattern is a value, and none of it is padding.
    const fn is_plain<T: FromBytes + IntoBytes>() {}

    macro_rules! pod {
        ($($type:ty),*) => {$(
            const _: () = is_plain::<$type>();
            // SAFETY: it is plain, as the line above shows.
            #[expect(unsafe_code, reason = "aya::Pod is how aya is told that a type may cross into the kernel")]
            unsafe impl aya::Pod for $type {}
        )*};
    }

    pod!(ClientKey, Endpoint, Engine, Event, Original, Redirect, Verdict);
}
