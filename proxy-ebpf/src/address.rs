//! Reading and writing the addresses in a `bpf_sock_addr`, which the verifier allows only in certain widths: whole
//! 32-bit words for `user_ip4` and `user_port`, word by word for `user_ip6`.

use aya_ebpf::{bindings::bpf_sock, programs::SockAddrContext};
use core::ptr::{addr_of, addr_of_mut};

/// 127.0.0.1 and ::1 as they lie in memory, in 32-bit words.
pub(crate) const LOOPBACK_V4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
pub(crate) const LOOPBACK_V6: [u32; 4] = [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])];
/// The third word of an IPv4-mapped IPv6 address.
pub(crate) const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An address in network order, IPv4 as its IPv4-mapped form.
pub(crate) type Address = [u8; 16];

pub(crate) fn is_v4_mapped(address: &Address) -> bool {
    let words = to_words(address);
    words[0] == 0 && words[1] == 0 && words[2] == V4_MAPPED
}

pub(crate) fn from_v4(word: u32) -> Address {
    from_words([0, 0, V4_MAPPED, word])
}

pub(crate) fn from_words(words: [u32; 4]) -> Address {
    let [a, b, c, d] =
        [words[0].to_ne_bytes(), words[1].to_ne_bytes(), words[2].to_ne_bytes(), words[3].to_ne_bytes()];
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

pub(crate) fn to_words(address: &Address) -> [u32; 4] {
    let a = address;
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}

/// The first byte of an address word.
pub(crate) fn first_byte(word: u32) -> u8 {
    word.to_ne_bytes()[0]
}

pub(crate) fn user_ip4(ctx: &SockAddrContext) -> u32 {
    // SAFETY: a context field, read in its own width.
    unsafe { addr_of!((*ctx.sock_addr).user_ip4).read_volatile() }
}

pub(crate) fn user_ip6(ctx: &SockAddrContext) -> [u32; 4] {
    // SAFETY: context fields, read word by word.
    unsafe {
        let words = addr_of!((*ctx.sock_addr).user_ip6).cast::<u32>();
        [
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ]
    }
}

/// The port in host order.
pub(crate) fn user_port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: a context field, read in its own width. It holds a 16-bit port in network order.
    let word = unsafe { addr_of!((*ctx.sock_addr).user_port).read_volatile() };
    u16::from_be(word as u16)
}

pub(crate) fn set_user_ip4(ctx: &SockAddrContext, word: u32) {
    // SAFETY: a writable context field, written in its own width.
    unsafe { addr_of_mut!((*ctx.sock_addr).user_ip4).write_volatile(word) };
}

pub(crate) fn set_user_ip6(ctx: &SockAddrContext, words: [u32; 4]) {
    // SAFETY: writable context fields, written word by word.
    unsafe {
        let target = addr_of_mut!((*ctx.sock_addr).user_ip6).cast::<u32>();
        target.write_volatile(words[0]);
        target.add(1).write_volatile(words[1]);
        target.add(2).write_volatile(words[2]);
        target.add(3).write_volatile(words[3]);
    }
}

pub(crate) fn set_user_port(ctx: &SockAddrContext, port: u16) {
    // SAFETY: a writable context field, written in its own width.
    unsafe { addr_of_mut!((*ctx.sock_addr).user_port).write_volatile(u32::from(port.to_be())) };
}

/// The socket of a `connect()`, `getpeername()` or `getsockname()`.
pub(crate) fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: a context field; the kernel guarantees a socket in these hooks.
    unsafe { addr_of!((*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile() }
}
