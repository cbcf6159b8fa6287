//! Connect with retries; relay.
