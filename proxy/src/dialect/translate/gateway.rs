//! Policies as HTTPRoute, GRPCRoute and XBackendTrafficPolicy.
//!
//! A policy becomes a document for each Service that it is about, and one for its other hosts; each of them one for
//! requests of gRPC and one for all others. What is not about requests has no document.

mod document;
mod matches;

use std::collections::BTreeSet;

use super::{Comment, Written, canonical, difference, name, read, yaml};
use crate::dialect::native::document::Service;
use crate::policy::{
    Address, Destination, PathMatch, Policy, PolicyName, Precedence, RequestMatch, RequestProtocol, Rest,
    Route, ValueMatcher,
};
use document::{Budget, Document};

/// The Gateway API's own limits.
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_HOSTNAMES: usize = 16;
/// Each destination costs all the routes.
const MAX_PLACES: usize = 64;

/// Where a document is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Everywhere,
    Hosts(Vec<String>),
    Service { name: String, namespace: Option<String>, port: Option<u16> },
}

/// What was written before.
#[derive(Default)]
struct Context {
    /// What documents are called, so that no two have one name.
    taken: BTreeSet<(&'static str, PolicyName)>,
    /// Each as text: several policies may be about one Service.
    budgets: Vec<(Budget, String)>,
}

/// A route, and what says when it is asked by the rules of the Gateway API.
struct Asked<'a> {
    route: &'a Route,
    key: ([u32; 5], PolicyName, &'static str, u32),
}

pub(super) fn write(policies: &[Policy], names: &[PolicyName]) -> Vec<Written> {
    let mut context = Context::default();
    policies.iter().zip(names).map(|(policy, name)| one(&expanded(policy), name, &mut context)).collect()
}

fn one(policy: &Policy, name: &PolicyName, context: &mut Context) -> Written {
    let mut written = Written::default();
    if policy.routes.is_empty() {
        let text = format!(
            "{}: it says nothing of requests, which are all that is written in this format",
            policy.origin
        );
        written.comments.push(Comment::lost(text));
        return written;
    }
    let places = places(policy, name, &mut written.comments);
    let before = context.budgets.len();
    for place in &places {
        let budget = document::budget(policy.budget, place).map(|budget| context.budget(budget, name));
        let mut asked = Vec::new();
        for kind in ["GRPCRoute", "HTTPRoute"] {
            let routes: Vec<_> = policy.routes.iter().filter(|route| kind_of(route) == kind).collect();
            let parts = document::parts(&routes, place, policy, name.namespace(), &mut written.comments);
            for (rules, routes) in parts {
                let name = context.free(kind, name);
                let text = yaml::write(&Document::new(kind, &name, place, rules));
                match add(&mut written, policy, &routes, (text, budget.as_deref())) {
                    Ok(places) => {
                        let said = routes.into_iter().zip(places);
                        asked.extend(said.map(|(route, place)| Asked {
                            route,
                            key: (place.among_all, name.clone(), kind, place.within),
                        }));
                    }
                    Err(problem) => {
                        let text =
                            format!("{}: it cannot be said for {}: {problem}", policy.origin, place.words());
                        written.comments.push(Comment::lost(text));
                    }
                }
            }
        }
        written.comments.extend(disorder(policy, asked));
    }
    written.documents.extend(context.budgets.iter().skip(before).map(|(_, text)| text.clone()));
    tell_what_is_open(policy, &places, &mut written);
    written
}

/// Adds a document, and tells what has become of what it was made of: it is read back, with a budget that belongs to it.
/// These are the places of its routes among all.
fn add(
    written: &mut Written,
    policy: &Policy,
    routes: &[&Route],
    (text, budget): (String, Option<&str>),
) -> Result<Vec<Precedence>, String> {
    let together = [Some(text.as_str()), budget].into_iter().flatten().collect::<Vec<_>>().join("---\n");
    let read = read(&together)?;
    let again = read.first().map(canonical::policy).ok_or("nothing is left of it")?;
    let routes = routes.iter().map(|route| (*route).clone()).collect();
    let meant = canonical::policy(&Policy { routes, ..policy.clone() });
    // Where it is for, and what is left for others, is told for the policy as a whole.
    let meant = Policy { to: again.to.clone(), rest: again.rest, ..meant };
    written.comments.extend(difference::all(&meant, &again).iter().map(|found| found.comment(&meant)));
    written.documents.push(text);
    Ok(again.routes.iter().map(|route| route.precedence).collect())
}

fn kind_of(route: &Route) -> &'static str {
    if route.matcher.protocol == RequestProtocol::Grpc { "GRPCRoute" } else { "HTTPRoute" }
}

