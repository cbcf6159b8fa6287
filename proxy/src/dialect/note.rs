//! What is legal in a document, and does nothing or harm: each kind has a code that stays as it is.
//!
//! docs/policies.md has the table of the codes.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::sync::Arc;

/// What a document's reader should know, and where: `file:line: field: warning[code]: message`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    pub code: Code,
    pub file: Arc<Path>,
    pub line: u64,
    /// Such as `spec.http.methods`, also where it is the default of a field that was left out.
    pub field: String,
    /// What it means, and what to do.
    pub message: String,
}

/// A kind of [`Note`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    AppliesEverywhere,
    DangerousMethods,
    Ignored,
    InertConditions,
    InertGrpc,
    InertHedging,
    InertHttp3,
    InertPerTryTimeout,
    InertRateLimitedBackoff,
    InertSetting,
    NoBudget,
    NoConcurrentRetries,
    NoConditions,
    NoReplay,
    ShortTimeout,
    StackedRetries,
    TinyTimeout,
    UnreachableRoute,
    UnresolvedTarget,
}

impl Code {
    pub const ALL: [Self; 19] = [
        Self::AppliesEverywhere,
        Self::DangerousMethods,
        Self::Ignored,
        Self::InertConditions,
        Self::InertGrpc,
        Self::InertHedging,
        Self::InertHttp3,
        Self::InertPerTryTimeout,
        Self::InertRateLimitedBackoff,
        Self::InertSetting,
        Self::NoBudget,
        Self::NoConcurrentRetries,
        Self::NoConditions,
        Self::NoReplay,
        Self::ShortTimeout,
        Self::StackedRetries,
        Self::TinyTimeout,
        Self::UnreachableRoute,
        Self::UnresolvedTarget,
    ];

    /// The word that scripts may rely on.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppliesEverywhere => "applies-everywhere",
            Self::Ignored => "ignored",
            Self::InertSetting => "inert-setting",
            Self::StackedRetries => "stacked-retries",
            Self::UnreachableRoute => "unreachable-route",
            Self::UnresolvedTarget => "unresolved-target",
            Self::DangerousMethods => "dangerous-methods",
            Self::InertConditions => "inert-conditions",
            Self::InertGrpc => "inert-grpc",
            Self::InertHedging => "inert-hedging",
            Self::InertHttp3 => "inert-http3",
            Self::InertPerTryTimeout => "inert-per-try-timeout",
            Self::InertRateLimitedBackoff => "inert-rate-limited-backoff",
            Self::NoBudget => "no-budget",
            Self::NoConcurrentRetries => "no-concurrent-retries",
            Self::NoConditions => "no-conditions",
            Self::NoReplay => "no-replay",
            Self::ShortTimeout => "short-timeout",
            Self::TinyTimeout => "tiny-timeout",
        }
    }
}

impl Display for Code {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Display for Note {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { code, file, line, field, message } = self;
        write!(f, "{}:{line}: {field}: warning[{code}]: {message}", file.display())
    }
}
