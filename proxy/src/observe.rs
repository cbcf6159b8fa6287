//! Metrics, access log, admin socket.
