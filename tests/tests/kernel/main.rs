//! What redial promises, on a real kernel: see the crate's own page for the rigs.

mod matrix;
