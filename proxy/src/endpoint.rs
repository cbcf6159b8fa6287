//! Where an attempt can go.
