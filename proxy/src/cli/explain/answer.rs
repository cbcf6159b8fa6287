//! What is told of a request, as text and JSON.

use serde_json::{Value, json};

use super::Request;
use super::timeline::Timeline;
use crate::dialect::duration::format;
use crate::policy::table::By;
use crate::policy::{
    Address, Destination, HttpPolicy, Matched, Policy, Routed, Setting, Sources, Target, TargetAddress,
};
use crate::retry::connect::Failure;
use crate::retry::request::Methods;

pub(super) struct Answer {
    policy: String,
    origin: String,
    route: Option<String>,
    by: String,
    notes: Vec<String>,
    /// The others, and why each comes after.
    others: Vec<(String, String)>,
    /// Name, value, source.
    settings: Vec<[String; 3]>,
    connect: Vec<[String; 2]>,
    /// Name, weight, address.
    targets: Vec<(String, u32, String)>,
    connects: Timeline,
    requests: Option<Timeline>,
}

impl Answer {
    pub(super) fn new(request: &Request, matched: &Matched) -> Self {
        let candidates = matched.router.as_ref().map(|router| router.candidates(request)).unwrap_or_default();
        let by_connection = match &matched.host {
            Some(host) => By::Resolved(host),
            None if matched.policy.name.is_default() => By::Fallback,
            None => By::Address,
        };
        let of_connection = Routed { policy: &matched.policy, route: None, by: by_connection };
        // As the engine does: what no policy says anything about is the connection's.
        let chosen = match &matched.router {
            Some(router) => router.route(request),
            None => of_connection,
        };
        let others = candidates.iter().skip(1).map(|other| (name(other), why(request, &chosen, other)));
        let mut notes = Vec::new();
        if !request.has_address {
            notes.push(format!(
                "no address is given, so policies for networks are left out, and {} is taken to be what was dialled; \
                 --address IP:PORT looks at them",
                request.host
            ));
        }
        if chosen.route.is_none() {
            notes.push("nothing is done about the request: it goes through as it is".to_owned());
        } else if chosen.route.is_some_and(|route| route.http.honour_request_headers) {
            notes.push("the request's own x-envoy-* headers may change what is said here".to_owned());
        }
        let of_route = chosen.route.map(|route| settings(&route.http, &route.sources));
        let connect = &matched.connect;
        let or_none = |time: Option<_>| time.map_or_else(|| "none".to_owned(), format);
        let words: Vec<_> = connect.retry_on().iter().map(Failure::as_str).collect();
        let connect_settings = [
            ("attempts", connect.max_connect_attempts().to_string()),
            ("connect timeout", or_none(connect.connect_timeout())),
            ("timeout of all", or_none(connect.timeout())),
            ("retried", words.join(", ")),
        ];
        let targets = chosen.route.map_or(&[][..], |route| &route.targets);
        Self {
            policy: chosen.policy.name.to_string(),
            origin: chosen.policy.origin.to_string(),
            route: chosen.route.map(|route| route.name.to_string()),
            by: by(chosen.by),
            notes,
            others: others.collect(),
            settings: of_route.unwrap_or_default(),
            connect: connect_settings.map(|(name, value)| [name.to_owned(), value]).into(),
            targets: targets.iter().map(target).collect(),
            connects: Timeline::of_connects(connect),
            requests: chosen.route.map(|route| Timeline::of_request(&route.http)),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("policy {} ({})\n", self.policy, self.origin);
        let mut line = |words: String| text.extend([words.as_str(), "\n"]);
        if let Some(route) = &self.route {
            line(format!("route {route}"));
        }
        line(format!("because {}", self.by));
        self.notes.iter().for_each(|note| line(format!("note: {note}")));
        let section = |title: &str, lines: Vec<String>, line: &mut dyn FnMut(String)| {
            if !lines.is_empty() {
                line(format!("\n{title}:"));
                for words in lines {
                    line(format!("  {words}"));
                }
            }
        };
        let others = self.others.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        section("asked later", others, &mut line);
        let settings = self.settings.iter().map(|[name, value, from]| format!("{name}: {value}  [{from}]"));
        section("request", settings.collect(), &mut line);
        let targets = self.targets.iter();
        let targets = targets.map(|(name, weight, address)| format!("{name}: weight {weight}, {address}"));
        section("targets", targets.collect(), &mut line);
        let connect = self.connect.iter().map(|[name, value]| format!("{name}: {value}")).collect();
        section("connect (the most patient policy that may apply)", connect, &mut line);
        let timeline = |timeline: &Timeline| {
            timeline.lines.iter().cloned().chain([format!("total: {}", timeline.total)]).collect()
        };
        section("at worst, until there is a connection", timeline(&self.connects), &mut line);
        if let Some(requests) = &self.requests {
            section("at worst, from the end of the request on", timeline(requests), &mut line);
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let settings = self.settings.iter();
        let settings =
            settings.map(|[name, value, from]| json!({"setting": name, "value": value, "source": from}));
        let others = self.others.iter().map(|(name, why)| json!({"candidate": name, "why": why}));
        let targets = self.targets.iter();
        let targets = targets
            .map(|(name, weight, address)| json!({"name": name, "weight": weight, "address": address}));
        let connect = self.connect.iter().map(|[name, value]| (name.clone(), json!(value)));
        let timeline = |timeline: &Timeline| json!({"events": timeline.lines, "total": timeline.total});
        json!({
            "policy": self.policy,
            "origin": self.origin,
            "route": self.route,
            "by": self.by,
            "notes": self.notes,
            "others": others.collect::<Vec<_>>(),
            "settings": settings.collect::<Vec<_>>(),
            "targets": targets.collect::<Vec<_>>(),
            "connect": connect.collect::<serde_json::Map<_, _>>(),
            "worst_case": {
                "connection": timeline(&self.connects),
                "request": self.requests.as_ref().map(timeline),
            },
        })
    }
}

fn name(routed: &Routed<'_>) -> String {
    let Routed { policy, route, .. } = routed;
    match route {
        Some(route) => format!("{} {} ({})", policy.name, route.name, policy.origin),
        None => format!("{} ({}), which lets it through as it is", policy.name, policy.origin),
    }
}

fn by(by: By<'_>) -> String {
    match by {
        By::Authority(host) => format!("the authority is {host}, or below it"),
        By::Resolved(host) => format!("the address is one of {host}"),
        By::Address => "the address is in its networks, or may be any".to_owned(),
        By::Fallback => "no other policy applies".to_owned(),
    }
}

/// Why the other one is asked after the one that was chosen.
fn why(request: &Request, chosen: &Routed<'_>, other: &Routed<'_>) -> String {
    let precedence = |routed: &Routed<'_>| routed.route.map(|route| route.precedence).unwrap_or_default();
    let same_policy = chosen.policy.name == other.policy.name;
    if chosen.by != other.by {
        return format!("less specific: {}", by(other.by));
    }
    if same_policy && other.route.is_none() {
        return "it comes after all routes of the policy".to_owned();
    }
    if same_policy {
        return "a later route of the same policy".to_owned();
    }
    if chosen.by == By::Address && network(request, chosen.policy) > network(request, other.policy) {
        return "less specific: a shorter prefix, or no port".to_owned();
    }
    if precedence(chosen).among_all != precedence(other).among_all {
        return "as specific, and later by the precedence of its system or a port".to_owned();
    }
    format!("as specific; a port, and then the name, puts {} first", chosen.policy.name)
}

/// How specific a policy's network is that has the address.
fn network(request: &Request, policy: &Policy) -> (u8, bool) {
    let address = request.destination.ip().to_canonical();
    let length = |Destination { address: pattern, port }: &Destination| {
        let length = match pattern {
            Address::Any => 0,
            Address::Network(network) if network.get().contains(&address) => network.get().prefix_len(),
            Address::Network(_) | Address::Host(_) | Address::Suffix(_) => return None,
        };
        let is_here = port.is_none_or(|port| port.get() == request.destination.port());
        is_here.then_some((length, port.is_some()))
    };
    policy.to.iter().filter_map(length).max().unwrap_or_default()
}

fn target(target: &Target) -> (String, u32, String) {
    let port = |port: Option<_>| port.map(|port| format!(":{port}")).unwrap_or_default();
    let address = match &target.address {
        TargetAddress::Original => "where it was dialled to".to_owned(),
        TargetAddress::Host { host, port: of } => format!("{host}{}", port(*of)),
        TargetAddress::Addresses(all) => {
            let all: Vec<_> = all.iter().map(|(address, of)| format!("{address}{}", port(*of))).collect();
            all.join(", ")
        }
    };
    (target.name.to_string(), target.weight, address)
}

fn settings(http: &HttpPolicy, sources: &Sources) -> Vec<[String; 3]> {
    let retry = &http.retry;
    let or_none = |time: Option<_>| time.map_or_else(|| "none".to_owned(), format);
    let list = |words: Vec<String>| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    let methods = match &retry.methods {
        Methods::Any => "any".to_owned(),
        Methods::Idempotent => "idempotent".to_owned(),
        Methods::These(methods) => list(methods.iter().map(|method| method.as_str().to_owned()).collect()),
    };
    let matchers = |matchers: &[crate::policy::HeaderMatcher]| {
        list(matchers.iter().map(|matcher| matcher.name.to_string()).collect())
    };
    let (base, max) = (format(retry.backoff.base()), format(retry.backoff.max()));
    let limited = retry.rate_limited_backoff.as_ref();
    let limited =
        limited.map_or_else(|| "none".to_owned(), |limited| format!("up to {}", format(limited.max())));
    let hosts = if retry.hosts.avoid_previous {
        format!("another endpoint, of {} looked at", retry.hosts.max_attempts)
    } else {
        "any endpoint".to_owned()
    };
    let concurrent =
        retry.max_concurrent_retries.map_or_else(|| "no limit".to_owned(), |max| max.to_string());
    let all = [
        (
            Setting::RetryOn,
            "retry on",
            list(retry.retry_on.iter().map(|on| on.as_str().to_owned()).collect()),
        ),
        (
            Setting::StatusCodes,
            "status codes",
            list(retry.status_codes.iter().map(|code| code.to_string()).collect()),
        ),
        (Setting::ResponseHeaders, "response headers", matchers(&retry.response_headers)),
        (Setting::RequestHeaders, "request headers", matchers(&retry.request_headers)),
        (Setting::Methods, "methods", methods),
        (Setting::NumRetries, "retries", retry.num_retries.to_string()),
        (Setting::PerTryTimeout, "per-try timeout", or_none(retry.per_try_timeout)),
        (Setting::PerTryIdleTimeout, "per-try idle timeout", or_none(retry.per_try_idle_timeout)),
        (Setting::Timeout, "timeout", or_none(http.timeout)),
        (Setting::IdleTimeout, "idle timeout", or_none(http.idle_timeout)),
        (Setting::Backoff, "backoff", format!("{base}, up to {max}")),
        (Setting::RateLimitedBackoff, "rate-limited backoff", limited),
        (Setting::HostSelection, "host selection", hosts),
        (Setting::HedgeOnPerTryTimeout, "hedging", retry.hedge_on_per_try_timeout.to_string()),
        (Setting::MaxConcurrentRetries, "concurrent retries", concurrent),
        (Setting::MaxBufferedBody, "buffered body", format!("{} bytes", http.max_buffered_body)),
    ];
    let source = |setting| match sources.place(setting) {
        Some(place) if place.is_said => place.to_string(),
        Some(_) | None => "default".to_owned(),
    };
    all.map(|(setting, name, value)| [name.to_owned(), value, source(setting)]).into()
}
