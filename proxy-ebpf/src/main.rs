//! redial's kernel programs. Built for the BPF target by `cargo xtask build-ebpf`; empty anywhere else.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}
