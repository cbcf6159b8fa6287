//! The held handshake: a redirected client's SYN goes to the agent instead of to the engine's listener.

use crate::{
    address::is_v4_mapped,
    maps::{self, count},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_TCP_SYN_SENT, bpf_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use core::ptr::addr_of;
use redial_ebpf::{
    Counter, EVENT_HANDSHAKE, MAX_SYN, Original, PHASE_EAGER, PHASE_HELD, PHASE_HOLD, Redirect,
    VERDICT_CONNECTED,
};

const DROP: i32 = 0;
const PASS: i32 = 1;
const SHORTEST_SYN: u32 = 40;
const LONGEST_SYN: u32 = MAX_SYN as u32;
/// Where an IPv6 header says what follows it.
const NEXT_HEADER: usize = 6;
const TCP: u8 = 6;

#[cgroup_skb(egress)]
pub(crate) fn redial_egress(ctx: SkBuffContext) -> i32 {
    if hold(&ctx) { DROP } else { PASS }
}

/// Whether the packet is a SYN that is to be held back.
fn hold(ctx: &SkBuffContext) -> bool {
    // SAFETY: a context field; null where the packet belongs to no socket.
    let sk = unsafe { addr_of!((*ctx.skb.skb).__bindgen_anon_2.sk).read_volatile() };
    // The one test that every other packet of the workload pays for.
    if sk.is_null() || !is_connecting(sk) {
        return false;
    }
    let Some(redirect) = maps::redirect_of(sk) else { return false };
    // SAFETY: the context is valid for the program's run.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    match redirect.phase {
        PHASE_HOLD => {
            if hand_over(ctx, redirect, cookie) {
                redirect.phase = PHASE_HELD;
                count(Counter::Held);
                true
            } else {
                redirect.phase = PHASE_EAGER;
                maps::publish_original(redirect, cookie, ctx.skb.local_port() as u16);
                count(Counter::Eager);
                false
            }
        }
        PHASE_HELD => {
            // SAFETY: the value is read at once.
            let released = unsafe { maps::VERDICTS.get(cookie) }
                .is_some_and(|verdict| verdict.kind == VERDICT_CONNECTED);
            if !released {
                count(Counter::SynRepeated);
            }
            !released
        }
        _ => false,
    }
}

/// In SYN_SENT the only packets that a socket sends are its SYN and repeats of it.
fn is_connecting(sk: *mut bpf_sock) -> bool {
    // SAFETY: a field of a socket that the verifier knows, read in its own width.
    unsafe { addr_of!((*sk).state).read_volatile() == BPF_TCP_SYN_SENT }
}

/// Copies the SYN and what is known of its socket to the agent. False when that is not possible.
#[inline(always)]
fn hand_over(ctx: &SkBuffContext, redirect: &Redirect, cookie: u64) -> bool {
    if !is_plain_tcp(ctx, redirect) {
        count(Counter::OddSyn);
        return false;
    }
    let Some(mut entry) = maps::EVENTS.reserve(0) else {
        count(Counter::RingFull);
        return false;
    };
    // A SYN may carry data (TCP Fast Open). The headers are all that is needed: data that is not acknowledged is
    // sent again.
    let available = ctx.skb.len();
    let len = if available > LONGEST_SYN { LONGEST_SYN } else { available };
    let event = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as an `Event`, and each field is written through a raw pointer. The length
    // is bounded by the array's, in a form that the verifier of every supported kernel can follow.
    let copied = unsafe {
        (*event).kind = EVENT_HANDSHAKE;
        (*event).syn_len = len;
        (*event).netns_cookie = redirect.netns_cookie;
        (*event).original = Original {
            socket_cookie: cookie,
            cgroup_id: redirect.cgroup_id,
            destination: redirect.original,
            mark: redirect.mark,
            padding: 0,
        };
        (SHORTEST_SYN..=LONGEST_SYN).contains(&len)
            && bpf_skb_load_bytes(ctx.as_ptr(), 0, (&raw mut (*event).syn).cast(), len) == 0
    };
    if copied {
        entry.submit(0);
    } else {
        entry.discard(0);
        count(Counter::OddSyn);
    }
    copied
}

/// Whether TCP follows the IP header at once. IPv6 extension headers, which an application may ask for, do not fit.
fn is_plain_tcp(ctx: &SkBuffContext, redirect: &Redirect) -> bool {
    if is_v4_mapped(&redirect.original.address) {
        return true;
    }
    ctx.load::<u8>(NEXT_HEADER).is_ok_and(|next| next == TCP)
}
