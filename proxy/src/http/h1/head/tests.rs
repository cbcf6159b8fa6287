use proptest::prelude::*;

use super::*;
use crate::policy::Headers;

const HOST: &str = "Host: a.test\r\n";

/// The head of a GET with these fields beside Host.
fn get(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\n{HOST}{fields}\r\n").into_bytes()
}

fn with_line(line: &str) -> Vec<u8> {
    format!("{line}\r\n{HOST}\r\n").into_bytes()
}

fn ok(bytes: &[u8]) -> RequestHead {
    request(bytes).unwrap().unwrap()
}

fn answer(head: &str) -> Result<ResponseHead, HeadError> {
    response(head.as_bytes(), &Method::Get).map(Option::unwrap)
}

#[test]
fn a_request_says_what_it_is() {
    let bytes = b"\r\nPOST /a?b HTTP/1.1\r\nhost: a.test\r\nContent-Length: 5\r\n\
        content-TYPE: application/grpc+proto\r\n\r\nhello";
    let head = ok(bytes);
    assert_eq!(head.length, bytes.len() - 5);
    assert_eq!(&bytes[head.target.clone()], b"/a?b");
    assert_eq!((head.method, head.version, head.body), (Method::Post, Version::Http11, Framing::Length(5)));
    assert!(head.persistent && head.grpc);
    assert_eq!(head.upgrade, None);
}

#[test]
fn requests_say_how_they_are_framed() {
    for (fields, body) in [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::None),
        ("Content-Length: 0005\r\n", Framing::Length(5)),
        ("Content-Length:\t7 \r\n", Framing::Length(7)),
        ("Content-Length: 18446744073709551615\r\n", Framing::Length(u64::MAX)),
        ("Transfer-Encoding: CHUNKED\r\n", Framing::Chunked),
        ("X-Content-Length: 5\r\nA:\r\n", Framing::None),
    ] {
        assert_eq!(ok(&get(fields)).body, body, "{fields}");
    }
}

