//! Routes: which requests are meant, what holds for them, and where they go.

use std::borrow::Cow;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::headers::{HeaderMatcher, Headers, Pattern, ValueMatcher};
use super::{Host, HttpPolicy, Sources};

/// What holds for some of the requests to a policy's destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// As the document calls it, or where it stands in it: `rules[1]`.
    pub name: Box<str>,
    pub precedence: Precedence,
    pub matcher: RequestMatch,
    pub http: Arc<HttpPolicy>,
    /// Where the requests go. Empty: where the connection was dialled to.
    pub targets: Arc<[Target]>,
    pub sources: Arc<Sources>,
}

/// Which of the routes that match a request is taken, where their policies are equally specific: the lesser.
///
/// `among_all` is compared with the routes of all such policies, by their system's rule; then the policies' names are,
/// and at last `within` among the routes of one policy. Where a system has no rule among documents, `among_all` is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Precedence {
    pub among_all: [u32; 5],
    pub within: u32,
}

/// The requests that a route is for: what matches all of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMatch {
    pub protocol: RequestProtocol,
    pub path: PathMatch,
    /// `:method`, `:scheme` and `:authority` among them.
    pub headers: Vec<HeaderMatcher>,
    pub query: Vec<QueryMatcher>,
}

/// One of the things that a request has to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Protocol(RequestProtocol),
    Path(&'a PathMatch),
    Query(&'a QueryMatcher),
    Header(&'a HeaderMatcher),
}

/// What kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestProtocol {
    #[default]
    Any,
    /// All but gRPC's.
    Http,
    /// Those whose content type is gRPC's.
    Grpc,
}

/// What a request's path has to be like, without its query. It is looked at without empty and dot segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PathMatch {
    #[default]
    Any,
    Exact {
        path: Box<str>,
        ignore_case: bool,
    },
    /// Begins with these bytes.
    Prefix {
        path: Box<str>,
        ignore_case: bool,
    },
    /// Begins with these segments: `/a/b` matches `/a/b` and `/a/b/c`, not `/a/bc`.
    Segments(Box<str>),
    /// The whole path.
    Regex(Pattern),
}

/// What a parameter of a request's query has to be like: the first of its name, undecoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatcher {
    pub name: Box<str>,
    pub value: ValueMatcher,
}

/// A place where requests, or connections, may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: Box<str>,
    /// Its share of the sum of all weights. 0: it gets nothing.
    pub weight: u32,
    pub address: TargetAddress,
}

/// Where a [`Target`] is. Without a port it is the one that was dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetAddress {
    /// Where the connection was dialled to.
    Original,
    Host {
        host: Host,
        port: Option<NonZeroU16>,
    },
    Addresses(Arc<[(IpAddr, Option<NonZeroU16>)]>),
}

impl RequestMatch {
    #[must_use]
    pub fn matches(&self, request: &(impl Headers + ?Sized)) -> bool {
        self.mismatch(request).is_none()
    }

    /// The first part that a request does not match.
    #[must_use]
    pub fn mismatch(&self, request: &(impl Headers + ?Sized)) -> Option<Part<'_>> {
        self.parts().find(|part| !part.matches(request))
    }

    /// All that a request has to match, in the order in which it is asked. Nothing: every request matches.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let Self { protocol, path, headers, query } = self;
        let protocol = Some(*protocol).filter(|protocol| *protocol != RequestProtocol::Any);
        let path = Some(path).filter(|path| **path != PathMatch::Any);
        let first = protocol.map(Part::Protocol).into_iter().chain(path.map(Part::Path));
        first.chain(query.iter().map(Part::Query)).chain(headers.iter().map(Part::Header))
    }

    /// Whether every request matches.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// Whether whatever matches `other` surely matches this, which therefore hides it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let Self { protocol, path, headers, query } = self;
        (*protocol == RequestProtocol::Any || *protocol == other.protocol)
            && path.covers(&other.path)
            && headers.iter().all(|matcher| other.headers.contains(matcher))
            && query.iter().all(|matcher| other.query.contains(matcher))
    }
}

impl Part<'_> {
    fn matches(&self, request: &(impl Headers + ?Sized)) -> bool {
        let target = || split(request.get(":path").unwrap_or_default(), b'?');
        match self {
            Self::Protocol(RequestProtocol::Any) => true,
            Self::Protocol(RequestProtocol::Http) => !is_grpc(request),
            Self::Protocol(RequestProtocol::Grpc) => is_grpc(request),
            Self::Path(path) => path.matches(&normalized(target().0)),
            Self::Query(matcher) => matcher.matches(target().1.unwrap_or_default()),
            Self::Header(matcher) => matcher.matches(request),
        }
    }
}

impl PathMatch {
    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact { path: exact, ignore_case } => equal(path, exact.as_bytes(), *ignore_case),
            Self::Prefix { path: prefix, ignore_case } => {
                path.get(..prefix.len()).is_some_and(|start| equal(start, prefix.as_bytes(), *ignore_case))
            }
            Self::Segments(segments) => {
                let segments = segments.trim_end_matches('/').as_bytes();
                path.strip_prefix(segments).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            }
            Self::Regex(pattern) => pattern.is_match(path),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Prefix { path, ignore_case: _ }, _) if &**path == "/" => true,
            (Self::Segments(path), _) if &**path == "/" => true,
            (one, other) if one == other => true,
            (
                Self::Prefix { path, ignore_case: false },
                Self::Exact { path: longer, ignore_case: false }
                | Self::Prefix { path: longer, ignore_case: false }
                | Self::Segments(longer),
            ) => longer.starts_with(&**path),
            (
                Self::Segments(_),
                Self::Exact { path: longer, ignore_case: false } | Self::Segments(longer),
            ) => self.matches(longer.as_bytes()),
            _ => false,
        }
    }
}

