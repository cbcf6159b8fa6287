//! An upstream that writes its frames by hand.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::rig::{Rig, get, policy, post, run, settle, status};
use crate::retry::request::Condition;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// `:status: 200`, by HPACK's static table.
const OK: &[u8] = &[0x88];

struct Raw(DuplexStream);

#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Raw {
    async fn accept(rig: &mut Rig) -> Self {
        let mut stream = rig.dialled.recv().await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut raw = Self(stream);
        raw.write(SETTINGS, 0, 0, &[]).await;
        raw.write(SETTINGS, ACK, 0, &[]).await;
        raw
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    async fn go_away(&mut self, last: u32) {
        self.write(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat()).await;
    }

    /// The next frame of this kind.
    async fn read(&mut self, kind: u8) -> Frame {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.unwrap();
            let [a, b, c, this, _, stream @ ..] = head;
            let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
            self.0.read_exact(&mut payload).await.unwrap();
            if this == kind {
                return Frame { kind, stream: u32::from_be_bytes(stream), payload };
            }
        }
    }
}

#[test]
fn a_stream_that_goaway_leaves_out_was_not_taken() {
    run(async {
        let mut rig = Rig::new(policy(&[Condition::RefusedStream])).await;
        let (response, _) = rig.send(post("/"), true);
        let mut raw = Raw::accept(&mut rig).await;
        assert_eq!(raw.read(HEADERS).await.stream, 1);
        raw.go_away(0).await;
        let mut upstream = rig.upstream().await;
        upstream.next().await.1.send_response(status(200), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert!(rig.ended().contains("refused-stream"));
    });
}

#[test]
fn a_stream_that_goaway_covers_goes_on() {
    run(async {
        let mut rig = Rig::new(policy(&[Condition::RefusedStream])).await;
        let (covered, _) = rig.send(post("/1"), true);
        let mut raw = Raw::accept(&mut rig).await;
        assert_eq!(raw.read(HEADERS).await.stream, 1);
        let (left_out, _) = rig.send(post("/2"), true);
        assert_eq!(raw.read(HEADERS).await.stream, 3);
        raw.go_away(1).await;
        let mut upstream = rig.upstream().await;
        let (request, mut respond) = upstream.next().await;
        assert_eq!(request.uri().path(), "/2");
        respond.send_response(status(202), true).unwrap();
        assert_eq!(left_out.await.unwrap().status(), 202);
        raw.write(HEADERS, END_HEADERS | END_STREAM, 1, OK).await;
        assert_eq!(covered.await.unwrap().status(), 200);
    });
}

#[test]
fn a_stream_that_goaway_covers_and_the_end_of_the_connection_cuts_off_may_be_taken() {
    run(async {
        let mut rig = Rig::new(policy(&[Condition::RefusedStream, Condition::Reset])).await;
        let (response, _) = rig.send(post("/"), true);
        let mut raw = Raw::accept(&mut rig).await;
        raw.read(HEADERS).await;
        raw.go_away(1).await;
        drop(raw);
        assert_eq!(response.await.unwrap().status(), 503);
        assert!(rig.dialled.try_recv().is_err());
    });
}

#[test]
fn what_is_no_http_is_answered_with_502_or_retried() {
    run(async {
        for conditions in [&[][..], &[Condition::Reset]] {
            let mut rig = Rig::new(policy(conditions)).await;
            let (response, _) = rig.send(get("/"), true);
            let mut raw = Raw::accept(&mut rig).await;
            raw.read(HEADERS).await;
            // A head in which there is no status.
            raw.write(HEADERS, END_HEADERS, 1, &[]).await;
            assert_eq!(raw.read(RST_STREAM).await.payload, [0, 0, 0, 1]);
            if conditions.is_empty() {
                assert_eq!(response.await.unwrap().status(), 502);
            } else {
                assert_eq!(raw.read(HEADERS).await.stream, 3);
                raw.write(HEADERS, END_HEADERS | END_STREAM, 3, OK).await;
                assert_eq!(response.await.unwrap().status(), 200);
            }
        }
    });
}

#[test]
fn a_connection_that_breaks_the_rules_is_answered_with_502() {
    run(async {
        let mut rig = Rig::new(policy(&[])).await;
        let (response, _) = rig.send(get("/"), true);
        let mut raw = Raw::accept(&mut rig).await;
        raw.read(HEADERS).await;
        raw.write(DATA, 0, 5, b"of a stream that there is not").await;
        assert_eq!(response.await.unwrap().status(), 502);
    });
}

#[test]
fn a_message_without_a_body_is_one_frame() {
    run(async {
        let mut rig = Rig::new(policy(&[])).await;
        let (response, _) = rig.send(get("/"), true);
        let mut raw = Raw::accept(&mut rig).await;
        let frame = raw.read(HEADERS).await;
        assert_eq!((frame.kind, frame.stream), (HEADERS, 1));
        raw.write(HEADERS, END_HEADERS | END_STREAM, 1, OK).await;
        assert!(response.await.unwrap().body().is_end_stream());
        settle().await;
        assert!(rig.dialled.try_recv().is_err());
    });
}
