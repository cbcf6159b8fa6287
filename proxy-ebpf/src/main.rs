//! redial's kernel programs. Built for the BPF target by `cargo xtask build-ebpf`; empty anywhere else.
//!
//! Each is attached to every enrolled cgroup, and none ever refuses a connection: whatever a program cannot handle
//! goes where the application meant it to go, and is counted.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        unsafe_code,
        reason = "a kernel program is made of context fields and helper calls; the verifier checks them"
    ),
    expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "the helpers' own integer types differ from the fields'; ports are 16 bits in 32-bit fields"
    ),
    expect(clippy::inline_always, reason = "the verifier follows a bound within a function only"),
    expect(clippy::needless_pass_by_value, reason = "the attribute macros hand the context over by value")
)]

#[cfg(target_arch = "bpf")]
mod address;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod names;
#[cfg(target_arch = "bpf")]
mod sockops;
#[cfg(target_arch = "bpf")]
mod syn;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // A BPF program has nowhere to unwind to, and the verifier refuses one that could come here.
    loop {}
}

/// The kernel lets only programs under a GPL-compatible licence call some helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
