//! Which requests an entry of `match` is for.

use std::num::NonZeroU16;
use std::slice;

use super::super::fields::{Field, Map, Problems};
use super::super::note::Code;
use super::port;
use super::service::Context;
use crate::policy::{
    HeaderMatcher, HeaderName, LabelMatch, PathMatch, Pattern, Place, QueryMatcher, RequestMatch,
    ValueMatcher, WorkloadSelector,
};

/// Each header that a request may go without doubles the routes.
const MAX_WITHOUT: usize = 4;

/// What an entry of `match` asks for.
#[derive(Clone, Default)]
pub(super) struct Found {
    /// The requests that any of these matches. None where it is for gateways alone.
    pub(super) matchers: Vec<RequestMatch>,
    pub(super) port: Option<NonZeroU16>,
    pub(super) source: WorkloadSelector,
    /// Where that is said.
    pub(super) source_at: Option<Place>,
}

pub(super) fn read(field: &Field<'_>, context: &Context<'_>, problems: &mut Problems) -> Option<Found> {
    let known = [
        "name",
        "uri",
        "ignoreUriCase",
        "scheme",
        "method",
        "authority",
        "headers",
        "withoutHeaders",
        "queryParams",
        "gateways",
        "port",
        "sourceLabels",
        "sourceNamespace",
    ];
    let map = field.map_ignoring(&known, &["statPrefix"], problems)?;
    let name = map.optional("name", None, |field| field.text(problems).map(Some));
    let gateways = map.each("gateways", problems, Field::text);
    let port = map.optional("port", None, |field| port(&field, problems).map(Some));
    let source = source(&map, problems);
    let ignore_case = map.optional("ignoreUriCase", false, |field| field.boolean(problems));
    let path = map.optional("uri", PathMatch::Any, |field| path(&field, ignore_case?, problems));
    let query = values(&map, "queryParams", problems, |name, value, _, _| {
        Some(QueryMatcher { name: name.into(), value })
    });
    let headers = values(&map, "headers", problems, header);
    let without = values(&map, "withoutHeaders", problems, header);
    let pseudo = pseudo(&map, problems);
    let (path, query, mut headers, without) = (path?, query?, headers?, without?);
    headers.extend(pseudo?);
    let (_, _) = (name?, ignore_case?);
    let (gateways, port, source) = (gateways?, port?, source?);
    if let Some(field) = map.get("withoutHeaders").filter(|_| without.len() > MAX_WITHOUT) {
        let message = format!("{} headers are too many; there may be {MAX_WITHOUT}", without.len());
        return field.problem(message, problems);
    }
    if let Some(field) = map.get("gateways")
        && !gateways.iter().any(|name| context.gateways.contains(name))
    {
        let message = "it is for gateways alone, and there are none here; nothing is done about it";
        problems.note(Code::Ignored, &field.here(), message);
        return Some(Found::default());
    }
    let all = without.into_iter().fold(vec![headers], |all, header| {
        let ways = ways_without(&header);
        all.iter()
            .flat_map(|headers| ways.iter().map(|way| [&headers[..], slice::from_ref(way)].concat()))
            .collect()
    });
    let matcher = |headers| RequestMatch {
        path: path.clone(),
        headers,
        query: query.clone(),
        ..RequestMatch::default()
    };
    let source_at = ["sourceLabels", "sourceNamespace"].iter().find_map(|name| map.get(name));
    let source_at = source_at.map(|field| field.here());
    Some(Found { matchers: all.into_iter().map(matcher).collect(), port, source, source_at })
}

/// The workloads that it is for.
fn source(map: &Map<'_>, problems: &mut Problems) -> Option<WorkloadSelector> {
    let labels = map.optional("sourceLabels", Vec::new(), |field| {
        let labels = field.map(problems)?;
        let label = |(name, value): (&str, Field<'_>)| {
            Some((name.into(), LabelMatch::Is(value.text(problems)?.into())))
        };
        labels.entries().map(label).collect()
    });
    let namespace = map.optional("sourceNamespace", None, |field| field.text(problems).map(Some));
    Some(WorkloadSelector { namespace: namespace?.map(Box::from), labels: labels?, cgroup: None })
}

