//! Where an attempt can go: the original destination, and the other addresses of the name that a policy gave it.

mod choice;
mod names;

pub use choice::Choice;
pub use names::{Names, NamesError, resolver};
