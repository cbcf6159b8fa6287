//! Which requests may be executed twice.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use thiserror::Error;

use crate::policy::Headers;

/// The requests that may be executed twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    /// All.
    Any,
    /// Those of idempotent methods (RFC 9110, section 9.2.2), and those with an `Idempotency-Key`.
    Idempotent,
    /// Those of these methods, and those with an `Idempotency-Key`.
    These(Vec<Method>),
}

/// The name of a method, such as `GET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(Box<str>);

/// Why a text is no [`Method`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a method in capital letters, such as GET")]
pub struct NoMethod;

impl Methods {
    /// Whether this request may be executed twice.
    #[must_use]
    pub fn allow(&self, request: &(impl Headers + ?Sized)) -> bool {
        let method = || request.get(":method").unwrap_or_default();
        let by_method = match self {
            Self::Any => return true,
            Self::Idempotent => {
                matches!(method(), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
            }
            Self::These(methods) => methods.iter().any(|known| known.0.as_bytes() == method()),
        };
        // An empty key is no key: the server can't know the second request by it.
        by_method || request.get("idempotency-key").is_some_and(|key| !key.trim_ascii().is_empty())
    }
}

impl Method {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Methods are case-sensitive, and a policy's `get` can only be meant for `GET`: capitals are asked for.
impl FromStr for Method {
    type Err = NoMethod;

    fn from_str(text: &str) -> Result<Self, NoMethod> {
        let belongs = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        let is_method = text.starts_with(|first: char| first.is_ascii_uppercase())
            && text.len() <= 64
            && text.bytes().all(belongs);
        is_method.then(|| Self(Box::from(text))).ok_or(NoMethod)
    }
}

impl Display for Method {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Method, Methods};

    #[test]
    fn a_method_is_in_capitals() {
        for text in ["GET", "M-SEARCH", "BASELINE-CONTROL", "X_1"] {
            assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
        }
        for text in ["", "get", "Get", "GET ", "1", "G,T", "\u{c4}", &"A".repeat(65)] {
            assert!(text.parse::<Method>().is_err(), "{text}");
        }
    }

    #[test]
    fn which_requests_may_be_executed_twice() {
        let these = || Methods::These(vec!["POST".parse().unwrap(), "GET".parse().unwrap()]);
        // By any, idempotent, POST and GET.
        for (method, key, allowed) in [
            ("GET", None, [true, true, true]),
            ("HEAD", None, [true, true, false]),
            ("OPTIONS", None, [true, true, false]),
            ("TRACE", None, [true, true, false]),
            ("PUT", None, [true, true, false]),
            ("DELETE", None, [true, true, false]),
            ("POST", None, [true, false, true]),
            ("PATCH", None, [true, false, false]),
            ("CONNECT", None, [true, false, false]),
            ("get", None, [true, false, false]),
            ("", None, [true, false, false]),
            ("PATCH", Some("\"k\""), [true, true, true]),
            ("PATCH", Some(" "), [true, false, false]),
        ] {
            let mut request = vec![(":method", method)];
            request.extend(key.map(|key| ("idempotency-key", key)));
            let by = [Methods::Any, Methods::Idempotent, these()];
            assert_eq!(by.map(|methods| methods.allow(&request[..])), allowed, "{method} {key:?}");
        }
        assert!(!Methods::Idempotent.allow(&[("x", "GET")][..]));
    }
}
