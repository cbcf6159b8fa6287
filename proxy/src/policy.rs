//! The validated policy model: what redial does for connections to which destinations.
//!
//! A value of these types is always sound, whatever document it came from; `dialect` turns documents into them.

pub mod destination;
pub mod headers;
pub mod http;
pub mod table;

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

pub use destination::{Address, Destination, Host, Network};
pub use headers::{HeaderMatcher, HeaderName, Headers, NoHeaderName, Pattern, PatternError, ValueMatcher};
pub use http::{AddedHeaders, ConnectFailure, HttpPolicy, Protocol, REQUEST_HEADERS, UpstreamMode};
pub use table::{DuplicateName, Match, Table};

use crate::retry::{BudgetPolicy, ConnectRetry};

/// What holds for the connections to some destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub name: PolicyName,
    pub origin: Origin,
    /// Where the policy applies. Empty: everywhere.
    pub to: Vec<Destination>,
    pub tcp: ConnectRetry,
    pub protocol: Protocol,
    /// What holds for requests. None: the connection is relayed untouched, whatever it speaks.
    pub http: Option<Arc<HttpPolicy>>,
    /// The retry budget of each destination.
    pub budget: BudgetPolicy,
}

/// A policy's name, alone in its namespace: `checkout` or `shop/checkout`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    namespace: Option<Box<str>>,
    name: Box<str>,
}

/// Why a text is no name or namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    #[error(
        "a name of lowercase letters, digits, `-` and `.`, with a letter or digit at both ends, 253 at most"
    )]
    Name,
    #[error(
        "a namespace of lowercase letters, digits and `-`, with a letter or digit at both ends, 63 at most"
    )]
    Namespace,
}

/// Where a policy was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// redial's own.
    BuiltIn,
    File {
        path: Arc<Path>,
        line: u64,
    },
}

impl Policy {
    /// What holds for a destination that no other policy names.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            name: PolicyName::default(),
            origin: Origin::BuiltIn,
            to: Vec::new(),
            tcp: ConnectRetry::default(),
            protocol: Protocol::Auto,
            http: None,
            budget: BudgetPolicy::default(),
        }
    }
}

impl PolicyName {
    pub fn try_new(namespace: Option<&str>, name: &str) -> Result<Self, NameError> {
        if namespace.is_some_and(|namespace| namespace.len() > 63 || !is_label(namespace)) {
            return Err(NameError::Namespace);
        }
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(NameError::Name);
        }
        Ok(Self { namespace: namespace.map(Box::from), name: Box::from(name) })
    }

    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a policy of this name takes the built-in one's place.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The built-in policy's name.
impl Default for PolicyName {
    fn default() -> Self {
        Self { namespace: None, name: Box::from("default") }
    }
}

impl Display for PolicyName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.bytes().all(inner) && !text.is_empty() && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::{NameError, PolicyName};

    #[test]
    fn a_name_is_what_kubernetes_takes() {
        for name in ["a", "checkout", "a-1.b", "0", &"a".repeat(253)] {
            assert_eq!(PolicyName::try_new(None, name).unwrap().to_string(), name);
        }
        for name in ["", "-a", "a-", "a..b", ".a", "A", "a_b", "a/b", "ä", "a b", &"a".repeat(254)] {
            assert_eq!(PolicyName::try_new(None, name), Err(NameError::Name), "{name}");
        }
        for namespace in ["", "a.b", "-", "A", &"a".repeat(64)] {
            assert_eq!(PolicyName::try_new(Some(namespace), "a"), Err(NameError::Namespace), "{namespace}");
        }
        assert_eq!(PolicyName::try_new(Some("shop"), "checkout").unwrap().to_string(), "shop/checkout");
    }

    #[test]
    fn only_the_bare_word_is_the_default() {
        assert!(PolicyName::try_new(None, "default").unwrap().is_default());
        assert!(!PolicyName::try_new(Some("shop"), "default").unwrap().is_default());
    }
}
