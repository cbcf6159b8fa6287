//! A response's head is the same however its bytes come, and its fields can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redial::http::h1::head::{Method, Search, response, rewrite};
use redial::policy::Headers;

fuzz_target!(|bytes: &[u8]| {
    for method in [Method::Get, Method::Head, Method::Connect] {
        let found = response(bytes, &method);
        let mut search = Search::default();
        match search.response(&bytes[..bytes.len() / 2], &method) {
            Ok(None) => assert_eq!(search.response(bytes, &method).is_ok(), found.is_ok()),
            Ok(head) => assert_eq!(found, Ok(head)),
            Err(_) => assert!(found.is_err()),
        }
        if let Ok(Some(head)) = found {
            let raw = &bytes[..head.length];
            let status = head.status.to_string();
            assert_eq!(head.fields(raw).get(":status"), Some(status.as_bytes()));
            assert_eq!(rewrite(raw, &[], &[]), raw);
        }
    }
});
