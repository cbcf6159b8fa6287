//! Why things ended, in closed enums: the same words are the metric's label, the access log's field and the log's
//! word. No variant is ever a catch-all for "other": a new way to end gets a new word.

use serde::Serialize;

/// What became of one attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptOutcome {
    Connected,
    /// The destination answered with RST (ECONNREFUSED).
    Refused,
    /// No answer within the attempt's connect timeout, or the kernel's own (ETIMEDOUT).
    Timeout,
    /// EHOSTUNREACH.
    HostUnreachable,
    /// ENETUNREACH.
    NetworkUnreachable,
    /// The connection was reset while it was being made (ECONNRESET, ECONNABORTED).
    Reset,
    /// This host could not make the socket: no free port, no descriptor, forbidden by a local rule.
    Local,
    /// The client gave up first.
    Cancelled,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Both sides closed in order.
    Closed,
    /// The client reset the connection.
    ClientReset,
    /// The upstream reset the connection.
    UpstreamReset,
    /// The upstream stopped answering on an established connection.
    UpstreamTimeout,
    /// The client gave up before the connection was made.
    ClientGone,
    /// The attempt failed in a way that the policy does not retry.
    NotRetriable,
    /// Every attempt that the policy allows was made.
    AttemptsExhausted,
    /// The policy's overall timeout ran out.
    TimedOut,
    /// The retry budget was empty.
    BudgetExhausted,
    /// The agent was at its bound of connections.
    Overloaded,
    /// The agent stopped and the drain timeout ran out.
    Drained,
    /// A connection came to the engine's port that no program had redirected there.
    NoOriginalDestination,
    /// The handshake was released but the client's side never completed it.
    HandshakeLost,
}

impl AttemptOutcome {
    pub const ALL: [Self; 8] = [
        Self::Connected,
        Self::Refused,
        Self::Timeout,
        Self::HostUnreachable,
        Self::NetworkUnreachable,
        Self::Reset,
        Self::Local,
        Self::Cancelled,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::HostUnreachable => "host-unreachable",
            Self::NetworkUnreachable => "network-unreachable",
            Self::Reset => "reset",
            Self::Local => "local",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Reason {
    pub const ALL: [Self; 13] = [
        Self::Closed,
        Self::ClientReset,
        Self::UpstreamReset,
        Self::UpstreamTimeout,
        Self::ClientGone,
        Self::NotRetriable,
        Self::AttemptsExhausted,
        Self::TimedOut,
        Self::BudgetExhausted,
        Self::Overloaded,
        Self::Drained,
        Self::NoOriginalDestination,
        Self::HandshakeLost,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ClientReset => "client-reset",
            Self::UpstreamReset => "upstream-reset",
            Self::UpstreamTimeout => "upstream-timeout",
            Self::ClientGone => "client-gone",
            Self::NotRetriable => "not-retriable",
            Self::AttemptsExhausted => "attempts-exhausted",
            Self::TimedOut => "timed-out",
            Self::BudgetExhausted => "budget-exhausted",
            Self::Overloaded => "overloaded",
            Self::Drained => "drained",
            Self::NoOriginalDestination => "no-original-destination",
            Self::HandshakeLost => "handshake-lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AttemptOutcome, Reason};

    #[test]
    fn the_word_in_the_log_is_the_word_in_the_metric() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
        for outcome in AttemptOutcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
    }
}
