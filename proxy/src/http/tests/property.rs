//! Random upstreams, bodies and splits: whatever happens, the client gets one response or an end, nothing that must not be
//! repeated is, and every attempt is the client's own bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::rig::{Dial, Ended, Peer, Setup, ms, paused, policy};
use super::stream::Size;
use crate::http::h1::body::Body;
use crate::http::h1::head;
use crate::policy::HttpPolicy;
use crate::reason::AttemptOutcome;
use crate::retry::request::Methods;

/// What one attempt meets.
#[derive(Clone, Debug)]
enum Step {
    Refused,
    Gone,
    /// Closes with the request unread, and that can be proven.
    Untaken,
    /// Reads so much, and ends.
    Ends {
        after: usize,
        is_reset: bool,
    },
    /// Reads so much, answers, and reads on.
    Answers {
        after: usize,
        answer: Answer,
    },
    /// Answers in part, and ends.
    BreaksOff {
        answer: Answer,
        said: usize,
        is_reset: bool,
    },
    Silent,
}

#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    body: String,
    framing: Framing,
    piece: usize,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
}

#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    body: Vec<u8>,
    /// Of chunks; none where the length is told.
    chunks: Option<Vec<usize>>,
}

/// What an upstream saw of one attempt.
#[derive(Debug)]
struct Seen {
    bytes: Vec<u8>,
    /// It may have executed the request.
    is_taken: bool,
}

impl Asked {
    fn bytes(&self) -> Vec<u8> {
        let head = format!("{} /x HTTP/1.1\r\nHost: a\r\n", self.method);
        let Some(sizes) = &self.chunks else {
            let head = format!("{head}Content-Length: {}\r\n\r\n", self.body.len());
            return [head.as_bytes(), &self.body].concat();
        };
        let mut bytes = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        let (mut rest, mut sizes) = (&*self.body, sizes.iter().cycle());
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            bytes.extend(format!("{:x};n=v\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
            rest = after;
        }
        bytes.extend(b"0\r\nX-Sum: 1\r\n\r\n");
        bytes
    }
}

impl Answer {
    fn bytes(&self) -> Vec<u8> {
        let Self { status, body, framing, .. } = self;
        let head = format!("HTTP/1.1 {status} Said\r\n");
        match framing {
            Framing::Length => format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
            Framing::Chunked if body.is_empty() => {
                format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            }
            Framing::Chunked => {
                format!(
                    "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nT: t\r\n\r\n",
                    body.len()
                )
            }
            Framing::UntilClose => format!("{head}\r\n{body}"),
        }
        .into_bytes()
    }
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let framing = prop_oneof![Just(Framing::Length), Just(Framing::Chunked), Just(Framing::UntilClose)];
    let status = prop_oneof![Just(200), Just(404), Just(500), Just(503)];
    (status, "[a-z]{0,40}", framing, 1usize..60).prop_map(|(status, body, framing, piece)| Answer {
        status,
        body,
        framing,
        piece,
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Refused),
        Just(Step::Gone),
        Just(Step::Untaken),
        Just(Step::Silent),
        (0usize..6_000, any::<bool>()).prop_map(|(after, is_reset)| Step::Ends { after, is_reset }),
        (1usize..6_000, any_answer()).prop_map(|(after, answer)| Step::Answers { after, answer }),
        (any_answer(), 0usize..60, any::<bool>()).prop_map(|(answer, said, is_reset)| Step::BreaksOff {
            answer,
            said,
            is_reset
        }),
    ]
}

fn any_asked() -> impl Strategy<Value = Asked> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("PUT")];
    let chunks = proptest::option::of(vec(1usize..900, 1..5));
    (method, vec(any::<u8>(), 0..5_000), chunks).prop_map(|(method, body, chunks)| Asked {
        method,
        body,
        chunks,
    })
}

