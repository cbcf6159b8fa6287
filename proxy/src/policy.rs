//! The validated policy model: what redial does for connections to which destinations.
//!
//! A value of these types is always sound, whatever document it came from; `dialect` turns documents into them.

pub mod destination;
pub mod headers;
pub mod http;
pub mod route;
pub mod source;
pub mod table;
pub mod workload;

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

pub use destination::{Address, Destination, Host, HostSuffix, Network};
pub use headers::{HeaderMatcher, HeaderName, Headers, NoHeaderName, Pattern, PatternError, ValueMatcher};
pub use http::{AddedHeaders, ConnectFailure, HttpPolicy, Protocol, REQUEST_HEADERS, UpstreamMode};
pub use route::{
    Part, PathMatch, Precedence, QueryMatcher, RequestMatch, RequestProtocol, Route, Target, TargetAddress,
};
pub use source::{Place, Setting, Sources};
pub use table::{DuplicateName, Matched, Resolution, Routed, Router, Table};
pub use workload::{Identity, LabelMatch, Workload, WorkloadSelector, label_pairs};

use crate::retry::{BudgetPolicy, ConnectRetry};

/// What holds for the connections to some destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub name: PolicyName,
    pub origin: Origin,
    /// Whose connections it is about. Empty: everybody's.
    pub from: Vec<WorkloadSelector>,
    /// Where the policy applies. Empty: everywhere.
    pub to: Vec<Destination>,
    pub tcp: ConnectRetry,
    pub protocol: Protocol,
    /// Where connections go that are relayed untouched. Empty: where they were dialled to.
    pub targets: Arc<[Target]>,
    /// What holds for requests.
    pub routes: Vec<Route>,
    /// What becomes of requests that none of the routes matches.
    pub rest: Rest,
    /// The retry budget of each destination.
    pub budget: BudgetPolicy,
    pub sources: Arc<Sources>,
}

/// What becomes of requests that no route of a policy matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// They go through as they are.
    Passes,
    /// A less specific policy may have a route for them.
    GoesOn,
}

/// A policy's name, alone among its kind and in its namespace: `checkout`, `shop/checkout` or `HTTPRoute/shop/checkout`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    namespace: Option<Box<str>>,
    name: Box<str>,
    /// None: redial's own.
    kind: Option<&'static str>,
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
    /// One that says this of all requests, and nothing else.
    #[must_use]
    pub fn for_requests(http: HttpPolicy) -> Self {
        let route = Route {
            name: "http".into(),
            precedence: Precedence::default(),
            matcher: RequestMatch::default(),
            http: Arc::new(http),
            targets: Arc::default(),
            sources: Arc::default(),
        };
        Self { routes: vec![route], ..Self::built_in() }
    }

    /// How connects are retried where a document says it for requests only: as the most patient of them.
    #[must_use]
    pub fn connects_of(routes: &[Route]) -> ConnectRetry {
        let all = routes.iter().map(|route| route.http.connect_retry());
        all.max_by_key(ConnectRetry::max_connect_attempts).unwrap_or_default()
    }

    /// Whether it is about this workload's connections.
    #[must_use]
    pub fn is_from(&self, workload: Workload<'_>) -> bool {
        self.from.is_empty() || self.from.iter().any(|selector| selector.matches(workload))
    }

    /// What holds for a destination that no other policy names.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            name: PolicyName::default(),
            origin: Origin::BuiltIn,
            from: Vec::new(),
            to: Vec::new(),
            tcp: ConnectRetry::default(),
            protocol: Protocol::Auto,
            targets: Arc::default(),
            routes: Vec::new(),
            rest: Rest::Passes,
            budget: BudgetPolicy::default(),
            sources: Arc::default(),
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
        Ok(Self { namespace: namespace.map(Box::from), name: Box::from(name), kind: None })
    }

    /// The name of another system's document, which may be any that the system allows.
    #[must_use]
    pub fn of_kind(kind: &'static str, namespace: Option<&str>, name: &str) -> Self {
        Self { namespace: namespace.map(Box::from), name: Box::from(name), kind: Some(kind) }
    }

    /// The kind of another system's document.
    #[must_use]
    pub fn kind(&self) -> Option<&'static str> {
        self.kind
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
        Self { namespace: None, name: Box::from("default"), kind: None }
    }
}

impl Display for PolicyName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind {
            write!(f, "{kind}/")?;
        }
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