/// What the documents leave open, or say less of than the policy.
fn tell_what_is_open(policy: &Policy, places: &[Place], written: &mut Written) {
    if written.documents.is_empty() {
        return;
    }
    let origin = &policy.origin;
    let mut tell = |comment| written.comments.push(comment);
    let is_bound = |place: &Place| matches!(place, Place::Service { .. });
    if !places.iter().all(is_bound) {
        tell(Comment::told(format!("{origin}: name the Gateway in parentRefs")));
        if policy.routes.iter().any(|route| route.targets.is_empty()) {
            let text =
                "requests go where they were sent, which cannot be said; name the backends in backendRefs";
            tell(Comment::lost(format!("{origin}: {text}")));
        }
    }
    let is_http_alone = policy.routes.iter().all(|route| route.matcher.protocol == RequestProtocol::Http);
    if is_http_alone {
        let text =
            "that requests are not gRPC's cannot be said; an HTTPRoute is for all that no GRPCRoute is for";
        tell(Comment::lost(format!("{origin}: {text}")));
    }
    let of_grpc = policy.routes.iter().filter(|route| kind_of(route) == "GRPCRoute");
    let says = |route: &Route| {
        let http = &route.http;
        http.retry.num_retries > 0 || http.timeout.is_some() || http.retry.per_try_timeout.is_some()
    };
    if of_grpc.into_iter().any(says) {
        let text = "the Gateway API has retry and timeouts for an HTTPRoute alone; in a GRPCRoute redial reads them, \
                    and others may not";
        tell(Comment::lost(format!("{origin}: {text}")));
    }
    if policy.rest == Rest::Passes && !policy.routes.iter().any(|route| route.matcher.is_any()) {
        let text =
            "that nothing is done about all other requests cannot be said; other routes may be for them";
        tell(Comment::lost(format!("{origin}: {text}")));
    }
    if written.documents.iter().any(|document| document.contains("RegularExpression")) {
        let text = "what an expression means is up to the implementation";
        tell(Comment::told(format!("{origin}: {text}")));
    }
}

/// Where routes that may be for one request are asked in another order.
fn disorder(policy: &Policy, mut asked: Vec<Asked<'_>>) -> Vec<Comment> {
    asked.sort_by_key(|asked| asked.route.precedence);
    let mut found = Vec::new();
    for (index, Asked { route, key }) in asked.iter().enumerate() {
        let before = asked
            .iter()
            .take(index)
            .find(|earlier| earlier.key > *key && !is_disjoint(&earlier.route.matcher, &route.matcher));
        if let Some(earlier) = before {
            let text = format!(
                "{}: {} is asked after {}, and in the Gateway API before it, since it is more specific",
                policy.origin, route.name, earlier.route.name
            );
            found.push(Comment::lost(text));
        }
    }
    found
}

/// Whether no request surely matches both.
fn is_disjoint(one: &RequestMatch, other: &RequestMatch) -> bool {
    let paths = match (&one.path, &other.path) {
        (
            PathMatch::Exact { path: one, ignore_case: false },
            PathMatch::Exact { path: other, ignore_case: false },
        ) => one != other,
        _ => false,
    };
    let methods = (method(one), method(other));
    paths || matches!(methods, (Some(one), Some(other)) if one != other)
}

/// The one method that requests have to have.
fn method(matcher: &RequestMatch) -> Option<&str> {
    matcher.headers.iter().find_map(|header| match &header.value {
        ValueMatcher::Exact(text) if header.name.as_str() == ":method" && !header.invert => Some(&**text),
        _ => None,
    })
}

/// The policy with one method for each of its routes.
fn expanded(policy: &Policy) -> Policy {
    let mut routes = policy.routes.clone();
    routes.sort_by_key(|route| route.precedence.within);
    let all = routes.iter().flat_map(|route| {
        let matchers = matches::by_method(&route.matcher).into_iter();
        matchers.map(move |matcher| Route { matcher: canonical::matcher(&matcher), ..route.clone() })
    });
    let mut routes: Vec<_> = all.collect();
    for (within, route) in (0..).zip(&mut routes) {
        route.precedence.within = within;
    }
    Policy { routes, ..policy.clone() }
}

