//! Where an attempt can go: the original destination, and the other addresses of the name that a policy gave it.

mod addresses;
mod choice;
mod names;

pub use addresses::Addresses;
pub use choice::{Choice, Weighted};
pub use names::{Names, NamesError, resolver};
