use proptest::prelude::*;

use super::*;

/// A ClientHello in records of `size` bytes.
pub(crate) fn client_hello(sni: Option<&str>, alpn: &[&str], size: usize) -> Vec<u8> {
    fn behind_length(width: usize, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[4 - width..], content].concat()
    }
    let mut extensions = vec![0, 23, 0, 0];
    if let Some(name) = sni {
        let names = behind_length(2, &[&[0], &behind_length(2, name.as_bytes())[..]].concat());
        extensions.extend([&[0, 0], &behind_length(2, &names)[..]].concat());
    }
    if !alpn.is_empty() {
        let list: Vec<u8> = alpn.iter().flat_map(|protocol| behind_length(1, protocol.as_bytes())).collect();
        extensions.extend([&[0, 16], &behind_length(2, &behind_length(2, &list))[..]].concat());
    }
    let body =
        [&[3, 3][..], &[7; 32], &[0], &[0, 2, 19, 1], &[1, 0], &behind_length(2, &extensions)].concat();
    let message = [&[1], &behind_length(3, &body)[..]].concat();
    message.chunks(size).flat_map(|record| [&[0x16, 3, 1], &behind_length(2, record)[..]].concat()).collect()
}

fn said(sni: Option<&str>, alpn: &[&str]) -> Detected {
    Detected::Tls(ClientHello {
        sni: sni.map(Into::into),
        alpn: alpn.iter().map(|protocol| protocol.as_bytes().into()).collect(),
    })
}

#[test]
fn first_bytes_tell_the_protocol() {
    let most = [b"GET /", &[b'a'; MAX_REQUEST_LINE][..]].concat();
    for (bytes, detected) in [
        (&b""[..], Detected::NeedMore),
        (b"GET / HTTP/1.1\r\n", Detected::Http1),
        (b"GET / HTTP/1.1", Detected::Http1),
        (b"GET / HTTP/1.", Detected::NeedMore),
        (b"\r\nPROPFIND /a?b=%20 HTTP/1.0", Detected::Http1),
        (b"\r", Detected::NeedMore),
        (b"\r\n", Detected::NeedMore),
        (b"\r\n\r\n", Detected::Unknown),
        (b"CONNECT a:1 HTTP/1.1", Detected::Http1),
        (b"VERSION-CONTROL", Detected::NeedMore),
        (b"PR", Detected::NeedMore),
        (b"PROP", Detected::NeedMore),
        (b"GETX", Detected::Unknown),
        (b"get / HTTP/1.1", Detected::Unknown),
        (b"FROB / HTTP/1.1", Detected::Unknown),
        (b"GET  / HTTP/1.1", Detected::Unknown),
        (b"GET / HTTP/2.0", Detected::Unknown),
        (b"GET / FTP", Detected::Unknown),
        (b"GET /\r\n", Detected::Unknown),
        (b"GET key\r\n", Detected::Unknown),
        (b"*3\r\n$3\r\nSET\r\n", Detected::Unknown),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Detected::Unknown),
        (&most[..MAX_REQUEST_LINE - 1], Detected::NeedMore),
        (&most[..MAX_REQUEST_LINE], Detected::Unknown),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Detected::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nSM", Detected::NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nXX", Detected::Unknown),
        (b"\x16", Detected::NeedMore),
        (b"\x16\x03", Detected::NeedMore),
        (b"\x16\x05\x01", Detected::Unknown),
        (b"\x15\x03\x01\x00\x02", Detected::Unknown),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Detected::Unknown),
    ] {
        assert_eq!(detect(bytes), detected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn hellos_say_where_they_go() {
    for size in [1, 7, 16 * 1024] {
        assert_eq!(
            detect(&client_hello(Some("A.test"), &["h2", "http/1.1"], size)),
            said(Some("a.test"), &["h2", "http/1.1"])
        );
        assert_eq!(detect(&client_hello(None, &[], size)), said(None, &[]));
    }
    assert_eq!(detect(&client_hello(Some("a b"), &["h2"], 99)), said(None, &["h2"]));
    assert_eq!(detect(&client_hello(Some(""), &["h2"], 99)), said(None, &["h2"]));
}

#[test]
fn broken_hellos_are_tls_that_says_nothing() {
    let nothing = said(None, &[]);
    let hello = client_hello(Some("a.test"), &[], 16 * 1024);
    let mut server_hello = hello.clone();
    server_hello[5] = 2;
    assert_eq!(detect(&server_hello), nothing);
    let mut short_extensions = hello.clone();
    let sni = hello.windows(6).position(|at| at == b"a.test").unwrap();
    short_extensions[sni - 7] = 0xff;
    assert_eq!(detect(&short_extensions), nothing);
    assert_eq!(detect(b"\x16\x03\x01\x00\x04\x01\x00\xff\xff"), nothing, "a hello that is too long");
    assert_eq!(detect(b"\x16\x03\x01\x00\x02\x01\x00\x17"), nothing, "another record in the middle");
    assert_eq!(detect(b"\x16\x03\x01\x00\x00"), nothing, "an empty record");
}

#[test]
fn an_http2_server_is_told_from_others_that_speak_first() {
    assert!(begins_as_http2(&[0, 0, 0, 4, 0, 0, 0, 0, 0]));
    assert!(begins_as_http2(&[0, 0, 18, 4, 0, 0, 0, 0, 0]));
    assert!(!begins_as_http2(&[0, 0, 18, 4, 1, 0, 0, 0, 0]), "an acknowledgement");
    assert!(!begins_as_http2(&[0, 0, 18, 4, 0, 0, 0, 0, 1]), "of a stream");
    assert!(!begins_as_http2(&[0, 0, 7, 4, 0, 0, 0, 0, 0]), "of no whole settings");
    assert!(!begins_as_http2(b"SSH-2.0-O"));
    assert!(!begins_as_http2(b""));
}

fn nearly_known() -> impl Strategy<Value = Vec<u8>> {
    let hello = client_hello(Some("a.test"), &["h2"], 40);
    let line = b"OPTIONS * HTTP/1.1\r\n".to_vec();
    let whole = prop::sample::select(vec![hello, line, PREFACE.to_vec()]);
    prop_oneof![
        any::<Vec<u8>>(),
        (whole, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
    ]
}

proptest! {
    #[test]
    fn what_was_told_stays_true_when_more_comes(bytes in nearly_known(), more in any::<Vec<u8>>()) {
        let all = [bytes.clone(), more].concat();
        for end in 0..=bytes.len() {
            let detected = detect(&bytes[..end]);
            if detected != Detected::NeedMore {
                prop_assert_eq!(detect(&all), detected);
                break;
            }
        }
    }

    #[test]
    fn a_whole_beginning_is_told_at_its_end_and_not_before(name in "[a-z]{1,20}\\.test", size in 1..300_usize) {
        let hello = client_hello(Some(&name), &["h2"], size);
        for end in 0..hello.len() {
            prop_assert_eq!(detect(&hello[..end]), Detected::NeedMore);
        }
        prop_assert_eq!(detect(&hello), said(Some(&name), &["h2"]));
    }
}
