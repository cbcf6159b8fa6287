//! One part of a policy with `targetRef` and `to`: for whom and what it is, and what it overrides.

use std::cmp::Reverse;

use super::document::{Resource, Role};
use super::services::Services;
use super::target::{self, To};
use super::workloads::{NAMESPACE, Workloads};
use crate::dialect::common::some_of;
use crate::dialect::fields::{Field, Problems};
use crate::dialect::note::Code;
use crate::policy::{Place, PolicyName};

/// What a policy says of one target.
pub(super) struct Entry<'a, T> {
    pub(super) head: Head<'a>,
    pub(super) says: T,
}

/// Whose word it is.
#[derive(Clone)]
pub(super) struct Head<'a> {
    pub(super) resource: Resource<'a>,
    /// Where in `to` it is, if there are several.
    pub(super) index: Option<usize>,
    pub(super) workloads: Workloads,
    pub(super) to: To<'a>,
    pub(super) target: Place,
    pub(super) rank: Rank,
}

/// The greater overrides the lesser: by the target of the policy, the zone, whose policy it is, the destination, and at
/// last the name, of which the first in the alphabet wins.
type Rank = ([u8; 2], u8, Role, [u8; 2], Reverse<Box<str>>, usize);

impl Head<'_> {
    /// The name of a policy that is made of this and of what it overrides.
    pub(super) fn name(&self, others: &[&Self], names_mesh: bool) -> PolicyName {
        let Resource { kind, mesh, namespace, name, .. } = self.resource;
        let mut text = name.to_owned();
        if let Some(index) = self.index {
            text = format!("{text}/to[{index}]");
        }
        let mut told = vec![(kind, self.resource.called())];
        for other in others {
            let document = (other.resource.kind, other.resource.called());
            if !told.contains(&document) {
                told.push(document);
                let space = other.resource.namespace.filter(|_| other.resource.namespace != namespace);
                let space = space.map(|space| format!("{space}/")).unwrap_or_default();
                text = format!("{text}+{space}{}", other.resource.name);
            }
        }
        if names_mesh {
            text = format!("{text}@{mesh}");
        }
        PolicyName::of_kind(kind, namespace, &text)
    }
}

/// The parts of a policy: what `read` makes of this field of each.
pub(super) fn entries<'a, T: Clone>(
    resource: &Resource<'a>,
    field: &str,
    services: &Services<'a>,
    problems: &mut Problems,
    mut read: impl FnMut(&Field<'a>, &[To<'a>], &mut Problems) -> Option<T>,
) -> Option<Vec<Entry<'a, T>>> {
    let spec = resource.spec(&["targetRef", "to"], problems)?;
    spec.required("to", problems)?;
    let top = target::top(resource, &spec, problems);
    // What is said to a gateway may have parts that only gateways have.
    if let Some(None) = top {
        return Some(Vec::new());
    }
    let parts = some_of(&spec, "to", problems, |part, problems| {
        let map = part.map_of(&["targetRef", field], problems)?;
        let target = map.required("targetRef", problems)?;
        let to = target::to(&target, resource, services, problems);
        let meant = to.as_deref().unwrap_or_default();
        let says = map.required(field, problems).and_then(|field| read(&field, meant, problems));
        Some((target, to?, says?))
    })?;
    let mut top = top??;
    let is_own = |(_, to, _): &(_, Vec<To<'_>>, _)| {
        to.iter().all(|to| match to {
            To::Service(service) => service.is_in(resource.namespace),
            To::Route(route) => route.namespace == resource.namespace,
            To::Mesh => false,
        })
    };
    let role = resource.role(&parts.iter().map(is_own).collect::<Vec<_>>(), problems)?;
    if role > Role::Producer
        && let Some(namespace) = resource.namespace
        && !top.workloads.with(NAMESPACE, namespace)
    {
        let message =
            "it is for workloads of its own namespace, and these are of another, so it is about nobody";
        problems.note(Code::Ignored, &resource.spec.place(&["targetRef"]), message);
        return Some(Vec::new());
    }
    let is_alone = parts.len() == 1;
    let mut all = Vec::new();
    for (index, (target, to, says)) in parts.into_iter().enumerate() {
        // A policy for a route as a whole says with Mesh that it is about all of the route's requests.
        let to = match (top.route, &to[..]) {
            (Some(route), [To::Mesh]) => vec![To::Route(route)],
            (Some(_), _) => {
                let message = "a policy for a route has Mesh alone here";
                return target.problem(message, problems);
            }
            (None, _) => to,
        };
        for to in to {
            let rank =
                (top.rank, resource.origin_rank(), role, to.rank(), Reverse(resource.display_name()), index);
            let head = Head {
                resource: resource.clone(),
                index: Some(index).filter(|_| !is_alone),
                workloads: top.workloads.clone(),
                to,
                target: target.here(),
                rank,
            };
            all.push(Entry { head, says: says.clone() });
        }
    }
    Some(all)
}
