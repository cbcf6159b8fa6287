//! The fields of a head that was found good, read from its bytes, and changes to them.

use bytes::{BufMut, Bytes, BytesMut};

use super::Kind;
use crate::policy::Headers;

/// The fields of a head, for matchers. Nothing is kept of them: each look reads the head's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    kind: Kind,
    first_line: &'a [u8],
    /// The lines after the first.
    lines: &'a [u8],
}

/// A head without the fields named in `remove`, and with those in `add` after the others. All else is as it was.
#[must_use]
pub fn rewrite(head: &[u8], remove: &[&str], add: &[(&str, &str)]) -> Bytes {
    let added: usize = add.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut rewritten = BytesMut::with_capacity(head.len() + added);
    let (first, mut lines) = first_line(head);
    rewritten.put(head.get(..head.len() - lines.len()).unwrap_or(first));
    while let Some((line, rest)) = next_line(lines) {
        let Some((name, _)) = field(line) else { break };
        if !remove.iter().any(|removed| name.eq_ignore_ascii_case(removed.as_bytes())) {
            rewritten.put(line);
        }
        lines = rest;
    }
    for (name, value) in add {
        for part in [name, ": ", value, "\r\n"] {
            rewritten.put(part.as_bytes());
        }
    }
    rewritten.put(lines);
    rewritten.freeze()
}

impl<'a> Fields<'a> {
    pub(super) fn request(head: &'a [u8]) -> Self {
        Self::new(head, Kind::Request)
    }

    pub(super) fn response(head: &'a [u8]) -> Self {
        Self::new(head, Kind::Response)
    }

    fn new(head: &'a [u8], kind: Kind) -> Self {
        let (first_line, lines) = first_line(head);
        Self { kind, first_line: first_line.trim_ascii_end(), lines }
    }

    /// What HTTP/2 would say in this pseudo-header field.
    fn pseudo(&self, name: &str) -> Option<&'a [u8]> {
        let mut words = self.first_line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let first = words.next()?;
        match (self.kind, name) {
            (Kind::Request, ":method") => Some(first),
            (Kind::Request, ":path") => Target::of(first, words.next()?).path(),
            (Kind::Request, ":authority") => {
                Target::of(first, words.next()?).authority().or_else(|| self.first("host"))
            }
            (Kind::Request, ":scheme") => Some(b"http"),
            (Kind::Response, ":status") => words.next(),
            (Kind::Request | Kind::Response, _) => None,
        }
    }

    fn first(&self, name: &str) -> Option<&'a [u8]> {
        let mut first = None;
        self.each(name, &mut |value| {
            first = Some(value);
            false
        });
        first
    }

    fn each(&self, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool) {
        let mut lines = self.lines;
        while let Some((line, rest)) = next_line(lines) {
            // Most lines are told to be another field's by their beginning.
            let may_be_it =
                line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()));
            if may_be_it
                && let Some((found, value)) = field(line)
                && found.len() == name.len()
                && !visit(value)
            {
                return;
            }
            lines = rest;
        }
    }
}

impl Headers for Fields<'_> {
    fn visit<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool) {
        if !name.starts_with(':') {
            return self.each(name, visit);
        }
        if let Some(value) = self.pseudo(name) {
            visit(value);
        }
    }
}

/// What a request is for, in one of the four forms of RFC 9112, section 3.2.
enum Target<'a> {
    /// A path, or the asterisk of OPTIONS.
    Path(&'a [u8]),
    Absolute {
        authority: &'a [u8],
        path: &'a [u8],
    },
    /// CONNECT's.
    Authority(&'a [u8]),
}

impl<'a> Target<'a> {
    fn of(method: &[u8], target: &'a [u8]) -> Self {
        if method == b"CONNECT" {
            return Self::Authority(target);
        }
        let scheme = target.windows(3).position(|at| at == b"://");
        let Some(after) = scheme.filter(|_| !target.starts_with(b"/")).and_then(|at| target.get(at + 3..))
        else {
            return Self::Path(target);
        };
        let length = after.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(after.len());
        let (authority, path) = after.split_at(length);
        Self::Absolute { authority, path: if path.is_empty() { b"/" } else { path } }
    }

    fn path(&self) -> Option<&'a [u8]> {
        match self {
            Self::Path(path) | Self::Absolute { path, .. } => Some(path),
            Self::Authority(_) => None,
        }
    }

    fn authority(&self) -> Option<&'a [u8]> {
        match self {
            Self::Absolute { authority, .. } | Self::Authority(authority) => Some(authority),
            Self::Path(_) => None,
        }
    }
}

/// The first line that is not empty, and what comes after it.
fn first_line(head: &[u8]) -> (&[u8], &[u8]) {
    let empty = head.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    head.get(empty..).and_then(next_line).unwrap_or((head, b""))
}

/// The next line with its end, with the lines that it goes on in, and what comes after it.
fn next_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut end = 0;
    loop {
        end += bytes.get(end..)?.iter().position(|byte| *byte == b'\n')? + 1;
        if !matches!(bytes.get(end), Some(b' ' | b'\t')) {
            return bytes.split_at_checked(end);
        }
    }
}

/// The name and the value of the field in this line; none where the line is empty.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    Some((name.trim_ascii_end(), value.get(1..)?.trim_ascii()))
}
