//! The routes of the `http` section, and where they lead.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use super::words::{MatchType, PresentType, Words};
use super::{http, place};
use crate::dialect::common::some_of;
use crate::dialect::fields::{Field, Map, Problems};
use crate::policy::{
    HeaderMatcher, HttpPolicy, PathMatch, Pattern, Precedence, QueryMatcher, RequestMatch, RequestProtocol,
    Rest, Route, Setting, Sources, Target, TargetAddress, ValueMatcher,
};
use crate::retry::request::{Condition, Method};

/// The most routes of a document: each may be asked about every request.
pub(super) const MAX_ROUTES: usize = 256;
/// The most addresses of a target.
pub(super) const MAX_ADDRESSES: usize = 1_024;
/// The most targets of a list.
pub(super) const MAX_TARGETS: usize = 64;
/// The most that a target may weigh, so that the sum of all weights is small.
pub(super) const MAX_WEIGHT: u32 = 1_000_000;

/// The section's routes in their order, and at last what the section says of all requests, unless these go on.
pub(super) fn routes(
    section: &Field<'_>,
    rest: Rest,
    sources: &Arc<Sources>,
    problems: &mut Problems,
) -> Option<Vec<Route>> {
    let map = section.map_of(&[http::FIELDS, &["routes"]].concat(), problems)?;
    let policy = http::policy(&map, &HttpPolicy::default(), problems).map(Arc::new);
    // What is wrong with a route is told even where something is wrong with the section.
    let base = policy.clone().unwrap_or_default();
    let mut index = 0;
    let routes = map.each("routes", problems, |entry, problems| {
        let route = route(entry, index, (rest, &base), sources, problems);
        index += 1;
        route
    });
    let mut routes = routes?;
    if routes.len() > MAX_ROUTES {
        let message = format!("{} routes are too many; there may be {MAX_ROUTES}", routes.len());
        return map.get("routes").and_then(|list| list.problem(message, problems));
    }
    match rest {
        Rest::Passes => {}
        Rest::GoesOn if routes.is_empty() => {
            let message = "with fallThrough the section is what its routes inherit, and there are none; add routes, or \
                           leave one of the two out";
            return section.problem(message, problems);
        }
        Rest::GoesOn => return policy.and(Some(routes)),
    }
    routes.push(Route {
        name: "http".into(),
        precedence: Precedence { within: u32::MAX - 1, ..Precedence::default() },
        matcher: RequestMatch::default(),
        http: policy?,
        targets: Arc::default(),
        sources: Arc::clone(sources),
    });
    Some(routes)
}

fn route(
    entry: &Field<'_>,
    index: u32,
    (rest, section): (Rest, &Arc<HttpPolicy>),
    sources: &Sources,
    problems: &mut Problems,
) -> Option<Route> {
    let map = entry.map_of(&[&["name", "priority", "match", "targets"], http::FIELDS].concat(), problems)?;
    let name = map.optional("name", format!("routes[{index}]").into(), |field| name(&field, problems));
    let priority = map.optional("priority", 0, |field| match rest {
        Rest::GoesOn => field.whole(0..=u32::MAX, problems),
        Rest::Passes => {
            let message = "without fallThrough no other policy is asked after this one, so that its routes come in \
                           their order; leave it out";
            field.problem(message, problems)
        }
    });
    let matcher = map.optional("match", RequestMatch::default(), |field| matcher(&field, problems));
    let targets = map.optional("targets", Vec::new(), |field| targets(&field, problems));
    let says = http::FIELDS.iter().any(|field| map.get(field).is_some());
    let http =
        if says { http::policy(&map, section, problems).map(Arc::new) } else { Some(Arc::clone(section)) };
    Some(Route {
        name: name?,
        precedence: Precedence { among_all: [priority?, 0, 0, 0, 0], within: index },
        matcher: matcher?,
        http: http?,
        targets: targets?.into(),
        sources: Arc::new(sources_of(entry, sources)),
    })
}

