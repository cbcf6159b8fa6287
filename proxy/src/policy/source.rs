//! Where a policy's settings were said.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::sync::Arc;

use crate::retry::request::Condition;

/// A part of a policy that a document may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// All conditions.
    RetryOn,
    /// One condition, or the list that implies it.
    Condition(Condition),
    StatusCodes,
    ResponseHeaders,
    RequestHeaders,
    Methods,
    NumRetries,
    PerTryTimeout,
    PerTryIdleTimeout,
    Timeout,
    IdleTimeout,
    Backoff,
    RateLimitedBackoff,
    HostSelection,
    HedgeOnPerTryTimeout,
    MaxConcurrentRetries,
    MaxBufferedBody,
    AddedHeaders,
    HonourRequestHeaders,
    ConnectFailure,
    Upstream,
    Matches,
    Targets,
    ConnectAttempts,
    ConnectTimeout,
    ConnectsTimeout,
    ConnectBackoff,
    ConnectRetryOn,
    /// Where connections go that are relayed untouched.
    ConnectTargets,
    Budget,
    From,
    To,
    Protocol,
}

/// Where a document says something, or would say it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub file: Arc<Path>,
    /// Of what is said, or of the section that it would belong to.
    pub line: u64,
    pub field: String,
    pub is_said: bool,
}

/// Where the settings of a policy or a route were said, those that a document has words for.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<(Setting, Place)>);

impl Setting {
    /// All but the single conditions.
    pub const ALL: [Self; 32] = [
        Self::RetryOn,
        Self::StatusCodes,
        Self::ResponseHeaders,
        Self::RequestHeaders,
        Self::Methods,
        Self::NumRetries,
        Self::PerTryTimeout,
        Self::PerTryIdleTimeout,
        Self::Timeout,
        Self::IdleTimeout,
        Self::Backoff,
        Self::RateLimitedBackoff,
        Self::HostSelection,
        Self::HedgeOnPerTryTimeout,
        Self::MaxConcurrentRetries,
        Self::MaxBufferedBody,
        Self::AddedHeaders,
        Self::HonourRequestHeaders,
        Self::ConnectFailure,
        Self::Upstream,
        Self::Matches,
        Self::Targets,
        Self::ConnectAttempts,
        Self::ConnectTimeout,
        Self::ConnectsTimeout,
        Self::ConnectBackoff,
        Self::ConnectRetryOn,
        Self::ConnectTargets,
        Self::Budget,
        Self::From,
        Self::To,
        Self::Protocol,
    ];
}

impl Sources {
    /// Of a setting that is there twice the first counts.
    #[must_use]
    pub fn new(places: impl IntoIterator<Item = (Setting, Place)>) -> Self {
        Self(places.into_iter().collect())
    }

    /// With these besides.
    #[must_use]
    pub fn and(&self, places: impl IntoIterator<Item = (Setting, Place)>) -> Self {
        Self(self.0.iter().cloned().chain(places).collect())
    }

    /// A condition that has no place of its own is where all of them are. What has no place is left to a default.
    #[must_use]
    pub fn place(&self, setting: Setting) -> Option<&Place> {
        let of =
            |setting: Setting| self.0.iter().find(|(known, _)| *known == setting).map(|(_, place)| place);
        of(setting).or_else(|| match setting {
            Setting::Condition(_) => of(Setting::RetryOn),
            _ => None,
        })
    }

    /// The place of a setting, or, if it has none, of anything.
    #[must_use]
    pub fn nearest(&self, setting: Setting) -> Option<&Place> {
        self.place(setting).or_else(|| self.0.first().map(|(_, place)| place))
    }

    #[must_use]
    pub fn is_said(&self, setting: Setting) -> bool {
        self.place(setting).is_some_and(|place| place.is_said)
    }
}

/// Where something was said is no part of what was said: two policies that say the same are equal.
impl PartialEq for Sources {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Sources {}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { file, line, field, is_said: _ } = self;
        write!(f, "{}:{line}: {field}", file.display())
    }
}
