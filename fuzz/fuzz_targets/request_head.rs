//! A request's head is the same however its bytes come, and its fields and target can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redial::http::h1::head::{Search, request, rewrite};
use redial::policy::Headers;

fuzz_target!(|bytes: &[u8]| {
    let found = request(bytes);
    let mut search = Search::default();
    match search.request(&bytes[..bytes.len() / 2]) {
        Ok(None) => assert_eq!(search.request(bytes).is_ok(), found.is_ok()),
        Ok(head) => assert_eq!(found, Ok(head)),
        Err(_) => assert!(found.is_err()),
    }
    if let Ok(Some(head)) = found {
        let raw = &bytes[..head.length];
        let fields = head.fields(raw);
        assert_eq!(fields.get(":method"), Some(head.method.as_str().as_bytes()));
        assert!(raw.get(head.target.clone()).is_some());
        assert!(fields.get("host").is_none_or(|host| !host.contains(&b'\n')));
        assert_eq!(rewrite(raw, &[], &[]), raw);
        let added = rewrite(raw, &["x-fuzz"], &[("x-fuzz", "1")]);
        let again = request(&added);
        assert!(
            again.is_err() || again.is_ok_and(|again| again.is_some_and(|again| again.body == head.body))
        );
    }
});
