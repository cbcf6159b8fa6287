//! `MeshHTTPRoute`: which requests to a service go where.

use std::sync::Arc;

use super::by_method;
use super::conf::{MAX_VALUE, matcher, short, weight};
use super::document::Resource;
use super::entry::{Entry, entries};
use super::services::Services;
use super::target::{self, Kind, Service, To};
use crate::dialect::common::{MAX_ENTRIES, some_of};
use crate::dialect::fields::{Field, Map, Problems};
use crate::dialect::note::Code;
use crate::policy::{
    PathMatch, Pattern, Place, QueryMatcher, RequestMatch, Setting, Target, TargetAddress, ValueMatcher,
};

/// The requests that match any of these, and what becomes of them.
#[derive(Clone)]
pub(super) struct Rule {
    /// Each with what it comes after.
    pub(super) matches: Vec<(RequestMatch, Order)>,
    /// Where they go, if it is said. Empty: where they were sent.
    pub(super) targets: Option<Arc<[Target]>>,
    pub(super) places: [(Setting, Place); 2],
    pub(super) index: usize,
}

impl Rule {
    /// How much there is to copy, in bytes.
    pub(super) fn weight(&self) -> usize {
        let of = |(matcher, _): &(RequestMatch, Order)| {
            let headers: usize = matcher.headers.iter().map(weight).sum();
            headers + (2 + matcher.query.len()) * MAX_VALUE
        };
        self.matches.iter().map(of).sum()
    }
}

/// What is asked earlier is less: an exact path, a longer prefix, a longer expression, a method, more headers, more
/// parameters.
pub(super) type Order = [usize; 5];

pub(super) fn read<'a>(
    resource: &Resource<'a>,
    services: &Services<'a>,
    problems: &mut Problems,
) -> Option<Vec<Entry<'a, Vec<Rule>>>> {
    entries(resource, "rules", services, problems, |field, to, problems| {
        if to.iter().any(|to| !matches!(to, To::Service(_))) {
            let kinds = Kind::ALL.map(|(kind, _)| kind).join(", ");
            return field.problem(format!("a route leads from a service: one of {kinds}"), problems);
        }
        rules(field, to, resource, services, problems)
    })
}

fn rules<'a>(
    list: &Field<'a>,
    to: &[To<'a>],
    resource: &Resource<'a>,
    services: &Services<'a>,
    problems: &mut Problems,
) -> Option<Vec<Rule>> {
    list.up_to(MAX_ENTRIES, problems)?;
    let rules = list.list(problems)?;
    let rules = rules.iter().enumerate().map(|(index, rule)| {
        let map = rule.map_of(&["matches", "default"], problems)?;
        map.required("matches", problems)?;
        let matches = some_of(&map, "matches", problems, request_match);
        let targets = map.optional("default", None, |field| {
            let map = field.map_of(&["filters", "backendRefs"], problems)?;
            let filters = some_of(&map, "filters", problems, filter);
            let targets = map.optional("backendRefs", None, |field| {
                targets(&map, &field, to, resource, services, problems).map(Some)
            });
            filters.and(targets)
        });
        let places = [
            (Setting::Matches, rule.place(&["matches"])),
            (Setting::Targets, rule.place(&["default", "backendRefs"])),
        ];
        Some(Rule { matches: matches?, targets: targets?, places, index })
    });
    let rules: Vec<_> = rules.collect();
    rules.into_iter().collect()
}

fn request_match(field: &Field<'_>, problems: &mut Problems) -> Option<(RequestMatch, Order)> {
    let map = field.map_of(&["path", "method", "headers", "queryParams"], problems)?;
    let path = map.optional("path", PathMatch::Any, |field| path(&field, problems));
    let methods = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    let methods = methods.map(|method| (method, method));
    let method = map.optional("method", None, |field| field.one_of(&methods, problems).map(Some));
    let headers = some_of(&map, "headers", problems, matcher);
    let query = some_of(&map, "queryParams", problems, parameter);
    let (path, method, mut headers, query) = (path?, method?, headers?, query?);
    for (index, parameter) in query.iter().enumerate() {
        if query.iter().take(index).any(|before| before.name == parameter.name) {
            let message = format!("{} is there twice", parameter.name);
            return map.get("queryParams")?.problem(message, problems);
        }
    }
    let (rank, length) = match &path {
        PathMatch::Exact { .. } => (0, 0),
        PathMatch::Segments(path) | PathMatch::Prefix { path, .. } => (1, path.len()),
        PathMatch::Regex(pattern) => (2, pattern.as_str().len()),
        PathMatch::Any => (3, 0),
    };
    let more = |count: usize| usize::MAX - count;
    let order = [rank, more(length), usize::from(method.is_none()), more(headers.len()), more(query.len())];
    headers.extend(method.and_then(by_method));
    Some((RequestMatch { path, headers, query, ..RequestMatch::default() }, order))
}

