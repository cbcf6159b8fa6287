//! What redial tells its operators: metrics, the access log, the agent's own log, and the admin socket.
//!
//! Nothing here decides anything about a connection or a request, and nothing here makes one wait: counters are atomics, the
//! access log drops and counts where it cannot keep up, and everything that is kept is bounded.

pub mod access_log;
pub mod admin;
pub mod logging;
pub mod metrics;
pub mod observer;
pub mod record;
pub mod server;
pub mod status;
pub mod timestamp;

pub use access_log::AccessLog;
pub use metrics::{ActiveRequest, BodyBound, DetectedProtocol, Metrics, RequestMetrics};
pub use observer::Observer;
pub use record::{
    Attempt, Attempts, Connection, Grpc, Handshake, HttpProtocol, Record, Request, RequestAttempt,
    RequestEnd, RequestOrigin,
};
pub use server::Readiness;
pub use status::{GiveUp, RecentGiveUps, Status};
pub use timestamp::Timestamp;
