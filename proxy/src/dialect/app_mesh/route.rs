//! One route: which requests or connections it is for, and where they go.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::super::fields::{Field, Map, Problems};
use super::super::note::Code;
use super::document::{Key, Reference, name, text};
use super::objects::{Objects, one_field, port};
use super::retry;
use crate::policy::{
    HeaderMatcher, HeaderName, PathMatch, Pattern, Place, Precedence, QueryMatcher, RequestMatch,
    RequestProtocol, Route, Sources, Target, TargetAddress, ValueMatcher,
};

const TYPES: [&str; 4] = ["httpRoute", "http2Route", "grpcRoute", "tcpRoute"];
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
/// The most headers, parameters or targets of a route.
const MAX_ITEMS: usize = 10;
/// After all that a route can say.
const NO_PRIORITY: u32 = 1_001;

/// What holds for all routes of a document.
pub(super) struct Context<'a> {
    pub(super) scope: Key,
    pub(super) known: &'a Objects<'a, 'a>,
    pub(super) default_retry: bool,
    /// The ports of the virtual router. Empty: nobody says.
    pub(super) listeners: &'a [NonZeroU16],
}

pub(super) struct Parsed {
    pub(super) said: Said,
    pub(super) port: Option<NonZeroU16>,
    /// Where that is said.
    pub(super) port_at: Option<Place>,
}

pub(super) enum Said {
    Requests(Box<Route>),
    Connections(TcpRoute),
}

pub(super) struct TcpRoute {
    pub(super) priority: u32,
    pub(super) targets: Arc<[Target]>,
    pub(super) sources: Arc<Sources>,
}

