//! What one side of an established connection does, step by step. Clients and servers play the same scripts.
//!
//! Bulk data is the [`pattern`](crate::pattern) from its beginning, which is checked byte by byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::pattern::{rest_of_pattern, up_to};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Sends this text.
    Send(String),
    /// Sends this text with its last byte marked as urgent.
    SendUrgent(String),
    /// Receives exactly so many bytes of text.
    Receive(usize),
    /// Receives text up to and with this ending, byte by byte.
    ReceiveUntil(String),
    /// Receives text to the end of the stream.
    ReceiveAll,
    /// Sends back whatever comes, to the end of the stream.
    Echo,
    /// Sends so many bytes of the pattern.
    Push(u64),
    /// Receives so many bytes and checks that they are the pattern.
    Pull(u64),
    /// Receives to the end of the stream and checks that it is the pattern.
    PullAll,
    /// Push and pull at once.
    Exchange(u64),
    /// Sends the pattern until the kernel has taken nothing for half a second, and says how much it took.
    PushUntilStuck,
    /// Says that there will be no more data.
    Shutdown,
    /// Closes with RST.
    Reset,
    /// From now on a receive gives up after so many milliseconds.
    ReceiveTimeout(u64),
    Sleep(u64),
    /// Waits until the test says to go on.
    Pause,
}

/// What came of one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Played {
    Done,
    Text(String),
    Bytes(u64),
    /// The step failed with this errno, and the script ended.
    Failed(String),
}

/// Plays a script; `pause` returns when the test says to go on. Stops at the first step that fails.
pub fn play(stream: TcpStream, script: &[Step], mut pause: impl FnMut()) -> Vec<Played> {
    let mut played = Vec::new();
    for step in script {
        match play_step(&stream, step, &mut pause) {
            Ok(outcome) => played.push(outcome),
            Err(error) => {
                played.push(Played::Failed(errno_name(&error)));
                break;
            }
        }
        if *step == Step::Reset {
            break;
        }
    }
    drop(stream);
    played
}

fn play_step(mut stream: &TcpStream, step: &Step, pause: &mut impl FnMut()) -> io::Result<Played> {
    match step {
        Step::Send(text) => stream.write_all(text.as_bytes()).map(|()| Played::Done),
        Step::SendUrgent(text) => {
            let sent = SockRef::from(stream).send_out_of_band(text.as_bytes())?;
            if sent == text.len() { Ok(Played::Done) } else { Err(ErrorKind::WriteZero.into()) }
        }
        Step::Receive(length) => {
            let mut text = vec![0; *length];
            stream.read_exact(&mut text)?;
            Ok(Played::Text(String::from_utf8_lossy(&text).into_owned()))
        }
        Step::ReceiveUntil(ending) => {
            let mut text = Vec::new();
            while !text.ends_with(ending.as_bytes()) {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                text.extend(byte);
            }
            Ok(Played::Text(String::from_utf8_lossy(&text).into_owned()))
        }
        Step::ReceiveAll => {
            let mut text = Vec::new();
            stream.read_to_end(&mut text)?;
            Ok(Played::Text(String::from_utf8_lossy(&text).into_owned()))
        }
        Step::Echo => {
            let mut buffer = vec![0; 64 * 1024];
            let mut total = 0;
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(Played::Bytes(total)),
                    length => {
                        stream.write_all(&buffer[..length])?;
                        total += u64::try_from(length).unwrap_or(u64::MAX);
                    }
                }
            }
        }
        Step::Push(length) => push(stream, *length).map(|()| Played::Bytes(*length)),
        Step::Pull(length) => {
            let received = pull(stream, *length)?;
            if received == *length {
                Ok(Played::Bytes(received))
            } else {
                Err(ErrorKind::UnexpectedEof.into())
            }
        }
        Step::PullAll => pull(stream, u64::MAX).map(Played::Bytes),
        Step::Exchange(length) => thread::scope(|scope| {
            let pushing = scope.spawn(|| push(stream, *length));
            // Without this a failure here would leave the sender waiting for a peer that waits for it.
            let received = pull(stream, *length).inspect_err(|_| drop(stream.shutdown(Shutdown::Both)))?;
            pushing.join().unwrap_or_else(|_| Err(io::Error::other("the sending thread panicked")))?;
            Ok(Played::Bytes(received))
        }),
        Step::PushUntilStuck => {
            stream.set_write_timeout(Some(Duration::from_millis(500)))?;
            let mut total = 0;
            loop {
                match stream.write(rest_of_pattern(total)) {
                    Ok(length) => total += u64::try_from(length).unwrap_or(u64::MAX),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return Ok(Played::Bytes(total));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Step::Shutdown => stream.shutdown(Shutdown::Write).map(|()| Played::Done),
        // The close itself happens when the script ends, which it does here.
        Step::Reset => SockRef::from(stream).set_linger(Some(Duration::ZERO)).map(|()| Played::Done),
        Step::ReceiveTimeout(milliseconds) => {
            stream.set_read_timeout(Some(Duration::from_millis(*milliseconds))).map(|()| Played::Done)
        }
        Step::Sleep(milliseconds) => {
            thread::sleep(Duration::from_millis(*milliseconds));
            Ok(Played::Done)
        }
        Step::Pause => {
            pause();
            Ok(Played::Done)
        }
    }
}

fn push(mut stream: &TcpStream, length: u64) -> io::Result<()> {
    let mut sent = 0;
    while sent < length {
        let chunk = up_to(rest_of_pattern(sent), length - sent);
        stream.write_all(chunk)?;
        sent += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
    }
    Ok(())
}

/// Receives at most so many bytes, fewer if the stream ends.
fn pull(mut stream: &TcpStream, length: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 256 * 1024];
    let mut received = 0;
    while received < length {
        let room = buffer.len();
        let expected = up_to(rest_of_pattern(received), length - received);
        let part = &mut buffer[..room.min(expected.len())];
        let read = stream.read(part)?;
        if read == 0 {
            break;
        }
        if part[..read] != expected[..read] {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("wrong data near {received}")));
        }
        received += u64::try_from(read).unwrap_or(u64::MAX);
    }
    Ok(received)
}

/// `ECONNREFUSED` and the like; for an error without errno, its kind.
#[must_use]
pub fn errno_name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || format!("{:?}: {error}", error.kind()),
        |number| format!("{:?}", nix::errno::Errno::from_raw(number)),
    )
}