/// What the route says is said there, and the rest where its section says it.
fn sources_of(entry: &Field<'_>, section: &Sources) -> Sources {
    let settings = Setting::ALL.into_iter().chain(Condition::ALL.map(Setting::Condition));
    Sources::new(settings.map(|setting| {
        let own = place(entry, &[], setting);
        let is_own = own.is_said || matches!(setting, Setting::Matches | Setting::Targets);
        let inherited = section.place(setting).filter(|_| !is_own).cloned();
        (setting, inherited.unwrap_or(own))
    }))
}

fn name(field: &Field<'_>, problems: &mut Problems) -> Option<Box<str>> {
    let text = field.text(problems)?;
    if text.is_empty() || text.len() > 253 || text.chars().any(char::is_control) {
        return field.expected(&"a name of 1 to 253 bytes on one line", problems);
    }
    Some(text.into())
}

fn matcher(entry: &Field<'_>, problems: &mut Problems) -> Option<RequestMatch> {
    let map = entry.map_of(&["grpc", "path", "method", "methods", "headers", "query"], problems)?;
    let protocol = map.optional("grpc", RequestProtocol::Any, |field| {
        field.boolean(problems).map(|grpc| if grpc { RequestProtocol::Grpc } else { RequestProtocol::Http })
    });
    let path = map.optional("path", PathMatch::Any, |field| path(&field, problems));
    let method = method(&map, problems);
    let headers = some_of(&map, "headers", problems, |field, problems| {
        http::matcher(field, http::OF_REQUESTS, problems)
    });
    let query = some_of(&map, "query", problems, |field, problems| {
        let map = field.map_of(&["name", "type", "value", "start", "end"], problems)?;
        let name = map.required("name", problems).and_then(|field| field.text(problems));
        let exact = PresentType(MatchType::Exact);
        let PresentType(kind) =
            map.optional("type", exact, |field| field.one_of(&PresentType::words(), problems))?;
        Some(QueryMatcher { name: name?.into(), value: http::value_matcher(&map, kind, problems)? })
    });
    let mut headers: Vec<_> = method?.into_iter().chain(headers?).collect();
    // In one order, whichever of the two ways it is said in.
    headers.sort_by_key(|header| header.name.as_str() != ":method");
    Some(RequestMatch { protocol: protocol?, path: path?, headers, query: query? })
}

/// The matcher of the methods, if any: one method, or any of several.
fn method(map: &Map<'_>, problems: &mut Problems) -> Option<Option<HeaderMatcher>> {
    let one = map.optional("method", None, |field| field.parsed::<Method>(problems).map(Some));
    let several = some_of(map, "methods", problems, Field::parsed::<Method>);
    let (one, several) = (one?, several?);
    if let (Some(_), Some(field)) = (&one, map.get("methods")) {
        return field.problem("there is `method` already; leave one of them out", problems);
    }
    let words: Vec<_> = one.iter().chain(&several).map(Method::as_str).collect();
    let value = match &words[..] {
        [] => return Some(None),
        [method] => ValueMatcher::Exact((*method).into()),
        // No method has a character that means something in an expression.
        _ => {
            let made = Pattern::try_new(&words.join("|"));
            ValueMatcher::Regex(map.get("methods").and_then(|field| field.accept(made, problems))?)
        }
    };
    let name = ":method".parse().ok()?;
    Some(Some(HeaderMatcher { name, value, invert: false }))
}

