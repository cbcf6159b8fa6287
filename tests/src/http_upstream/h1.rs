//! The scripted server's HTTP/1 connections.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};

use super::{Entry, HANG, Log, Respond, Step, abort};
use crate::exchange::Body;
use crate::http1::{Content, Ended, Framing, Reader, chunk, fields, last_chunk};

/// What is left of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It can serve another request.
    Usable,
    Gone,
}

struct Connection {
    reader: Reader<OwnedReadHalf>,
    /// None once it has been aborted: to drop this half says FIN first.
    writing: Option<OwnedWriteHalf>,
}

impl Connection {
    fn writing(&mut self) -> std::io::Result<&mut OwnedWriteHalf> {
        self.writing.as_mut().ok_or_else(|| std::io::ErrorKind::BrokenPipe.into())
    }
}

/// One request under way.
struct Serving<'a> {
    connection: &'a mut Connection,
    entry: Entry,
    method: String,
    /// What of the request has not been read.
    unread: Framing,
    chunks: bool,
}

pub(super) async fn serve(stream: TcpStream, log: &Log) {
    let (reading, writing) = stream.into_split();
    let mut connection = Connection { reader: Reader::new(reading), writing: Some(writing) };
    while let Ok(head) = connection.reader.head().await {
        let (method, path) = (head.word(0).to_owned(), head.word(1).to_owned());
        let (entry, steps) = log.begin(&method, &path, fields(&head.headers));
        let unread = head.framing().unwrap_or(Framing::None);
        let serving = Serving { connection: &mut connection, entry, method, unread, chunks: false };
        if serving.play(&steps).await == Left::Gone {
            return;
        }
    }
}

impl Serving<'_> {
    async fn play(mut self, steps: &[Step]) -> Left {
        if !matches!(steps.first(), Some(Step::Early)) && self.read().await.is_err() {
            return Left::Gone;
        }
        for step in steps {
            match self.step(step).await {
                Ok(Left::Usable) => {}
                // A write that fails says nothing: whether it does depends on how much was in flight.
                Ok(Left::Gone) | Err(_) => return Left::Gone,
            }
        }
        // The next request begins where this one ends.
        if self.read().await.is_ok() { Left::Usable } else { Left::Gone }
    }

    async fn step(&mut self, step: &Step) -> std::io::Result<Left> {
        match step {
            Step::Early => {}
            Step::Read => {
                if self.read().await.is_err() {
                    return Ok(Left::Gone);
                }
            }
            Step::Respond(respond) => self.respond(respond).await?,
            Step::Head(respond) | Step::Interim(respond) => {
                self.chunks =
                    respond.headers.iter().any(|line| line.to_ascii_lowercase().ends_with(": chunked"));
                self.send(head(respond, &[]).as_bytes()).await?;
            }
            Step::Data(body) => {
                let bytes = body.bytes();
                let bytes = if self.chunks { chunk(&bytes) } else { bytes };
                self.send(&bytes).await?;
            }
            Step::End { trailers } => {
                if self.chunks {
                    self.send(last_chunk(trailers).as_bytes()).await?;
                }
            }
            Step::Wait(ms) => return Ok(self.wait(Duration::from_millis(*ms)).await),
            Step::Hang => {
                self.wait(HANG).await;
                return Ok(Left::Gone);
            }
            Step::Close => {
                self.connection.writing()?.shutdown().await?;
                // A close with bytes unread would be a RST.
                let _ = timeout(Duration::from_secs(2), self.connection.reader.ended()).await;
                return Ok(Left::Gone);
            }
            Step::Abort | Step::Reset(_) => {
                if let Some(writing) = self.connection.writing.take() {
                    abort(writing.as_ref());
                    writing.forget();
                }
                return Ok(Left::Gone);
            }
            Step::Goaway(_) => return Err(std::io::Error::other("HTTP/1 has no GOAWAY")),
            Step::Raw(text) => self.send(text.as_bytes()).await?,
        }
        Ok(Left::Usable)
    }

    /// Reads what is left of the request.
    async fn read(&mut self) -> Result<(), Ended> {
        let framing = std::mem::replace(&mut self.unread, Framing::None);
        let mut content = Content::default();
        let read = self.connection.reader.body(framing, &mut content).await;
        self.entry.note(|attempt| {
            attempt.body.extend(content.bytes);
            attempt.trailers.extend(fields(&content.trailers));
            attempt.complete = read.is_ok();
            // Where it goes away in the middle of its own request it has no use for the answer.
            attempt.cancelled |= read.is_err();
        });
        read
    }

    async fn wait(&mut self, time: Duration) -> Left {
        tokio::select! {
            () = sleep(time) => Left::Usable,
            _ = self.connection.reader.ended() => {
                self.entry.note(|attempt| attempt.cancelled = true);
                Left::Gone
            }
        }
    }

    async fn respond(&mut self, respond: &Respond) -> std::io::Result<()> {
        let body = respond.body.as_ref().map(Body::bytes).unwrap_or_default();
        let chunked = respond.chunked || !respond.trailers.is_empty();
        let bodiless = matches!(respond.status, 204 | 304);
        let given =
            respond.headers.iter().any(|line| line.to_ascii_lowercase().starts_with("content-length:"));
        let length = format!("content-length: {}", body.len());
        let framing: &[&str] = match (bodiless || given, chunked) {
            (true, _) => &[],
            (false, true) => &["transfer-encoding: chunked"],
            (false, false) => &[&length],
        };
        let mut message = head(respond, framing).into_bytes();
        if self.method != "HEAD" && !bodiless {
            if chunked {
                // Two chunks where there can be two.
                let (one, other) = body.split_at(body.len() / 2);
                message.extend(chunk(one));
                message.extend(chunk(other));
                message.extend_from_slice(last_chunk(&respond.trailers).as_bytes());
            } else {
                message.extend(body);
            }
        }
        self.send(&message).await
    }

    async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.connection.writing()?.write_all(bytes).await
    }
}

fn head(respond: &Respond, more: &[&str]) -> String {
    let reason = http::StatusCode::from_u16(respond.status).ok();
    let reason = reason.and_then(|status| status.canonical_reason()).unwrap_or("Whatever");
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", respond.status);
    for line in respond.headers().iter().map(String::as_str).chain(more.iter().copied()) {
        head += line;
        head += "\r\n";
    }
    head + "\r\n"
}
