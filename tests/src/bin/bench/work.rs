//! What is measured: the cases, and the metrics that each yields.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

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
}

pub const CASES: &[Case] = &[
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
}

/// What one client measured, and how much it did meanwhile.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    pub values: Vec<(Metric, f64)>,
    pub connections: f64,
    pub gibibytes: f64,
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
            Work::PingPong { .. } => None,
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
            Self::CpuMicrosecondsPerConnection | Self::CpuSecondsPerGibibyte => "proxy CPU",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::MedianMicroseconds | Self::P99Microseconds => "µs",
            Self::PerSecond => "/s",
            Self::GibibytesPerSecond => "GiB/s",
            Self::CpuMicrosecondsPerConnection => "µs/conn",
            Self::CpuSecondsPerGibibyte => "s/GiB",
        }
    }
}

/// A duration as this program's arguments have it.
pub fn seconds(text: &str) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}