fn path(field: &Field<'_>, problems: &mut Problems) -> Option<PathMatch> {
    let map = field.map_of(&["exact", "prefix", "segments", "regex", "ignoreCase"], problems)?;
    let ignore_case = map.optional("ignoreCase", false, |field| field.boolean(problems))?;
    let kinds = ["exact", "prefix", "segments", "regex"].map(|kind| map.get(kind));
    let [exact, prefix, segments, regex] = &kinds;
    if kinds.iter().flatten().count() != 1 {
        return field.problem("one of exact, prefix, segments and regex is required", problems);
    }
    if let (Some(field), None, None) = (map.get("ignoreCase"), exact, prefix) {
        return field.problem("only exact and prefix have it; an expression may begin with (?i)", problems);
    }
    let text = |field: &Field<'_>, problems: &mut Problems| -> Option<Box<str>> {
        match field.text(problems)? {
            text if text.starts_with('/') => Some(text.into()),
            _ => field.expected(&"a path, which begins with /", problems),
        }
    };
    match (exact, prefix, segments, regex) {
        (Some(field), ..) => text(field, problems).map(|path| PathMatch::Exact { path, ignore_case }),
        (_, Some(field), ..) => text(field, problems).map(|path| PathMatch::Prefix { path, ignore_case }),
        (_, _, Some(field), _) => text(field, problems).map(PathMatch::Segments),
        (.., Some(field)) => http::pattern(field, problems).map(PathMatch::Regex),
        (None, None, None, None) => None,
    }
}

/// Where requests or connections go.
pub(super) fn targets(list: &Field<'_>, problems: &mut Problems) -> Option<Vec<Target>> {
    let targets: Vec<_> = list.list(problems)?.iter().map(|entry| target(entry, problems)).collect();
    if targets.len() > MAX_TARGETS {
        let message = format!("{} targets are too many; there may be {MAX_TARGETS}", targets.len());
        return list.problem(message, problems);
    }
    let targets: Vec<_> = targets.into_iter().collect::<Option<_>>()?;
    if targets.iter().all(|target| target.weight == 0) {
        return list.problem("a target of weight 0 gets nothing; one has to have a weight", problems);
    }
    Some(targets)
}

fn target(entry: &Field<'_>, problems: &mut Problems) -> Option<Target> {
    let map = entry.map_of(&["name", "weight", "host", "port", "addresses", "original"], problems)?;
    let weight = map.optional("weight", 1, |field| field.whole(0..=MAX_WEIGHT, problems));
    let port = map.optional("port", None, |field| {
        let port = field.whole(1..=u16::MAX.into(), problems)?;
        u16::try_from(port).ok().and_then(NonZeroU16::new).map(Some)
    });
    let given = ["host", "addresses", "original"].map(|kind| map.get(kind));
    if given.iter().flatten().count() != 1 {
        return entry.problem("one of host, addresses and original is required", problems);
    }
    let [host, addresses, original] = given;
    let (default_name, address): (Box<str>, _) = if let Some(field) = host {
        let host = field.parsed::<crate::policy::Host>(problems)?;
        (host.as_str().into(), TargetAddress::Host { host, port: port? })
    } else if let Some(field) = addresses {
        let port = port?;
        let read: Vec<_> = field.list(problems)?.iter().map(|item| endpoint(item, port, problems)).collect();
        if read.len() > MAX_ADDRESSES {
            let message = format!("{} addresses are too many; there may be {MAX_ADDRESSES}", read.len());
            return field.problem(message, problems);
        }
        ("addresses".into(), TargetAddress::Addresses(read.into_iter().collect::<Option<_>>()?))
    } else {
        let field = original?;
        if !field.boolean(problems)? {
            return field.expected(&"true", problems);
        }
        if let Some(port) = map.get("port") {
            return port.problem("what was dialled has its port; leave it out", problems);
        }
        ("original".into(), TargetAddress::Original)
    };
    let name = map.optional("name", default_name, |field| name(&field, problems));
    Some(Target { name: name?, weight: weight?, address })
}

fn endpoint(
    field: &Field<'_>,
    port: Option<NonZeroU16>,
    problems: &mut Problems,
) -> Option<(IpAddr, Option<NonZeroU16>)> {
    let text = field.text(problems)?;
    let with_port = || {
        let address = text.parse::<SocketAddr>().ok()?;
        Some((address.ip(), Some(NonZeroU16::new(address.port())?)))
    };
    let address = text.parse().ok().map(|address| (address, port)).or_else(with_port);
    address
        .or_else(|| field.expected(&"an address such as 10.0.0.1, 10.0.0.1:8080 or [fd00::1]:8080", problems))
}

#[cfg(test)]
mod tests;
