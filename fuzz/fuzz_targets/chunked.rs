//! A chunked body ends at the same byte however its bytes come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redial::http::h1::body::Body;
use redial::http::h1::head::Framing;

fuzz_target!(|bytes: &[u8]| {
    let whole = Body::new(Framing::Chunked).scan(bytes);
    let mut body = Body::new(Framing::Chunked);
    let (mut taken, mut payload, mut failed) = (0, 0, None);
    for byte in bytes.chunks(1) {
        match body.scan(byte) {
            Ok(scanned) => {
                taken += scanned.taken;
                payload += scanned.payload;
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    match (whole, failed) {
        (Ok(whole), None) => {
            assert_eq!((whole.taken, whole.payload, whole.ended), (taken, payload, body.ended()));
        }
        (whole, failed) => assert_eq!(whole.err(), failed),
    }
});
