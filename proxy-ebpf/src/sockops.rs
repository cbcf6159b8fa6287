//! The life of a redirected socket: publishes its original destination where the handshake is not held, tells the
//! agent when a client with a held handshake has gone, ends a connect() that the engine gave up on, and cleans up.

use crate::maps::{self, VERDICTS};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_ESTABLISHED, BPF_TCP_SYN_SENT,
    },
    helpers::generated::{bpf_get_socket_cookie, bpf_setsockopt},
    macros::sock_ops,
    programs::SockOpsContext,
};
use core::ptr::addr_of;
use redial_ebpf::{PHASE_EAGER, PHASE_HELD, Redirect, VERDICT_TIMED_OUT};

const SOL_TCP: i32 = 6;
const TCP_USER_TIMEOUT: i32 = 18;
/// Milliseconds. The kernel then fires the socket's timer at its next chance and reports ETIMEDOUT.
const AT_ONCE: u32 = 1;
/// No limit, which is what the option is by default.
const UNLIMITED: u32 = 0;
const OK: u32 = 1;

#[sock_ops]
pub(crate) fn redial_sockops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_STATE_CB => state_changed(&ctx),
        BPF_SOCK_OPS_RTO_CB => timer_fired(&ctx),
        _ => {}
    }
    OK
}

/// The local port is chosen and the SYN is about to be sent.
fn connecting(ctx: &SockOpsContext) {
    let Some(redirect) = redirect_of(ctx) else { return };
    let cookie = cookie(ctx);
    maps::expect_verdict(cookie);
    if redirect.phase == PHASE_EAGER {
        maps::publish_original(redirect, cookie, ctx.local_port() as u16);
    }
    // Other programs of the cgroup may have asked for callbacks of their own.
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;
    let _ = ctx.set_cb_flags(flags as i32);
}

fn state_changed(ctx: &SockOpsContext) {
    let (from, to) = (ctx.arg(0), ctx.arg(1));
    if to != BPF_TCP_CLOSE {
        return;
    }
    let Some(redirect) = redirect_of(ctx) else { return };
    let cookie = cookie(ctx);
    if from == BPF_TCP_SYN_SENT {
        if timed_out(cookie) {
            // The application may call connect() again on the same socket.
            set_user_timeout(ctx, UNLIMITED);
        }
        if redirect.phase == PHASE_EAGER {
            // Of a connection that was made, the engine takes the original destination when it accepts, which may be
            // after the client has closed.
            let _ = maps::ORIGINALS.remove(maps::client_key(redirect, ctx.local_port() as u16));
        }
    }
    // Straight from ESTABLISHED to CLOSE is a reset, which may overtake the handshake's last packet: then there is
    // nothing that the engine could accept.
    if redirect.phase == PHASE_HELD && (from == BPF_TCP_SYN_SENT || from == BPF_TCP_ESTABLISHED) {
        maps::report_gone(cookie, redirect.netns_cookie);
    }
    let _ = VERDICTS.remove(cookie);
}

/// The client's SYN timer fired. If the engine has given up meanwhile, this is the moment to say so: a connection
/// attempt that nothing answered ends with ETIMEDOUT, and only the socket's own timer can say that.
fn timer_fired(ctx: &SockOpsContext) {
    let Some(redirect) = redirect_of(ctx) else { return };
    if redirect.phase == PHASE_HELD && timed_out(cookie(ctx)) {
        set_user_timeout(ctx, AT_ONCE);
    }
}

fn timed_out(cookie: u64) -> bool {
    // SAFETY: the value is read at once.
    unsafe { VERDICTS.get(cookie) }.is_some_and(|verdict| verdict.kind == VERDICT_TIMED_OUT)
}

fn set_user_timeout(ctx: &SockOpsContext, mut milliseconds: u32) {
    let value = core::ptr::from_mut(&mut milliseconds).cast();
    // SAFETY: the option's value is four initialised bytes on this stack.
    unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_TCP, TCP_USER_TIMEOUT, value, 4) };
}

fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is valid for the program's run.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

fn redirect_of<'a>(ctx: &SockOpsContext) -> Option<&'a mut Redirect> {
    // SAFETY: a context field; it is null where there is no full socket, which is checked.
    let sk = unsafe { addr_of!((*ctx.ops).__bindgen_anon_2.sk).read_volatile() };
    if sk.is_null() { None } else { maps::redirect_of(sk) }
}