#[test]
fn connections_persist_by_version_and_option() {
    for (version, connection, persistent) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: foo ,\tClose\r\n", false),
        ("1.1", "Connection: foo\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = ok(format!("GET / HTTP/{version}\r\n{HOST}{connection}\r\n").as_bytes());
        assert_eq!(head.persistent, persistent, "{version} {connection}");
        let head =
            answer(&format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{connection}\r\n")).unwrap();
        assert_eq!(head.persistent, persistent, "{version} {connection}");
    }
}

#[test]
fn upgrades_count_where_connection_names_them() {
    for (fields, upgrade) in [
        ("Upgrade: websocket\r\n", None),
        ("Connection: upgrade\r\n", None),
        ("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", Some(Upgrade::Other)),
        ("Upgrade: H2C\r\nConnection: Upgrade, HTTP2-Settings\r\n", Some(Upgrade::H2c)),
    ] {
        assert_eq!(ok(&get(fields)).upgrade, upgrade, "{fields}");
    }
    assert_eq!(ok(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n").upgrade, None);
}

#[test]
fn grpc_is_told_by_its_content_type() {
    for (value, grpc) in [
        ("application/grpc", true),
        ("Application/gRPC+proto", true),
        ("application/grpc; charset=a", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ] {
        assert_eq!(ok(&get(&format!("Content-Type: {value}\r\n"))).grpc, grpc, "{value}");
    }
}

/// What another reader could take for another request, or for none.
fn refused() -> Vec<(Vec<u8>, HeadError)> {
    let many = (0..=MAX_FIELDS).map(|n| format!("a{n}: b\r\n")).collect::<Vec<_>>().concat();
    let fields = |fields: &str| get(fields);
    let body = |fields: &str| format!("POST / HTTP/1.1\r\n{HOST}{fields}\r\n").into_bytes();
    vec![
        (b"GET / HTTP/1.1\nHost: a\n\n".to_vec(), HeadError::BareLf),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), HeadError::BareLf),
        (fields("A: b\nC: d\r\n"), HeadError::BareLf),
        (fields("A: b\rC: d\r\n"), HeadError::BareCr),
        (fields("A: b\r\r\n"), HeadError::BareCr),
        (fields("A\r: b\r\n"), HeadError::BareCr),
        (with_line("GET /\r HTTP/1.1"), HeadError::BareCr),
        (fields("A: b\0c\r\n"), HeadError::Nul),
        (fields("A\0: c\r\n"), HeadError::Nul),
        (with_line("GET /\0 HTTP/1.1"), HeadError::Nul),
        (fields("A: b\x01c\r\n"), HeadError::FieldValue),
        (fields("A: b\x7fc\r\n"), HeadError::FieldValue),
        (fields("A: b\r\n c\r\n"), HeadError::Fold),
        (fields("A: b\r\n\tc: d\r\n"), HeadError::Fold),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_vec(), HeadError::Fold),
        (fields("A : b\r\n"), HeadError::SpaceBeforeColon),
        (fields("Transfer-Encoding\t: chunked\r\n"), HeadError::SpaceBeforeColon),
        (fields(": b\r\n"), HeadError::EmptyName),
        (fields("A B: c\r\n"), HeadError::FieldName),
        (fields("A(b): c\r\n"), HeadError::FieldName),
        (fields("Abc\r\n"), HeadError::FieldName),
        (fields("\u{e9}: b\r\n"), HeadError::FieldName),
        (with_line("GET /\u{e9} HTTP/1.1"), HeadError::Target),
        (with_line("GET /a b HTTP/1.1"), HeadError::RequestLine),
        (with_line("GET  / HTTP/1.1"), HeadError::RequestLine),
        (with_line(" GET / HTTP/1.1"), HeadError::RequestLine),
        (with_line("GET / HTTP/1.1 "), HeadError::RequestLine),
        (with_line("GET\t/ HTTP/1.1"), HeadError::RequestLine),
        (with_line("G(T / HTTP/1.1"), HeadError::RequestLine),
        (with_line("GET /"), HeadError::RequestLine),
        (with_line("GET / http/1.1"), HeadError::RequestLine),
        (with_line("GET / HTTP/1.10"), HeadError::RequestLine),
        (with_line("GET / HTTP/2.0"), HeadError::Version),
        (with_line("GET / HTTP/1.2"), HeadError::Version),
        (with_line("GET / HTTP/0.9"), HeadError::Version),
        (body("Content-Length: 5x\r\n"), HeadError::ContentLength),
        (body("Content-Length: +5\r\n"), HeadError::ContentLength),
        (body("Content-Length: -5\r\n"), HeadError::ContentLength),
        (body("Content-Length: 0x5\r\n"), HeadError::ContentLength),
        (body("Content-Length: 5 5\r\n"), HeadError::ContentLength),
        (body("Content-Length: 5, 5\r\n"), HeadError::ContentLength),
        (body("Content-Length:\r\n"), HeadError::ContentLength),
        (body("Content-Length: 18446744073709551616\r\n"), HeadError::ContentLength),
        (body("Content-Length: 5\r\nContent-Length: 6\r\n"), HeadError::SeveralLengths),
        (body("Content-Length: 5\r\ncontent-length: 5\r\n"), HeadError::SeveralLengths),
        (body("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), HeadError::LengthAndCoding),
        (body("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), HeadError::LengthAndCoding),
        (body("Transfer-Encoding: gzip, chunked\r\n"), HeadError::Coding),
        (body("Transfer-Encoding: chunked, gzip\r\n"), HeadError::Coding),
        (body("Transfer-Encoding: chunked, chunked\r\n"), HeadError::Coding),
        (body("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), HeadError::Coding),
        (body("Transfer-Encoding: xchunked\r\n"), HeadError::Coding),
        (body("Transfer-Encoding: identity\r\n"), HeadError::Coding),
        (body("Transfer-Encoding: ,chunked\r\n"), HeadError::Coding),
        (body("Transfer-Encoding: \"chunked\"\r\n"), HeadError::Coding),
        (body("Transfer-Encoding: chunked;a=b\r\n"), HeadError::Coding),
        (body("Transfer-Encoding:\r\n"), HeadError::Coding),
        (body("Transfer-Encoding: \x0bchunked\r\n"), HeadError::FieldValue),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), HeadError::CodingInHttp10),
        (fields("Host: b.test\r\n"), HeadError::SeveralHosts),
        (fields(HOST), HeadError::SeveralHosts),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), HeadError::NoHost),
        (b"GET http://a.test/ HTTP/1.1\r\n\r\n".to_vec(), HeadError::NoHost),
        (
            format!("CONNECT a:1 HTTP/1.1\r\n{HOST}Content-Length: 2\r\n\r\n").into_bytes(),
            HeadError::UnexpectedBody,
        ),
        (fields(&many), HeadError::TooManyFields),
        (fields(&format!("A: {}\r\n", "b".repeat(MAX_HEAD))), HeadError::TooLarge),
        (with_line(&format!("GET /{} HTTP/1.1", "b".repeat(MAX_HEAD))), HeadError::TooLarge),
    ]
}

#[test]
fn what_could_be_taken_for_another_request_is_refused() {
    for (bytes, error) in refused() {
        assert_eq!(request(&bytes), Err(error), "{}", bytes.escape_ascii());
        let (mut search, mut found) = (Search::default(), Ok(None));
        for end in 1..=bytes.len() {
            found = search.request(&bytes[..end]);
            if found != Ok(None) {
                break;
            }
        }
        assert_eq!(found, Err(error), "byte by byte: {}", bytes.escape_ascii());
        assert!((400..=505).contains(&error.status()));
    }
}

#[test]
fn what_is_no_request_line_is_refused_before_the_head_ends() {
    assert_eq!(request(b"hello\r\n"), Err(HeadError::RequestLine));
    assert_eq!(request(b"GET / HTTP/3.0\r\nHost: a"), Err(HeadError::Version));
    assert_eq!(request(b"GET / HTTP/1.1\r\nHost: a\r\nb: "), Ok(None));
    assert_eq!(request(b"GET / HTTP/1.1\r\nHost: \x01"), Ok(None), "what follows waits for the end");
    assert_eq!(response(b"220 mail.test\r\n", &Method::Get), Err(HeadError::StatusLine));
    assert_eq!(response(b"HTTP/1.1 200 OK\r\nA: b\r\n", &Method::Get), Ok(None));
}

#[test]
fn a_head_may_be_as_large_as_the_bound() {
    let empty = get("A: \r\n").len();
    let largest = get(&format!("A: {}\r\n", "b".repeat(MAX_HEAD - empty)));
    assert_eq!(request(&largest[..MAX_HEAD - 1]), Ok(None));
    assert_eq!(ok(&largest).length, MAX_HEAD);
    let fields = (1..MAX_FIELDS).map(|n| format!("a{n}: b\r\n")).collect::<Vec<_>>().concat();
    assert_eq!(ok(&get(&fields)).body, Framing::None);
}

#[test]
fn a_search_finds_one_head_after_another() {
    let (first, second) = (get("A: b\r\n"), with_line("PUT /2 HTTP/1.1"));
    let both = [first.clone(), second].concat();
    let mut search = Search::default();
    assert_eq!(search.request(&both[..10]), Ok(None));
    let head = search.request(&both).unwrap().unwrap();
    assert_eq!((head.method, head.length), (Method::Get, first.len()));
    assert_eq!(search.request(&both[first.len()..]).unwrap().unwrap().method, Method::Put);
}

#[test]
fn responses_say_how_they_are_framed() {
    let length = "Content-Length: 2\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (line, method, fields, body) in [
        ("HTTP/1.1 200 OK", Method::Get, length, Framing::Length(2)),
        ("HTTP/1.1 200 OK", Method::Get, chunked, Framing::Chunked),
        ("HTTP/1.0 200 OK", Method::Get, chunked, Framing::Chunked),
        ("HTTP/1.1 200 OK", Method::Get, "", Framing::UntilClose),
        ("HTTP/1.1 200", Method::Get, "Content-Length: 0\r\n", Framing::None),
        ("HTTP/1.1 200 OK", Method::Head, length, Framing::None),
        ("HTTP/1.1 200 OK", Method::Head, chunked, Framing::None),
        ("HTTP/1.1 200 OK", Method::Head, "", Framing::None),
        ("HTTP/1.1 304 Not Modified", Method::Get, length, Framing::None),
        ("HTTP/1.1 204 No Content", Method::Get, "Content-Length: 0\r\n", Framing::None),
        ("HTTP/1.1 100 Continue", Method::Get, "", Framing::None),
        ("HTTP/1.1 101 Switching Protocols", Method::Get, "Upgrade: a\r\n", Framing::Tunnel),
        ("HTTP/1.1 200 OK", Method::Connect, length, Framing::Tunnel),
        ("HTTP/1.1 407 No", Method::Connect, length, Framing::Length(2)),
    ] {
        let bytes = format!("{line}\r\n{fields}\r\n");
        let head = response(bytes.as_bytes(), &method).unwrap().unwrap();
        assert_eq!(head.body, body, "{bytes}");
        assert_eq!(head.length, bytes.len());
        let ends = !matches!(body, Framing::UntilClose | Framing::Tunnel);
        assert_eq!(head.persistent, ends && head.version == Version::Http11, "{bytes}");
    }
}

#[test]
fn responses_are_taken_as_leniently_as_envoy_does() {
    let folded = answer("HTTP/1.1  299 \u{e9}\nA: b\r\n c\r\nContent-Length: 2\n\n").unwrap();
    assert_eq!((folded.status, folded.body), (299, Framing::Length(2)));
    assert_eq!(answer("HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n").unwrap().status, 999);
    assert!(answer("HTTP/1.1 103 Early Hints\r\n\r\n").unwrap().interim());
    assert!(!answer("HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap().interim());
}

#[test]
fn what_could_be_taken_for_another_response_is_refused() {
    for (head, error) in [
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", HeadError::StatusLine),
        ("ICY 200 OK\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 20 OK\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 099 OK\r\n\r\n", HeadError::StatusLine),
        ("HTTP/1.1 200 a\x01b\r\n\r\n", HeadError::StatusLine),
        ("HTTP/2.0 200 OK\r\n\r\n", HeadError::Version),
        ("HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", HeadError::Nul),
        ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", HeadError::BareCr),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", HeadError::SpaceBeforeColon),
        ("HTTP/1.1 200 OK\r\n: b\r\n\r\n", HeadError::EmptyName),
        ("HTTP/1.1 200 OK\r\nAbc\r\n\r\n", HeadError::FieldName),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\n", HeadError::ContentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n", HeadError::SeveralLengths),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            HeadError::LengthAndCoding,
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", HeadError::Coding),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", HeadError::UnexpectedBody),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::UnexpectedBody),
        ("HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\n", HeadError::UnexpectedBody),
    ] {
        assert_eq!(answer(head), Err(error), "{head:?}");
    }
}

