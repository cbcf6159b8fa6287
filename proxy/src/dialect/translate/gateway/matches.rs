//! What requests have to be like, as a route's match.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::policy::{HeaderMatcher, PathMatch, QueryMatcher, RequestMatch, RequestProtocol, ValueMatcher};

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
const MAX_HEADERS: usize = 16;

/// The same requests, by one method each.
pub(super) fn by_method(matcher: &RequestMatch) -> Vec<RequestMatch> {
    let several = matcher.headers.iter().enumerate().find_map(|(index, header)| match &header.value {
        ValueMatcher::Regex(pattern) if header.name.as_str() == ":method" && !header.invert => {
            let words: BTreeSet<_> = pattern.as_str().split('|').collect();
            words.is_subset(&METHODS.into()).then_some((index, words))
        }
        _ => None,
    });
    let Some((index, words)) = several else { return vec![matcher.clone()] };
    let with = |word: &str| {
        let mut one = matcher.clone();
        if let Some(header) = one.headers.get_mut(index) {
            header.value = ValueMatcher::Exact(word.into());
        }
        one
    };
    words.into_iter().map(with).collect()
}

/// The match, or why there is none.
pub(super) fn of_route(matcher: &RequestMatch) -> Result<Value, String> {
    let RequestMatch { protocol, path: of_path, headers, query } = matcher;
    let (mut fields, mut written) = (Map::new(), Vec::new());
    if *protocol == RequestProtocol::Grpc {
        fields.extend(method(of_path)?.map(|method| ("method".to_owned(), method)));
    } else {
        fields.extend(path(of_path).map(|path| ("path".to_owned(), path)));
    }
    for header in headers {
        match (&header.value, header.name.as_str()) {
            (ValueMatcher::Exact(text), ":method")
                if !header.invert && *protocol != RequestProtocol::Grpc && METHODS.contains(&&**text) =>
            {
                if fields.insert("method".to_owned(), json!(text)).is_some() {
                    return Err("two methods cannot be said".to_owned());
                }
            }
            // As all requests are that can be looked at.
            (ValueMatcher::Exact(text), ":scheme") if !header.invert && &**text == "http" => {}
            _ => written.push(self::header(header)?),
        }
    }
    let query: Vec<_> = query.iter().map(parameter).collect::<Result<_, _>>()?;
    for (name, list) in [("headers", written), ("queryParams", query)] {
        if list.len() > MAX_HEADERS {
            return Err(format!("{} of {name} are too many; there may be {MAX_HEADERS}", list.len()));
        }
        if !list.is_empty() {
            fields.insert(name.to_owned(), Value::Array(list));
        }
    }
    Ok(Value::Object(fields))
}

fn path(path: &PathMatch) -> Option<Value> {
    let begins = |path: &str| path.starts_with('/');
    let with = |kind: &str, value: &str| Some(json!({"type": kind, "value": value}));
    match path {
        PathMatch::Any => None,
        PathMatch::Exact { path, ignore_case: false } if begins(path) => with("Exact", path),
        PathMatch::Prefix { path, ignore_case: false } | PathMatch::Segments(path) if begins(path) => {
            let segments = path.trim_end_matches('/');
            with("PathPrefix", if segments.is_empty() { "/" } else { segments })
        }
        PathMatch::Regex(pattern) => with("RegularExpression", pattern.as_str()),
        PathMatch::Exact { path, ignore_case } => {
            with("RegularExpression", &expression(path, *ignore_case, ""))
        }
        PathMatch::Prefix { path, ignore_case } => {
            with("RegularExpression", &expression(path, *ignore_case, ".*"))
        }
        PathMatch::Segments(path) => with("RegularExpression", &expression(path, false, "(/.*)?")),
    }
}

fn expression(text: &str, ignore_case: bool, end: &str) -> String {
    format!("{}{}{end}", if ignore_case { "(?i)" } else { "" }, regex::escape(text))
}

/// The service and method of gRPC that a path is.
fn method(path: &PathMatch) -> Result<Option<Value>, String> {
    let parts = match path {
        PathMatch::Any => return Ok(None),
        PathMatch::Exact { path, ignore_case: false } | PathMatch::Segments(path) => path.strip_prefix('/'),
        PathMatch::Exact { .. } | PathMatch::Prefix { .. } | PathMatch::Regex(_) => None,
    };
    let is_exact = matches!(path, PathMatch::Exact { .. });
    match parts.map(|parts| parts.split('/').collect::<Vec<_>>()).as_deref() {
        Some([service]) if !is_exact => Ok(Some(json!({"service": service}))),
        Some([service, method]) if is_exact => Ok(Some(json!({"service": service, "method": method}))),
        _ => Err("a path that is no service and method of gRPC cannot be said".to_owned()),
    }
}

fn header(header: &HeaderMatcher) -> Result<Value, String> {
    let HeaderMatcher { name, value, invert } = header;
    if name.is_pseudo() {
        return Err(format!("{name} cannot be said"));
    }
    if *invert {
        return Err(format!("what the header {name} is not cannot be said"));
    }
    valued(name.as_str(), value).ok_or_else(|| format!("the range of the header {name} cannot be said"))
}

fn parameter(parameter: &QueryMatcher) -> Result<Value, String> {
    let QueryMatcher { name, value } = parameter;
    valued(name, value).ok_or_else(|| format!("the range of the parameter {name:?} cannot be said"))
}

fn valued(name: &str, value: &ValueMatcher) -> Option<Value> {
    let expression = |value: String| Some(json!({"name": name, "type": "RegularExpression", "value": value}));
    match value {
        ValueMatcher::Exact(text) => Some(json!({"name": name, "value": text})),
        ValueMatcher::Regex(pattern) => expression(pattern.as_str().to_owned()),
        ValueMatcher::Present => expression(".*".to_owned()),
        ValueMatcher::Prefix(text) => expression(format!("{}.*", regex::escape(text))),
        ValueMatcher::Suffix(text) => expression(format!(".*{}", regex::escape(text))),
        ValueMatcher::Contains(text) => expression(format!(".*{}.*", regex::escape(text))),
        ValueMatcher::Range { .. } => None,
    }
}
