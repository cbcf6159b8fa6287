//! Why things ended, in closed enums: the same words are the metric's label, the access log's field and the log's
//! word. No variant is ever a catch-all for "other": a new way to end gets a new word.

mod flags;

use serde::{Serialize, Serializer};

pub use flags::{Flag, Flags};

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

/// What became of one attempt at a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestOutcome {
    /// A response, whatever its status.
    Response,
    /// No connection was made.
    Connect(AttemptOutcome),
    /// The upstream closed or reset the connection before its response was whole.
    ConnectionLost,
    /// HTTP/2: the upstream did not take the stream.
    RefusedStream,
    /// HTTP/2: the upstream reset the stream.
    StreamReset,
    /// What came is no HTTP.
    ProtocolError,
    PerTryTimeout,
    PerTryIdleTimeout,
    /// The request's own time ran out: its timeout or its idle timeout.
    Timeout,
    /// The client went, or another attempt's response was taken.
    Cancelled,
}

/// Why a connection or a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Both sides closed in order.
    Closed,
    /// The request got a response that nothing wanted to be tried again.
    Responded,
    /// The client reset the connection.
    ClientReset,
    /// The upstream reset the connection, or broke a response off.
    UpstreamReset,
    /// The upstream stopped answering on an established connection.
    UpstreamTimeout,
    /// The client gave up before the connection was made or the response was whole.
    ClientGone,
    /// The attempt failed in a way that the policy does not retry, or after an interim response was passed on.
    NotRetriable,
    /// The policy would retry the failure, but the upstream may have executed the request, and it is not one to execute
    /// twice.
    NotRepeatable,
    /// The request's body was more than is kept for a retry.
    NotReplayable,
    /// None of the route's targets has an address that is known.
    NoEndpoint,
    /// Every attempt that the policy allows was made.
    AttemptsExhausted,
    /// As many retries to the destination were under way as the policy allows.
    TooManyRetries,
    /// The retry budget was empty.
    BudgetExhausted,
    /// The policy's overall timeout ran out.
    TimedOut,
    /// Nothing came or went for the idle timeout.
    IdleTimeout,
    /// What the client sent is no HTTP, or is HTTP that may mean two things.
    BadRequest,
    /// The request's head was larger than is allowed.
    HeadTooLarge,
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

impl RequestOutcome {
    pub const ALL: [Self; 17] = [
        Self::Response,
        Self::Connect(AttemptOutcome::Connected),
        Self::Connect(AttemptOutcome::Refused),
        Self::Connect(AttemptOutcome::Timeout),
        Self::Connect(AttemptOutcome::HostUnreachable),
        Self::Connect(AttemptOutcome::NetworkUnreachable),
        Self::Connect(AttemptOutcome::Reset),
        Self::Connect(AttemptOutcome::Local),
        Self::Connect(AttemptOutcome::Cancelled),
        Self::ConnectionLost,
        Self::RefusedStream,
        Self::StreamReset,
        Self::ProtocolError,
        Self::PerTryTimeout,
        Self::PerTryIdleTimeout,
        Self::Timeout,
        Self::Cancelled,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Connect(AttemptOutcome::Connected) => "connected",
            Self::Connect(AttemptOutcome::Refused) => "connect-refused",
            Self::Connect(AttemptOutcome::Timeout) => "connect-timeout",
            Self::Connect(AttemptOutcome::HostUnreachable) => "connect-host-unreachable",
            Self::Connect(AttemptOutcome::NetworkUnreachable) => "connect-network-unreachable",
            Self::Connect(AttemptOutcome::Reset) => "connect-reset",
            Self::Connect(AttemptOutcome::Local) => "connect-local",
            Self::Connect(AttemptOutcome::Cancelled) => "connect-cancelled",
            Self::ConnectionLost => "connection-lost",
            Self::RefusedStream => "refused-stream",
            Self::StreamReset => "stream-reset",
            Self::ProtocolError => "protocol-error",
            Self::PerTryTimeout => "per-try-timeout",
            Self::PerTryIdleTimeout => "per-try-idle-timeout",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Serialize for RequestOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Reason {
    pub const ALL: [Self; 21] = [
        Self::Closed,
        Self::Responded,
        Self::ClientReset,
        Self::UpstreamReset,
        Self::UpstreamTimeout,
        Self::ClientGone,
        Self::NotRetriable,
        Self::NotRepeatable,
        Self::NotReplayable,
        Self::NoEndpoint,
        Self::AttemptsExhausted,
        Self::TooManyRetries,
        Self::BudgetExhausted,
        Self::TimedOut,
        Self::IdleTimeout,
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::Overloaded,
        Self::Drained,
        Self::NoOriginalDestination,
        Self::HandshakeLost,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Responded => "responded",
            Self::ClientReset => "client-reset",
            Self::UpstreamReset => "upstream-reset",
            Self::UpstreamTimeout => "upstream-timeout",
            Self::ClientGone => "client-gone",
            Self::NotRetriable => "not-retriable",
            Self::NotRepeatable => "not-repeatable",
            Self::NotReplayable => "not-replayable",
            Self::NoEndpoint => "no-endpoint",
            Self::AttemptsExhausted => "attempts-exhausted",
            Self::TooManyRetries => "too-many-retries",
            Self::BudgetExhausted => "budget-exhausted",
            Self::TimedOut => "timed-out",
            Self::IdleTimeout => "idle-timeout",
            Self::BadRequest => "bad-request",
            Self::HeadTooLarge => "head-too-large",
            Self::Overloaded => "overloaded",
            Self::Drained => "drained",
            Self::NoOriginalDestination => "no-original-destination",
            Self::HandshakeLost => "handshake-lost",
        }
    }

    /// Whether a request that ended so was not answered as it should have been: with a failure that was to be retried,
    /// with an answer of redial's own, or not to its end.
    #[must_use]
    pub const fn is_give_up(self) -> bool {
        match self {
            Self::Closed | Self::Responded | Self::ClientReset | Self::ClientGone | Self::Drained => false,
            Self::UpstreamReset
            | Self::UpstreamTimeout
            | Self::NotRetriable
            | Self::NotRepeatable
            | Self::NotReplayable
            | Self::NoEndpoint
            | Self::AttemptsExhausted
            | Self::TooManyRetries
            | Self::BudgetExhausted
            | Self::TimedOut
            | Self::IdleTimeout
            | Self::BadRequest
            | Self::HeadTooLarge
            | Self::Overloaded
            | Self::NoOriginalDestination
            | Self::HandshakeLost => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{AttemptOutcome, Reason, RequestOutcome};

    #[test]
    fn the_word_in_the_log_is_the_word_in_the_metric() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
        for outcome in AttemptOutcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
        for outcome in RequestOutcome::ALL {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
        }
    }

    #[test]
    fn no_two_things_have_one_word() {
        fn assert_different<T>(all: &[T], word: impl Fn(&T) -> &'static str) {
            let words: BTreeSet<_> = all.iter().map(word).collect();
            assert_eq!(words.len(), all.len(), "{words:?}");
        }
        assert_different(&Reason::ALL, |reason| reason.as_str());
        assert_different(&AttemptOutcome::ALL, |outcome| outcome.as_str());
        assert_different(&RequestOutcome::ALL, |outcome| outcome.as_str());
    }

    #[test]
    fn every_failed_connect_is_an_outcome_of_a_request() {
        for outcome in AttemptOutcome::ALL {
            assert!(RequestOutcome::ALL.contains(&RequestOutcome::Connect(outcome)));
        }
    }
}