#[test]
fn fields_are_read_from_the_head() {
    let bytes =
        b"\r\nGET /a HTTP/1.1\r\nHost: a.test\r\nX-A:  one \r\nother: x\r\nx-a:two\r\n\r\nx-a: three\r\n\r\n";
    let head = ok(bytes);
    let fields = head.fields(bytes);
    assert_eq!(fields.get("x-a"), Some(&b"one"[..]));
    assert_eq!(fields.joined("x-a").as_deref(), Some(&b"one,two"[..]));
    assert_eq!(fields.get("x-b"), None);
    for (name, value) in [(":method", "GET"), (":path", "/a"), (":authority", "a.test"), (":scheme", "http")]
    {
        assert_eq!(fields.get(name), Some(value.as_bytes()), "{name}");
    }
    assert_eq!(fields.get(":status"), None);
}

#[test]
fn targets_of_all_forms_are_told_apart() {
    for (line, path, authority) in [
        ("GET http://b.test:80/x?y HTTP/1.1", Some("/x?y"), "b.test:80"),
        ("GET http://b.test HTTP/1.1", Some("/"), "b.test"),
        ("GET /to?u=http://b.test/ HTTP/1.1", Some("/to?u=http://b.test/"), "a.test"),
        ("OPTIONS * HTTP/1.1", Some("*"), "a.test"),
        ("CONNECT c.test:1 HTTP/1.1", None, "c.test:1"),
    ] {
        let bytes = with_line(line);
        let head = ok(&bytes);
        let fields = head.fields(&bytes);
        assert_eq!(fields.get(":path"), path.map(str::as_bytes), "{line}");
        assert_eq!(fields.get(":authority"), Some(authority.as_bytes()), "{line}");
    }
}

