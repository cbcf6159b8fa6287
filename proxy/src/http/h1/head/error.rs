//! Why a head is refused, and how the words for it are found.

use super::{Kind, MAX_FIELDS, MAX_HEAD, is_token};

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeadError {
    #[error("the head is larger than {MAX_HEAD} bytes")]
    TooLarge,
    #[error("the head has more than {MAX_FIELDS} fields")]
    TooManyFields,
    #[error("a line of the head ends in a line feed without a carriage return")]
    BareLf,
    #[error("there is a carriage return within a line of the head")]
    BareCr,
    #[error("there is a zero byte in the head")]
    Nul,
    #[error("the first line is not a request line")]
    RequestLine,
    #[error("the request's target is not printable ASCII")]
    Target,
    #[error("the first line is not a status line")]
    StatusLine,
    #[error("the version of HTTP is not 1.0 or 1.1")]
    Version,
    #[error("a field goes on in the next line")]
    Fold,
    #[error("there is space between a field's name and its colon")]
    SpaceBeforeColon,
    #[error("a field has no name")]
    EmptyName,
    #[error("a field's name is not a token")]
    FieldName,
    #[error("there is a control character in a field's value")]
    FieldValue,
    #[error("there is no Host in a request of HTTP/1.1")]
    NoHost,
    #[error("there is more than one Host")]
    SeveralHosts,
    #[error("Content-Length is not a number of bytes")]
    ContentLength,
    #[error("there is more than one Content-Length")]
    SeveralLengths,
    #[error("there are both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    #[error("Transfer-Encoding is not chunked and only chunked")]
    Coding,
    #[error("there is a Transfer-Encoding in a request of HTTP/1.0")]
    CodingInHttp10,
    #[error("a message that never has a body comes with one")]
    UnexpectedBody,
}

impl HeadError {
    /// The status that a client is answered with whose request this is about.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::TooLarge | Self::TooManyFields => 431,
            Self::Coding => 501,
            Self::Version => 505,
            Self::BareLf
            | Self::BareCr
            | Self::Nul
            | Self::RequestLine
            | Self::Target
            | Self::StatusLine
            | Self::Fold
            | Self::SpaceBeforeColon
            | Self::EmptyName
            | Self::FieldName
            | Self::FieldValue
            | Self::NoHost
            | Self::SeveralHosts
            | Self::ContentLength
            | Self::SeveralLengths
            | Self::LengthAndCoding
            | Self::CodingInHttp10
            | Self::UnexpectedBody => 400,
        }
    }

    /// The word that counts it in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::TooLarge => "too-large",
            Self::TooManyFields => "too-many-fields",
            Self::BareLf => "bare-lf",
            Self::BareCr => "bare-cr",
            Self::Nul => "nul",
            Self::RequestLine => "request-line",
            Self::Target => "target",
            Self::StatusLine => "status-line",
            Self::Version => "version",
            Self::Fold => "fold",
            Self::SpaceBeforeColon => "space-before-colon",
            Self::EmptyName => "empty-name",
            Self::FieldName => "field-name",
            Self::FieldValue => "field-value",
            Self::NoHost => "no-host",
            Self::SeveralHosts => "several-hosts",
            Self::ContentLength => "content-length",
            Self::SeveralLengths => "several-lengths",
            Self::LengthAndCoding => "length-and-coding",
            Self::Coding => "coding",
            Self::CodingInHttp10 => "coding-in-http10",
            Self::UnexpectedBody => "unexpected-body",
        }
    }

    /// The words for what the parser refused in this head.
    pub(super) fn of(error: httparse::Error, head: &[u8], kind: Kind) -> Self {
        use httparse::Error;
        let mut lines = head.split(|byte| *byte == b'\n').skip_while(|line| matches!(line, [] | [b'\r']));
        let first = lines.next().unwrap_or_default();
        match error {
            Error::TooManyHeaders => Self::TooManyFields,
            Error::HeaderName | Error::HeaderValue | Error::NewLine => {
                lines.find_map(fault_in_field).unwrap_or_else(|| fault_in_first_line(first, kind))
            }
            Error::Version | Error::Token | Error::Status => fault_in_first_line(first, kind),
        }
    }
}

fn fault_in_first_line(line: &[u8], kind: Kind) -> HeadError {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let Some(fault) = fault_in_bytes(line) {
        return fault;
    }
    let mut words = line.split(|byte| *byte == b' ');
    let version = match kind {
        Kind::Request => words.nth(2),
        Kind::Response => words.next(),
    };
    match (version, kind) {
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), _)
            if major.is_ascii_digit()
                && minor.is_ascii_digit()
                && !(*major == b'1' && matches!(minor, b'0' | b'1')) =>
        {
            HeadError::Version
        }
        (_, Kind::Request) if line.is_ascii() => HeadError::RequestLine,
        (_, Kind::Request) => HeadError::Target,
        (_, Kind::Response) => HeadError::StatusLine,
    }
}

fn fault_in_field(line: &[u8]) -> Option<HeadError> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return None;
    }
    if let Some(fault) = fault_in_bytes(line) {
        return Some(fault);
    }
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    match name {
        [b' ' | b'\t', ..] => Some(HeadError::Fold),
        [] => Some(HeadError::EmptyName),
        name if name.len() == line.len() => Some(HeadError::FieldName),
        [token @ .., b' ' | b'\t'] if token.trim_ascii_end().iter().copied().all(is_token) => {
            Some(HeadError::SpaceBeforeColon)
        }
        name if !name.iter().copied().all(is_token) => Some(HeadError::FieldName),
        _ => {
            line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t').then_some(HeadError::FieldValue)
        }
    }
}

fn fault_in_bytes(line: &[u8]) -> Option<HeadError> {
    line.iter().find_map(|byte| match byte {
        0 => Some(HeadError::Nul),
        b'\r' => Some(HeadError::BareCr),
        _ => None,
    })
}
