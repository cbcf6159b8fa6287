//! What a soak puts on redial: mixed traffic in which every byte is known, and a server that keeps a ledger of what it
//! executed. What goes wrong meanwhile, and what a workload may see of it, is the test's: `tests/kernel/soak`.

pub mod clients;
pub mod ledger;
pub mod server;
pub mod traffic;

use serde::{Deserialize, Serialize};

/// How many attempts may follow the first one at a request.
pub const RETRIES: u32 = 4;

/// What a client can ask for, each on a port with a policy of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Service {
    /// Bytes, relayed.
    Stream,
    /// HTTP/1 whose idempotent requests are retried.
    Safe,
    /// HTTP/1 of which everything is retried.
    Any,
    /// As `Safe`, over shared upstream connections.
    Pool,
    /// As `Safe`, HTTP/2.
    H2,
}

/// One thing that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    Stream,
    Get,
    Put,
    Post,
}

/// One thing that a client did. Times are [`now`](crate::load::now)s.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// No other has it, and the server knows it too.
    pub id: u64,
    pub service: Service,
    pub kind: Kind,
    /// When the connect() of its connection began.
    pub connection_us: i64,
    pub started_us: i64,
    pub ended_us: i64,
    pub failed: Option<Failure>,
}

/// What a client saw instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// connect() failed with this errno.
    Connect(String),
    /// The connection, or the stream of HTTP/2, ended before the answer began.
    Broken(String),
    /// The connection went away before anything was asked on it, or while nothing was.
    Closed(String),
    /// It ended within the answer.
    Cut(String),
    /// Another status than 200.
    Status(u16),
    /// Nothing, for longer than anybody would wait.
    Hung,
    /// An answer that is not the right one.
    Wrong(String),
}

impl Service {
    pub const ALL: [Self; 5] = [Self::Stream, Self::Safe, Self::Any, Self::Pool, Self::H2];

    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Stream => 7000,
            Self::Safe => 7001,
            Self::Any => 7002,
            Self::Pool => 7003,
            Self::H2 => 7004,
        }
    }

    /// How often the server may execute one id.
    #[must_use]
    pub const fn most_executions(self, kind: Kind) -> u32 {
        match (self, kind) {
            (Self::Stream, _) | (Self::Safe | Self::Pool | Self::H2, Kind::Post | Kind::Stream) => 1,
            (Self::Any, _) | (_, Kind::Get | Kind::Put) => 1 + RETRIES,
        }
    }

    /// What its policy says beside its port.
    fn http(self) -> String {
        let more = match self {
            Self::Stream => return String::new(),
            Self::Safe | Self::H2 => "methods: idempotent",
            Self::Any => "methods: [GET, PUT, POST]",
            Self::Pool => "methods: idempotent, upstream: pool",
        };
        format!(
            "  http: {{numRetries: {RETRIES}, retryOn: [5xx, reset, connect-failure, refused-stream], {more}}}\n"
        )
    }
}

/// The policies under which the traffic runs: connects are tried until the server is there again.
#[must_use]
pub fn policies() -> String {
    let policy = |service: Service| {
        let (name, port, http) = (format!("{service:?}").to_lowercase(), service.port(), service.http());
        format!(
            "---
apiVersion: redial.dev/v1alpha1
kind: RetryPolicy
metadata: {{name: {name}}}
spec:
  to: [{{ports: [{port}]}}]
  tcp:
    maxConnectAttempts: 10000
    connectTimeout: 1s
    timeout: 1m
    backOff: {{baseInterval: 10ms, maxInterval: 50ms}}
  budget: {{percent: 100, minPerSecond: 100000}}
{http}"
        )
    };
    Service::ALL.map(policy).concat()
}
