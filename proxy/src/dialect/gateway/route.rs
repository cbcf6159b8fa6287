//! HTTPRoute and GRPCRoute.

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::attached::Attached;
use super::overlay::{Limit, Overlay, merge};
use super::{Context, KGATEWAY, OBJECT, connects, is_route, is_same, linkerd, matches, port};
use crate::dialect::Document;
use crate::dialect::common::{self, Metadata};
use crate::dialect::fields::{Field, Map, Problems};
use crate::dialect::note::Code;
use crate::policy::{
    Address, Destination, HttpPolicy, Policy, PolicyName, Precedence, Route, Setting, Sources, Target,
    TargetAddress,
};
use crate::retry::request::{Condition, Conditions, StatusCodes};
use crate::retry::{Backoff, RequestRetry};

/// A route's policy, and the Services that it has to do with.
pub(super) struct ReadRoute<'a> {
    pub(super) policy: Policy,
    pub(super) services: Vec<Named<'a>>,
}

/// A name and a namespace.
type Named<'a> = (&'a str, Option<&'a str>);

/// The limits of the Gateway API's own schema.
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_MATCHES_TOGETHER: usize = 128;
const MAX_FILTERS: usize = 16;
const MAX_BACKENDS: usize = 16;
const MAX_HOSTNAMES: usize = 16;
const MAX_PARENTS: usize = 32;

/// Where a route hangs.
#[derive(Default)]
struct Parents<'a> {
    gateways: Vec<Named<'a>>,
    /// It hangs on something that is told by its hostnames, or on nothing.
    has_hostnames: bool,
    services: Vec<(Named<'a>, Vec<Destination>)>,
}

impl Parents<'_> {
    /// Whether it hangs on this Service and on nothing else: its requests are on their way there.
    fn are(&self, name: &str, namespace: Option<&str>, port: Option<NonZeroU16>) -> bool {
        let is_port = |own: Option<NonZeroU16>| own.is_none() || port.is_none() || own == port;
        let is_its = |((known, of), to): &(Named<'_>, Vec<Destination>)| {
            *known == name && is_same(*of, namespace) && to.iter().all(|to| is_port(to.port))
        };
        !self.has_hostnames && self.services.iter().all(is_its)
    }
}

/// The routes of all documents. Where matches are equal, those of the oldest document come first, and then those of the first
/// by name.
pub(super) fn read_all<'a>(
    documents: &[Document<'a>],
    context: &Context<'a>,
    problems: &mut Problems,
) -> Vec<ReadRoute<'a>> {
    let routes = documents.iter().filter(|document| is_route(document.kind));
    let mut routes: Vec<_> = routes
        .filter_map(|Document { kind, root, .. }| Some((*kind, root, common::metadata(root, problems)?)))
        .collect();
    routes.sort_by(|(.., one), (.., other)| one.age().cmp(&other.age()));
    (0..).zip(routes).filter_map(|(age, route)| read(age, route, context, problems)).collect()
}

