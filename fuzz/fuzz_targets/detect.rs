//! Whatever was told of first bytes is still told when more have come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redial::detect::{Detected, detect};

fuzz_target!(|bytes: &[u8]| {
    let all = detect(bytes);
    let first = detect(&bytes[..bytes.len() / 2]);
    assert!(first == Detected::NeedMore || first == all);
});
