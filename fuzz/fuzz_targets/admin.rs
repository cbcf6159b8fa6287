//! Whatever is written to the admin socket: each line is answered by one line, and only a command reaches the agent.
#![no_main]
#![expect(clippy::expect_used, reason = "a panic is how a fuzz target tells")]

use std::cell::Cell;
use std::future::ready;

use libfuzzer_sys::fuzz_target;
use redial::observe::admin::{Answer, Command, answer_requests};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};

fuzz_target!(|bytes: &[u8]| {
    let asked = Cell::new(0);
    let handler = |command: Command| {
        asked.set(asked.get() + 1);
        ready(Answer::Draining(command == Command::TakeOver))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let answers = runtime.expect("a runtime").block_on(async {
        let (near, mut far) = duplex(256);
        let (reader, writer) = split(near);
        let client = async {
            let (mut hears, mut says) = split(&mut far);
            let says = async {
                says.write_all(bytes).await?;
                says.shutdown().await
            };
            let mut answers = Vec::new();
            let (said, heard) = tokio::join!(says, hears.read_to_end(&mut answers));
            said.and(heard).map(|_| answers)
        };
        let served = async { answer_requests(reader, writer, handler).await };
        let (served, answers) = tokio::join!(served, client);
        served.expect("nobody is slow");
        answers.expect("all is heard")
    });
    let lines = || bytes.split_inclusive(|byte| *byte == b'\n');
    let answers: Vec<Answer> = answers
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).expect("an answer"))
        .collect();
    assert_eq!(answers.len(), lines().count());
    let mut commands = 0;
    for (line, answer) in lines().zip(&answers) {
        match serde_json::from_slice::<Command>(line) {
            Ok(command) => {
                commands += 1;
                assert_eq!(answer, &Answer::Draining(command == Command::TakeOver));
            }
            Err(_) => assert!(matches!(answer, Answer::Error(_)), "{answer:?}"),
        }
    }
    assert_eq!(asked.get(), commands);
});