#[test]
fn fields_of_a_response_are_read_over_folds() {
    let bytes = b"HTTP/1.1 503 No\r\nA: b\r\n c: d\r\nE: f\n\nbody";
    let head = response(bytes, &Method::Get).unwrap().unwrap();
    let fields = head.fields(bytes);
    assert_eq!(fields.get(":status"), Some(&b"503"[..]));
    assert_eq!(fields.get("a"), Some(&b"b\r\n c: d"[..]));
    assert_eq!((fields.get("c"), fields.get("e")), (None, Some(&b"f"[..])));
}

#[test]
fn rewriting_changes_only_what_it_is_told_to() {
    let head = b"\r\nGET / HTTP/1.1\r\nhOsT:  a.test\r\nX-Drop: 1\r\nA:b\r\nx-drop: 2\r\n\r\n";
    assert_eq!(rewrite(head, &[], &[]), &head[..]);
    assert_eq!(
        rewrite(head, &["x-drop"], &[("x-new", "3"), ("x-newer", "4")]),
        &b"\r\nGET / HTTP/1.1\r\nhOsT:  a.test\r\nA:b\r\nx-new: 3\r\nx-newer: 4\r\n\r\n"[..]
    );
    assert_eq!(rewrite(b"HTTP/1.1 200 OK\n\n", &["a"], &[("b", "c")]), &b"HTTP/1.1 200 OK\nb: c\r\n\n"[..]);
    assert_eq!(
        rewrite(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nD: e\r\n\r\n", &["a"], &[]),
        &b"HTTP/1.1 200 OK\r\nD: e\r\n\r\n"[..]
    );
}

/// Bytes that are nearly heads.
fn nearly_head() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&'static [u8]> = vec![
        b"GET",
        b"HEAD",
        b" ",
        b"/",
        b"*",
        b"http://a",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"200",
        b"204",
        b"\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"\t",
        b":",
        b": ",
        b"Host",
        b"a",
        b"Content-Length",
        b"5",
        b"Transfer-Encoding",
        b"chunked",
        b",",
        b"Connection",
        b"close",
        b"\xff",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"HTTP/1.1 200 OK\r\n",
    ];
    prop_oneof![
        prop::collection::vec(prop::sample::select(pieces), 0..24).prop_map(|pieces| pieces.concat()),
        prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn good_head() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::collection::vec(("x-[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,12}", "[ -~\u{e9}\t]{0,20}"), 0..12);
    (0..3_usize, "[A-Z]{1,10}", "/[!-~]{0,30}", 0..=1, fields).prop_map(
        |(empty, method, target, minor, fields)| {
            let fields =
                fields.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect::<Vec<_>>().concat();
            format!("{}{method} {target} HTTP/1.{minor}\r\n{HOST}{fields}\r\n", "\r\n".repeat(empty))
                .into_bytes()
        },
    )
}