/// Where the policy is for, as far as it can be said.
fn places(policy: &Policy, name: &PolicyName, comments: &mut Vec<Comment>) -> Vec<Place> {
    let everywhere = Destination { address: Address::Any, port: None };
    if policy.to.is_empty() || policy.to.contains(&everywhere) {
        return vec![Place::Everywhere];
    }
    let (mut services, mut hosts) = (Vec::new(), Vec::new());
    let mut lost = |text: String| comments.push(Comment::lost(format!("{}: to: {text}", policy.origin)));
    for entry in crate::dialect::native::print::to::entries(&policy.to, None) {
        let ports = entry.ports.map(|ports| ports.0).unwrap_or_default();
        let join = |words: &[String]| words.join(", ");
        let numbers = join(&ports.iter().map(ToString::to_string).collect::<Vec<_>>());
        if let Some(cidrs) = &entry.cidrs {
            lost(format!("networks cannot be said: {}", join(&cidrs.0)));
        }
        if entry.cidrs.is_none() && entry.hosts.is_none() && entry.services.is_none() {
            lost(format!("ports without hosts cannot be said: {numbers}"));
        }
        let whole = entry.hosts.map(|hosts| hosts.0).unwrap_or_default().into_iter();
        let (of_services, names): (Vec<_>, Vec<_>) = whole.partition(|host| service(host).is_some());
        if !ports.is_empty() && !names.is_empty() {
            let names = join(&names);
            lost(format!("{names} on port {numbers}: the port cannot be said; it is about every port"));
        }
        hosts.extend(names.into_iter().filter(|name| !hosts.contains(name)).collect::<Vec<_>>());
        let ports: Vec<_> = if ports.is_empty() { vec![None] } else { ports.into_iter().map(Some).collect() };
        let of_services = of_services.iter().filter_map(|host| service(host));
        let said = entry.services.into_iter().flatten().map(|Service { name, namespace }| (name, namespace));
        for (name, namespace) in of_services.chain(said) {
            services.extend(ports.iter().map(|port| Place::Service {
                name: name.clone(),
                namespace: namespace.clone(),
                port: *port,
            }));
        }
    }
    let has_no_port = |place: &Place| matches!(place, Place::Service { port: None, .. });
    if services.iter().any(has_no_port) && policy.routes.iter().any(|route| route.targets.is_empty()) {
        let text = "without a port a Service is meant on every port, which backendRefs cannot say; name its port there";
        lost(text.to_owned());
    }
    let hosts = hosts.chunks(MAX_HOSTNAMES).map(|hosts| Place::Hosts(hosts.to_vec()));
    let mut places: Vec<_> = services.into_iter().chain(hosts).collect();
    if places.len() > MAX_PLACES {
        lost(format!("of {} documents the first {MAX_PLACES} are written", places.len()));
        places.truncate(MAX_PLACES);
    }
    if places.is_empty() {
        lost(format!("nothing is left of it, so {} has no document", name.name()));
    }
    places
}

/// The Service that a whole name in a cluster is, and its namespace.
fn service(host: &str) -> Option<(String, Option<String>)> {
    let (name, namespace) = host.strip_suffix(".svc.cluster.local")?.split_once('.')?;
    (name != "*" && !namespace.contains('.')).then(|| (name.to_owned(), Some(namespace.to_owned())))
}

impl Place {
    fn words(&self) -> String {
        match self {
            Self::Everywhere => "all destinations".to_owned(),
            Self::Hosts(hosts) => hosts.join(", "),
            Self::Service { name, namespace, .. } => {
                namespace.iter().chain([name]).map(String::as_str).collect::<Vec<_>>().join("/")
            }
        }
    }
}

impl Context {
    /// The budget as a document, which may have been written already.
    fn budget(&mut self, budget: Budget, name: &PolicyName) -> String {
        if let Some((_, text)) = self.budgets.iter().find(|(known, _)| *known == budget) {
            return text.clone();
        }
        let text = yaml::write(&budget.named(&self.free("XBackendTrafficPolicy", name)));
        self.budgets.push((budget, text.clone()));
        text
    }

    fn free(&mut self, kind: &'static str, name: &PolicyName) -> PolicyName {
        let namespace = name.namespace();
        let base = name::plain(name.name());
        let several = (2_u32..).map(|number| format!("{base}-{number}"));
        let all = [name.name().to_owned()].into_iter().chain(several);
        let free = all
            .filter_map(|candidate| PolicyName::try_new(namespace, &candidate).ok())
            .find(|name| !self.taken.contains(&(kind, name.clone())))
            .unwrap_or_default();
        self.taken.insert((kind, free.clone()));
        free
    }
}
