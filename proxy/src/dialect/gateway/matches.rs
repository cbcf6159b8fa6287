//! Which requests a rule of a route is for, and which of several rules is taken.

use crate::dialect::fields::{Field, Map, Problems};
use crate::dialect::note::Code;
use crate::policy::{
    HeaderMatcher, HeaderName, PathMatch, Pattern, QueryMatcher, RequestMatch, RequestProtocol, ValueMatcher,
};

/// A match, and its place among all by the rules of the Gateway API.
pub(super) type Match = (RequestMatch, [u32; 4]);

/// How many headers or parameters of the query a match may have.
const MAX_HEADERS: usize = 16;

/// The more there is of it, the earlier it comes.
fn rank(length: usize) -> u32 {
    u32::MAX - u32::try_from(length).unwrap_or(u32::MAX)
}

/// What a rule without matches is for.
pub(super) fn all(kind: &str) -> Match {
    if kind == "GRPCRoute" {
        let matcher = RequestMatch { protocol: RequestProtocol::Grpc, ..RequestMatch::default() };
        return (matcher, [0, rank(0), rank(0), rank(0)]);
    }
    (RequestMatch::default(), [2, rank(1), 1, rank(0)])
}

pub(super) fn http(field: &Field<'_>, problems: &mut Problems) -> Option<Match> {
    let map = field.map_of(&["path", "headers", "queryParams", "method"], problems)?;
    let path = map.optional("path", (PathMatch::Any, 2, 1), |field| path(&field, problems));
    let headers = headers(&map, problems);
    let query = each_once(&map, "queryParams", problems, |name, value, problems| {
        Some(QueryMatcher { name: name.text(problems)?.into(), value })
    });
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let methods = methods.map(|method| (method, method));
    let method = map.optional("method", None, |field| field.one_of(&methods, problems).map(Some));
    let (path, kind, length) = path?;
    let (mut headers, query, method) = (headers?, query?, method?);
    // More headers come first, and of as many, more parameters; there are fewer than 32 of each.
    let order = [kind, rank(length), u32::from(method.is_none()), rank(headers.len() * 32 + query.len())];
    if let Some(method) = method {
        let name: HeaderName = ":method".parse().ok()?;
        headers.push(HeaderMatcher { name, value: ValueMatcher::Exact(method.into()), invert: false });
    }
    Some((RequestMatch { protocol: RequestProtocol::Any, path, headers, query }, order))
}

fn path(field: &Field<'_>, problems: &mut Problems) -> Option<(PathMatch, u32, usize)> {
    let map = field.map_of(&["type", "value"], problems)?;
    let kinds = [("Exact", 0), ("RegularExpression", 1), ("PathPrefix", 2)];
    let kind = map.optional("type", 2, |field| field.one_of(&kinds, problems));
    let Some(value) = map.get("value") else { return Some((PathMatch::Any, kind?, 1)) };
    let (kind, text) = (kind?, value.text(problems)?);
    if kind != 1 && !text.starts_with('/') {
        return value.expected(&"a path that begins with /", problems);
    }
    let path = match kind {
        0 => PathMatch::Exact { path: text.into(), ignore_case: false },
        1 => PathMatch::Regex(pattern(&value, text, problems)?),
        _ if text == "/" => PathMatch::Any,
        _ => PathMatch::Segments(text.into()),
    };
    Some((path, kind, text.len()))
}

fn pattern(field: &Field<'_>, text: &str, problems: &mut Problems) -> Option<Pattern> {
    Pattern::try_new(text).map_or_else(|error| field.expected(&error, problems), Some)
}

fn headers(map: &Map<'_>, problems: &mut Problems) -> Option<Vec<HeaderMatcher>> {
    each_once(map, "headers", problems, |name, value, problems| {
        let parsed: HeaderName = name.parsed(problems)?;
        if parsed.is_pseudo() {
            return name.expected(&"the name of a header, such as x-retry", problems);
        }
        Some(HeaderMatcher { name: parsed, value, invert: false })
    })
}

/// What is asked of some names. Of several that are one but for capital letters the Gateway API takes the first.
fn each_once<T>(
    map: &Map<'_>,
    list: &str,
    problems: &mut Problems,
    mut read: impl FnMut(&Field<'_>, ValueMatcher, &mut Problems) -> Option<T>,
) -> Option<Vec<T>> {
    let mut names: Vec<String> = Vec::new();
    let all = map.each_up_to(list, MAX_HEADERS, problems, |field, problems| {
        let (name, value) = named(field, problems)?;
        let matcher = read(&name, value, problems)?;
        let text = name.word().unwrap_or_default().to_ascii_lowercase();
        if names.contains(&text) {
            let message = "nothing is asked of it, since an entry before it has this name";
            problems.note(Code::InertSetting, &field.here(), message);
            return Some(None);
        }
        names.push(text);
        Some(Some(matcher))
    })?;
    Some(all.into_iter().flatten().collect())
}

fn named<'a>(field: &Field<'a>, problems: &mut Problems) -> Option<(Field<'a>, ValueMatcher)> {
    let map = field.map_of(&["type", "name", "value"], problems)?;
    let is_regex = is_regex(&map, problems);
    let name = map.required("name", problems);
    let value = map.required("value", problems)?;
    let text = value.text(problems)?;
    let value = if is_regex? {
        ValueMatcher::Regex(pattern(&value, text, problems)?)
    } else {
        ValueMatcher::Exact(text.into())
    };
    Some((name?, value))
}

fn is_regex(map: &Map<'_>, problems: &mut Problems) -> Option<bool> {
    let words = [("Exact", false), ("RegularExpression", true)];
    map.optional("type", false, |field| field.one_of(&words, problems))
}

pub(super) fn grpc(field: &Field<'_>, problems: &mut Problems) -> Option<Match> {
    let map = field.map_of(&["method", "headers"], problems)?;
    let path = map.optional("method", (PathMatch::Any, 0, 0), |field| method(&field, problems));
    let headers = headers(&map, problems)?;
    let (path, service, method) = path?;
    let order = [0, rank(service), rank(method), rank(headers.len())];
    Some((RequestMatch { protocol: RequestProtocol::Grpc, path, headers, query: Vec::new() }, order))
}

fn method(field: &Field<'_>, problems: &mut Problems) -> Option<(PathMatch, usize, usize)> {
    let map = field.map_of(&["type", "service", "method"], problems)?;
    let is_regex = is_regex(&map, problems);
    let service = map.optional("service", None, |field| field.text(problems).map(Some))?;
    let method = map.optional("method", None, |field| field.text(problems).map(Some))?;
    let is_regex = is_regex?;
    let part = |text: Option<&str>| match text {
        None => "[^/]+".to_owned(),
        Some(text) if is_regex => format!("(?:{text})"),
        Some(text) => regex::escape(text),
    };
    let path = match (service, method) {
        (None, None) => return field.problem("service or method is required", problems),
        (Some(service), Some(method)) if !is_regex => {
            PathMatch::Exact { path: format!("/{service}/{method}").into(), ignore_case: false }
        }
        (Some(service), None) if !is_regex => PathMatch::Segments(format!("/{service}").into()),
        (service, method) => {
            PathMatch::Regex(pattern(field, &format!("/{}/{}", part(service), part(method)), problems)?)
        }
    };
    Some((path, service.map_or(0, str::len), method.map_or(0, str::len)))
}
