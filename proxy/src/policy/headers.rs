//! Header matchers, and what they look at: the headers of one message, whatever HTTP version it came in.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::str::{self, FromStr};

use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;

/// The headers of a message.
///
/// Names are asked for in lower case. `:method`, `:path`, `:authority` and `:scheme` are answered for a request and
/// `:status` for a response, in every HTTP version.
pub trait Headers {
    /// Calls `visit` with each value of this name in order, until it returns false.
    fn visit<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool);

    /// Whether some name may begin with this, which is in lower case. False is certain.
    fn may_have_prefix(&self, _prefix: &str) -> bool {
        true
    }

    /// The first value of this name.
    fn get<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        let mut first = None;
        self.visit(name, &mut |value| {
            first = Some(value);
            false
        });
        first
    }

    /// All values of this name as one, joined with `,`, as Envoy reads the headers that it knows.
    fn joined<'a>(&'a self, name: &str) -> Option<Cow<'a, [u8]>> {
        let mut joined: Option<Cow<'a, [u8]>> = None;
        self.visit(name, &mut |value| {
            match &mut joined {
                None => joined = Some(Cow::Borrowed(value)),
                Some(before) => {
                    let before = before.to_mut();
                    before.push(b',');
                    before.extend_from_slice(value);
                }
            }
            true
        });
        joined
    }
}

/// A decimal number that is all of a value but for white space and a sign: what Envoy reads as one.
#[must_use]
pub fn number<T: FromStr>(value: &[u8]) -> Option<T> {
    str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

/// What one header has to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatcher {
    pub name: HeaderName,
    pub value: ValueMatcher,
    /// Matches messages that have the header and that it otherwise would not match. One without the header is matched by
    /// [`ValueMatcher::Present`] inverted, and by nothing else.
    pub invert: bool,
}

/// The name of a header in lower case, or a pseudo-header's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderName(Box<str>);

/// Why a text is no [`HeaderName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the name of a header, such as x-retry")]
pub struct NoHeaderName;

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
pub struct Pattern {
    source: Box<str>,
    /// What matches all of a value and nothing less.
    whole: Regex,
}

/// Why a text is no [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    #[error("a regular expression of {} bytes at most", Pattern::MAX_BYTES)]
    TooLong,
    #[error("a regular expression that compiles to {} KiB at most", Pattern::MAX_COMPILED >> 10)]
    TooBig,
    #[error("a regular expression; {0}")]
    Syntax(String),
}

impl HeaderMatcher {
    /// As in Envoy 1.40, each value of a name is matched by itself, and one that matches is enough.
    #[must_use]
    pub fn matches(&self, headers: &(impl Headers + ?Sized)) -> bool {
        let (mut is_there, mut matches) = (false, false);
        headers.visit(self.name.as_str(), &mut |value| {
            is_there = true;
            matches = self.value.matches(value);
            !matches
        });
        if is_there { matches != self.invert } else { self.value == ValueMatcher::Present && self.invert }
    }
}

impl ValueMatcher {
    /// Whether one value is like this.
    pub(super) fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(text) => value == text.as_bytes(),
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::Suffix(text) => value.ends_with(text.as_bytes()),
            Self::Contains(text) => {
                text.is_empty() || value.windows(text.len()).any(|part| part == text.as_bytes())
            }
            Self::Regex(pattern) => pattern.is_match(value),
            Self::Range { start, end } => {
                number::<i64>(value).is_some_and(|number| (*start..*end).contains(&number))
            }
        }
    }
}

impl HeaderName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is part of a request's or response's first line in HTTP/1.
    #[must_use]
    pub fn is_pseudo(&self) -> bool {
        self.0.starts_with(':')
    }
}

impl FromStr for HeaderName {
    type Err = NoHeaderName;

    fn from_str(text: &str) -> Result<Self, NoHeaderName> {
        // RFC 9110, section 5.6.2.
        let belongs = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_token = (1..=256).contains(&text.len()) && text.bytes().all(belongs);
        let is_pseudo = [":method", ":path", ":authority", ":scheme", ":status"].contains(&text);
        (is_token || is_pseudo).then(|| Self(text.to_ascii_lowercase().into())).ok_or(NoHeaderName)
    }
}

impl Display for HeaderName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    const MAX_BYTES: usize = 1_024;
    const MAX_COMPILED: usize = 1 << 18;

    pub fn try_new(source: &str) -> Result<Self, PatternError> {
        if source.len() > Self::MAX_BYTES {
            return Err(PatternError::TooLong);
        }
        // Alone first: what is only balanced by the group around it, such as `a)|(b`, is no expression.
        compile(source)?;
        Ok(Self { source: Box::from(source), whole: compile(&format!(r"\A(?:{source})\z"))? })
    }

    /// Whether all of a value matches.
    #[must_use]
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.whole.is_match(value)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

fn compile(source: &str) -> Result<Regex, PatternError> {
    let mut builder = RegexBuilder::new(source);
    builder.size_limit(Pattern::MAX_COMPILED).dfa_size_limit(Pattern::MAX_COMPILED).nest_limit(50);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => PatternError::TooBig,
        // The last line says what is wrong; those before it draw the expression with an arrow.
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            PatternError::Syntax(last.trim_start_matches("error: ").to_owned())
        }
    })
}

