//! What of a head is between two neighbours only, and so does not go on where a proxy's connections are shared
//! (RFC 9110, section 7.6.1).
//!
//! Where a client has upstream connections of its own nothing of this is used: its heads go through as they came.

use bytes::Bytes;

use super::head::{Framing, Method, RequestHead, ResponseHead, Upgrade, Version, rewrite};
use crate::policy::Headers;

/// The fields that are never meant for more than the next neighbour, whether Connection names them or not.
const ALWAYS: [&str; 6] = ["connection", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings"];

/// The fields that say what a message is. A Connection that names one is not obeyed: without it the upstream would take
/// the message for another.
const NEVER: [&str; 3] = ["host", "content-length", "transfer-encoding"];

/// What Connection names where HTTP/2 is offered.
const H2C: [&str; 2] = ["upgrade", "http2-settings"];

/// A request may take its connection over: it gets one of its own, and goes through as it came.
///
/// That is not said of an offer to go on with HTTP/2: whoever makes it is content with HTTP/1.1, and makes it again on each
/// of its connections.
pub fn takes_over(head: &RequestHead) -> bool {
    match head.upgrade {
        Some(Upgrade::Other) => true,
        Some(Upgrade::H2c) | None => head.method == Method::Connect,
    }
}

/// The head of a request, for a connection that is not only the client's.
pub fn request(head: &RequestHead, bytes: &Bytes) -> Bytes {
    if takes_over(head) {
        return bytes.clone();
    }
    let fields = head.fields(bytes);
    let mut names = named(&fields);
    names.extend(ALWAYS);
    // An upstream closes after such a request if it is not asked to do otherwise.
    let keep_alive = [("Connection", "keep-alive")];
    rewrite(bytes, &names, if head.version == Version::Http10 { &keep_alive } else { &[] })
}

/// The head of a request without its offer to go on with HTTP/2, as Envoy passes it on: the client then stays with
/// HTTP/1.1, where each of its requests can be tried again.
pub fn without_h2c(head: &RequestHead, bytes: &Bytes) -> Bytes {
    let fields = head.fields(bytes);
    let mut left = named(&fields);
    left.retain(|name| !H2C.iter().any(|offer| name.eq_ignore_ascii_case(offer)));
    let left = left.join(", ");
    let connection = [("Connection", left.as_str())];
    rewrite(
        bytes,
        &["connection", "upgrade", "http2-settings"],
        if left.is_empty() { &[] } else { &connection },
    )
}

/// The head of a response, for a client whose connection goes on after it, or does not.
pub fn response(head: &ResponseHead, bytes: &[u8], client: Version, is_persistent: bool) -> Bytes {
    if head.body == Framing::Tunnel {
        return Bytes::copy_from_slice(bytes);
    }
    let fields = head.fields(bytes);
    let mut names = named(&fields);
    names.extend(ALWAYS);
    let is_upgrade_required = head.status == 426;
    names.retain(|name| !(is_upgrade_required && name.eq_ignore_ascii_case("upgrade")));
    let is_old = client == Version::Http10 || head.version == Version::Http10;
    let connection = match (is_persistent, is_upgrade_required) {
        (false, false) => Some("close"),
        (false, true) => Some("close, upgrade"),
        (true, true) => Some("keep-alive, upgrade"),
        // What goes without saying from HTTP/1.1 on.
        (true, false) => is_old.then_some("keep-alive"),
    };
    let add = connection.map(|value| ("Connection", value));
    rewrite(bytes, &names, add.as_slice())
}

/// The fields that Connection names.
fn named(fields: &impl Headers) -> Vec<&str> {
    let mut names = Vec::with_capacity(ALWAYS.len());
    fields.visit("connection", &mut |value| {
        let options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.extend(options.filter_map(|option| str::from_utf8(option).ok()));
        true
    });
    names.retain(|name| !NEVER.iter().any(|never| name.eq_ignore_ascii_case(never)));
    names
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::head::{self, Method, Version};
    use super::{request, response, without_h2c};

    fn sent(head: &'static str) -> String {
        let bytes = Bytes::from_static(head.as_bytes());
        let parsed = head::request(&bytes).unwrap().unwrap();
        String::from_utf8(request(&parsed, &bytes).to_vec()).unwrap()
    }

    fn answered(head: &str, client: Version, is_persistent: bool) -> String {
        let parsed = head::response(head.as_bytes(), &Method::Get).unwrap().unwrap();
        String::from_utf8(response(&parsed, head.as_bytes(), client, is_persistent).to_vec()).unwrap()
    }

    #[test]
    fn what_is_for_us_is_taken_out_of_a_request_and_nothing_else() {
        assert_eq!(
            sent(
                "GET / HTTP/1.1\r\nhOst: a\r\nConnection: close, X-Hop\r\nX-b:  c\r\nx-hop: 1\r\nKeep-Alive: 5\r\n\
                 Proxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n"
            ),
            "GET / HTTP/1.1\r\nhOst: a\r\nX-b:  c\r\n\r\n"
        );
    }

    #[test]
    fn an_offer_of_h2c_is_taken_out_and_nothing_else() {
        for (connection, left) in [
            ("Upgrade, HTTP2-Settings", ""),
            ("close, upgrade, http2-settings, te", "Connection: close, te\r\n"),
        ] {
            let offer = format!("Connection: {connection}\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n");
            let bytes = Bytes::from(format!("GET / HTTP/1.1\r\nhOst: a\r\n{offer}TE: trailers\r\n\r\n"));
            let parsed = head::request(&bytes).unwrap().unwrap();
            let expected = format!("GET / HTTP/1.1\r\nhOst: a\r\nTE: trailers\r\n{left}\r\n");
            assert_eq!(without_h2c(&parsed, &bytes), expected);
        }
    }

    #[test]
    fn several_connection_fields_count_as_one() {
        assert_eq!(
            sent("GET / HTTP/1.1\r\nConnection: a,\r\nHost: a\r\nA: 1\r\nB: 2\r\nconnection: ,b\r\n\r\n"),
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        );
    }

    #[test]
    fn what_says_where_a_message_ends_is_kept_whatever_connection_names() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n";
        assert_eq!(
            sent(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: Host, content-length, Transfer-Encoding\r\n\r\n"
            ),
            format!("{head}\r\n")
        );
    }

    #[test]
    fn a_request_of_http_1_0_asks_for_the_connection_to_stay() {
        assert_eq!(
            sent("GET / HTTP/1.0\r\nA: 1\r\n\r\n"),
            "GET / HTTP/1.0\r\nA: 1\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn a_request_that_takes_its_connection_over_goes_through_as_it_came() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nProxy-Connection: keep-alive\r\n\r\n",
        ] {
            assert_eq!(sent(head), head);
        }
    }

    #[test]
    fn an_offer_of_http_2_is_not_passed_on() {
        assert_eq!(
            sent(
                "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: a\r\nHTTP2-Settings: AAEAAEAA\r\n\
                 Upgrade: h2c\r\n\r\n"
            ),
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        );
    }

    #[test]
    fn a_response_says_what_becomes_of_the_clients_connection() {
        const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close, x\r\nX: 1\r\n\r\n";
        for (head, client, is_persistent, expected) in [
            (OK, Version::Http11, true, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            (OK, Version::Http11, false, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            (
                OK,
                Version::Http10,
                true,
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
                Version::Http11,
                true,
                "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
            ),
            (
                "HTTP/1.1 426 No\r\nUpgrade: a\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n",
                Version::Http11,
                false,
                "HTTP/1.1 426 No\r\nUpgrade: a\r\nContent-Length: 0\r\nConnection: close, upgrade\r\n\r\n",
            ),
        ] {
            assert_eq!(answered(head, client, is_persistent), expected);
        }
    }
}