/// Plays one connection, which may see several attempts after answers that were not taken.
async fn plays(peer: Option<Peer>, step: Step, length: usize, seen: &mut Vec<Seen>) -> Option<Peer> {
    let mut peer = peer?;
    let mut bytes = Vec::new();
    match step {
        Step::Refused | Step::Gone => unreachable!("there is a connection"),
        Step::Untaken => {
            peer.stream.readable().await;
            peer.stream.close_untaken();
            tokio::time::sleep(ms(1)).await;
            return None;
        }
        Step::Ends { after, is_reset } => {
            bytes = peer.reads(after.min(length)).await;
            if is_reset {
                peer.stream.reset();
            }
            // The engine cannot prove that nothing was read of what it wrote.
            seen.push(Seen { bytes, is_taken: true });
            return None;
        }
        Step::Silent => {
            bytes.extend(peer.reads(length).await);
            let (rest, _) = peer.rest().await;
            assert_eq!(rest, "", "nothing follows the request");
            seen.push(Seen { bytes, is_taken: true });
            return None;
        }
        Step::Answers { after, answer } => {
            bytes.extend(peer.reads(after.min(length)).await);
            for piece in answer.bytes().chunks(answer.piece) {
                if peer.tries_to_say(piece).await.is_err() {
                    break;
                }
            }
            if matches!(answer.framing, Framing::UntilClose) {
                peer.stream.finish();
            }
            bytes.extend(peer.reads(length - bytes.len()).await);
            let is_whole = bytes.len() == length;
            seen.push(Seen { bytes, is_taken: true });
            return is_whole.then_some(peer);
        }
        Step::BreaksOff { answer, said, is_reset } => {
            bytes.extend(peer.reads(length).await);
            let whole = answer.bytes();
            let said = said.min(whole.len().saturating_sub(1));
            let _ = peer.tries_to_say(&whole[..said]).await;
            tokio::time::sleep(ms(1)).await;
            if is_reset {
                peer.stream.reset();
            }
            seen.push(Seen { bytes, is_taken: true });
        }
    }
    None
}

/// What the upstreams saw, in order.
async fn upstreams(mut dials: super::rig::Dials, steps: Vec<Step>, length: usize) -> Vec<Seen> {
    let (mut seen, mut kept) = (Vec::new(), None::<Peer>);
    let mut steps = steps.into_iter();
    loop {
        // Either the connection that is there is used again, or another is made.
        let next = match &mut kept {
            Some(peer) => tokio::select! {
                () = peer.stream.readable() => None,
                dial = dials.next_or_end() => Some(dial),
            },
            None => Some(dials.next_or_end().await),
        };
        if let Some(peer) = kept.take_if(|_| next.is_none()) {
            // Another request, or the end.
            match steps.next().unwrap_or(Step::Silent) {
                Step::Refused | Step::Gone => {}
                step => kept = plays(Some(peer), step, length, &mut seen).await,
            }
            seen.retain(|seen| !seen.bytes.is_empty());
            continue;
        }
        let Some(Some(dial)) = next else { return seen };
        kept = match steps.next().unwrap_or(Step::Silent) {
            Step::Refused => {
                fails(dial);
                None
            }
            Step::Gone => {
                dial.accept_gone();
                None
            }
            step => plays(Some(dial.accept()), step, length, &mut seen).await,
        };
    }
}

fn fails(dial: Dial) {
    dial.fail(AttemptOutcome::Refused);
}

/// One response, whole or broken off.
fn check_response(bytes: &[u8], end: Option<Ended>) -> Result<(), TestCaseError> {
    if bytes.is_empty() {
        prop_assert!(end.is_some(), "neither a response nor an end");
        return Ok(());
    }
    let head = head::response(bytes, &head::Method::Post).unwrap();
    let Some(head) = head else {
        prop_assert!(end.is_some(), "a part of a head");
        return Ok(());
    };
    let mut body = Body::new(head.body);
    let scanned = body.scan(&bytes[head.length..]).unwrap();
    prop_assert_eq!(head.length + scanned.taken, bytes.len(), "two responses");
    prop_assert!(body.ended() || end.is_some(), "a part of a response");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_there_is_one_answer_and_no_wrong_repetition(
        asked in any_asked(),
        steps in vec(any_step(), 1..=6),
        any_method: bool,
        stride in prop_oneof![1usize..40, Just(usize::MAX)],
        room in 64usize..3_000,
        bound in prop_oneof![0usize..6_000, Just(1 << 20)],
    ) {
        let methods = if any_method { Methods::Any } else { Methods::Idempotent };
        let policy = HttpPolicy {
            max_buffered_body: bound,
            ..policy(|policy| {
                policy.retry.methods = methods;
                policy.retry.num_retries = 5;
                policy.retry.per_try_timeout = Some(ms(500));
            })
        };
        let is_repeatable = any_method || asked.method != "POST";
        let request = asked.bytes();
        let mut result = Ok(());
        paused(async {
            let size = Size { room, stride };
            let mut rig = Setup { size, ..Setup::new(policy) }.start();
            let played = spawn_local(upstreams(rig.dials, steps, request.len()));
            rig.client.writes_or_fails(request.clone());
            let (got, end) = match timeout(ms(60_000), rig.client.rest_bytes()).await {
                Ok((got, end)) => (got, Some(end)),
                Err(_) => (rig.client.heard(), None),
            };
            result = check_response(&got, end);
            drop(rig.client);
            let seen = played.await.unwrap();
            assert_eq!(rig.buffers.used(), 0);
            for one in &seen {
                assert!(request.starts_with(&one.bytes), "an attempt of other bytes");
            }
            let taken = seen.iter().filter(|one| one.is_taken).count();
            assert!(seen.len() <= 6 && (is_repeatable || taken <= 1), "{seen:?}");
        });
        result?;
    }
}
