//! Where the body of an HTTP/1 message ends.
//!
//! Bodies are passed on as they came; [`Body`] only counts. How the bytes are split among calls changes nothing.

use super::head::{Framing, MAX_HEAD, is_token};
use crate::http::widened;

/// The most bytes of the extensions of a chunk.
pub const MAX_EXTENSION: usize = 4 * 1024;

/// The most digits of a chunk's size. As many are a `u64`.
const MAX_DIGITS: u32 = 16;

/// Follows the body of one message.
#[derive(Clone, Debug)]
pub struct Body(State);

/// What some bytes are to a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// How many of them, from the first, belong to this message.
    pub taken: usize,
    /// The message ends with them.
    pub ended: bool,
    /// How many of those taken are content, and not the framing of chunks.
    pub payload: usize,
}

/// Why a body cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BodyError {
    #[error("a chunk does not begin with its size in at most {MAX_DIGITS} hexadecimal digits")]
    ChunkSize,
    #[error("a chunk's extensions are longer than {MAX_EXTENSION} bytes, or have a control character")]
    ChunkExtension,
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    #[error("a line around a chunk does not end in a carriage return and a line feed")]
    LineEnd,
    #[error("there is a control character in the trailer section, or a line that is no field")]
    Trailers,
    #[error("the trailer section is larger than {MAX_HEAD} bytes")]
    TrailersTooLarge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ended,
    UntilClose,
    /// So many bytes of content, of a chunk or of all the message.
    Content {
        left: u64,
        chunk: bool,
    },
    Frame(Frame),
}

/// A part of what chunks are framed with. It is read byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    Size {
        size: u64,
        digits: u32,
    },
    /// What follows the size in its line, of which there were so many bytes.
    Extension {
        size: u64,
        seen: usize,
    },
    /// The line feed after a size.
    SizeEnd {
        size: u64,
    },
    /// The carriage return after a chunk.
    DataCr,
    /// The line feed after a chunk.
    DataLf,
    Trailers {
        seen: usize,
        line: Line,
    },
}

/// How far a line of the trailer section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    Name,
    Value,
    /// The line feed of the blank line, or of another.
    End {
        blank: bool,
    },
}

impl Body {
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(left) => State::Content { left, chunk: false },
            Framing::Chunked => State::Frame(Frame::Size { size: 0, digits: 0 }),
            Framing::UntilClose | Framing::Tunnel => State::UntilClose,
        })
    }

    /// Tells how far the body goes in the bytes that come next. After an error nothing is told any more.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Scanned, BodyError> {
        let mut scanned = Scanned::default();
        while let Some(rest) = bytes.get(scanned.taken..)
            && let Some(first) = rest.first()
        {
            match self.0 {
                State::Ended => break,
                State::UntilClose => {
                    scanned.taken += rest.len();
                    scanned.payload += rest.len();
                }
                State::Content { left, chunk } => {
                    let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    scanned.taken += taken;
                    scanned.payload += taken;
                    self.0 = match left - widened(taken) {
                        0 if chunk => State::Frame(Frame::DataCr),
                        0 => State::Ended,
                        left => State::Content { left, chunk },
                    };
                }
                State::Frame(frame) => {
                    scanned.taken += 1;
                    self.0 = frame.after(*first)?;
                }
            }
        }
        scanned.ended = self.ended();
        Ok(scanned)
    }

    /// Nothing more belongs to this message.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.0 == State::Ended
    }

    /// The message is whole if its connection ends here.
    #[must_use]
    pub fn whole_at_close(&self) -> bool {
        matches!(self.0, State::Ended | State::UntilClose)
    }
}

impl Frame {
    /// What comes after this byte of it.
    fn after(self, byte: u8) -> Result<State, BodyError> {
        let next = match (self, byte) {
            (Self::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(BodyError::ChunkSize)?;
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { size, digits: 1.. } | Self::Extension { size, .. }, b'\r') => {
                Self::SizeEnd { size }
            }
            (Self::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => Self::Extension { size, seen: 1 },
            (Self::Size { digits: 1.., .. } | Self::Extension { .. }, b'\n') => {
                return Err(BodyError::LineEnd);
            }
            (Self::Size { .. }, _) => return Err(BodyError::ChunkSize),
            (Self::Extension { size, seen }, b'\t' | b' '..=b'~' | 0x80..) if seen < MAX_EXTENSION => {
                Self::Extension { size, seen: seen + 1 }
            }
            (Self::Extension { .. }, _) => return Err(BodyError::ChunkExtension),
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailers { seen: 0, line: Line::Start },
            (Self::SizeEnd { size: left }, b'\n') => return Ok(State::Content { left, chunk: true }),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataCr, b'\n') => return Err(BodyError::LineEnd),
            (Self::DataCr, _) => return Err(BodyError::ChunkEnd),
            (Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::Trailers { line: Line::End { blank: true }, .. }, b'\n') => return Ok(State::Ended),
            (Self::SizeEnd { .. } | Self::DataLf, _) => return Err(BodyError::LineEnd),
            (Self::Trailers { seen: MAX_HEAD.., .. }, _) => return Err(BodyError::TrailersTooLarge),
            (Self::Trailers { seen, line }, _) => Self::Trailers { seen: seen + 1, line: line.after(byte)? },
        };
        Ok(State::Frame(next))
    }
}

impl Line {
    fn after(self, byte: u8) -> Result<Self, BodyError> {
        match (self, byte) {
            (Self::Start, b'\r') => Ok(Self::End { blank: true }),
            (Self::Value, b'\r') => Ok(Self::End { blank: false }),
            (Self::Start | Self::Name, _) if is_token(byte) => Ok(Self::Name),
            (Self::Name, b':') | (Self::Value, b'\t' | b' '..=b'~' | 0x80..) => Ok(Self::Value),
            (Self::End { blank: false }, b'\n') => Ok(Self::Start),
            (Self::End { .. }, _) | (Self::Value, b'\n') => Err(BodyError::LineEnd),
            (Self::Start | Self::Name | Self::Value, _) => Err(BodyError::Trailers),
        }
    }
}

impl BodyError {
    /// The word that counts it in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ChunkSize => "chunk-size",
            Self::ChunkExtension => "chunk-extension",
            Self::ChunkEnd => "chunk-end",
            Self::LineEnd => "chunk-line-end",
            Self::Trailers => "trailers",
            Self::TrailersTooLarge => "trailers-too-large",
        }
    }
}

#[cfg(test)]
mod tests;
