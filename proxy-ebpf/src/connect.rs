//! `connect()`: notes where the application wants to go and points the socket at the engine, or leaves it alone.
//!
//! Left alone: anything but TCP, loopback, link-local (its scope is not visible here), multicast, excluded ports and
//! ranges, sockets bound to an address, port or device (their owner asked for that on the wire), network namespaces
//! without an engine, and every connection while the engine's listener is not there or its agent hangs.

use crate::{
    address::{
        Address, LOOPBACK_V4, LOOPBACK_V6, V4_MAPPED, first_byte, from_v4, from_words, set_user_ip4,
        set_user_ip6, set_user_port, socket, user_ip4, user_ip6, user_port,
    },
    maps::{self, count},
};
use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{
        bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    btf_maps::lpm_trie::Key,
    helpers::{
        bpf_get_current_cgroup_id,
        generated::{bpf_get_netns_cookie, bpf_sk_lookup_tcp, bpf_sk_release, bpf_skc_to_mptcp_sock},
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use core::{mem::size_of, ptr::addr_of};
use redial_ebpf::{Counter, ENGINE_FULL, ENGINE_HELD, Endpoint, Engine, PHASE_EAGER, PHASE_HOLD, Redirect};

const IPPROTO_TCP: u32 = 6;
const PROCEED: i32 = 1;
/// `BPF_F_CURRENT_NETNS`, as the helper's argument.
const CURRENT_NETNS: u64 = u64::MAX;

#[unsafe(no_mangle)]
static KNOWS_MPTCP: Global<u8> = Global::new(0);

#[cgroup_sock_addr(connect4)]
pub(crate) fn redial_connect4(ctx: SockAddrContext) -> i32 {
    if is_tcp(&ctx) {
        let word = user_ip4(&ctx);
        match redirect(&ctx, from_v4(word), special_v4(word), true) {
            Ok(port) => {
                set_user_ip4(&ctx, LOOPBACK_V4);
                set_user_port(&ctx, port);
            }
            Err(passed) => pass(&ctx, passed),
        }
    }
    PROCEED
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn redial_connect6(ctx: SockAddrContext) -> i32 {
    if is_tcp(&ctx) {
        let words = user_ip6(&ctx);
        let mapped = words[0] == 0 && words[1] == 0 && words[2] == V4_MAPPED;
        let special = if mapped { special_v4(words[3]) } else { special_v6(words) };
        match redirect(&ctx, from_words(words), special, mapped) {
            Ok(port) => {
                set_user_ip6(&ctx, if mapped { [0, 0, V4_MAPPED, LOOPBACK_V4] } else { LOOPBACK_V6 });
                set_user_port(&ctx, port);
            }
            Err(passed) => pass(&ctx, passed),
        }
    }
    PROCEED
}

/// Leaves a connection alone, and forgets what an earlier connect() on the same socket left behind.
fn pass(ctx: &SockAddrContext, why: Counter) {
    let sk = socket(ctx);
    let port = user_port(ctx);
    // Where a cgroup and one above it are both enrolled, the program runs twice for one connect().
    if matches!(why, Counter::PassedLoopback)
        && maps::redirect_of(sk).is_some_and(|redirect| redirect.engine_port == port)
    {
        return;
    }
    count(why);
    maps::forget_redirect(sk);
}

/// Prepares a redirect, and returns the engine's port that the socket is to be pointed at.
#[inline(always)]
fn redirect(
    ctx: &SockAddrContext,
    address: Address,
    special: Option<Counter>,
    v4: bool,
) -> Result<u16, Counter> {
    if let Some(why) = special {
        return Err(why);
    }
    // SAFETY: the context is valid for the program's run.
    let netns_cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: the value is copied at once.
    let Some(engine) = unsafe { maps::ENGINES.get(netns_cookie) }.copied() else {
        maps::report_unknown_netns(netns_cookie);
        return Err(Counter::PassedUnknownNetns);
    };
    let port = user_port(ctx);
    // SAFETY: only the presence of a value matters.
    if unsafe { maps::EXCLUDED_PORTS.get(port) }.is_some() {
        return Err(Counter::PassedExcluded);
    }
    let family = if v4 { 4 } else { 6 };
    if maps::EXCLUDED_RANGES
        .get(&Key { prefix_len: 128, data: address })
        .is_some_and(|range| *range == family)
    {
        return Err(Counter::PassedExcluded);
    }
    if engine.flags & ENGINE_FULL != 0 {
        return Err(Counter::PassedFull);
    }
    let sk = socket(ctx);
    let (bound, mark) = bound_and_mark(sk);
    if bound {
        return Err(Counter::PassedBound);
    }
    if is_mptcp(sk) {
        return Err(Counter::PassedMptcp);
    }
    let engine_port = if v4 { engine.port_v4 } else { engine.port_v6 };
    if engine_port == 0 || !engine_listens(ctx, v4, engine_port) {
        return Err(Counter::PassedNoListener);
    }
    if !maps::agent_is_alive() {
        return Err(Counter::PassedHungAgent);
    }
    let mut redirect = Redirect {
        original: Endpoint { address, port, padding: [0; 6] },
        netns_cookie,
        // SAFETY: a plain helper.
        cgroup_id: unsafe { bpf_get_current_cgroup_id() },
        engine_port,
        phase: phase(engine),
        mark,
    };
    if !maps::set_redirect(sk, &mut redirect) {
        return Err(Counter::MapFull);
    }
    count(Counter::Redirected);
    Ok(engine_port)
}

fn phase(engine: Engine) -> u16 {
    if engine.flags & ENGINE_HELD != 0 { PHASE_HOLD } else { PHASE_EAGER }
}

fn is_tcp(ctx: &SockAddrContext) -> bool {
    // SAFETY: a context field, read in its own width.
    unsafe { addr_of!((*ctx.sock_addr).protocol).read_volatile() == IPPROTO_TCP }
}

fn special_v4(word: u32) -> Option<Counter> {
    match first_byte(word) {
        // 0.0.0.0 is this host.
        0 | 127 => Some(Counter::PassedLoopback),
        224..=255 => Some(Counter::PassedMulticast),
        _ => None,
    }
}

fn special_v6(words: [u32; 4]) -> Option<Counter> {
    let first = words[0].to_ne_bytes();
    if words[0] == 0 && words[1] == 0 && words[2] == 0 && (words[3] == 0 || words[3] == LOOPBACK_V6[3]) {
        Some(Counter::PassedLoopback)
    } else if first[0] == 0xff {
        Some(Counter::PassedMulticast)
    } else if first[0] == 0xfe && first[1] & 0xc0 == 0x80 {
        Some(Counter::PassedLinkLocal)
    } else {
        None
    }
}

/// Whether bind() gave the socket an address, a port or a device; and its SO_MARK.
fn bound_and_mark(sk: *mut bpf_sock) -> (bool, u32) {
    // SAFETY: fields of a socket that the verifier knows, read in their own width.
    unsafe {
        let address = addr_of!((*sk).src_ip6).cast::<u32>();
        // One by one: the verifier wants each word read from the socket, not a run of them.
        let bound = addr_of!((*sk).src_port).read_volatile() != 0
            || addr_of!((*sk).src_ip4).read_volatile() != 0
            || addr_of!((*sk).bound_dev_if).read_volatile() != 0
            || (addr_of!((*sk).family).read_volatile() == 10
                && (address.read_volatile() != 0
                    || address.add(1).read_volatile() != 0
                    || address.add(2).read_volatile() != 0
                    || address.add(3).read_volatile() != 0));
        (bound, addr_of!((*sk).mark).read_volatile())
    }
}

/// Whether a socket is part of a Multipath TCP connection. The application's socket is another one then, of which the
/// programs that answer getpeername() know nothing.
fn is_mptcp(sk: *mut bpf_sock) -> bool {
    // Where the global is 0 the verifier never looks at the call, which older kernels do not know.
    // SAFETY: the socket is the context's own.
    KNOWS_MPTCP.load() != 0 && !unsafe { bpf_skc_to_mptcp_sock(sk.cast()) }.is_null()
}

/// Whether the engine's listener is there now, in this network namespace. Asked at every connect(), so that a dead
/// agent never stands in the way.
#[inline(always)]
fn engine_listens(ctx: &SockAddrContext, v4: bool, port: u16) -> bool {
    let (mut tuple, len) = if v4 {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: 0,
            daddr: LOOPBACK_V4,
            sport: 0,
            dport: port.to_be(),
        };
        (bpf_sock_tuple__bindgen_ty_1 { ipv4 }, size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>())
    } else {
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: [0; 4],
            daddr: LOOPBACK_V6,
            sport: 0,
            dport: port.to_be(),
        };
        (bpf_sock_tuple__bindgen_ty_1 { ipv6 }, size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>())
    };
    let tuple: *mut bpf_sock_tuple = core::ptr::from_mut(&mut tuple).cast();
    // SAFETY: the tuple is initialised for the length that is passed, and the reference is released.
    unsafe {
        let listener = bpf_sk_lookup_tcp(ctx.as_ptr(), tuple, len as u32, CURRENT_NETNS, 0);
        if listener.is_null() {
            return false;
        }
        bpf_sk_release(listener.cast());
    }
    true
}
