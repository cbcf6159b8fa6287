//! The headers of HTTP/2 messages, as matchers and the decision see them.

use http::{HeaderMap, Request, StatusCode};

use crate::policy::Headers;

/// A request's head, with its pseudo-headers.
#[derive(Clone, Copy, Debug)]
pub struct RequestFields<'a>(pub &'a Request<()>);

/// A response's head, with its pseudo-header.
#[derive(Clone, Copy, Debug)]
pub struct ResponseFields<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
}

/// Trailers.
#[derive(Clone, Copy, Debug)]
pub struct TrailerFields<'a>(pub &'a HeaderMap);

impl Headers for RequestFields<'_> {
    fn visit<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool) {
        let uri = self.0.uri();
        let pseudo = match name {
            ":method" => Some(self.0.method().as_str()),
            ":path" => uri.path_and_query().map(http::uri::PathAndQuery::as_str),
            ":authority" => uri.authority().map(http::uri::Authority::as_str),
            // A request without an authority loses its scheme on the way in.
            ":scheme" => Some(uri.scheme_str().unwrap_or("http")),
            _ => return visit_all(self.0.headers(), name, visit),
        };
        if let Some(value) = pseudo {
            visit(value.as_bytes());
        } else if name == ":authority" {
            visit_all(self.0.headers(), "host", visit);
        }
    }

    fn may_have_prefix(&self, prefix: &str) -> bool {
        self.0.headers().keys().any(|name| name.as_str().starts_with(prefix))
    }
}

impl Headers for ResponseFields<'_> {
    fn visit<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool) {
        if name == ":status" {
            visit(self.status.as_str().as_bytes());
        } else {
            visit_all(self.headers, name, visit);
        }
    }
}

impl Headers for TrailerFields<'_> {
    fn visit<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool) {
        visit_all(self.0, name, visit);
    }
}

fn visit_all<'a>(headers: &'a HeaderMap, name: &str, visit: &mut dyn FnMut(&'a [u8]) -> bool) {
    for value in headers.get_all(name) {
        if !visit(value.as_bytes()) {
            break;
        }
    }
}

/// Whether the content is gRPC, by its type.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(http::header::CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, HeaderValue};
    use http::{HeaderMap, Request};

    use super::{RequestFields, is_grpc};
    use crate::policy::Headers;

    #[test]
    fn pseudo_headers_are_headers() {
        let request = Request::builder()
            .method("PUT")
            .uri("https://a.test/x?y=1")
            .header("x-a", "1")
            .header("x-a", "2")
            .body(())
            .unwrap();
        let fields = RequestFields(&request);
        for (name, value) in [
            (":method", "PUT"),
            (":path", "/x?y=1"),
            (":authority", "a.test"),
            (":scheme", "https"),
            ("x-a", "1,2"),
        ] {
            assert_eq!(fields.joined(name).unwrap(), value.as_bytes(), "{name}");
        }
        assert!(fields.may_have_prefix("x-"));
        assert!(!fields.may_have_prefix("x-envoy-"));
        assert_eq!(fields.get("x-b"), None);
    }

    #[test]
    fn the_host_is_the_authority_where_there_is_no_other() {
        let request = Request::builder().uri("/x").header("host", "b.test").body(()).unwrap();
        assert_eq!(RequestFields(&request).get(":authority").unwrap(), b"b.test");
    }

    #[test]
    fn only_grpc_is_grpc() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            assert_eq!(is_grpc(&headers), expected, "{content_type}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
