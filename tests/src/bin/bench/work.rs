//! What is measured: the suites, their cases, and the metrics that each case yields.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::http::Exchange;
use crate::http::client::Asking;
use crate::http::faults::Faults;
use crate::http::streams::{Call, Streaming};
use crate::paths::{
    CONNECTIONS_PATHS, HTTP_PATHS, NOT_ENROLLED_PATHS, PODS_PATHS, POLICIES_PATHS, Path, TCP_PATHS,
};

/// Cases, and the paths that they are measured on.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    pub name: &'static str,
    /// What it is chosen by.
    pub group: &'static str,
    pub cases: &'static [Case],
    /// The first is the one that all others are compared with.
    pub paths: &'static [Path],
}

pub const SUITES: &[Suite] = &[
    Suite { name: "tcp", group: "tcp", cases: TCP_CASES, paths: TCP_PATHS },
    Suite { name: "http", group: "http", cases: HTTP_CASES, paths: HTTP_PATHS },
    Suite { name: "connections", group: "growth", cases: CONNECTIONS_CASES, paths: CONNECTIONS_PATHS },
    Suite { name: "policies", group: "growth", cases: AGENT_CASES, paths: POLICIES_PATHS },
    Suite { name: "pods", group: "growth", cases: AGENT_CASES, paths: PODS_PATHS },
    Suite { name: "not enrolled", group: "growth", cases: NOT_ENROLLED_CASES, paths: NOT_ENROLLED_PATHS },
];

/// A row of the benchmark, or several: one for each metric.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub work: Work,
}

/// What a client does, over and over until its time is up.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Connects and closes.
    Connect,
    /// Connects, has one byte sent back and closes, in several threads at once.
    Exchange { threads: usize },
    /// Sends, on several connections at once.
    Upload { streams: usize },
    /// Receives, on several connections at once.
    Download { streams: usize },
    /// Sends a message and waits for it to come back, on one connection.
    PingPong { bytes: usize },
    /// Makes requests over HTTP/1.
    Requests(Asking),
    /// Makes requests over HTTP/2.
    Streams(Streaming),
    /// Makes connections, or as many of them as there can be, has one answer on each, and keeps them. Once in a run,
    /// before anything else.
    Idle { connections: usize },
    /// Does nothing. Once in a run.
    Rest,
}

const SMALL: Asking =
    Asking { connections: 64, exchange: Exchange::Small, is_new_each: false, faults: Faults(0) };

/// On kept connections.
const fn requests(name: &'static str, exchange: Exchange, failing_percent: u64) -> Case {
    Case { name, work: Work::Requests(Asking { exchange, faults: Faults(failing_percent), ..SMALL }) }
}

const fn connections(name: &'static str, connections: usize) -> Case {
    Case { name, work: Work::Requests(Asking { connections, ..SMALL }) }
}

const NEW_CONNECTIONS: Case = Case {
    name: "new connections",
    work: Work::Requests(Asking { connections: 16, is_new_each: true, ..SMALL }),
};

const fn streams(name: &'static str, call: Call, streams: usize, failing_percent: u64) -> Case {
    let faults = Faults(failing_percent);
    Case { name, work: Work::Streams(Streaming { connections: 4, streams, call, faults }) }
}

const HTTP_CASES: &[Case] = &[
    Case { name: "10,000 idle", work: Work::Idle { connections: 10_000 } },
    requests("small answers", Exchange::Small, 0),
    requests("small, 1 % fail", Exchange::Small, 1),
    requests("small, 30 % fail", Exchange::Small, 30),
    requests("64 KiB answers", Exchange::Large, 0),
    requests("16 KiB posted", Exchange::Post, 0),
    requests("posted, 30 % fail", Exchange::Post, 30),
    NEW_CONNECTIONS,
    streams("h2, 64 streams", Call::Get, 16, 0),
    streams("gRPC, 256 streams", Call::Grpc, 64, 0),
    streams("gRPC, 30 % fail", Call::Grpc, 64, 30),
];

const CONNECTIONS_CASES: &[Case] = &[
    connections("1 connection", 1),
    connections("10 connections", 10),
    connections("100 connections", 100),
    connections("1,000 connections", 1000),
    connections("10,000 connections", 10_000),
];

const AGENT_CASES: &[Case] = &[
    Case { name: "at rest", work: Work::Rest },
    CONNECT,
    NEW_CONNECTIONS,
    requests("small answers", Exchange::Small, 0),
];

const NOT_ENROLLED_CASES: &[Case] = &[CONNECT, ONE_DOWN, requests("small answers", Exchange::Small, 0)];

const CONNECT: Case = Case { name: "connect", work: Work::Connect };
const ONE_DOWN: Case = Case { name: "1 stream down", work: Work::Download { streams: 1 } };

const TCP_CASES: &[Case] = &[
    CONNECT,
    Case { name: "16 connecting", work: Work::Exchange { threads: 16 } },
    Case { name: "1 stream up", work: Work::Upload { streams: 1 } },
    ONE_DOWN,
    Case { name: "64 streams up", work: Work::Upload { streams: 64 } },
    Case { name: "64 streams down", work: Work::Download { streams: 64 } },
    Case { name: "64-byte ping-pong", work: Work::PingPong { bytes: 64 } },
];