fn read<'a>(
    age: u32,
    (kind, root, metadata): (&'static str, &Field<'a>, Metadata<'a>),
    context: &Context<'a>,
    problems: &mut Problems,
) -> Option<ReadRoute<'a>> {
    let spec = root.map_of(OBJECT, problems)?.required("spec", problems)?;
    let spec_map =
        spec.map_ignoring(&["parentRefs", "hostnames", "rules"], &["useDefaultGateways"], problems)?;
    let parents = parents(&spec_map, &metadata, context, problems);
    let service = parents.iter().flat_map(|parents| &parents.services).find_map(|((name, namespace), _)| {
        context.services.iter().find(|service| service.is(name, *namespace))
    });
    let annotations = linkerd::of_route(kind, root, service, problems);
    let hosts = spec_map.each_up_to("hostnames", MAX_HOSTNAMES, problems, |field, problems| {
        let text = field.text(problems)?;
        let address = if text.starts_with("*.") {
            Address::Suffix(field.parsed(problems)?)
        } else {
            Address::Host(field.parsed(problems)?)
        };
        Some(Destination { address, port: None })
    });
    let (parents, hosts, annotations) = (parents?, hosts?, annotations?);
    if let Some(names) = spec_map.get("hostnames").filter(|_| !parents.services.is_empty()) {
        let message = "hostnames do not narrow what is sent to a Service that the route hangs on";
        problems.note(Code::Ignored, &names.here(), message);
    }
    let mut to: Vec<_> = parents.services.iter().flat_map(|(_, to)| to.clone()).collect();
    if parents.has_hostnames {
        if hosts.is_empty() {
            let message = "without hostnames it applies to every destination; name some";
            problems.note(Code::AppliesEverywhere, &root.place(&["spec", "hostnames"]), message);
            to.clear();
        } else {
            to.extend(hosts);
        }
    }
    let mut rules =
        Rules { kind, age, context, metadata: &metadata, parents: &parents, annotations: &annotations };
    let mut services: Vec<_> = parents.services.iter().map(|(name, _)| *name).collect();
    let mut routes = Vec::new();
    let mut is_sound = true;
    let list = match spec_map.get("rules") {
        Some(list) => {
            list.up_to(MAX_RULES, problems)?;
            list.list(problems)?
        }
        // A route without rules has one that says nothing.
        None => vec![spec.clone()],
    };
    let has_rules = spec_map.get("rules").is_some();
    let mut names: Vec<Cow<'_, str>> = Vec::new();
    let mut count = 0;
    for (index, rule) in list.iter().enumerate() {
        match rules.read(rule, index, has_rules, &mut services, problems) {
            Some(read) => routes.extend(read),
            None => is_sound = false,
        }
        // A rule of an HTTPRoute without matches has one for every path.
        count += rule.child("matches").map_or(usize::from(kind == "HTTPRoute"), |list| list.items().count());
        if let Some(field) = rule.child("name").filter(|_| has_rules)
            && let Some(name) = field.word()
        {
            if names.contains(&name) {
                is_sound &=
                    field.problem::<()>(format!("another rule is named {name:?}"), problems).is_some();
            }
            names.push(name);
        }
    }
    is_sound.then_some(())?;
    if count > MAX_MATCHES_TOGETHER {
        let message =
            format!("the rules may have at most {MAX_MATCHES_TOGETHER} matches together, and have {count}");
        return spec_map.get("rules").and_then(|rules| rules.problem(message, problems));
    }
    // All that it hangs on goes by something else.
    if to.is_empty() && !parents.has_hostnames {
        return None;
    }
    let name = PolicyName::of_kind(kind, metadata.namespace, metadata.name);
    let tcp = connects(
        routes.iter().map(|route| &*route.http),
        annotations.is_linkerd && annotations.retry.is_some(),
    );
    let sources = routes.first().map(|route| Arc::clone(&route.sources)).unwrap_or_default();
    let told_by = if parents.services.is_empty() { "hostnames" } else { "parentRefs" };
    let sources = Arc::new(sources.and([(Setting::To, spec.place(&[told_by]))]));
    Some(ReadRoute { policy: Policy { tcp, sources, ..super::policy(name, root, to, routes) }, services })
}

fn parents<'a>(
    spec: &Map<'a>,
    metadata: &Metadata<'a>,
    context: &Context<'a>,
    problems: &mut Problems,
) -> Option<Parents<'a>> {
    let mut parents = Parents { has_hostnames: spec.get("parentRefs").is_none(), ..Parents::default() };
    spec.each_up_to("parentRefs", MAX_PARENTS, problems, |field, problems| {
        let known = ["group", "kind", "name", "namespace", "sectionName", "port"];
        let map = field.map_of(&known, problems)?;
        let kinds = ["Gateway", "Service", "ListenerSet", "XListenerSet", "EgressNetwork", "ServiceEntry"];
        let kinds = kinds.map(|kind| (kind, kind));
        let kind = map.optional("kind", "Gateway", |field| field.one_of(&kinds, problems));
        let name = map.required("name", problems).and_then(|field| field.text(problems));
        let namespace = map.optional("namespace", metadata.namespace, |field| field.text(problems).map(Some));
        let port = map.optional("port", None, |field| port(&field, problems).map(Some));
        let (name, namespace, port) = (name?, namespace?, port?);
        let kind = kind?;
        if kind == "Service" {
            if context.profiles.iter().any(|(known, of)| known == name && is_same(Some(of), namespace)) {
                let message = "Linkerd takes no routes of a Service that has a ServiceProfile";
                problems.note(Code::InertSetting, &field.here(), message);
                return Some(());
            }
            parents.services.push(((name, namespace), super::service(name, namespace, port)));
            return Some(());
        }
        for listener in ["sectionName", "port"].into_iter().filter_map(|name| map.get(name)) {
            problems.note(Code::Ignored, &listener.here(), "there are no listeners here");
        }
        parents.has_hostnames = true;
        if kind == "Gateway" {
            parents.gateways.push((name, namespace));
        }
        Some(())
    })?;
    Some(parents)
}

