//! The validated policy model.
