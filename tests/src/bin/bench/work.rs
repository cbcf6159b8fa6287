//! What is measured: the suites, their cases, and the metrics that each case yields.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::http::Exchange;
use crate::paths::{HTTP_PATHS, Path, TCP_PATHS};

/// Cases, and the paths that they are measured on.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    pub name: &'static str,
    pub cases: &'static [Case],
    /// The first is the one that all others are compared with.
    pub paths: &'static [Path],
}

pub const SUITES: &[Suite] = &[
    Suite { name: "tcp", cases: TCP_CASES, paths: TCP_PATHS },
    Suite { name: "http", cases: HTTP_CASES, paths: HTTP_PATHS },
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
    /// Makes requests on several connections at once, or on a new one for each.
    Requests { connections: usize, exchange: Exchange, is_new_each: bool },
    /// Makes requests over HTTP/2.
    Streams { connections: usize, streams: usize },
    /// Makes connections, has one answer on each, and keeps them. Once in a run, before anything else.
    Idle { connections: usize },
}

/// Those of kept connections.
const fn requests(name: &'static str, exchange: Exchange) -> Case {
    Case { name, work: Work::Requests { connections: 64, exchange, is_new_each: false } }
}

const HTTP_CASES: &[Case] = &[
    Case { name: "2,000 idle", work: Work::Idle { connections: 2000 } },
    requests("small answers", Exchange::Small),
    requests("64 KiB answers", Exchange::Large),
    requests("16 KiB posted", Exchange::Post),
    Case {
        name: "new connections",
        work: Work::Requests { connections: 16, exchange: Exchange::Small, is_new_each: true },
    },
    Case { name: "h2, 64 streams", work: Work::Streams { connections: 4, streams: 16 } },
];

const TCP_CASES: &[Case] = &[
    Case { name: "connect", work: Work::Connect },
    Case { name: "16 connecting", work: Work::Exchange { threads: 16 } },
    Case { name: "1 stream up", work: Work::Upload { streams: 1 } },
    Case { name: "1 stream down", work: Work::Download { streams: 1 } },
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
    MachineMicrosecondsPerRequest,
    /// What the proxy's resident memory grew by.
    KibibytesPerConnection,
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
    /// The CPU time that a proxy spent on this, by what the work is made of.
    pub fn cpu(&self, work: Work, seconds: f64) -> Option<(Metric, f64)> {
        match work {
            Work::Connect | Work::Exchange { .. } => {
                Some((Metric::CpuMicrosecondsPerConnection, seconds * 1e6 / self.connections))
            }
            Work::Upload { .. } | Work::Download { .. } => {
                Some((Metric::CpuSecondsPerGibibyte, seconds / self.gibibytes))
            }
            Work::Requests { .. } | Work::Streams { .. } => {
                Some((Metric::CpuMicrosecondsPerRequest, seconds * 1e6 / self.requests))
            }
            Work::PingPong { .. } | Work::Idle { .. } => None,
        }
    }
}

impl Metric {
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
            Self::MachineMicrosecondsPerRequest => "machine CPU",
            Self::KibibytesPerConnection => "memory",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::MedianMicroseconds | Self::P99Microseconds => "µs",
            Self::PerSecond => "/s",
            Self::GibibytesPerSecond => "GiB/s",
            Self::CpuMicrosecondsPerConnection => "µs/conn",
            Self::CpuSecondsPerGibibyte => "s/GiB",
            Self::CpuMicrosecondsPerRequest | Self::MachineMicrosecondsPerRequest => "µs/request",
            Self::KibibytesPerConnection => "KiB/conn",
        }
    }
}

/// A duration as this program's arguments have it.
pub fn seconds(text: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}
