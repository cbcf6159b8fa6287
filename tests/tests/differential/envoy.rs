//! The parts of Envoy's configuration that are the same whatever is compared.

use std::net::SocketAddr;

use redial_tests::exchange::Protocol;
use serde_json::{Value, json};

/// Envoy's bootstrap configuration for these listeners and clusters.
pub(crate) fn bootstrap(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

/// A listener whose requests all belong to this virtual host, which need not say what it is called and for whom it is.
pub(crate) fn listener(
    protocol: Protocol,
    name: &str,
    at: SocketAddr,
    mut virtual_host: Value,
    adds_headers: bool,
) -> Value {
    virtual_host["name"] = json!(name);
    virtual_host["domains"] = json!(["*"]);
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": match protocol { Protocol::H1 => "HTTP1", Protocol::H2 => "HTTP2" },
        "http_protocol_options": h1_options(),
        // Our clients are those of the same host: Envoy believes what they say of retries.
        "use_remote_address": true,
        "skip_xff_append": true,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": adds_headers,
        "proxy_100_continue": true,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "delayed_close_timeout": "0.1s",
        "route_config": {"virtual_hosts": [virtual_host]},
        "http_filters": [{"name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": !adds_headers,
        }}],
    });
    json!({
        "name": name,
        "address": address(at),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    })
}

/// A cluster of one endpoint, with all the room that it can want.
pub(crate) fn cluster(protocol: Protocol, name: &str, to: SocketAddr) -> Value {
    let options = match protocol {
        Protocol::H1 => json!({"http_protocol_options": h1_options()}),
        Protocol::H2 => json!({"http2_protocol_options": {}}),
    };
    let unlimited = 1_000_000;
    let thresholds = json!({
        "max_retries": unlimited,
        "max_connections": unlimited,
        "max_requests": unlimited,
        "max_pending_requests": unlimited,
    });
    let endpoint = json!({"endpoint": {"address": address(to)}});
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": options,
            },
        },
    })
}

/// HTTP/1 as it came: names in their case, trailers, 1.0.
fn h1_options() -> Value {
    json!({
        "accept_http_10": true,
        "enable_trailers": true,
        "header_key_format": {"stateful_formatter": {
            "name": "preserve_case",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
            },
        }},
    })
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
