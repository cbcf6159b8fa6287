use proptest::prelude::*;

use super::*;

fn scan(framing: Framing, bytes: &[u8]) -> Result<Scanned, BodyError> {
    Body::new(framing).scan(bytes)
}

/// What is told of bytes that come in two parts, with the second after what was taken of the first.
fn scan_in_two(framing: Framing, bytes: &[u8], at: usize) -> Result<Scanned, BodyError> {
    let mut body = Body::new(framing);
    let first = body.scan(&bytes[..at])?;
    let second = body.scan(&bytes[first.taken..])?;
    Ok(Scanned {
        taken: first.taken + second.taken,
        ended: second.ended,
        payload: first.payload + second.payload,
    })
}

#[test]
fn bodies_without_chunks_are_counted() {
    for (framing, bytes, taken, ended) in [
        (Framing::None, "next", 0, true),
        (Framing::Length(0), "next", 0, true),
        (Framing::Length(5), "hel", 3, false),
        (Framing::Length(5), "hellonext", 5, true),
        (Framing::Length(u64::MAX), "hello", 5, false),
        (Framing::UntilClose, "hello", 5, false),
        (Framing::Tunnel, "hello", 5, false),
    ] {
        let scanned = Scanned { taken, ended, payload: taken };
        assert_eq!(scan(framing, bytes.as_bytes()), Ok(scanned), "{framing:?}");
    }
}

#[test]
fn chunks_are_counted() {
    for (bytes, payload) in [
        ("0\r\n\r\n", 0),
        ("000\r\n\r\n", 0),
        ("5\r\nhello\r\n0\r\n\r\n", 5),
        ("5;a=b;c=\"d\"\r\nhello\r\na ;e\r\n0123456789\r\n0;f\r\n\r\n", 15),
        ("A \r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", 10),
        ("0000000000000001\r\n1\r\n0\r\nA: b\r\ngrpc-status:0\r\n\r\n", 1),
    ] {
        let all = [bytes, "next"].concat();
        let scanned = Scanned { taken: bytes.len(), ended: true, payload };
        assert_eq!(scan(Framing::Chunked, all.as_bytes()), Ok(scanned), "{bytes:?}");
        let without_its_end = scan(Framing::Chunked, &bytes.as_bytes()[..bytes.len() - 1]).unwrap();
        assert_eq!((without_its_end.taken, without_its_end.ended), (bytes.len() - 1, false), "{bytes:?}");
    }
}

#[test]
fn chunks_that_could_be_taken_for_others_are_refused() {
    let long = format!("5;{}\r\nhello\r\n", "a".repeat(MAX_EXTENSION));
    let trailers = format!("0\r\nA: {}\r\n\r\n", "b".repeat(MAX_HEAD));
    for (bytes, error) in [
        ("\r\n", BodyError::ChunkSize),
        (" 5\r\nhello\r\n", BodyError::ChunkSize),
        ("+5\r\nhello\r\n", BodyError::ChunkSize),
        ("-5\r\nhello\r\n", BodyError::ChunkSize),
        ("0x5\r\nhello\r\n", BodyError::ChunkSize),
        ("5_0\r\nhello\r\n", BodyError::ChunkSize),
        (";a\r\n", BodyError::ChunkSize),
        ("00000000000000005\r\nhello\r\n", BodyError::ChunkSize),
        ("10000000000000000\r\nhello\r\n", BodyError::ChunkSize),
        ("5\nhello\r\n", BodyError::LineEnd),
        ("5\rhello\r\n", BodyError::LineEnd),
        ("5;a\nhello\r\n", BodyError::LineEnd),
        ("5;a\rb\r\nhello\r\n", BodyError::LineEnd),
        ("5;a\0b\r\nhello\r\n", BodyError::ChunkExtension),
        (&long, BodyError::ChunkExtension),
        ("5\r\nhello\n0\r\n\r\n", BodyError::LineEnd),
        ("5\r\nhello\r0\r\n\r\n", BodyError::LineEnd),
        ("5\r\nhellox\r\n", BodyError::ChunkEnd),
        ("5\r\nhello0\r\n\r\n", BodyError::ChunkEnd),
        ("0\r\n\n", BodyError::Trailers),
        ("0\n\n", BodyError::LineEnd),
        ("0\r\n\rx", BodyError::LineEnd),
        ("0\r\nA b: c\r\n\r\n", BodyError::Trailers),
        ("0\r\nA\r\n\r\n", BodyError::Trailers),
        ("0\r\n: a\r\n\r\n", BodyError::Trailers),
        ("0\r\nA: b\r\n c\r\n\r\n", BodyError::Trailers),
        ("0\r\nA: b\n\r\n", BodyError::LineEnd),
        ("0\r\nA: b\rc\r\n\r\n", BodyError::LineEnd),
        ("0\r\nA: \0\r\n\r\n", BodyError::Trailers),
        (&trailers, BodyError::TrailersTooLarge),
    ] {
        assert_eq!(scan(Framing::Chunked, bytes.as_bytes()), Err(error), "{}", &bytes[..bytes.len().min(40)]);
    }
}

#[test]
fn an_end_of_the_connection_may_be_the_end_of_the_message() {
    assert!(Body::new(Framing::None).whole_at_close());
    assert!(Body::new(Framing::UntilClose).whole_at_close());
    assert!(!Body::new(Framing::Length(1)).whole_at_close());
    assert!(!Body::new(Framing::Chunked).whole_at_close());
}

fn nearly_chunks() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&'static [u8]> = vec![
        b"0",
        b"1",
        b"5",
        b"a",
        b"F",
        b"ffffffffffffffff",
        b"\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b";",
        b"a=b",
        b" ",
        b"1\r\nx\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n",
        b"A: b\r\n",
        b"\0",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn splits_do_not_matter(bytes in nearly_chunks(), at in any::<prop::sample::Index>()) {
        let at = at.index(bytes.len() + 1);
        prop_assert_eq!(scan_in_two(Framing::Chunked, &bytes, at), scan(Framing::Chunked, &bytes));
    }

    #[test]
    fn nothing_panics(bytes in any::<Vec<u8>>(), length in any::<u64>()) {
        for framing in [Framing::Chunked, Framing::Length(length), Framing::UntilClose] {
            if let Ok(scanned) = scan(framing, &bytes) {
                prop_assert!(scanned.taken <= bytes.len());
                prop_assert!(scanned.payload <= scanned.taken);
                prop_assert!(scanned.ended || scanned.taken == bytes.len());
            }
        }
    }

    #[test]
    fn content_comes_out_as_it_was_chunked(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8)) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        let payload = chunks.iter().map(Vec::len).sum();
        let scanned = Scanned { taken: bytes.len(), ended: true, payload };
        for at in 0..=bytes.len() {
            prop_assert_eq!(scan_in_two(Framing::Chunked, &bytes, at), Ok(scanned));
        }
    }
}
