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
    let Some(value) = field(head, "content-length") else { return Ok(0) };
    str::from_utf8(value)?.parse().context("a Content-Length")
}

/// The value of a header.
pub fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (start, rest) = line.split_at_checked(name.len())?;
        let value = rest.strip_prefix(b":")?;
        start.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    })
}
