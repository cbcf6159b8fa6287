//! Whatever a client and its upstreams say, and in whatever pieces: what reaches an upstream is whole requests, or the
//! beginning of one, and they are the client's own bytes in the client's order.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use redial::http::h1::body::Body;
use redial::http::h1::head::{Method, request};
use redial::tcp::relay::Moved;
use redial_fuzz::Talk;
use tokio::sync::watch;

fuzz_target!(|bytes: &[u8]| {
    let Some(talk) = Talk::parse(bytes) else { return };
    let heard = talk.through(|client, supply, session| async move {
        let moved = Moved::default();
        let (_stop, stopped) = watch::channel(false);
        redial::http::h1::serve(client, BytesMut::new(), supply, session, stopped, &moved).await
    });
    // An upstream may go on in another protocol, asked or not.
    let may_switch = bytes.windows(4).any(|window| window == b" 101");
    let sent = requests(talk.client, may_switch);
    for upstream in &heard.upstreams {
        let mut rest = upstream.as_slice();
        // A request may come again, and one that was answered by redial itself is left out.
        let mut from = 0;
        while !rest.is_empty() {
            let next = sent.iter().enumerate().skip(from).find(|(_, request)| {
                let common = rest.len().min(request.len());
                rest[..common] == request[..common]
            });
            let (index, request) = next.unwrap_or_else(|| panic!("no request of the client's: {heard:?}"));
            rest = &rest[rest.len().min(request.len())..];
            from = index;
        }
    }
});

/// The requests that a client's bytes are, with the last one as far as it goes, and what may come through a tunnel.
fn requests(mut bytes: &[u8], may_switch: bool) -> Vec<&[u8]> {
    let mut requests = Vec::new();
    while let Ok(Some(head)) = request(bytes) {
        let mut body = Body::new(head.body);
        let taken = body.scan(&bytes[head.length..]).map(|scanned| head.length + scanned.taken);
        // What is wrong with a body is found where it is; what is before may have been passed on.
        let (this, rest) = bytes.split_at(taken.unwrap_or(bytes.len()));
        requests.push(this);
        if taken.is_err() || !body.ended() {
            break;
        }
        if may_switch || head.method == Method::Connect {
            // Another protocol's bytes, or more requests: that is the upstream's to say.
            requests.push(rest);
        }
        bytes = rest;
    }
    requests
}
