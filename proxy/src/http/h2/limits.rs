//! What redial lets its HTTP/2 peers do, and so how much memory a connection may take.
//!
//! In each direction a stream at a standstill holds a stream's window of data that nobody has taken and a send buffer of
//! data on its way, and all streams of a connection together a connection's window and their send buffers. What is kept
//! of request bodies for retries is bounded elsewhere.

use std::time::Duration;

/// How many streams a client may have open. Common servers allow 100 to 250, but gRPC's set no bound, and a client that
/// has a stream for each of its subscriptions must not stand still where it did not without redial.
const MAX_STREAMS: u32 = 1024;

/// How much may be under way to us on a stream: enough for a gigabit over a round trip of two milliseconds.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same on a connection: as many streams as this is windows of a stream may stand still before the others do.
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;

/// How much of a stream may be on its way to the socket.
const SEND_BUFFER: usize = 64 * 1024;

/// The most bytes of a head: Envoy's default, as for HTTP/1. h2 answers a larger request with 431 itself, and by this
/// bounds CONTINUATION frames too.
const MAX_HEAD: u32 = 60 * 1024;

/// How much memory small data frames may take beyond what flow control counts: as much again.
const SMALL_FRAMES: usize = 128 * 256 * 1024;

/// How many streams we reset whose late frames are still told from bad ones, and for how long. The default of 50 is
/// soon reached by a client that gives up often, and a late frame beyond it counts as the peer's fault.
const RESET_STREAMS: usize = 1024;
const RESET_MEMORY: Duration = Duration::from_secs(10);

/// How many streams a client may have opened and reset before we looked at them: what is between a burst of
/// cancellations and a rapid reset. Streams that we did look at cost the client as much as us.
const RESET_BEFORE_ACCEPTED: usize = 256;

/// How many malformed requests a connection may bring before it is closed.
const MALFORMED: usize = 1024;

/// How many streams an upstream is sent before it has said how many it takes, as it is common.
pub const STREAMS_BEFORE_SETTINGS: usize = 100;

/// How clients are served.
#[must_use]
pub fn server() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .data_frame_budget(SMALL_FRAMES)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_MEMORY)
        .max_pending_accept_reset_streams(RESET_BEFORE_ACCEPTED)
        .max_local_error_reset_streams(Some(MALFORMED));
    builder
}

/// How upstreams are spoken to.
#[must_use]
pub fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .data_frame_budget(SMALL_FRAMES)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_MEMORY)
        // Only streams that we opened can be malformed. A connection may live for as long as its client's, and a total
        // would end it some day.
        .max_local_error_reset_streams(None);
    builder
}
