//! Envoy's configurations: as an explicit proxy, and as a mesh has it beside a workload.

use std::net::Ipv4Addr;

use redial_tests::netns::Netns;
use redial_tests::world::SERVER_V4;
use serde_json::{Value, json};

use crate::http::{PORT, PORT_H2};

/// What the redirect leads to.
const REDIRECTED: u16 = 15001;
/// The group that Envoy runs in, whose own connections are not redirected.
pub const GROUP: u32 = 1337;

/// Has all connections out of a namespace that are not Envoy's own redirected to it.
pub fn redirect(netns: &Netns) -> anyhow::Result<()> {
    netns.nft(&format!(
        "table ip mesh {{
             chain output {{
                 type nat hook output priority -100;
                 meta skgid {GROUP} return
                 ip daddr 127.0.0.0/8 return
                 meta l4proto tcp redirect to :{REDIRECTED}
             }}
         }}"
    ))?;
    // Else the kernel's table would be full of connections that ended two minutes ago.
    netns.sysctl("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")
}

/// What is redirected goes to where it was going, by its port as requests or as it is.
pub fn transparent() -> Value {
    let matching = |port: u16, mut chain: Value| {
        chain["filter_chain_match"] = json!({ "destination_port": port });
        chain
    };
    json!({ "static_resources": {
        "listeners": [{
            "name": "redirected",
            "address": address(Ipv4Addr::LOCALHOST, REDIRECTED),
            "listener_filters": [{
                "name": "envoy.filters.listener.original_dst",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
                },
            }],
            "filter_chains": [
                matching(PORT, requests("h1", "HTTP1")),
                matching(PORT_H2, requests("h2", "HTTP2")),
            ],
            "default_filter_chain": { "filters": [{
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": "tcp",
                    "cluster": "tcp",
                    "max_connect_attempts": 3,
                },
            }] },
        }],
        "clusters": [
            to_original("tcp", &json!({})),
            to_original("h1", &protocol("http_protocol_options")),
            to_original("h2", &protocol("http2_protocol_options")),
        ],
    } })
}

/// With a port of its own for each version of HTTP.
pub fn explicit(front: Ipv4Addr) -> Value {
    let listener = |port: u16, cluster: &str, codec: &str| {
        json!({
            "name": cluster,
            "address": address(front, port),
            "filter_chains": [requests(cluster, codec)],
        })
    };
    json!({ "static_resources": {
        "listeners": [listener(PORT, "h1", "HTTP1"), listener(PORT_H2, "h2", "HTTP2")],
        "clusters": [
            to_server("h1", PORT, &protocol("http_protocol_options")),
            to_server("h2", PORT_H2, &protocol("http2_protocol_options")),
        ],
    } })
}

/// A filter chain that retries as redial's policy does.
fn requests(cluster: &str, codec: &str) -> Value {
    let retry = json!({
        "retry_on": "5xx,reset,connect-failure,refused-stream",
        "num_retries": 3,
        "per_try_timeout": "10s",
        "retry_back_off": { "base_interval": "0.001s", "max_interval": "0.010s" },
    });
    json!({ "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.\
                      HttpConnectionManager",
            "stat_prefix": cluster,
            "codec_type": codec,
            "route_config": { "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{
                    "match": { "prefix": "/" },
                    "route": { "cluster": cluster, "timeout": "30s", "retry_policy": retry },
                }],
            }] },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                },
            }],
        },
    }] })
}

fn to_original(name: &str, protocol: &Value) -> Value {
    cluster(name, protocol, &json!({ "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED" }))
}

fn to_server(name: &str, port: u16, protocol: &Value) -> Value {
    let endpoint = json!({ "endpoint": { "address": address(SERVER_V4, port) } });
    let endpoints = json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] });
    cluster(name, protocol, &json!({ "type": "STATIC", "load_assignment": endpoints }))
}

fn cluster(name: &str, protocol: &Value, where_to: &Value) -> Value {
    let most = 100_000;
    let mut cluster = json!({
        "name": name,
        "connect_timeout": "2s",
        "circuit_breakers": { "thresholds": [{
            "max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most,
        }] },
        "typed_extension_protocol_options": protocol,
    });
    for (key, value) in where_to.as_object().into_iter().flatten() {
        cluster[key] = value.clone();
    }
    cluster
}

fn protocol(of_upstream: &str) -> Value {
    json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": { of_upstream: {} },
    } })
}

fn address(host: Ipv4Addr, port: u16) -> Value {
    json!({ "socket_address": { "address": host.to_string(), "port_value": port } })
}
