//! A whole head, parsed and checked.

use std::mem::MaybeUninit;
use std::ops::Range;

use httparse::{Header, ParserConfig, Status};

use super::{Framing, HeadError, Kind, MAX_FIELDS, Method, RequestHead, ResponseHead, Upgrade, Version};

/// What the fields of a head say about its message.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that a head says or does not, free of the others"
)]
struct Said {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    /// Connection names Upgrade.
    upgrades: bool,
    upgrade: Option<Upgrade>,
    grpc: bool,
}

/// Checks the first line of a head that goes on, and nothing after it.
pub(super) fn first_line(begun: &[u8], kind: Kind) -> Result<(), HeadError> {
    let empty = empty_lines(begun);
    let rest = begun.get(empty..).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == b'\n').map_or(begun.len(), |newline| empty + newline + 1);
    let line = begun.get(..end).unwrap_or(begun);
    let parsed = match kind {
        Kind::Request => httparse::Request::new(&mut []).parse(line),
        Kind::Response => lenient().parse_response(&mut httparse::Response::new(&mut []), line),
    };
    parsed.map_or_else(|error| Err(HeadError::of(error, line, kind)), |_| Ok(()))
}

pub(super) fn request(head: &[u8]) -> Result<RequestHead, HeadError> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(head, &mut room) {
        Ok(Status::Complete(length)) if length == head.len() => length,
        Ok(_) => return Err(HeadError::RequestLine),
        Err(error) => return Err(HeadError::of(error, head, Kind::Request)),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(HeadError::RequestLine);
    };
    if !target.is_ascii() {
        return Err(HeadError::Target);
    }
    let version = Version::of(version);
    let said = Said::by(parsed.headers)?;
    match (said.hosts, version) {
        (1, _) | (0, Version::Http10) => {}
        (0, Version::Http11) => return Err(HeadError::NoHost),
        (2.., _) => return Err(HeadError::SeveralHosts),
    }
    if said.chunked && version == Version::Http10 {
        return Err(HeadError::CodingInHttp10);
    }
    let method_and_target = method.len() + 1;
    let method = Method::from(method);
    let body = match said.framing() {
        Some(framing) if method == Method::Connect && framing != Framing::Length(0) => {
            return Err(HeadError::UnexpectedBody);
        }
        Some(Framing::Length(0)) | None => Framing::None,
        Some(framing) => framing,
    };
    Ok(RequestHead {
        length,
        method,
        target: range(head, method_and_target, target.len()),
        version,
        body,
        persistent: said.persistent(version),
        upgrade: said.upgrade.filter(|_| said.upgrades && version == Version::Http11),
        grpc: said.grpc,
    })
}

pub(super) fn response(head: &[u8], answers: &Method) -> Result<ResponseHead, HeadError> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let length = match lenient().parse_response_with_uninit_headers(&mut parsed, head, &mut room) {
        Ok(Status::Complete(length)) if length == head.len() => length,
        Ok(_) => return Err(HeadError::StatusLine),
        Err(error) => return Err(HeadError::of(error, head, Kind::Response)),
    };
    let (Some(version), Some(status @ 100..=999)) = (parsed.version, parsed.code) else {
        return Err(HeadError::StatusLine);
    };
    let version = Version::of(version);
    let said = Said::by(parsed.headers)?;
    let body = match (status, said.framing()) {
        (101, _) => Framing::Tunnel,
        (200..=299, _) if *answers == Method::Connect => Framing::Tunnel,
        // The client takes these bytes for the next response, and the upstream for this one's.
        (100..=199 | 204, Some(Framing::Chunked | Framing::Length(1..))) => {
            return Err(HeadError::UnexpectedBody);
        }
        (100..=199 | 204 | 304, _) | (_, Some(Framing::Length(0))) => Framing::None,
        _ if *answers == Method::Head => Framing::None,
        (_, framing) => framing.unwrap_or(Framing::UntilClose),
    };
    let ends = !matches!(body, Framing::UntilClose | Framing::Tunnel);
    Ok(ResponseHead { length, version, status, body, persistent: ends && said.persistent(version) })
}

/// Responses may be written as Envoy takes them. They come from a server that the client chose to trust.
fn lenient() -> ParserConfig {
    let mut config = ParserConfig::default();
    config
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true);
    config
}

/// Where `length` bytes are that come `after` as many of the first line.
fn range(head: &[u8], after: usize, length: usize) -> Range<usize> {
    let start = empty_lines(head) + after;
    start..start + length
}

/// How many bytes the empty lines are that a head begins with.
fn empty_lines(head: &[u8]) -> usize {
    head.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

impl Version {
    fn of(minor: u8) -> Self {
        if minor == 0 { Self::Http10 } else { Self::Http11 }
    }
}

impl Said {
    fn by(fields: &[Header<'_>]) -> Result<Self, HeadError> {
        let mut said = Self::default();
        for Header { name, value } in fields {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            // Most fields are told to be none of these by their length.
            match name.len() {
                4 if is("host") => said.hosts += 1,
                7 if is("upgrade") => {
                    let upgrade = if has(value, b"h2c") { Upgrade::H2c } else { Upgrade::Other };
                    said.upgrade.get_or_insert(upgrade);
                }
                10 if is("connection") => {
                    said.close |= has(value, b"close");
                    said.keep_alive |= has(value, b"keep-alive");
                    said.upgrades |= has(value, b"upgrade");
                }
                12 if is("content-type") => said.grpc |= is_grpc(value),
                14 if is("content-length") => {
                    let length = bytes_in(value).ok_or(HeadError::ContentLength)?;
                    if said.length.replace(length).is_some() {
                        return Err(HeadError::SeveralLengths);
                    }
                }
                17 if is("transfer-encoding") => {
                    if said.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(HeadError::Coding);
                    }
                    said.chunked = true;
                }
                _ => {}
            }
        }
        if said.chunked && said.length.is_some() {
            return Err(HeadError::LengthAndCoding);
        }
        Ok(said)
    }

    fn framing(&self) -> Option<Framing> {
        if self.chunked { Some(Framing::Chunked) } else { self.length.map(Framing::Length) }
    }

    fn persistent(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep_alive && !self.close,
            Version::Http11 => !self.close,
        }
    }
}

/// The number that these digits are.
fn bytes_in(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether this list has this token.
fn has(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

fn is_grpc(value: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    value.split_at_checked(GRPC.len()).is_some_and(|(before, after)| {
        before.eq_ignore_ascii_case(GRPC) && matches!(after.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
    })
}
