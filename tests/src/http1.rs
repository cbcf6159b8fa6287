//! HTTP/1 messages as they are on the wire, for clients and servers that must see everything and correct nothing.
//!
//! Reading is lenient on purpose: what a proxy sent is to be seen, not judged.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Header fields: for every name, as it was written, its values in order.
pub type Fields = BTreeMap<String, Vec<String>>;

/// The first part of a message.
#[derive(Clone, Debug)]
pub struct Head {
    /// The request line or the status line.
    pub first: String,
    /// As they came.
    pub headers: Vec<(String, String)>,
}

/// How a body's end is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

/// What there was of a body.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

/// Why there is no more to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Closed,
    Reset,
    Malformed,
}

/// Reads messages from a stream, and what it read too much of stays for the next one.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    buffer: Vec<u8>,
}

impl Head {
    /// The first value of a header, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// One word of the first line, from zero.
    #[must_use]
    pub fn word(&self, index: usize) -> &str {
        self.first.split(' ').nth(index).unwrap_or_default()
    }

    /// The framing that the headers tell, for a message of which they are all that matters.
    #[must_use]
    pub fn framing(&self) -> Option<Framing> {
        if self
            .header("transfer-encoding")
            .is_some_and(|value| value.to_ascii_lowercase().contains("chunked"))
        {
            return Some(Framing::Chunked);
        }
        self.header("content-length").and_then(|value| value.trim().parse().ok()).map(Framing::Length)
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next head; `Closed` where the stream ends before one begins or in its middle.
    pub async fn head(&mut self) -> Result<Head, Ended> {
        loop {
            let end = self.buffer.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = end {
                let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                let mut lines = text.split("\r\n");
                let first = lines.next().unwrap_or_default().to_owned();
                return Ok(Head { first, headers: lines.map(field).collect() });
            }
            self.fill().await?;
        }
    }

    /// Adds a body to `content`, piece by piece, so that what there was of an unfinished one is there too.
    pub async fn body(&mut self, framing: Framing, content: &mut Content) -> Result<(), Ended> {
        match framing {
            Framing::None => Ok(()),
            Framing::Length(length) => self.take(length, &mut content.bytes).await,
            Framing::UntilClose => loop {
                content.bytes.append(&mut self.buffer);
                match self.fill().await {
                    Ok(()) => {}
                    Err(Ended::Closed) => return Ok(()),
                    Err(ended) => return Err(ended),
                }
            },
            Framing::Chunked => self.chunks(content).await,
        }
    }

    async fn chunks(&mut self, content: &mut Content) -> Result<(), Ended> {
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| Ended::Malformed)?;
            if size == 0 {
                break;
            }
            self.take(size, &mut content.bytes).await?;
            self.line().await?;
        }
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(());
            }
            content.trailers.push(field(&line));
        }
    }

    /// Waits until the stream ends; what comes until then is kept for the next message.
    pub async fn ended(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.fill().await {
                return ended;
            }
        }
    }

    /// Whether there is anything that was read and not yet asked for.
    pub fn has_more(&self) -> bool {
        !self.buffer.is_empty()
    }

    async fn line(&mut self) -> Result<String, Ended> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    async fn take(&mut self, length: usize, into: &mut Vec<u8>) -> Result<(), Ended> {
        let mut missing = length;
        loop {
            let part = missing.min(self.buffer.len());
            into.extend_from_slice(&self.buffer[..part]);
            self.buffer.drain(..part);
            missing -= part;
            if missing == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Ended> {
        let mut chunk = vec![0; 64 * 1024];
        match self.stream.read(&mut chunk).await {
            Ok(0) => Err(Ended::Closed),
            Ok(length) => {
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(Ended::Reset),
            Err(_) => Err(Ended::Closed),
        }
    }
}

impl Ended {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Malformed => "malformed",
        }
    }
}

/// The headers as names with their values.
#[must_use]
pub fn fields(headers: &[(String, String)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in headers {
        fields.entry(name.clone()).or_default().push(value.clone());
    }
    fields
}

/// `Name: value`, taken apart.
#[must_use]
pub fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.trim().to_owned())
}

/// A chunk of a chunked body; the empty one is left out, since it would be the last.
#[must_use]
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// What ends a chunked body.
#[must_use]
pub fn last_chunk(trailers: &[String]) -> String {
    let mut last = "0\r\n".to_owned();
    for trailer in trailers {
        let _ = write!(last, "{trailer}\r\n");
    }
    last + "\r\n"
}
