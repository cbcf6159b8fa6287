//! The words of `retry_on`, and sets of them.

/// When a request is retried: Envoy's `retry_on` and `retry_grpc_on` tokens, with its meaning of each.
///
/// Their order is the order in which they are asked: what says most about an attempt comes first, so that the condition
/// told as the reason for a retry is the narrowest one that held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// The response has `x-envoy-ratelimited`. Of such a response no other condition is asked.
    EnvoyRateLimited,
    /// The response's status is one of the policy's.
    RetriableStatusCodes,
    /// One of the policy's matchers holds for the response.
    RetriableHeaders,
    /// gRPC status 1.
    Cancelled,
    /// gRPC status 4.
    DeadlineExceeded,
    /// gRPC status 8.
    ResourceExhausted,
    /// gRPC status 13.
    Internal,
    /// gRPC status 14.
    Unavailable,
    /// 409.
    Retriable4xx,
    /// No connection was made.
    ConnectFailure,
    /// Accepted, and can never be: redial does not speak HTTP/3.
    Http3PostConnectFailure,
    /// HTTP/2: the upstream refused the stream.
    RefusedStream,
    /// No response, and nothing of the request was sent.
    ResetBeforeRequest,
    /// No response, for any reason.
    Reset,
    /// 502, 503, 504 or no response.
    GatewayError,
    /// 500 to 599 or no response.
    ServerError,
}

/// A set of [`Condition`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions(u32);

impl Condition {
    pub const ALL: [Self; 16] = [
        Self::EnvoyRateLimited,
        Self::RetriableStatusCodes,
        Self::RetriableHeaders,
        Self::Cancelled,
        Self::DeadlineExceeded,
        Self::ResourceExhausted,
        Self::Internal,
        Self::Unavailable,
        Self::Retriable4xx,
        Self::ConnectFailure,
        Self::Http3PostConnectFailure,
        Self::RefusedStream,
        Self::ResetBeforeRequest,
        Self::Reset,
        Self::GatewayError,
        Self::ServerError,
    ];

    /// Envoy's token.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EnvoyRateLimited => "envoy-ratelimited",
            Self::RetriableStatusCodes => "retriable-status-codes",
            Self::RetriableHeaders => "retriable-headers",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::ResourceExhausted => "resource-exhausted",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Retriable4xx => "retriable-4xx",
            Self::ConnectFailure => "connect-failure",
            Self::Http3PostConnectFailure => "http3-post-connect-failure",
            Self::RefusedStream => "refused-stream",
            Self::ResetBeforeRequest => "reset-before-request",
            Self::Reset => "reset",
            Self::GatewayError => "gateway-error",
            Self::ServerError => "5xx",
        }
    }

    /// The condition of this token, if it is one.
    #[must_use]
    pub fn parse(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|condition| condition.as_str() == token)
    }

    /// The gRPC status that the condition is about: such a token belongs in `x-envoy-retry-grpc-on`.
    #[must_use]
    pub const fn grpc_status(self) -> Option<u32> {
        match self {
            Self::Cancelled => Some(1),
            Self::DeadlineExceeded => Some(4),
            Self::ResourceExhausted => Some(8),
            Self::Internal => Some(13),
            Self::Unavailable => Some(14),
            Self::EnvoyRateLimited
            | Self::RetriableStatusCodes
            | Self::RetriableHeaders
            | Self::Retriable4xx
            | Self::ConnectFailure
            | Self::Http3PostConnectFailure
            | Self::RefusedStream
            | Self::ResetBeforeRequest
            | Self::Reset
            | Self::GatewayError
            | Self::ServerError => None,
        }
    }

    const fn bit(self) -> u32 {
        1 << match self {
            Self::EnvoyRateLimited => 0,
            Self::RetriableStatusCodes => 1,
            Self::RetriableHeaders => 2,
            Self::Cancelled => 3,
            Self::DeadlineExceeded => 4,
            Self::ResourceExhausted => 5,
            Self::Internal => 6,
            Self::Unavailable => 7,
            Self::Retriable4xx => 8,
            Self::ConnectFailure => 9,
            Self::Http3PostConnectFailure => 10,
            Self::RefusedStream => 11,
            Self::ResetBeforeRequest => 12,
            Self::Reset => 13,
            Self::GatewayError => 14,
            Self::ServerError => 15,
        }
    }
}

impl Conditions {
    /// What a policy retries that does not say: what tells of an upstream that is not there.
    pub const DEFAULT: Self = Self::of(&[
        Condition::GatewayError,
        Condition::Reset,
        Condition::ConnectFailure,
        Condition::RefusedStream,
    ]);

    /// The set of these.
    #[must_use]
    pub const fn of(conditions: &[Condition]) -> Self {
        let (mut set, mut rest) = (0, conditions);
        while let [first, after @ ..] = rest {
            set |= first.bit();
            rest = after;
        }
        Self(set)
    }

    #[must_use]
    pub const fn contains(self, condition: Condition) -> bool {
        self.0 & condition.bit() != 0
    }

    /// Whether one of these is in the set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in [`Condition::ALL`]'s order.
    pub fn iter(self) -> impl Iterator<Item = Condition> {
        Condition::ALL.into_iter().filter(move |&condition| self.contains(condition))
    }
}

impl FromIterator<Condition> for Conditions {
    fn from_iter<T: IntoIterator<Item = Condition>>(conditions: T) -> Self {
        conditions.into_iter().fold(Self::default(), |set, condition| set.with(Self::of(&[condition])))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    use super::{Condition, Conditions};

    #[test]
    fn the_tokens_are_envoy_s() {
        let tokens = Condition::ALL.map(Condition::as_str);
        assert_eq!(
            tokens,
            [
                "envoy-ratelimited",
                "retriable-status-codes",
                "retriable-headers",
                "cancelled",
                "deadline-exceeded",
                "resource-exhausted",
                "internal",
                "unavailable",
                "retriable-4xx",
                "connect-failure",
                "http3-post-connect-failure",
                "refused-stream",
                "reset-before-request",
                "reset",
                "gateway-error",
                "5xx",
            ]
        );
        assert_eq!(tokens.map(Condition::parse), Condition::ALL.map(Some));
        for token in ["", "5XX", " 5xx", "canceled", "gateway_error", "503"] {
            assert_eq!(Condition::parse(token), None, "{token}");
        }
    }

    proptest! {
        #[test]
        fn a_set_is_what_it_was_made_of(
            members in subsequence(Condition::ALL.to_vec(), 0..=16),
            others in subsequence(Condition::ALL.to_vec(), 0..=16),
        ) {
            let (set, other) = (Conditions::of(&members), Conditions::of(&others));
            prop_assert_eq!(set, members.iter().copied().collect());
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), members.clone());
            prop_assert_eq!(set.is_empty(), members.is_empty());
            for condition in Condition::ALL {
                prop_assert_eq!(set.contains(condition), members.contains(&condition));
                let in_both = members.contains(&condition) || others.contains(&condition);
                prop_assert_eq!(set.with(other).contains(condition), in_both);
            }
            prop_assert_eq!(set.intersects(other), members.iter().any(|one| others.contains(one)));
        }
    }
}