/// The kinds of number there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    MedianMicroseconds,
    P99Microseconds,
    PerSecond,
    GibibytesPerSecond,
    /// Of the proxy.
    CpuMicrosecondsPerConnection,
    /// Of the proxy.
    CpuSecondsPerGibibyte,
    /// Of the proxy.
    CpuMicrosecondsPerRequest,
    /// Of everything that this machine did meanwhile.
    MachineMicrosecondsPerConnection,
    /// Of everything that this machine did meanwhile.
    MachineSecondsPerGibibyte,
    /// Of everything that this machine did meanwhile.
    MachineMicrosecondsPerRequest,
    /// How often the server saw a request.
    AttemptsPerRequest,
    /// The requests that the client got 503 for.
    FailedPercent,
    Connections,
    /// What the proxy's resident memory grew by.
    KibibytesPerConnection,
    /// What the proxy's resident memory is.
    Mebibytes,
}

/// What one client measured, and how much it did meanwhile.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    pub values: Vec<(Metric, f64)>,
    pub connections: f64,
    #[serde(default)]
    pub requests: f64,
    #[serde(default)]
    pub gibibytes: f64,
}

/// What all clients of a path did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub connections: f64,
    pub requests: f64,
}

impl Done {
    pub fn add(&mut self, measured: &Measured) {
        self.connections += measured.connections;
        self.requests += measured.requests;
    }
}

impl Measured {
    /// The CPU time that the proxy, if there is one, and the whole machine spent on this, by what the work is made of.
    pub fn cpu(&self, work: Work, proxy: Option<f64>, machine: f64) -> Vec<(Metric, f64)> {
        let micros = 1e6;
        let (of_proxy, of_machine, by) = match work {
            Work::Connect | Work::Exchange { .. } => (
                Metric::CpuMicrosecondsPerConnection,
                Metric::MachineMicrosecondsPerConnection,
                micros / self.connections,
            ),
            Work::Upload { .. } | Work::Download { .. } => {
                (Metric::CpuSecondsPerGibibyte, Metric::MachineSecondsPerGibibyte, 1.0 / self.gibibytes)
            }
            Work::Requests(_) | Work::Streams(_) => (
                Metric::CpuMicrosecondsPerRequest,
                Metric::MachineMicrosecondsPerRequest,
                micros / self.requests,
            ),
            Work::PingPong { .. } | Work::Idle { .. } | Work::Rest => return Vec::new(),
        };
        let proxy = proxy.map(|seconds| (of_proxy, seconds * by));
        proxy.into_iter().chain([(of_machine, machine * by)]).collect()
    }
}

impl Work {
    /// Whether it is measured in the first round only. Of memory, what was used before and is free again would hide what is used
    /// now; and ten thousand connections leave behind what the next ten thousand meet.
    pub fn is_once(self) -> bool {
        match self {
            Self::Idle { .. } | Self::Rest => true,
            Self::Requests(Asking { connections, .. }) => connections >= 10_000,
            _ => false,
        }
    }

    /// Whether there is something to retry.
    pub fn has_faults(self) -> bool {
        match self {
            Self::Requests(Asking { faults, .. }) | Self::Streams(Streaming { faults, .. }) => {
                !faults.are_none()
            }
            _ => false,
        }
    }
}

/// What is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    High,
    Low,
}

impl Metric {
    pub fn aim(self) -> Option<Aim> {
        match self {
            Self::PerSecond | Self::GibibytesPerSecond => Some(Aim::High),
            Self::AttemptsPerRequest | Self::FailedPercent | Self::Connections => None,
            _ => Some(Aim::Low),
        }
    }

    /// What the number is, for a table's row.
    pub fn label(self) -> &'static str {
        match self {
            Self::MedianMicroseconds => "p50",
            Self::P99Microseconds => "p99",
            Self::PerSecond => "rate",
            Self::GibibytesPerSecond => "throughput",
            Self::CpuMicrosecondsPerConnection
            | Self::CpuSecondsPerGibibyte
            | Self::CpuMicrosecondsPerRequest => "proxy CPU",
            Self::MachineMicrosecondsPerConnection
            | Self::MachineSecondsPerGibibyte
            | Self::MachineMicrosecondsPerRequest => "machine CPU",
            Self::AttemptsPerRequest => "attempts",
            Self::FailedPercent => "failed",
            Self::Connections => "connections",
            Self::KibibytesPerConnection | Self::Mebibytes => "memory",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::MedianMicroseconds | Self::P99Microseconds => "µs",
            Self::PerSecond => "/s",
            Self::GibibytesPerSecond => "GiB/s",
            Self::CpuMicrosecondsPerConnection | Self::MachineMicrosecondsPerConnection => "µs/conn",
            Self::CpuSecondsPerGibibyte | Self::MachineSecondsPerGibibyte => "s/GiB",
            Self::CpuMicrosecondsPerRequest | Self::MachineMicrosecondsPerRequest => "µs/request",
            Self::AttemptsPerRequest => "/request",
            Self::FailedPercent => "%",
            Self::Connections => "",
            Self::KibibytesPerConnection => "KiB/conn",
            Self::Mebibytes => "MiB",
        }
    }
}

/// A duration as this program's arguments have it.
pub fn seconds(text: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}
