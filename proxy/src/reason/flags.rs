//! Envoy's response flags for the ways in which a request ends, for whoever reads its access logs.
//!
//! <https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/observability/access_log/usage#response-flags>

use std::fmt;

use serde::{Serialize, Serializer};

use super::{Reason, RequestOutcome};

/// A response flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// `UF`: no connection to the upstream was made.
    UpstreamConnectionFailure,
    /// `UC`: the upstream ended the connection.
    UpstreamConnectionTermination,
    /// `UR`: the upstream reset the stream.
    UpstreamRemoteReset,
    /// `UPE`: the upstream's response is no HTTP.
    UpstreamProtocolError,
    /// `UT`: the upstream took too long.
    UpstreamRequestTimeout,
    /// `UO`: a retry was not made, because there were too many.
    UpstreamOverflow,
    /// `URX`: every attempt that the policy allows was made.
    UpstreamRetryLimitExceeded,
    /// `SI`: nothing came or went for too long.
    StreamIdleTimeout,
    /// `DC`: the client ended the connection.
    DownstreamConnectionTermination,
    /// `DR`: the client reset the stream.
    DownstreamRemoteReset,
    /// `DPE`: the request is no HTTP.
    DownstreamProtocolError,
    /// `LR`: redial reset the stream.
    LocalReset,
    /// `UH`: there was nowhere to send the request.
    NoHealthyUpstream,
    /// `OM`: redial was at a bound.
    OverloadManager,
}

/// The flags of one request: at most one for why there was no other attempt, and one for how the attempt failed whose
/// failure the client got. Written as Envoy 1.40 writes them, `URX,UF`, and as `-` where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    reason: Option<Flag>,
    outcome: Option<Flag>,
}

impl Flags {
    /// Of a request whose last attempt, if any was made, came to this.
    #[must_use]
    pub fn of(last: Option<RequestOutcome>, reason: Reason) -> Self {
        let outcome = if delivers_a_failure(reason) { last.and_then(of_outcome) } else { None };
        let reason = of_reason(reason);
        Self { reason, outcome: outcome.filter(|outcome| reason != Some(*outcome)) }
    }

    fn each(self) -> impl Iterator<Item = Flag> {
        [self.reason, self.outcome].into_iter().flatten()
    }
}

impl Flag {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamRemoteReset => "UR",
            Self::UpstreamProtocolError => "UPE",
            Self::UpstreamRequestTimeout => "UT",
            Self::UpstreamOverflow => "UO",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::StreamIdleTimeout => "SI",
            Self::DownstreamConnectionTermination => "DC",
            Self::DownstreamRemoteReset => "DR",
            Self::DownstreamProtocolError => "DPE",
            Self::LocalReset => "LR",
            Self::NoHealthyUpstream => "UH",
            Self::OverloadManager => "OM",
        }
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, flag) in self.each().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            f.write_str(flag.as_str())?;
        }
        f.write_str(if *self == Self::default() { "-" } else { "" })
    }
}

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether what the client got is how the last attempt failed.
const fn delivers_a_failure(reason: Reason) -> bool {
    match reason {
        Reason::UpstreamReset
        | Reason::UpstreamTimeout
        | Reason::NotRetriable
        | Reason::NotRepeatable
        | Reason::NotReplayable
        | Reason::AttemptsExhausted
        | Reason::TooManyRetries
        | Reason::BudgetExhausted => true,
        Reason::Closed
        | Reason::Responded
        | Reason::ClientReset
        | Reason::ClientGone
        | Reason::TimedOut
        | Reason::IdleTimeout
        | Reason::NoEndpoint
        | Reason::BadRequest
        | Reason::HeadTooLarge
        | Reason::Overloaded
        | Reason::Drained
        | Reason::NoOriginalDestination
        | Reason::HandshakeLost => false,
    }
}

const fn of_outcome(outcome: RequestOutcome) -> Option<Flag> {
    match outcome {
        RequestOutcome::Response | RequestOutcome::Cancelled => None,
        RequestOutcome::Connect(_) => Some(Flag::UpstreamConnectionFailure),
        RequestOutcome::ConnectionLost => Some(Flag::UpstreamConnectionTermination),
        RequestOutcome::RefusedStream | RequestOutcome::StreamReset => Some(Flag::UpstreamRemoteReset),
        RequestOutcome::ProtocolError => Some(Flag::UpstreamProtocolError),
        RequestOutcome::PerTryTimeout | RequestOutcome::PerTryIdleTimeout | RequestOutcome::Timeout => {
            Some(Flag::UpstreamRequestTimeout)
        }
    }
}

