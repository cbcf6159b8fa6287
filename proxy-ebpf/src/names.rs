//! `getpeername()` and `getsockname()`: answer with the addresses that the wire has, not with the engine's.

use crate::{
    address::{
        LOOPBACK_V4, LOOPBACK_V6, V4_MAPPED, set_user_ip4, set_user_ip6, set_user_port, socket, to_words,
        user_ip4, user_ip6, user_port,
    },
    maps,
};
use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use redial_ebpf::{Endpoint, Redirect, VERDICT_CONNECTED};

const PROCEED: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn redial_getpeername4(ctx: SockAddrContext) -> i32 {
    if user_ip4(&ctx) == LOOPBACK_V4
        && let Some(endpoint) = original(&ctx)
    {
        answer4(&ctx, &endpoint);
    }
    PROCEED
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn redial_getpeername6(ctx: SockAddrContext) -> i32 {
    if is_loopback6(&ctx)
        && let Some(endpoint) = original(&ctx)
    {
        answer6(&ctx, &endpoint);
    }
    PROCEED
}

#[cgroup_sock_addr(getsockname4)]
pub(crate) fn redial_getsockname4(ctx: SockAddrContext) -> i32 {
    if user_ip4(&ctx) == LOOPBACK_V4
        && let Some(endpoint) = upstream_local(&ctx)
    {
        answer4(&ctx, &endpoint);
    }
    PROCEED
}

#[cgroup_sock_addr(getsockname6)]
pub(crate) fn redial_getsockname6(ctx: SockAddrContext) -> i32 {
    if is_loopback6(&ctx)
        && let Some(endpoint) = upstream_local(&ctx)
    {
        answer6(&ctx, &endpoint);
    }
    PROCEED
}

/// Where the application wanted to go, if the peer address at hand is the engine's.
fn original(ctx: &SockAddrContext) -> Option<Endpoint> {
    let redirect: &Redirect = maps::redirect_of(socket(ctx))?;
    (redirect.engine_port == user_port(ctx)).then_some(redirect.original)
}

/// The local address of the upstream connection, once there is one.
fn upstream_local(ctx: &SockAddrContext) -> Option<Endpoint> {
    maps::redirect_of(socket(ctx))?;
    // SAFETY: the context is valid for the program's run.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: the value is copied at once.
    let verdict = unsafe { maps::VERDICTS.get(cookie) }?;
    (verdict.kind == VERDICT_CONNECTED).then_some(verdict.local)
}

fn is_loopback6(ctx: &SockAddrContext) -> bool {
    let words = user_ip6(ctx);
    let prefix = words[0] == 0 && words[1] == 0;
    prefix
        && ((words[2] == 0 && words[3] == LOOPBACK_V6[3])
            || (words[2] == V4_MAPPED && words[3] == LOOPBACK_V4))
}

fn answer4(ctx: &SockAddrContext, endpoint: &Endpoint) {
    set_user_ip4(ctx, to_words(&endpoint.address)[3]);
    set_user_port(ctx, endpoint.port);
}

fn answer6(ctx: &SockAddrContext, endpoint: &Endpoint) {
    set_user_ip6(ctx, to_words(&endpoint.address));
    set_user_port(ctx, endpoint.port);
}
