//! The little that client and server read of a head.

use anyhow::{Context as _, Result};

/// Where the head ends that these bytes begin with, its blank line included.
pub fn end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(feed) = bytes.get(from..)?.iter().position(|byte| *byte == b'\n') {
        from += feed + 1;
        if bytes.get(from..from + 2) == Some(b"\r\n") {
            return Some(from + 2);
        }
    }
    None
}

/// How long the body is.
pub fn content_length(head: &[u8]) -> Result<usize> {
    for line in head.split(|byte| *byte == b'\n') {
        if let Some((name, value)) = line.split_at_checked(15)
            && name.eq_ignore_ascii_case(b"content-length:")
        {
            return str::from_utf8(value)?.trim().parse().context("a Content-Length");
        }
    }
    Ok(0)
}