/// Reads a map with a route type and a priority, and these fields besides.
pub(super) fn parse(
    spec: &Field<'_>,
    besides: &[&str],
    (called, within): (&str, u32),
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<Parsed> {
    let known: Vec<_> = TYPES.iter().chain(&["priority"]).chain(besides).copied().collect();
    let map = spec.map_of(&known, problems)?;
    let priority = map.optional("priority", NO_PRIORITY, |field| field.whole(0..=1_000, problems));
    let (kind, route) = one_field(&map, spec, &TYPES, problems)?;
    let port_at = Some(route.place(&["match", "port"])).filter(|place| place.is_said);
    if kind == "tcpRoute" {
        let map = route.map_ignoring(&["match", "action"], &["timeout"], problems)?;
        let port = map.optional("match", None, |field| {
            field
                .map_of(&["port"], problems)?
                .optional("port", None, |field| port(&field, problems).map(Some))
        });
        let targets = action(&map, context, problems);
        let sources = Arc::new(Sources::new(retry::places(&route)));
        let port = listener(port?, &route, context, problems);
        let said = Said::Connections(TcpRoute { priority: priority?, targets: targets?, sources });
        return Some(Parsed { said, port: port?, port_at });
    }
    let is_grpc = kind == "grpcRoute";
    let map = route.map_of(&["match", "action", "retryPolicy", "timeout"], problems)?;
    let found = map
        .required("match", problems)
        .and_then(|field| if is_grpc { grpc_match(&field, problems) } else { http_match(&field, problems) });
    let targets = action(&map, context, problems);
    let http = retry::policy(&map, is_grpc, context.default_retry, problems);
    let (matcher, port) = found?;
    let port = listener(port, &route, context, problems);
    let precedence = Precedence { among_all: precedence(priority?, &matcher), within };
    let sources = Arc::new(Sources::new(retry::places(&route)));
    let (http, targets) = (Arc::new(http?), targets?);
    let route = Route { name: called.into(), precedence, matcher, http, targets, sources };
    Some(Parsed { said: Said::Requests(Box::new(route)), port: port?, port_at })
}

/// The port that a route is for: that of its match, or that of the virtual router's only listener. None within: every port.
fn listener(
    said: Option<NonZeroU16>,
    route: &Field<'_>,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<Option<NonZeroU16>> {
    let ports = || context.listeners.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (said, context.listeners) {
        (Some(port), listeners) if !listeners.is_empty() && !listeners.contains(&port) => {
            let field = route.child("match").and_then(|found| found.child("port"))?;
            field.expected(&format!("a port that the virtual router listens on, of {}", ports()), problems)
        }
        (Some(port), _) => Some(Some(port)),
        (None, [only]) => Some(Some(*only)),
        (None, []) => Some(None),
        (None, _) => {
            let message = format!(
                "a route has to match a port where its virtual router has several listeners, which are {}",
                ports()
            );
            route.problem(message, problems)
        }
    }
}

/// By priority, and where that is the same, the more specific path first.
fn precedence(priority: u32, matcher: &RequestMatch) -> [u32; 5] {
    let short = |length: usize| u32::MAX.saturating_sub(u32::try_from(length).unwrap_or(u32::MAX));
    let (rank, length) = match &matcher.path {
        PathMatch::Exact { path, .. } => (0, path.len()),
        PathMatch::Regex(pattern) => (1, pattern.as_str().len()),
        PathMatch::Prefix { path, .. } | PathMatch::Segments(path) => (2, path.len()),
        PathMatch::Any => (3, 0),
    };
    [priority, rank, short(length), short(matcher.headers.len()), short(matcher.query.len())]
}

type Found = (RequestMatch, Option<NonZeroU16>);

fn http_match(field: &Field<'_>, problems: &mut Problems) -> Option<Found> {
    let known = ["prefix", "path", "queryParameters", "method", "scheme", "headers", "port"];
    let map = field.map_of(&known, problems)?;
    let port = map.optional("port", None, |field| port(&field, problems).map(Some));
    let path = match (map.get("prefix"), map.get("path")) {
        (None, None) => Some(PathMatch::Any),
        (Some(prefix), None) => match prefix.text(problems) {
            Some(path) if path.starts_with('/') => {
                Some(PathMatch::Prefix { path: path.into(), ignore_case: false })
            }
            Some(_) => prefix.expected(&"a prefix that begins with /", problems),
            None => None,
        },
        (None, Some(path)) => path_match(&path, problems),
        (Some(_), Some(path)) => {
            path.problem("prefix and path exclude each other; there may be one of them", problems)
        }
    };
    let headers = headers(&map, "headers", problems);
    let query = map.each_up_to("queryParameters", MAX_ITEMS, problems, |field, problems| {
        let map = field.map_of(&["name", "match"], problems)?;
        let name = map.required("name", problems).and_then(|field| field.text(problems));
        let value = map.optional("match", ValueMatcher::Present, |field| {
            let exact = field.map_of(&["exact"], problems)?.required("exact", problems)?;
            exact.text(problems).map(|text| ValueMatcher::Exact(text.into()))
        });
        Some(QueryMatcher { name: name?.into(), value: value? })
    });
    let words = METHODS.map(|method| (method, method));
    let method = map.optional("method", None, |field| field.one_of(&words, problems).map(Some));
    let words = [("http", "http"), ("https", "https")];
    let scheme = map.optional("scheme", None, |field| field.one_of(&words, problems).map(Some));
    let mut headers = headers?;
    for (name, value) in [(":method", method?), (":scheme", scheme?)] {
        if let (Some(value), Ok(name)) = (value, name.parse()) {
            headers.push(HeaderMatcher { name, value: ValueMatcher::Exact(value.into()), invert: false });
        }
    }
    Some((RequestMatch { protocol: RequestProtocol::Any, path: path?, headers, query: query? }, port?))
}

fn path_match(field: &Field<'_>, problems: &mut Problems) -> Option<PathMatch> {
    let names = ["exact", "regex"];
    let map = field.map_of(&names, problems)?;
    let (kind, value) = one_field(&map, field, &names, problems)?;
    let path = text(&value, 1..=255, problems)?;
    match kind {
        "regex" => pattern(&value, path, problems).map(PathMatch::Regex),
        _ if path.starts_with('/') => Some(PathMatch::Exact { path: path.into(), ignore_case: false }),
        _ => value.expected(&"a path that begins with /", problems),
    }
}

fn pattern(field: &Field<'_>, text: &str, problems: &mut Problems) -> Option<Pattern> {
    Pattern::try_new(text).map_or_else(|error| field.expected(&error, problems), Some)
}

fn grpc_match(field: &Field<'_>, problems: &mut Problems) -> Option<Found> {
    let map = field.map_of(&["serviceName", "methodName", "metadata", "port"], problems)?;
    let port = map.optional("port", None, |field| port(&field, problems).map(Some));
    let service = map.optional("serviceName", None, |field| field.text(problems).map(Some));
    let method = map.optional("methodName", None, |field| text(&field, 1..=50, problems).map(Some));
    let headers = headers(&map, "metadata", problems);
    let path = match (service?, method?) {
        (None, None) => PathMatch::Any,
        (Some(service), None) => {
            PathMatch::Prefix { path: format!("/{service}/").into(), ignore_case: false }
        }
        (Some(service), Some(method)) => {
            PathMatch::Exact { path: format!("/{service}/{method}").into(), ignore_case: false }
        }
        (None, Some(_)) => {
            let method = map.get("methodName")?;
            return method.problem("methodName needs serviceName", problems);
        }
    };
    let matcher =
        RequestMatch { protocol: RequestProtocol::Grpc, path, headers: headers?, query: Vec::new() };
    Some((matcher, port?))
}

fn headers(map: &Map<'_>, list: &str, problems: &mut Problems) -> Option<Vec<HeaderMatcher>> {
    map.each_up_to(list, MAX_ITEMS, problems, |field, problems| {
        let map = field.map_of(&["name", "invert", "match"], problems)?;
        let name = map.required("name", problems).and_then(|field| {
            text(&field, 1..=50, problems).and_then(|_| field.parsed::<HeaderName>(problems))
        });
        let invert = map.optional("invert", false, |field| field.boolean(problems));
        let value = map.optional("match", ValueMatcher::Present, |field| value(&field, problems));
        Some(HeaderMatcher { name: name?, value: value?, invert: invert? })
    })
}

fn value(field: &Field<'_>, problems: &mut Problems) -> Option<ValueMatcher> {
    let names = ["exact", "prefix", "suffix", "regex", "range"];
    let map = field.map_of(&names, problems)?;
    let (kind, value) = one_field(&map, field, &names, problems)?;
    if kind == "range" {
        let map = value.map_of(&["start", "end"], problems)?;
        let mut bound = |name: &str| map.required(name, problems).and_then(|field| whole(&field, problems));
        let (start, end) = (bound("start"), bound("end"));
        let (start, end) = (start?, end?);
        if start >= end {
            return value.problem(format!("start, {start}, has to be less than end, {end}"), problems);
        }
        return Some(ValueMatcher::Range { start, end });
    }
    let text = text(&value, 1..=255, problems)?;
    Some(match kind {
        "prefix" => ValueMatcher::Prefix(text.into()),
        "suffix" => ValueMatcher::Suffix(text.into()),
        "regex" => ValueMatcher::Regex(pattern(&value, text, problems)?),
        _ => ValueMatcher::Exact(text.into()),
    })
}

fn whole(field: &Field<'_>, problems: &mut Problems) -> Option<i64> {
    let number = field.word().and_then(|word| word.parse().ok());
    number.or_else(|| field.expected(&"a whole number", problems))
}

/// Where the requests go. Nowhere else where no document says where any target is.
fn action(route: &Map<'_>, context: &Context<'_>, problems: &mut Problems) -> Option<Arc<[Target]>> {
    let action = route.required("action", problems)?;
    let map = action.map_of(&["weightedTargets"], problems)?;
    let list = map.required("weightedTargets", problems)?;
    let targets = map.each_up_to("weightedTargets", MAX_ITEMS, problems, |field, problems| {
        target(field, context, problems)
    })?;
    let total: u32 = targets.iter().map(|target| target.weight).sum();
    if total > 100 {
        return list.problem(format!("the weights are {total} in all; there may be 100"), problems);
    }
    if total == 0 {
        return list.problem("no target has a weight above 0, so requests could go nowhere", problems);
    }
    if targets.iter().all(|target| target.address == TargetAddress::Original) {
        return Some(Arc::default());
    }
    Some(targets.into())
}

fn target(field: &Field<'_>, context: &Context<'_>, problems: &mut Problems) -> Option<Target> {
    let names: &[_] =
        if context.scope.is_api { &["virtualNode"] } else { &["virtualNodeRef", "virtualNodeARN"] };
    let known: Vec<_> = names.iter().chain(&["weight", "port"]).copied().collect();
    let map = field.map_of(&known, problems)?;
    let weight = map.required("weight", problems).and_then(|field| field.whole(0..=100, problems));
    let said_port = map.optional("port", None, |field| port(&field, problems).map(Some));
    let (_, reference) = one_field(&map, field, names, problems)?;
    let meant = if context.scope.is_api {
        Reference::Key(Key { name: name(&reference, problems)?.to_owned(), ..context.scope.clone() })
    } else {
        Reference::of_kubernetes(&reference, "virtualNode", &context.scope, problems)?
    };
    let (weight, said_port) = (weight?, said_port?);
    let node = context.known.node(&meant);
    let ports = node.map(|node| node.ports.as_slice()).unwrap_or_default();
    let port = match (said_port, ports) {
        (Some(port), _) => Some(port),
        (None, [port]) => Some(*port),
        (None, []) => None,
        (None, _) => {
            return field.problem("port is required, since the virtual node has several listeners", problems);
        }
    };
    let address = if let Some(host) = node.and_then(|node| node.host.clone()) {
        TargetAddress::Host { host, port }
    } else {
        let message =
            "no document says where this virtual node is, so what goes to it goes where it was dialled";
        problems.note(Code::UnresolvedTarget, &reference.here(), message);
        TargetAddress::Original
    };
    Some(Target { name: meant.name().into(), weight, address })
}
