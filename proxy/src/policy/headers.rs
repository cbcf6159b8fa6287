//! Header matchers, and what they look at: the headers of one message, whatever HTTP version it came in.

use std::borrow::Cow;

use regex::bytes::Regex;

/// The headers of a message.
///
/// Names are asked for in lower case. `:method`, `:path`, `:authority` and `:scheme` are answered for a request and
/// `:status` for a response, in every HTTP version.
pub trait Headers {
    /// Calls `visit` with each value of this name in order, until it returns false.
    fn visit<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool);

    /// The first value of this name.
    fn get<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        let mut first = None;
        self.visit(name, &mut |value| {
            first = Some(value);
            false
        });
        first
    }

    /// All values of this name as one, joined with `,`, as Envoy matches them.
    fn joined<'a>(&'a self, name: &str) -> Option<Cow<'a, [u8]>> {
        let mut joined: Option<Cow<'a, [u8]>> = None;
        self.visit(name, &mut |value| {
            joined = Some(match joined.take() {
                None => Cow::Borrowed(value),
                Some(before) => Cow::Owned([&before, &b","[..], value].concat()),
            });
            true
        });
        joined
    }
}

/// What one header has to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatcher {
    /// In lower case.
    pub name: Box<str>,
    pub value: ValueMatcher,
    /// True: matches where it otherwise would not.
    pub invert: bool,
}

/// What a header's value has to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatcher {
    Present,
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    /// The whole value has to match.
    Regex(Pattern),
    /// A whole decimal number in `start..end`.
    Range {
        start: i64,
        end: i64,
    },
}

/// A regular expression that was compiled within bounds. Two are equal where they were written alike.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}