/// A request without a header is taken for one where it is empty.
fn ways_without(header: &HeaderMatcher) -> Vec<HeaderMatcher> {
    let is_empty_meant = match &header.value {
        ValueMatcher::Exact(text) | ValueMatcher::Prefix(text) => text.is_empty(),
        ValueMatcher::Regex(pattern) => pattern.is_match(b""),
        ValueMatcher::Present
        | ValueMatcher::Suffix(_)
        | ValueMatcher::Contains(_)
        | ValueMatcher::Range { .. } => false,
    };
    let absent = HeaderMatcher { value: ValueMatcher::Present, invert: true, ..header.clone() };
    let other = HeaderMatcher { invert: true, ..header.clone() };
    match header.value {
        ValueMatcher::Present => vec![absent],
        _ if is_empty_meant => vec![other],
        _ => vec![absent, other],
    }
}

fn pseudo(map: &Map<'_>, problems: &mut Problems) -> Option<Vec<HeaderMatcher>> {
    let names = [("scheme", ":scheme"), ("method", ":method"), ("authority", ":authority")];
    let said = names.iter().filter_map(|(name, header)| Some((map.get(name)?, *header)));
    let read = said.map(|(field, header)| {
        let value = text_match(&field, problems)?;
        Some(HeaderMatcher { name: header.parse().ok()?, value, invert: false })
    });
    // Each is read, whatever was wrong with those before it.
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

fn header(
    name: &str,
    value: ValueMatcher,
    field: &Field<'_>,
    problems: &mut Problems,
) -> Option<HeaderMatcher> {
    if ["uri", "scheme", "method", "authority"].contains(&name) {
        return field.problem(
            format!("Istio ignores {name} here; it belongs beside headers, in the match itself"),
            problems,
        );
    }
    match name.parse::<HeaderName>() {
        Ok(name) if !name.is_pseudo() => Some(HeaderMatcher { name, value, invert: false }),
        _ => field.problem(format!("{name:?} is no name of a header, such as x-retry"), problems),
    }
}

/// What is asked of each of some names.
fn values<T>(
    map: &Map<'_>,
    name: &str,
    problems: &mut Problems,
    read: impl Fn(&str, ValueMatcher, &Field<'_>, &mut Problems) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(field) = map.get(name) else { return Some(Vec::new()) };
    let entries = field.map(problems)?;
    let all: Vec<_> = entries
        .entries()
        .map(|(name, field)| {
            let value = text_match(&field, problems)?;
            read(name, value, &field, problems)
        })
        .collect();
    all.into_iter().collect()
}

/// How a text has to be.
enum Way<'a> {
    /// There, and no more.
    There,
    Like(&'static str, Field<'a>),
}

fn one_way<'a>(field: &Field<'a>, problems: &mut Problems) -> Option<Way<'a>> {
    let ways = ["exact", "prefix", "regex"];
    let map = field.map_of(&ways, problems)?;
    let said: Vec<_> = ways.into_iter().filter_map(|way| Some((way, map.get(way)?))).collect();
    match &said[..] {
        [] => Some(Way::There),
        [(way, value)] => Some(Way::Like(way, value.clone())),
        [_, (_, second), ..] => {
            second.problem("exact, prefix and regex exclude each other; there may be one of them", problems)
        }
    }
}

fn text_match(field: &Field<'_>, problems: &mut Problems) -> Option<ValueMatcher> {
    let Way::Like(way, value) = one_way(field, problems)? else { return Some(ValueMatcher::Present) };
    let text = value.text(problems)?;
    Some(match way {
        "exact" => ValueMatcher::Exact(text.into()),
        "prefix" => ValueMatcher::Prefix(text.into()),
        // Istio takes it for any value.
        _ if text == "*" => ValueMatcher::Present,
        _ => ValueMatcher::Regex(pattern(&value, text, problems)?),
    })
}

fn path(field: &Field<'_>, ignore_case: bool, problems: &mut Problems) -> Option<PathMatch> {
    let Way::Like(way, value) = one_way(field, problems)? else {
        return field.problem("one of exact, prefix and regex is required", problems);
    };
    let text = value.text(problems)?;
    Some(match way {
        "exact" => PathMatch::Exact { path: text.into(), ignore_case },
        "prefix" => PathMatch::Prefix { path: text.into(), ignore_case },
        _ => PathMatch::Regex(pattern(&value, text, problems)?),
    })
}

fn pattern(field: &Field<'_>, text: &str, problems: &mut Problems) -> Option<Pattern> {
    Pattern::try_new(text).map_or_else(|error| field.expected(&error, problems), Some)
}
