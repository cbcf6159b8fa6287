//! What redial does with the requests of a connection.

mod overrides;

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::Duration;

pub use overrides::REQUEST_HEADERS;

use crate::retry::connect::RetryOn;
use crate::retry::request::{Condition, Conditions};
use crate::retry::{ConnectRetry, RequestRetry};

/// What a connection to a destination speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Told by the first bytes that the client sends.
    #[default]
    Auto,
    /// HTTP of any version, whatever the first bytes look like.
    Http,
    /// As `Http`; requests that are not gRPC are requests like any other.
    Grpc,
    /// Relayed untouched.
    Tcp,
}

/// What holds for the requests to some destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpPolicy {
    pub retry: RequestRetry,
    /// For all tries and backoffs together, from the end of the request to the end of the response.
    pub timeout: Option<Duration>,
    /// How long neither side may send anything while a request is under way.
    pub idle_timeout: Option<Duration>,
    /// The most bytes of a request's body that are kept for a retry.
    pub max_buffered_body: usize,
    /// Whether `x-envoy-*` headers of a request change its policy. They are taken out where they do.
    pub honour_request_headers: bool,
    pub added_headers: AddedHeaders,
    /// What the client gets when its connection's own attempts to connect are exhausted.
    pub connect_failure: ConnectFailure,
    pub upstream: UpstreamMode,
    /// A request whose time is up is answered with 204 instead of 504. Only a request's own header asks for it.
    pub timeout_alt_response: bool,
}

impl HttpPolicy {
    /// What a native document that says nothing keeps of a request's body.
    pub const DEFAULT_MAX_BUFFERED_BODY: usize = 1 << 20;

    /// What holds for a request that goes through as it is.
    #[must_use]
    pub fn passing() -> &'static Self {
        static PASSING: LazyLock<HttpPolicy> = LazyLock::new(|| {
            let retry =
                RequestRetry { retry_on: Conditions::default(), num_retries: 0, ..RequestRetry::default() };
            HttpPolicy { retry, ..HttpPolicy::default() }
        });
        &PASSING
    }

    /// How long one try may take, which is no limit where that of all tries is not longer.
    #[must_use]
    pub fn per_try_timeout(&self) -> Option<Duration> {
        self.retry.per_try_timeout.filter(|per_try| self.timeout.is_none_or(|timeout| *per_try < timeout))
    }

    /// How connects are retried where a document says it for requests only.
    #[must_use]
    pub fn connect_retry(&self) -> ConnectRetry {
        const CONNECTS: Conditions = Conditions::of(&[
            Condition::ConnectFailure,
            Condition::ResetBeforeRequest,
            Condition::Reset,
            Condition::GatewayError,
            Condition::ServerError,
        ]);
        let retries = if self.retry.retry_on.intersects(CONNECTS) { self.retry.num_retries } else { 0 };
        let attempts = NonZeroU32::MIN.saturating_add(retries);
        // Without timeouts nothing is refused.
        ConnectRetry::try_new(attempts, None, None, self.retry.backoff, RetryOn::ALL).unwrap_or_default()
    }
}

/// What a native document that says nothing gets.
impl Default for HttpPolicy {
    fn default() -> Self {
        Self {
            retry: RequestRetry::default(),
            timeout: None,
            idle_timeout: None,
            max_buffered_body: Self::DEFAULT_MAX_BUFFERED_BODY,
            honour_request_headers: false,
            added_headers: AddedHeaders::default(),
            connect_failure: ConnectFailure::default(),
            upstream: UpstreamMode::default(),
            timeout_alt_response: false,
        }
    }
}

/// The headers that redial adds to requests and responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddedHeaders {
    /// None: the wire is as the application wrote it.
    #[default]
    None,
    /// `x-envoy-expected-rq-timeout-ms`, `x-envoy-attempt-count` (both ways), `x-envoy-is-timeout-retry`, `x-request-id` and
    /// `x-forwarded-proto`.
    Envoy,
}

/// What the client gets when no attempt to connect came to anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectFailure {
    /// The error that the network gave, from `connect()`.
    #[default]
    Errno,
    /// A connection, and 503 for its requests.
    Unavailable,
}

/// How many upstream connections there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamMode {
    /// One for each connection of the client's; a retry may make another.
    #[default]
    Connection,
    /// As many as are needed, shared by the workload's connections to an endpoint.
    Pool,
}
