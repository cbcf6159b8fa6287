//! Where the body of an HTTP/1 message ends.
//!
//! Bodies are passed on as they came; [`Body`] only counts. How the bytes are split among calls changes nothing.

use super::head::Framing;

/// Follows the body of one message.
#[derive(Clone, Debug)]
pub struct Body {
    framing: Framing,
}

/// What some bytes are to a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// How many of them, from the first, belong to this message.
    pub taken: usize,
    /// The message ends with them.
    pub ended: bool,
    /// How many of those taken are content, and not the framing of chunks.
    pub payload: usize,
    /// How many of those taken, at their end, are the trailer section (its blank line included).
    pub trailers: usize,
}

/// Why a body cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BodyError {
    #[error("a chunk's size is not a number in hexadecimal digits")]
    ChunkSize,
}

impl Body {
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self { framing }
    }

    /// Tells how far the body goes in the bytes that come next.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Scanned, BodyError> {
        Ok(Scanned { taken: bytes.len(), ended: self.ended(), payload: bytes.len(), trailers: 0 })
    }

    /// Nothing more belongs to this message.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.framing == Framing::None
    }

    /// The message is whole if its connection ends here.
    #[must_use]
    pub fn whole_at_close(&self) -> bool {
        self.ended()
    }
}

impl BodyError {
    /// The word that counts it in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        "chunk-size"
    }
}