struct Rules<'r, 'a> {
    kind: &'static str,
    age: u32,
    context: &'r Context<'a>,
    metadata: &'r Metadata<'a>,
    parents: &'r Parents<'a>,
    annotations: &'r Overlay,
}

impl<'a> Rules<'_, 'a> {
    fn read(
        &mut self,
        rule: &Field<'a>,
        index: usize,
        has_rules: bool,
        services: &mut Vec<Named<'a>>,
        problems: &mut Problems,
    ) -> Option<Vec<Route>> {
        let known = ["name", "matches", "filters", "backendRefs", "retry", "timeouts"];
        let map = if has_rules {
            rule.map_ignoring(&known, &["sessionPersistence"], problems)?
        } else {
            rule.map(problems)?
        };
        let name = map.optional("name", None, |field| field.text(problems).map(Some));
        let reader = if self.kind == "GRPCRoute" { matches::grpc } else { matches::http };
        let all = map.each_up_to("matches", MAX_MATCHES, problems, reader);
        let refs =
            map.each_up_to("filters", MAX_FILTERS, problems, |field, problems| self.filter(field, problems));
        let targets = self.targets(&map, rule, services, problems);
        let own = own(&map, rule, problems);
        let (name, mut all, own) = (name?, all?, own?);
        if all.is_empty() {
            all.push(matches::all(self.kind));
        }
        let refs: Vec<_> = refs?.into_iter().flatten().collect();
        let referred = refs.iter().filter_map(|index| self.context.attached.get(*index));
        if let Some(place) = rule.child("timeouts").and_then(|timeouts| timeouts.child("backendRequest"))
            && referred.into_iter().any(|one| one.says.retry.is_some())
        {
            let message = "the document that the rule's filter refers to says how requests are retried, and how long \
                           each try may take";
            problems.note(Code::InertSetting, &place.here(), message);
        }
        let overlays = self.overlays(name, &refs, &own);
        let (http, places) = merge(&overlays);
        let places = places.into_iter().chain([
            (Setting::Matches, rule.place(&["matches"])),
            (Setting::Targets, rule.place(&["backendRefs"])),
        ]);
        let (http, sources): (Arc<HttpPolicy>, _) = (Arc::new(http), Arc::new(Sources::new(places)));
        let (targets, within): (Arc<[Target]>, _) = (targets?.into(), u32::try_from(index).ok()?);
        let name: Box<str> = name.map_or_else(|| format!("rules[{index}]").into(), Box::from);
        let route = |(matcher, [first, second, third, fourth]): matches::Match| Route {
            name: name.clone(),
            precedence: Precedence { among_all: [first, second, third, fourth, self.age], within },
            matcher,
            http: Arc::clone(&http),
            targets: Arc::clone(&targets),
            sources: Arc::clone(&sources),
        };
        Some(all.into_iter().map(route).collect())
    }

    /// What is said of a rule's requests, the most specific first.
    fn overlays<'o>(&'o self, rule: Option<&str>, refs: &[usize], own: &'o Overlay) -> Vec<&'o Overlay> {
        let attached = &self.context.attached;
        let Metadata { name, namespace, .. } = self.metadata;
        let aimed = |level: usize| {
            attached.iter().filter(move |one| {
                one.aims.iter().any(|aim| match (level, aim.kind) {
                    (2, "Gateway") => {
                        self.parents.gateways.iter().any(|(name, namespace)| aim.is_at(name, *namespace))
                    }
                    (0, kind) if kind == self.kind => {
                        aim.section.is_some() && aim.section == rule && aim.is_at(name, *namespace)
                    }
                    (1, kind) if kind == self.kind => aim.section.is_none() && aim.is_at(name, *namespace),
                    _ => false,
                })
            })
        };
        let says = |one: &'o Attached<'a>| {
            one.is_used.set(true);
            &one.says
        };
        let referred = refs.iter().filter_map(|index| attached.get(*index)).map(says);
        let mut all: Vec<_> = referred.collect();
        all.push(own);
        all.extend(aimed(0).map(says));
        all.extend(aimed(1).map(says));
        all.push(self.annotations);
        all.extend(aimed(2).map(says));
        all
    }

    /// The document that a filter refers to, if it is of that kind.
    fn filter(&self, field: &Field<'a>, problems: &mut Problems) -> Option<Vec<usize>> {
        let map = field.map(problems)?;
        let kind = map.required("type", problems)?;
        match kind.word().as_deref() {
            Some("ExtensionRef") => {}
            Some("RequestMirror" | "ResponseHeaderModifier" | "CORS") => {
                problems.note(
                    Code::Ignored,
                    &field.here(),
                    "it has no meaning here, and nothing is done about it",
                );
                return Some(Vec::new());
            }
            _ => {
                let message = "ExtensionRef, RequestMirror, ResponseHeaderModifier or CORS; no other filter can be \
                               honoured here";
                return kind.expected(&message, problems);
            }
        }
        let map = field.map_of(&["type", "extensionRef"], problems)?;
        let reference = map.required("extensionRef", problems)?;
        let map = reference.map_of(&["group", "kind", "name"], problems)?;
        let group = map.required("group", problems)?.one_of(&KGATEWAY.map(|group| (group, ())), problems);
        let kinds = ["RouteOption", "TrafficPolicy"].map(|kind| (kind, kind));
        let kind = map.required("kind", problems)?.one_of(&kinds, problems);
        let name = map.required("name", problems)?.text(problems);
        let (kind, name) = (group.and(kind)?, name?);
        let found = self.context.attached.iter().position(|one| {
            one.kind == kind
                && one.metadata.name == name
                && is_same(one.metadata.namespace, self.metadata.namespace)
        });
        if found.is_none() {
            let message =
                format!("no document is this {kind}, so nothing of it holds; give it together with this one");
            problems.note(Code::UnresolvedTarget, &reference.here(), message);
        }
        Some(found.into_iter().collect())
    }

    fn targets(
        &self,
        map: &Map<'a>,
        rule: &Field<'a>,
        services: &mut Vec<Named<'a>>,
        problems: &mut Problems,
    ) -> Option<Vec<Target>> {
        let targets = map.each_up_to("backendRefs", MAX_BACKENDS, problems, |field, problems| {
            let known = ["group", "kind", "name", "namespace", "port", "weight", "filters"];
            let map = field.map_of(&known, problems)?;
            if let Some(filters) = map.get("filters") {
                return filters.problem("filters of a backend cannot be honoured here", problems);
            }
            let kinds = ["Service", "Hostname", "Backend"].map(|kind| (kind, kind));
            let kind = map.optional("kind", "Service", |field| field.one_of(&kinds, problems));
            let name = map.required("name", problems);
            let namespace =
                map.optional("namespace", self.metadata.namespace, |field| field.text(problems).map(Some));
            let port = map.optional("port", None, |field| port(&field, problems).map(Some));
            let weight = map.optional("weight", 1, |field| field.whole(0..=1_000_000, problems));
            let (kind, name, namespace) = (kind?, name?, namespace?);
            let (text, port, weight) = (name.text(problems)?, port?, weight?);
            let backend = self.context.backends.iter().find(|backend| {
                backend.metadata.name == text && is_same(backend.metadata.namespace, namespace)
            });
            let mut is_known = true;
            let whole_name = namespace
                .filter(|_| kind == "Service" && self.context.in_cluster)
                .and_then(|namespace| common::whole_name(text, namespace));
            if kind == "Service" {
                services.push((text, namespace));
            }
            let address = match (kind, backend, whole_name) {
                ("Hostname", ..) => TargetAddress::Host { host: name.parsed(problems)?, port },
                ("Backend", Some(backend), _) => backend.address.clone(),
                (.., Some(_)) if self.parents.are(text, namespace, port) => TargetAddress::Original,
                (.., Some(host)) => TargetAddress::Host { host, port },
                _ => {
                    let message = format!(
                        "nothing here tells where the {kind} {text:?} is; requests go where they were sent"
                    );
                    problems.note(Code::UnresolvedTarget, &field.here(), message);
                    is_known = false;
                    TargetAddress::Original
                }
            };
            Some((Target { name: text.into(), weight, address }, (kind, text, namespace, port), is_known))
        })?;
        let mut unknown = targets.iter().filter(|(_, _, is_known)| !is_known);
        if let Some((first, identity, _)) = unknown.next()
            && unknown.clone().any(|(other, _, _)| other.weight != first.weight)
            && unknown.any(|(_, another, _)| another != identity)
            && let Some(list) = map.get("backendRefs")
        {
            let message = "requests cannot be split by weight between backends of which nothing here tells where they \
                           are; give them the same weight, or name them as a Hostname or a static Backend";
            return list.problem(message, problems);
        }
        let targets: Vec<_> = targets.into_iter().map(|(target, _, _)| target).collect();
        if !targets.is_empty() && targets.iter().all(|target| target.weight == 0) {
            return rule.problem("no backend has a weight of more than 0", problems);
        }
        let is_elsewhere = targets.iter().any(|target| target.address != TargetAddress::Original);
        Some(if is_elsewhere { targets } else { Vec::new() })
    }
}