impl QueryMatcher {
    fn matches(&self, query: &[u8]) -> bool {
        let mut parameters = query.split(|byte| *byte == b'&').map(|parameter| split(parameter, b'='));
        let value = parameters.find(|(name, _)| *name == self.name.as_bytes());
        value.is_some_and(|(_, value)| self.value.matches(value.unwrap_or_default()))
    }
}

/// Whether a message is gRPC's, by its content type.
#[must_use]
pub fn is_grpc(message: &(impl Headers + ?Sized)) -> bool {
    let content_type = message.get("content-type").unwrap_or_default();
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn equal(one: &[u8], other: &[u8], ignore_case: bool) -> bool {
    if ignore_case { one.eq_ignore_ascii_case(other) } else { one == other }
}

fn split(text: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == at) {
        Some(index) => (text.get(..index).unwrap_or_default(), text.get(index + 1..)),
        None => (text, None),
    }
}

/// The path without empty segments and dot segments, so that `/a/../b` and `//b` don't get around a route for `/b`.
fn normalized(path: &[u8]) -> Cow<'_, [u8]> {
    let is_odd = path.windows(2).any(|pair| matches!(pair, b"//" | b"/."));
    if !is_odd || !path.starts_with(b"/") {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_open = false;
    for segment in path.split(|byte| *byte == b'/') {
        ends_open = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut path = Vec::with_capacity(path.len());
    for segment in kept {
        path.push(b'/');
        path.extend_from_slice(segment);
    }
    if ends_open || path.is_empty() {
        path.push(b'/');
    }
    Cow::Owned(path)
}

#[cfg(test)]
mod tests {
    use super::{PathMatch, QueryMatcher, RequestMatch, RequestProtocol, normalized};
    use crate::policy::{HeaderMatcher, ValueMatcher};

    fn path(path: PathMatch) -> RequestMatch {
        RequestMatch { path, ..RequestMatch::default() }
    }

    fn takes(matcher: &RequestMatch, target: &str) -> bool {
        matcher.matches(&[(":method", "GET"), (":path", target)][..])
    }

    #[test]
    fn paths_match_as_they_say() {
        let exact = |ignore_case| path(PathMatch::Exact { path: "/a/B".into(), ignore_case });
        let prefix = |ignore_case| path(PathMatch::Prefix { path: "/a/B".into(), ignore_case });
        let segments = path(PathMatch::Segments("/a/B/".into()));
        let regex = path(PathMatch::Regex(crate::policy::Pattern::try_new("/[ab]/B").unwrap()));
        let all = [exact(false), exact(true), prefix(false), prefix(true), segments, regex];
        for (target, expected) in [
            ("/a/B", [true, true, true, true, true, true]),
            ("/a/B?x=/c", [true, true, true, true, true, true]),
            ("/a//./B", [true, true, true, true, true, true]),
            ("/x/../a/B", [true, true, true, true, true, true]),
            ("/A/b", [false, true, false, true, false, false]),
            ("/a/B/c", [false, false, true, true, true, false]),
            ("/a/Bc", [false, false, true, true, false, false]),
            ("/b/B", [false, false, false, false, false, true]),
            ("/a", [false, false, false, false, false, false]),
            ("", [false, false, false, false, false, false]),
            ("*", [false, false, false, false, false, false]),
        ] {
            assert_eq!(all.each_ref().map(|matcher| takes(matcher, target)), expected, "{target}");
        }
        assert!(takes(&path(PathMatch::Segments("/".into())), "/x"));
    }

    #[test]
    fn a_path_is_looked_at_without_detours() {
        for (path, plain) in [
            ("/", "/"),
            ("//", "/"),
            ("/a/", "/a/"),
            ("/a//b", "/a/b"),
            ("/a/./b/..", "/a/"),
            ("/../../a", "/a"),
            ("/a/.b", "/a/.b"),
            ("/..", "/"),
            ("a/../b", "a/../b"),
        ] {
            assert_eq!(&*normalized(path.as_bytes()), plain.as_bytes(), "{path}");
        }
    }

    #[test]
    fn everything_that_is_said_has_to_match() {
        let matcher = RequestMatch {
            protocol: RequestProtocol::Http,
            path: PathMatch::Any,
            headers: vec![HeaderMatcher {
                name: ":method".parse().unwrap(),
                value: ValueMatcher::Exact("GET".into()),
                invert: false,
            }],
            query: vec![QueryMatcher { name: "v".into(), value: ValueMatcher::Exact("2".into()) }],
        };
        let takes = |method: &str, path: &str, content: &str| {
            matcher.matches(&[(":method", method), (":path", path), ("content-type", content)][..])
        };
        assert!(takes("GET", "/?v=2", "text/plain"));
        assert!(takes("GET", "/x?a&v=2&v=3", "application/grpcx"));
        for (method, path, content) in [
            ("PUT", "/?v=2", ""),
            ("GET", "/?v=3&v=2", ""),
            ("GET", "/?vv=2", ""),
            ("GET", "/", ""),
            ("GET", "/?v=2", "application/grpc"),
            ("GET", "/?v=2", "application/grpc+proto"),
        ] {
            assert!(!takes(method, path, content), "{method} {path} {content}");
        }
        assert!(RequestMatch::default().is_any() && !matcher.is_any());
        assert!(RequestMatch::default().covers(&matcher) && !matcher.covers(&RequestMatch::default()));
    }
}