const fn of_reason(reason: Reason) -> Option<Flag> {
    match reason {
        Reason::NoEndpoint => Some(Flag::NoHealthyUpstream),
        Reason::AttemptsExhausted => Some(Flag::UpstreamRetryLimitExceeded),
        Reason::TooManyRetries | Reason::BudgetExhausted => Some(Flag::UpstreamOverflow),
        Reason::TimedOut => Some(Flag::UpstreamRequestTimeout),
        Reason::IdleTimeout => Some(Flag::StreamIdleTimeout),
        Reason::BadRequest | Reason::HeadTooLarge => Some(Flag::DownstreamProtocolError),
        Reason::ClientGone => Some(Flag::DownstreamConnectionTermination),
        Reason::ClientReset => Some(Flag::DownstreamRemoteReset),
        Reason::Overloaded => Some(Flag::OverloadManager),
        Reason::Drained => Some(Flag::LocalReset),
        Reason::Closed
        | Reason::Responded
        | Reason::UpstreamReset
        | Reason::UpstreamTimeout
        | Reason::NotRetriable
        | Reason::NotRepeatable
        | Reason::NotReplayable
        | Reason::NoOriginalDestination
        | Reason::HandshakeLost => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Flags;
    use crate::reason::{AttemptOutcome, Reason, RequestOutcome};

    #[test]
    fn the_flags_that_envoy_sets() {
        let refused = RequestOutcome::Connect(AttemptOutcome::Refused);
        for (last, reason, flags) in [
            (Some(RequestOutcome::Response), Reason::Responded, "-"),
            // The last response was passed on as it came.
            (Some(RequestOutcome::Response), Reason::AttemptsExhausted, "URX"),
            (Some(RequestOutcome::Response), Reason::BudgetExhausted, "UO"),
            (Some(refused), Reason::AttemptsExhausted, "URX,UF"),
            (Some(refused), Reason::NotRetriable, "UF"),
            (Some(RequestOutcome::ConnectionLost), Reason::NotRepeatable, "UC"),
            (Some(RequestOutcome::ConnectionLost), Reason::UpstreamReset, "UC"),
            (Some(RequestOutcome::ConnectionLost), Reason::TooManyRetries, "UO,UC"),
            (Some(RequestOutcome::StreamReset), Reason::UpstreamReset, "UR"),
            (Some(RequestOutcome::RefusedStream), Reason::AttemptsExhausted, "URX,UR"),
            (Some(RequestOutcome::ProtocolError), Reason::NotRetriable, "UPE"),
            (Some(RequestOutcome::PerTryTimeout), Reason::AttemptsExhausted, "URX,UT"),
            (Some(RequestOutcome::Timeout), Reason::TimedOut, "UT"),
            // The time ran out in the backoff after a failed attempt: the client does not get that failure.
            (Some(refused), Reason::TimedOut, "UT"),
            (Some(RequestOutcome::Timeout), Reason::IdleTimeout, "SI"),
            (Some(RequestOutcome::Cancelled), Reason::ClientGone, "DC"),
            (Some(RequestOutcome::Cancelled), Reason::ClientReset, "DR"),
            (Some(RequestOutcome::Cancelled), Reason::Drained, "LR"),
            (None, Reason::BadRequest, "DPE"),
            (None, Reason::Overloaded, "OM"),
            (None, Reason::NoEndpoint, "UH"),
        ] {
            assert_eq!(Flags::of(last, reason).to_string(), flags, "{last:?} {reason:?}");
        }
    }

    #[test]
    fn every_give_up_of_a_request_that_was_tried_has_a_flag() {
        let of_connections = [Reason::NoOriginalDestination, Reason::HandshakeLost];
        for reason in Reason::ALL.into_iter().filter(|reason| !of_connections.contains(reason)) {
            let flags = Flags::of(Some(RequestOutcome::ConnectionLost), reason);
            assert_eq!(flags == Flags::default(), [Reason::Closed, Reason::Responded].contains(&reason));
        }
    }
}