fn path(field: &Field<'_>, problems: &mut Problems) -> Option<PathMatch> {
    let map = field.map_of(&["type", "value"], problems)?;
    let kinds = ["Exact", "PathPrefix", "RegularExpression"].map(|kind| (kind, kind));
    let kind = map.required("type", problems).and_then(|field| field.one_of(&kinds, problems));
    let value = map.required("value", problems)?;
    let text = short(&value, problems)?;
    match kind? {
        "RegularExpression" => pattern(&value, text, problems).map(PathMatch::Regex),
        _ if !text.starts_with('/') => value.expected(&"a path that begins with /", problems),
        "Exact" => Some(PathMatch::Exact { path: text.into(), ignore_case: false }),
        _ if text.len() > 1 && text.ends_with('/') => {
            let message = "a path without a slash at its end; a prefix matches whole segments anyway";
            value.expected(&message, problems)
        }
        _ => Some(PathMatch::Segments(text.into())),
    }
}

fn pattern(field: &Field<'_>, text: &str, problems: &mut Problems) -> Option<Pattern> {
    Pattern::try_new(text).map_or_else(|error| field.expected(&error, problems), Some)
}

fn parameter(field: &Field<'_>, problems: &mut Problems) -> Option<QueryMatcher> {
    let map = field.map_of(&["type", "name", "value"], problems)?;
    let kinds = [("Exact", false), ("RegularExpression", true)];
    let is_pattern = map.required("type", problems).and_then(|field| field.one_of(&kinds, problems));
    let name = map.required("name", problems).and_then(|field| short(&field, problems));
    let value = map.required("value", problems)?;
    let text = short(&value, problems)?;
    let value = if is_pattern? {
        ValueMatcher::Regex(pattern(&value, text, problems)?)
    } else {
        ValueMatcher::Exact(text.into())
    };
    Some(QueryMatcher { name: name?.into(), value })
}

/// Only what leaves requests as they are.
fn filter(field: &Field<'_>, problems: &mut Problems) -> Option<()> {
    let kind = field.map(problems)?.required("type", problems)?;
    match kind.word().as_deref() {
        Some("RequestMirror" | "ResponseHeaderModifier") => {
            let message = "it has no meaning here, and nothing is done about it";
            problems.note(Code::Ignored, &field.here(), message);
            Some(())
        }
        _ => kind.expected(
            &"RequestMirror or ResponseHeaderModifier; a filter that changes requests can't be honoured here",
            problems,
        ),
    }
}

fn targets<'a>(
    map: &Map<'a>,
    list: &Field<'a>,
    to: &[To<'a>],
    resource: &Resource<'a>,
    services: &Services<'a>,
    problems: &mut Problems,
) -> Option<Arc<[Target]>> {
    let backends = some_of(map, "backendRefs", problems, |field, problems| {
        let known = ["kind", "name", "namespace", "labels", "tags", "sectionName", "port", "weight"];
        let map = field.map_of(&known, problems)?;
        let mut kinds = vec![("MeshServiceSubset", (Kind::Service, true))];
        kinds.splice(0..0, Kind::ALL.map(|(word, kind)| (word, (kind, false))));
        let kind = map.required("kind", problems).and_then(|field| field.one_of(&kinds, problems));
        let weight = map.optional("weight", 1, |field| field.whole(0..=u32::from(u16::MAX), problems));
        let (kind, is_subset) = kind?;
        let found = target::services(field, &map, kind, resource, services, problems)?;
        let is_itself = |service: &Service<'_>| {
            !is_subset && to.iter().all(|to| matches!(to, To::Service(own) if own.is_at(service)))
        };
        let weight = weight?;
        let backend = found.first()?;
        let name: Box<str> = backend.called.name.into();
        let known = services.address(kind, resource.mesh, &backend.called).filter(|_| !is_subset);
        if let Some(address) = known {
            return Some(Target { name, weight, address: address.clone() });
        }
        if !is_itself(backend) {
            let message = format!("nothing here tells where {name:?} is; requests go where they were sent");
            problems.note(Code::UnresolvedTarget, &field.here(), message);
        }
        Some(Target { name, weight, address: TargetAddress::Original })
    })?;
    if backends.iter().all(|target| target.weight == 0) {
        return list.problem("no backend has a weight of more than 0", problems);
    }
    let mut original = backends.iter().filter(|target| target.address == TargetAddress::Original);
    if let Some(first) = original.next()
        && original.any(|target| target.weight != first.weight)
    {
        let message = "requests can't be split by weight between backends of which nothing here tells where they are; \
                       give them the same weight, or the documents of external services";
        return list.problem(message, problems);
    }
    let is_elsewhere = backends.iter().any(|target| target.address != TargetAddress::Original);
    Some(if is_elsewhere { backends.into() } else { Arc::default() })
}
