//! The maps that the programs share, and the few operations on them.
//!
//! Nothing here is sized by the number of enrolled workloads: what belongs to a socket lives in the socket's own
//! storage and goes with it, and the hash maps hold only what is in flight between the programs and the engine.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    helpers::{
        bpf_get_current_cgroup_id, bpf_ktime_get_ns,
        generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    },
    macros::btf_map,
};
use core::{ffi::c_void, ptr::addr_of};
use redial_ebpf::{
    ClientKey, Counter, EVENT_GONE, EVENT_UNKNOWN_NETNS, Engine, Event, HEARTBEAT_LIMIT_NS, Original,
    Redirect, VERDICT_PENDING, Verdict,
};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const COUNTER_COUNT: usize = Counter::ALL.len();
const EVENT_BYTES: usize = 1 << 20;
/// At most one word about the same unknown network namespace in this time.
const UNKNOWN_NETNS_INTERVAL_NS: u64 = 100_000_000;

#[btf_map]
pub(crate) static ENGINES: HashMap<u64, Engine, 16_384, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub(crate) static VERDICTS: HashMap<u64, Verdict, 1_048_576, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub(crate) static ORIGINALS: HashMap<ClientKey, Original, 1_048_576, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub(crate) static EXCLUDED_PORTS: HashMap<u16, u8, 65_536, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub(crate) static EXCLUDED_RANGES: LpmTrie<[u8; 16], u32, 65_536> = LpmTrie::new();

#[btf_map]
pub(crate) static HEARTBEAT: Array<u64, 1> = Array::new();

#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, COUNTER_COUNT> = PerCpuArray::new();

#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, EVENT_BYTES> = RingBuf::new();

#[btf_map]
static REDIRECTS: SkStorage<Redirect> = SkStorage::new();

/// When an unknown network namespace was last reported.
#[btf_map]
static REPORTED_NETNS: LruHashMap<u64, u64, 1_024> = LruHashMap::new();

/// Whether the agent's intake thread turns: a listener is there also where it is stopped or stuck.
pub(crate) fn agent_is_alive() -> bool {
    // SAFETY: a plain helper.
    let now = unsafe { bpf_ktime_get_ns() };
    HEARTBEAT.get(0).is_some_and(|last| now.wrapping_sub(*last) < HEARTBEAT_LIMIT_NS)
}

/// Makes the entry that the engine will write its verdict to.
pub(crate) fn expect_verdict(socket_cookie: u64) {
    let pending = Verdict { local: EMPTY_ORIGINAL.destination, kind: VERDICT_PENDING, padding: 0 };
    if VERDICTS.insert(socket_cookie, pending, 0).is_err() {
        count(Counter::MapFull);
    }
}

pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot belongs to this CPU, and a lost increment is a lost increment.
        unsafe { *slot += 1 };
    }
}

/// The redirect of a socket, if it has one.
pub(crate) fn redirect_of<'a>(sk: *mut bpf_sock) -> Option<&'a mut Redirect> {
    // SAFETY: `sk` comes from the program's context and was checked by the caller; the kernel returns null or the
    // storage that belongs to it.
    unsafe {
        bpf_sk_storage_get(redirects(), sk.cast(), core::ptr::null_mut(), 0).cast::<Redirect>().as_mut()
    }
}

/// Puts `redirect` into the socket's storage. False when the socket's option memory is spent.
pub(crate) fn set_redirect(sk: *mut bpf_sock, redirect: &mut Redirect) -> bool {
    let initial: *mut Redirect = redirect;
    // SAFETY: as in `redirect_of`; the initial value is copied before the call returns.
    let stored = unsafe {
        bpf_sk_storage_get(redirects(), sk.cast(), initial.cast(), u64::from(BPF_SK_STORAGE_GET_F_CREATE))
            .cast::<Redirect>()
            .as_mut()
    };
    match stored {
        // The storage may be left from an earlier connect() on the same socket.
        Some(stored) => {
            *stored = *redirect;
            true
        }
        None => false,
    }
}

pub(crate) fn forget_redirect(sk: *mut bpf_sock) {
    // SAFETY: as in `redirect_of`.
    unsafe { bpf_sk_storage_delete(redirects(), sk.cast()) };
}

fn redirects() -> *mut c_void {
    addr_of!(REDIRECTS).cast_mut().cast()
}

/// The name that the engine knows a redirected client connection by.
pub(crate) fn client_key(redirect: &Redirect, local_port: u16) -> ClientKey {
    let family = if crate::address::is_v4_mapped(&redirect.original.address) { 4 } else { 6 };
    ClientKey { netns_cookie: redirect.netns_cookie, port: local_port, family, padding: 0 }
}

/// Tells the engine, by the client's address, where a connection that it will accept was meant to go.
pub(crate) fn publish_original(redirect: &Redirect, socket_cookie: u64, local_port: u16) {
    let key = client_key(redirect, local_port);
    let original = Original {
        socket_cookie,
        cgroup_id: redirect.cgroup_id,
        destination: redirect.original,
        mark: redirect.mark,
        padding: 0,
    };
    if ORIGINALS.insert(key, original, 0).is_err() {
        count(Counter::MapFull);
    }
}

/// Tells the agent that a client whose handshake it holds has gone.
pub(crate) fn report_gone(socket_cookie: u64, netns_cookie: u64) {
    report(EVENT_GONE, netns_cookie, socket_cookie, 0);
}

/// Tells the agent that a workload connected from a network namespace that has no engine yet.
pub(crate) fn report_unknown_netns(netns_cookie: u64) {
    // SAFETY: plain helpers without arguments that could be wrong.
    let (now, cgroup_id) = unsafe { (bpf_ktime_get_ns(), bpf_get_current_cgroup_id()) };
    // SAFETY: the value is read at once, before anything else touches the map.
    let last = unsafe { REPORTED_NETNS.get(netns_cookie) }.copied();
    if last.is_some_and(|last| now.wrapping_sub(last) < UNKNOWN_NETNS_INTERVAL_NS) {
        return;
    }
    if REPORTED_NETNS.insert(netns_cookie, now, 0).is_ok() {
        report(EVENT_UNKNOWN_NETNS, netns_cookie, 0, cgroup_id);
    }
}

fn report(kind: u32, netns_cookie: u64, socket_cookie: u64, cgroup_id: u64) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(Counter::RingFull);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as an `Event`; each field is written through a raw pointer, so that
    // nothing uninitialised is ever referred to. `syn` is left as it is: `syn_len` says that none of it counts.
    unsafe {
        (*event).kind = kind;
        (*event).syn_len = 0;
        (*event).netns_cookie = netns_cookie;
        (*event).original = Original { socket_cookie, cgroup_id, ..EMPTY_ORIGINAL };
    }
    entry.submit(0);
}

const EMPTY_ORIGINAL: Original = Original {
    socket_cookie: 0,
    cgroup_id: 0,
    destination: redial_ebpf::Endpoint { address: [0; 16], port: 0, padding: [0; 6] },
    mark: 0,
    padding: 0,
};