/// Headers as they are written in tests, with names in lower case.
#[cfg(test)]
impl Headers for [(&str, &str)] {
    fn visit<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool) {
        let mut values = self.iter().filter(|(known, _)| *known == name);
        values.all(|(_, value)| visit(value.as_bytes()));
    }

    fn may_have_prefix(&self, prefix: &str) -> bool {
        self.iter().any(|(name, _)| name.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{HeaderMatcher, HeaderName, Headers, NoHeaderName, Pattern, PatternError, ValueMatcher};

    fn matcher(value: ValueMatcher, invert: bool) -> HeaderMatcher {
        HeaderMatcher { name: "X-A".parse().unwrap(), value, invert }
    }

    fn regex(source: &str) -> ValueMatcher {
        ValueMatcher::Regex(Pattern::try_new(source).unwrap())
    }

    #[test]
    fn what_each_matcher_matches() {
        use ValueMatcher::{Contains, Exact, Prefix, Present, Range, Suffix};
        let text = |text: &str| Box::<str>::from(text);
        let range = |start, end| Range { start, end };
        for (value, matching, other) in [
            (Present, &["", "a"][..], &[][..]),
            (Exact(text("ab")), &["ab"], &["", "a", "abc", "AB", "ab "]),
            (Exact(text("")), &[""], &["a"]),
            (Prefix(text("ab")), &["ab", "abc"], &["", "a", "cab"]),
            (Suffix(text("ab")), &["ab", "cab"], &["", "b", "abc"]),
            (Contains(text("ab")), &["ab", "cabc"], &["", "a", "acb"]),
            (regex("a|ab"), &["a", "ab"], &["", "abc", "ba", "a\n"]),
            (regex("(?i)A+"), &["a", "AA"], &["", "ab"]),
            (regex(""), &[""], &["a"]),
            (range(-1, 10), &["-1", "0", "+9", " 9 "], &["-2", "10", "", "a", "1.0", "9223372036854775808"]),
            (range(3, 3), &[], &["3"]),
        ] {
            for (values, matches) in [(matching, true), (other, false)] {
                for given in values {
                    let headers = [("x-b", "z"), ("x-a", given)];
                    assert_eq!(
                        matcher(value.clone(), false).matches(&headers[..]),
                        matches,
                        "{value:?} {given}"
                    );
                    assert_eq!(
                        matcher(value.clone(), true).matches(&headers[..]),
                        !matches,
                        "{value:?} {given}"
                    );
                }
            }
            let is_present = value == Present;
            assert!(!matcher(value.clone(), false).matches(&[("x-b", "z")][..]), "{value:?}");
            assert_eq!(matcher(value, true).matches(&[("x-b", "z")][..]), is_present);
        }
    }

    #[test]
    fn one_value_of_a_name_that_matches_is_enough() {
        let headers = &[("x-a", "1"), ("x-b", "3"), ("x-a", ""), ("x-a", "2")][..];
        for (value, matches) in [("1", true), ("2", true), ("", true), ("3", false), ("1,,2", false)] {
            let value = ValueMatcher::Exact(value.into());
            assert_eq!(matcher(value.clone(), false).matches(headers), matches, "{value:?}");
            assert_eq!(matcher(value.clone(), true).matches(headers), !matches, "{value:?}");
        }
        assert!(!matcher(ValueMatcher::Contains(",".into()), false).matches(headers));
        assert!(matcher(ValueMatcher::Range { start: 2, end: 3 }, false).matches(headers));
    }

    #[test]
    fn values_of_a_name_are_read_first_or_as_one() {
        let headers = &[("x-a", "1"), ("x-b", "2"), ("x-a", ""), ("x-a", "3")][..];
        assert_eq!(headers.joined("x-a").unwrap(), &b"1,,3"[..]);
        assert_eq!(Headers::get(headers, "x-a").unwrap(), b"1");
        assert_eq!(headers.joined("x-c"), None);
    }

    #[test]
    fn a_name_is_a_token_in_lower_case() {
        for (text, name) in [("X-Retry", "x-retry"), ("a", "a"), (":status", ":status"), ("~`|", "~`|")] {
            assert_eq!(text.parse::<HeaderName>().unwrap().as_str(), name);
        }
        for text in ["", "a b", "a:", ":", ":Status", ":host", "\u{e4}", "a\n", &"a".repeat(257)] {
            assert_eq!(text.parse::<HeaderName>(), Err(NoHeaderName), "{text:?}");
        }
    }

    #[test]
    fn an_expression_is_bounded() {
        assert!(matches!(Pattern::try_new("("), Err(PatternError::Syntax(_))));
        assert!(matches!(Pattern::try_new("a)|(b"), Err(PatternError::Syntax(_))));
        assert!(matches!(Pattern::try_new(&"(".repeat(60)), Err(PatternError::Syntax(_))));
        assert_eq!(Pattern::try_new(r"\w{1000}"), Err(PatternError::TooBig));
        assert_eq!(Pattern::try_new(&"a".repeat(1_025)), Err(PatternError::TooLong));
        let error = Pattern::try_new("a[").unwrap_err().to_string();
        assert_eq!(error, "a regular expression; unclosed character class");
        assert_eq!(Pattern::try_new("a+").unwrap(), Pattern::try_new("a+").unwrap());
        assert_ne!(Pattern::try_new("a+").unwrap(), Pattern::try_new("aa*").unwrap());
    }

    proptest! {
        #[test]
        fn no_expression_and_no_value_is_too_much(source in "\\PC{0,30}", value in "\\PC{0,60}") {
            match Pattern::try_new(&source) {
                Ok(pattern) => {
                    prop_assert_eq!(pattern.as_str(), &source);
                    let matcher = matcher(ValueMatcher::Regex(pattern), false);
                    let _ = matcher.matches(&[("x-a", value.as_str())][..]);
                }
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
    }
}