/// What a rule itself says of its requests.
fn own(map: &Map<'_>, rule: &Field<'_>, problems: &mut Problems) -> Option<Overlay> {
    let retry = map.optional("retry", None, |field| retry(&field, problems).map(Some));
    let timeouts = map.optional("timeouts", (None, None), |field| {
        let map = field.map_of(&["request", "backendRequest"], problems)?;
        let mut time = |name| map.optional(name, None, |field| field.duration_or_zero(problems).map(Some));
        let (request, each) = (time("request"), time("backendRequest"));
        let (request, each) = (request?, each?);
        if let (Some(whole), Some(part), Some(place)) = (request, each, map.get("backendRequest"))
            && !whole.is_zero()
            && part > whole
        {
            return place.problem("it must not be longer than request", problems);
        }
        Some((request.map(Limit::of), each.map(Limit::of)))
    });
    let places = vec![
        (Setting::StatusCodes, rule.place(&["retry", "codes"])),
        (Setting::RetryOn, rule.place(&["retry"])),
        (Setting::NumRetries, rule.place(&["retry", "attempts"])),
        (Setting::Backoff, rule.place(&["retry", "backoff"])),
        (Setting::Timeout, rule.place(&["timeouts", "request"])),
        (Setting::PerTryTimeout, rule.place(&["timeouts", "backendRequest"])),
    ];
    let (timeout, per_try_timeout) = timeouts?;
    Some(Overlay { retry: retry?, per_try_timeout, timeout, places, ..Overlay::default() })
}

fn retry(field: &Field<'_>, problems: &mut Problems) -> Option<RequestRetry> {
    let map = field.map_of(&["codes", "attempts", "backoff"], problems)?;
    let default = common::envoy_defaults().retry;
    let codes =
        map.each("codes", problems, |field, problems| u16::try_from(field.whole(400..=599, problems)?).ok());
    let attempts = map.optional("attempts", 1, |field| field.whole(0..=u32::MAX, problems));
    let backoff = map.optional("backoff", default.backoff, |field| {
        let base = field.duration(problems)?;
        field.accept(Backoff::try_new(base, None), problems)
    });
    let status_codes = StatusCodes::try_new(codes?).ok()?;
    let mut retry_on = Conditions::of(&[Condition::ConnectFailure, Condition::RefusedStream]);
    if !status_codes.is_empty() {
        retry_on = retry_on.with(Conditions::of(&[Condition::RetriableStatusCodes]));
    }
    Some(RequestRetry { retry_on, status_codes, num_retries: attempts?, backoff: backoff?, ..default })
}
