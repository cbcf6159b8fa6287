//! What is told of a request, as text and JSON.

use serde_json::{Value, json};

use super::Request;
use super::settings::{self, Setting};
use super::timeline::Timeline;
use super::words;
use crate::dialect::duration::format;
use crate::policy::route::Route;
use crate::policy::table::{By, Considered, Passed};
use crate::policy::{Headers, Matched, Policy, Protocol, Routed, Router, Target};
use crate::retry::request::RequestFacts;

#[derive(Debug)]
pub(super) struct Answer {
    policy: String,
    origin: String,
    /// The route's name, and what it asks of a request.
    route: Option<(String, String)>,
    because: String,
    notes: Vec<String>,
    /// What was asked before and does not hold.
    passed_over: Vec<Other>,
    /// What would be asked if this did not hold.
    later: Vec<Other>,
    of_policy: Vec<Setting>,
    of_request: Vec<Setting>,
    targets: Vec<(String, String)>,
    /// The policy whose settings for connects hold.
    patient: String,
    of_connects: Vec<Setting>,
    /// None: each request finds its own connection.
    connects: Option<Timeline>,
    requests: Option<Timeline>,
}

#[derive(Debug)]
struct Other {
    name: String,
    why: String,
}

impl Answer {
    /// For a request, or for what is encrypted in a connection that nothing is known of but its server's name.
    pub(super) fn new(request: &Request, matched: &Matched, router: &Router) -> Self {
        let requests = matched.router.as_ref().filter(|_| !request.is_tls);
        // What says nothing of requests is asked about connections, and routes are not.
        let asked: Vec<_> = match requests {
            Some(_) => router.considered(request).into_iter().filter(is_telling).collect(),
            None => router.considered(&Unseen).into_iter().filter_map(of_connection).collect(),
        };
        let (policy, by, route) = if requests.is_some() {
            let Routed { policy, route } = router.route(request);
            let first = asked.iter().find(|one| one.passed.is_none());
            (policy, first.map_or(By::Fallback, |first| first.by), route)
        } else {
            let (policy, by) = router.of_address();
            (policy, by, None)
        };
        let place = asked
            .iter()
            .position(|one| one.passed.is_none() && one.by == by && one.policy.name == policy.name);
        let (before, from) = asked.split_at(place.unwrap_or(asked.len()));
        let passed_over = before
            .iter()
            .map(|one| Other { name: name(one), why: one.passed.map(words::passed).unwrap_or_default() });
        let (first, later) = from.split_first().map_or((None, from), |(first, later)| (Some(first), later));
        let why_later = |one: &Considered<'_>| {
            let why = first.map(|first| words::later(first, one)).unwrap_or_default();
            match one.passed {
                Some(passed) => format!("{why}; and {}", words::passed(passed)),
                None => why,
            }
        };
        let later = later.iter().map(|one| Other { name: name(one), why: why_later(one) });
        let is_late = requests.is_some_and(|router| router.is_shared() || router.leads_elsewhere());
        let tcp = &matched.patient.tcp;
        let facts = |route: &Route| RequestFacts::of(&route.http.retry, request);
        Self {
            policy: policy.name.to_string(),
            origin: policy.origin.to_string(),
            route: route.map(|route| (route.name.to_string(), words::matcher(&route.matcher))),
            because: words::by(by),
            notes: notes(request, matched, router, policy, route, is_late),
            passed_over: passed_over.collect(),
            later: later.collect(),
            of_policy: settings::of_policy(policy),
            of_request: route
                .map(|route| settings::of_request(&route.http, &route.sources))
                .unwrap_or_default(),
            targets: route.map(|route| targets(&route.targets)).unwrap_or_default(),
            patient: matched.patient.name.to_string(),
            of_connects: settings::of_connects(&matched.patient),
            connects: (!is_late).then(|| Timeline::of_connects(tcp)),
            requests: route.map(|route| Timeline::of_request(&route.http, facts(route), tcp)),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("policy {} ({})\n", self.policy, self.origin);
        let mut line = |words: String| text.extend([words.as_str(), "\n"]);
        if let Some((name, asks)) = &self.route {
            line(format!("route {name}: {asks}"));
        }
        line(format!("because {}", self.because));
        self.notes.iter().for_each(|note| line(format!("note: {note}")));
        let mut section = |title: String, lines: Vec<String>| {
            if !lines.is_empty() {
                line(format!("\n{title}:"));
                for words in lines {
                    line(format!("  {words}"));
                }
            }
        };
        let others =
            |others: &[Other]| others.iter().map(|Other { name, why }| format!("{name}: {why}")).collect();
        section("asked before".to_owned(), others(&self.passed_over));
        section("asked later".to_owned(), others(&self.later));
        let settings = |settings: &[Setting]| {
            settings
                .iter()
                .map(|Setting { name, value, source }| format!("{name}: {value}  [{source}]"))
                .collect()
        };
        section("policy".to_owned(), settings(&self.of_policy));
        section("request".to_owned(), settings(&self.of_request));
        section(
            "targets".to_owned(),
            self.targets.iter().map(|(name, what)| format!("{name}: {what}")).collect(),
        );
        let patient = format!("connects, by the most patient policy that may apply, {}", self.patient);
        section(patient, settings(&self.of_connects));
        let timeline = |timeline: &Timeline| {
            let events = timeline.events.iter().map(|(at, what)| format!("{}  {what}", format(*at)));
            events.chain([format!("total: {}", timeline.total)]).collect()
        };
        if let Some(connects) = &self.connects {
            section("at worst, until there is a connection".to_owned(), timeline(connects));
        }
        if let Some(requests) = &self.requests {
            section("at worst, from the end of the request on".to_owned(), timeline(requests));
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let settings = |settings: &[Setting]| -> Vec<_> {
            let one = |Setting { name, value, source }: &Setting| json!({"setting": name, "value": value, "source": source});
            settings.iter().map(one).collect()
        };
        let others = |others: &[Other]| -> Vec<_> {
            others.iter().map(|Other { name, why }| json!({"candidate": name, "why": why})).collect()
        };
        let timeline = |timeline: &Timeline| {
            let events = timeline.events.iter();
            let events = events.map(|(at, what)| json!({"at_ms": at.as_secs_f64() * 1e3, "event": what}));
            json!({"events": events.collect::<Vec<_>>(), "total": timeline.total})
        };
        let targets = self.targets.iter().map(|(name, what)| json!({"name": name, "address": what}));
        json!({
            "policy": self.policy,
            "origin": self.origin,
            "route": self.route.as_ref().map(|(name, asks)| json!({"name": name, "matches": asks})),
            "because": self.because,
            "notes": self.notes,
            "asked_before": others(&self.passed_over),
            "asked_later": others(&self.later),
            "settings": {
                "policy": settings(&self.of_policy),
                "request": settings(&self.of_request),
                "connects": {"policy": self.patient, "settings": settings(&self.of_connects)},
            },
            "targets": targets.collect::<Vec<_>>(),
            "worst_case": {
                "connection": self.connects.as_ref().map(timeline),
                "request": self.requests.as_ref().map(timeline),
            },
        })
    }
}

/// What is not seen of requests when a connection is made, or ever.
struct Unseen;

impl Headers for Unseen {
    fn visit<'a>(&'a self, _: &str, _: &mut dyn FnMut(&'a [u8]) -> bool) {}
}

/// Whether it says something of requests, and not only again that its policy is for others.
fn is_telling(one: &Considered<'_>) -> bool {
    match one.passed {
        Some(Passed::Connections) => false,
        Some(Passed::Port(_) | Passed::Workload) => one.route.is_none(),
        Some(Passed::Part(_)) | None => true,
    }
}

/// As it is asked about a connection, of which everything holds that says nothing of requests.
fn of_connection(mut one: Considered<'_>) -> Option<Considered<'_>> {
    one.passed = one.passed.filter(|passed| *passed != Passed::Connections);
    one.route.is_none().then_some(one)
}

fn name(one: &Considered<'_>) -> String {
    let Considered { policy, route, .. } = one;
    match route {
        Some(route) => format!("{} {} ({})", policy.name, route.name, policy.origin),
        None => format!("{} ({})", policy.name, policy.origin),
    }
}

fn targets(targets: &[Target]) -> Vec<(String, String)> {
    targets.iter().map(|target| (target.name.to_string(), words::target(target, targets))).collect()
}

/// What is not plain from the rest.
fn notes(
    request: &Request,
    matched: &Matched,
    router: &Router,
    policy: &Policy,
    route: Option<&Route>,
    is_late: bool,
) -> Vec<String> {
    let mut notes = Vec::new();
    let host = &request.host;
    if !request.has_address {
        notes.push(format!(
            "no address is given, so policies for networks are left out, and {host} is taken to be what was dialled; \
             --address IP:PORT looks at them"
        ));
    }
    if request.is_tls {
        notes.push("the connection is encrypted: it is relayed, and no route applies".to_owned());
        notes.push(of_server(matched, router, policy, host));
        if matched.router.is_some() && matches!(matched.policy.protocol, Protocol::Http | Protocol::Grpc) {
            notes.push(format!(
                "{} says that all is HTTP: what is encrypted is refused with 400",
                policy.name
            ));
        }
    } else if route.is_none() {
        notes.push("nothing is done about the request: it goes through as it is".to_owned());
    }
    if matched.policy.name != policy.name {
        let connection = &matched.policy.name;
        notes.push(format!(
            "the connection is by its address one of {connection}, whose protocol and targets hold"
        ));
    }
    if route.is_some_and(|route| route.http.honour_request_headers) {
        notes.push("the request's own x-envoy-* headers may change what is said here".to_owned());
    }
    if is_late {
        notes.push("connect() returns at once: each request finds its own connection".to_owned());
    } else if route.is_some() {
        notes.push(
            "what fails before there is a connection counts as attempts of its first request".to_owned(),
        );
    }
    notes
}

/// What the name of the server tells that the client asks for.
fn of_server(matched: &Matched, router: &Router, policy: &Policy, host: &str) -> String {
    let named = router.of_server(host);
    if matched.router.is_none() {
        return "no policy has anything to say of requests, so the name of the server is not looked at"
            .to_owned();
    }
    if named.name == policy.name {
        return format!("the name of the server, {host}, leads to the same policy");
    }
    format!(
        "the name of the server, {host}, is known when the connection is there: from then on its record names {}",
        named.name
    )
}
