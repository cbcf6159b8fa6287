//! Whatever frames a client and its upstreams send, nothing panics, and it all ends.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use redial::tcp::relay::Moved;
use redial_fuzz::Talk;
use tokio::sync::watch;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fuzz_target!(|bytes: &[u8]| {
    let Some(talk) = Talk::parse(bytes) else { return };
    let heard = talk.through(|client, supply, session| async move {
        let moved = Moved::default();
        let (_drain, draining) = watch::channel(false);
        redial::http::h2::serve(client, BytesMut::from(PREFACE), supply, session, draining, &moved).await
    });
    assert!(heard.upstreams.iter().all(|upstream| upstream.is_empty() || upstream.starts_with(PREFACE)));
});
