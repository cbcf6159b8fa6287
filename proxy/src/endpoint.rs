//! Where an attempt can go: the original destination, the other addresses of the name that a policy gave it, and the
//! endpoints of a Service.

mod addresses;
mod choice;
mod names;
mod service;

pub use addresses::{Addresses, Dialled, Way};
pub use choice::{Choice, Weighted};
pub use names::{Names, NamesError, RESOLV_CONF, resolver};
pub use service::{Endpoints, Service, ServicePort, Stickiness};