proptest! {
    #[test]
    fn nothing_panics(bytes in nearly_head(), method in prop::sample::select(vec!["GET", "HEAD", "CONNECT"])) {
        if let Ok(Some(head)) = request(&bytes) {
            prop_assert!(head.length <= bytes.len());
            prop_assert!(bytes.get(head.target.clone()).is_some());
            let fields = head.fields(&bytes);
            prop_assert_eq!(fields.get(":method"), Some(head.method.as_str().as_bytes()));
            prop_assert_eq!(rewrite(&bytes[..head.length], &[], &[]), &bytes[..head.length]);
        }
        if let Ok(Some(head)) = response(&bytes, &Method::from(method)) {
            prop_assert!(head.length <= bytes.len());
            let (fields, status) = (head.fields(&bytes), head.status.to_string());
            prop_assert_eq!(fields.get(":status"), Some(status.as_bytes()));
            prop_assert_eq!(rewrite(&bytes[..head.length], &[], &[]), &bytes[..head.length]);
        }
        prop_assert!(rewrite(&bytes, &[], &[("b", "c")]).len() >= bytes.len());
    }

    #[test]
    fn a_good_head_is_taken_when_it_is_whole(head in good_head(), rest in any::<Vec<u8>>()) {
        let mut search = Search::default();
        for end in 0..head.len() {
            prop_assert_eq!(search.request(&head[..end]), Ok(None));
            prop_assert_eq!(request(&head[..end]), Ok(None));
        }
        let all = [head.clone(), rest].concat();
        let found = search.request(&all).unwrap().unwrap();
        prop_assert_eq!(found.length, head.len());
        prop_assert_eq!(request(&all).unwrap(), Some(found));
    }

    #[test]
    fn splits_do_not_matter(bytes in nearly_head(), at in any::<prop::sample::Index>()) {
        let at = at.index(bytes.len() + 1);
        let mut search = Search::default();
        match search.request(&bytes[..at]) {
            // A fault may show in the first line before the end of the head does, and in no other order.
            Ok(None) => prop_assert_eq!(search.request(&bytes), request(&bytes)),
            Ok(head) => prop_assert_eq!(request(&bytes), Ok(head)),
            Err(_) => prop_assert!(request(&bytes).is_err()),
        }
    }

    #[test]
    fn what_we_take_the_parser_takes_with_the_same_length(bytes in nearly_head()) {
        let mut room = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let parsed = httparse::Request::new(&mut room).parse(&bytes);
        match request(&bytes) {
            Ok(Some(head)) => prop_assert_eq!(parsed, Ok(httparse::Status::Complete(head.length))),
            Ok(None) => prop_assert!(!matches!(parsed, Ok(httparse::Status::Complete(_)))),
            Err(_) => {}
        }
    }
}
