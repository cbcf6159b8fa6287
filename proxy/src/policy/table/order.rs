//! The order in which rules are asked, and what put each where it stands.

use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Rule, Says};
use crate::policy::route::Part;
use crate::policy::{Host, Policy, PolicyName, Precedence, Route};

/// How a request, or its connection, was found to be a policy's. The most specific is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By<'a> {
    /// Its authority is this host.
    Authority(&'a Host),
    /// The dialled address is one of this host's.
    Resolved(&'a Host),
    /// Its authority is below this host.
    Below(&'a Host),
    /// The dialled address is in this network, which may be all there is.
    Network(IpNet),
    /// No other policy applies.
    Fallback,
}

/// Where a rule stands among those of one destination: the lesser is asked first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    has_no_port: bool,
    among_all: [u32; 5],
    policy: PolicyName,
    comes_last: bool,
    within: u32,
}

/// What puts one rule before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Its destination is more specific.
    Destination,
    /// Of two hosts that have the address, the first thing that is said of it.
    Host,
    /// It names the port.
    Port,
    /// Its system's precedence among all documents.
    Precedence,
    /// The name of its policy.
    Name,
    /// The order within the policy.
    Within,
}

/// Why a rule does not hold for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed<'a> {
    /// It is for this port alone.
    Port(NonZeroU16),
    /// Its policy is for other workloads.
    Workload,
    /// It says nothing of requests.
    Connections,
    /// This is the first part of its matcher that the request does not match.
    Part(Part<'a>),
}

/// A rule that a request is asked for, or would be if none before it held.
#[derive(Clone, Debug)]
pub struct Considered<'a> {
    pub policy: &'a Arc<Policy>,
    /// The route that the rule is about. None: what becomes of all other requests.
    pub route: Option<&'a Route>,
    pub by: By<'a>,
    /// Why it does not hold. None: it does, if none before it did.
    pub passed: Option<Passed<'a>>,
    pub(super) key: Key,
}

impl Considered<'_> {
    /// What puts this one before a later one.
    #[must_use]
    pub fn before(&self, later: &Self) -> Before {
        match (self.by, later.by) {
            (one, other) if one == other => self.key.before(&later.key),
            (By::Resolved(_), By::Resolved(_)) => Before::Host,
            _ => Before::Destination,
        }
    }
}

impl Key {
    pub(super) fn of(rule: &Rule) -> Self {
        let (comes_last, precedence) = match rule.says {
            Says::Route(_) => (false, rule.route().map(|route| route.precedence).unwrap_or_default()),
            // What ends the asking comes after what its own policy has to say, and before other documents of its kind
            // that have nothing but their names to be told by.
            Says::Connections | Says::Rest => (true, Precedence::default()),
        };
        let Precedence { among_all, within } = precedence;
        let (has_no_port, policy) = (rule.port.is_none(), rule.policy.name.clone());
        Self { has_no_port, among_all, policy, comes_last, within }
    }

    /// What puts this before what is not less.
    fn before(&self, later: &Self) -> Before {
        let Self { has_no_port, among_all, policy, comes_last: _, within: _ } = self;
        if *has_no_port != later.has_no_port {
            Before::Port
        } else if *among_all != later.among_all {
            Before::Precedence
        } else if *policy != later.policy {
            Before::Name
        } else {
            Before::Within
        }
    }
}
