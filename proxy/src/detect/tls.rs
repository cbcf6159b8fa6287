//! The ClientHello of TLS (RFC 8446, section 4.1.2), as far as it says where the client wants to go.

use super::Detected;

/// The type of a record that carries a handshake.
pub(super) const HANDSHAKE: u8 = 0x16;

/// The most bytes, of all records, in which a ClientHello is looked for.
const MAX_HELLO: usize = 16 * 1024;

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const ALPN: u16 = 16;

/// What a client says in the clear before it encrypts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name of the server that is asked for, in lower case.
    pub sni: Option<Box<str>>,
    /// The protocols that are offered, in order.
    pub alpn: Vec<Box<[u8]>>,
}

/// Bytes that begin with a handshake's record, and are TLS unless they turn out not to be.
///
/// A hello that is broken, or too long, is TLS that says nothing: it is relayed like any other.
pub(super) fn detect(bytes: &[u8]) -> Detected {
    // A record says 3.0 to 3.4, whatever version is spoken then.
    match bytes {
        [_] | [_, 3] => return Detected::NeedMore,
        [_, 3, 0..=4, ..] => {}
        _ => return Detected::Unknown,
    }
    let (handshake, more) = handshake(bytes.get(..MAX_HELLO).unwrap_or(bytes));
    let whole = !more || bytes.len() >= MAX_HELLO;
    match hello(&handshake) {
        Some(hello) => Detected::Tls(hello),
        None if whole || !may_be_hello(&handshake) => Detected::Tls(ClientHello::default()),
        None => Detected::NeedMore,
    }
}

/// The content of the handshake records at the front, and whether there may be more of it.
fn handshake(bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    let mut rest = Reader(bytes);
    while let Some(kind) = rest.byte() {
        if kind != HANDSHAKE {
            return (content, false);
        }
        let Some(length) = rest.take(2).and_then(|_| rest.number(2)) else {
            return (content, true);
        };
        let Some(record) = rest.take(length) else {
            content.extend_from_slice(rest.0);
            return (content, true);
        };
        if record.is_empty() {
            return (content, false);
        }
        content.extend_from_slice(record);
    }
    (content, true)
}

/// Whether a hello that is not whole may become one.
fn may_be_hello(handshake: &[u8]) -> bool {
    match handshake {
        [] => true,
        [CLIENT_HELLO, length @ ..] => match length {
            [high, middle, low, body @ ..] => {
                let length = u32::from_be_bytes([0, *high, *middle, *low]);
                usize::try_from(length).is_ok_and(|length| length < MAX_HELLO && body.len() < length)
            }
            _ => true,
        },
        _ => false,
    }
}

/// What the whole hello says; none where it is not whole, or broken.
fn hello(handshake: &[u8]) -> Option<ClientHello> {
    let mut message = Reader(handshake);
    if message.byte()? != CLIENT_HELLO {
        return None;
    }
    let mut body = message.nested(3)?;
    // The version, and a random number.
    body.take(2 + 32)?;
    let _session = body.nested(1)?;
    let _cipher_suites = body.nested(2)?;
    let _compressions = body.nested(1)?;
    let mut said = ClientHello::default();
    if body.0.is_empty() {
        return Some(said);
    }
    let mut extensions = body.nested(2)?;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.nested(2)?;
        match u16::try_from(kind).ok()? {
            SERVER_NAME => said.sni = server_name(content),
            ALPN => said.alpn = protocols(content)?,
            _ => {}
        }
    }
    Some(said)
}

fn server_name(mut content: Reader<'_>) -> Option<Box<str>> {
    let mut names = content.nested(2)?;
    while let Some(kind) = names.byte() {
        let name = names.nested(2)?.0;
        if kind == HOST_NAME {
            let plausible = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
            let name = std::str::from_utf8(name).ok().filter(|name| (1..=255).contains(&name.len()))?;
            return name.bytes().all(|byte| plausible(&byte)).then(|| name.to_ascii_lowercase().into());
        }
    }
    None
}

fn protocols(mut content: Reader<'_>) -> Option<Vec<Box<[u8]>>> {
    let mut list = content.nested(2)?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(list.nested(1)?.0.into());
    }
    Some(protocols)
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// A number of so many bytes, big end first.
    fn number(&mut self, length: usize) -> Option<usize> {
        Some(self.take(length)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What is behind its own length of so many bytes.
    fn nested(&mut self, length: usize) -> Option<Self> {
        let length = self.number(length)?;
        self.take(length).map(Self)
    }
}
