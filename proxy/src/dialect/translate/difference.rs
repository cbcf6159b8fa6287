//! What two policies say differently, in the words of the native document.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Comment;
use crate::dialect::duration;
use crate::dialect::native::print;
use crate::dialect::native::words::Word;
use crate::policy::{Policy, Rest, Route, Setting};
use crate::retry::BudgetPolicy;
use crate::retry::connect::{Failure, RetryOn};
use crate::retry::request::Condition;

/// One setting that became another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The index of the route that says it.
    route: Option<usize>,
    field: String,
    words: String,
}

impl Difference {
    /// With the place where the policy says it.
    pub(super) fn comment(&self, policy: &Policy) -> Comment {
        let Self { route, field, words } = self;
        let route = route.and_then(|index| policy.routes.get(index));
        let sources = route.map_or(&policy.sources, |route| &route.sources);
        let place = setting(field).and_then(|setting| sources.place(setting));
        let place = place.map_or_else(
            || {
                let name = route.map(|route| format!("{} ", route.name)).unwrap_or_default();
                format!("{}: {name}{field}", policy.origin)
            },
            ToString::to_string,
        );
        Comment::lost(format!("{place}: {words}"))
    }
}

/// The setting that a field of the native document is.
fn setting(field: &str) -> Option<Setting> {
    Some(match field {
        "retryOn" => Setting::RetryOn,
        "retriableStatusCodes" => Setting::StatusCodes,
        "retriableHeaders" => Setting::ResponseHeaders,
        "retriableRequestHeaders" => Setting::RequestHeaders,
        "methods" => Setting::Methods,
        "numRetries" => Setting::NumRetries,
        "perTryTimeout" => Setting::PerTryTimeout,
        "perTryIdleTimeout" => Setting::PerTryIdleTimeout,
        "timeout" => Setting::Timeout,
        "idleTimeout" => Setting::IdleTimeout,
        "backOff" => Setting::Backoff,
        "rateLimitedBackOff" => Setting::RateLimitedBackoff,
        "hostSelection" => Setting::HostSelection,
        "hedgeOnPerTryTimeout" => Setting::HedgeOnPerTryTimeout,
        "maxConcurrentRetries" => Setting::MaxConcurrentRetries,
        "maxBufferedBody" => Setting::MaxBufferedBody,
        "addHeaders" => Setting::AddedHeaders,
        "targets" => Setting::Targets,
        "tcp.maxConnectAttempts" => Setting::ConnectAttempts,
        "tcp.connectTimeout" => Setting::ConnectTimeout,
        "tcp.timeout" => Setting::ConnectsTimeout,
        "budget" => Setting::Budget,
        field if field.starts_with("match") => Setting::Matches,
        _ => return None,
    })
}

/// What `other` says differently; both are canonical, and have their routes in the same order.
pub(super) fn all(one: &Policy, other: &Policy) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut whole = Whole { one, other, found: &mut found };
    whole.compare("from", |policy| &policy.from, |from| list(from.iter().map(print::workload), "everybody"));
    whole.compare("to", |policy| &policy.to, |to| list(print::to::entries(to, None), "everywhere"));
    whole.compare("protocol", |policy| policy.protocol, |protocol| Word(*protocol).as_str().to_owned());
    whole.compare("fallThrough", |policy| policy.rest, |rest| (*rest == Rest::GoesOn).to_string());
    let time = |time: &Option<Duration>| time.map_or_else(|| "none".to_owned(), duration::format);
    let attempts = |policy: &Policy| policy.tcp.max_connect_attempts();
    whole.compare("tcp.maxConnectAttempts", attempts, ToString::to_string);
    whole.compare("tcp.connectTimeout", |policy| policy.tcp.connect_timeout(), time);
    whole.compare("tcp.timeout", |policy| policy.tcp.timeout(), time);
    whole.compare(
        "tcp.backOff",
        |policy| policy.tcp.backoff(),
        |backoff| plain(&value(&print::backoff(*backoff))),
    );
    let failures = |retry_on: &RetryOn| list(retry_on.iter().map(Failure::as_str), "nothing");
    whole.compare("tcp.retryOn", |policy| policy.tcp.retry_on(), failures);
    whole.compare(
        "tcp.targets",
        |policy| &policy.targets,
        |all| list(all.iter().map(print::target), DIALLED),
    );
    let budget = |budget: &BudgetPolicy| {
        print::budget(*budget).map_or_else(|| "the default".to_owned(), |budget| plain(&value(&budget)))
    };
    whole.compare("budget", |policy| policy.budget, budget);
    whole.compare("routes", |policy| policy.routes.len(), ToString::to_string);
    for (index, (one, other)) in one.routes.iter().zip(&other.routes).enumerate() {
        let of_route = route(one, other).into_iter();
        found.extend(of_route.map(|(field, words)| Difference { route: Some(index), field, words }));
    }
    found
}

/// Where requests or connections go that have no targets.
const DIALLED: &str = "where they were sent";

/// Two policies, apart from their routes.
struct Whole<'a> {
    one: &'a Policy,
    other: &'a Policy,
    found: &'a mut Vec<Difference>,
}

impl<'a> Whole<'a> {
    fn compare<T: PartialEq>(
        &mut self,
        field: &str,
        part: impl Fn(&'a Policy) -> T,
        words: impl Fn(&T) -> String,
    ) {
        let (was, is) = (part(self.one), part(self.other));
        if was != is {
            let words = format!("{} cannot be said; it becomes {}", words(&was), words(&is));
            self.found.push(Difference { route: None, field: field.to_owned(), words });
        }
    }
}

/// A list on one line, or what it means that it is empty.
fn list(items: impl IntoIterator<Item = impl Serialize>, none: &str) -> String {
    let items: Vec<_> = items.into_iter().map(|item| value(&item)).collect();
    if items.is_empty() { none.to_owned() } else { plain(&Value::Array(items)) }
}

/// A field, and what became of it.
type Changed = (String, String);

fn route(one: &Route, other: &Route) -> Vec<Changed> {
    let mut found = Vec::new();
    let matcher = |route: &Route| fields(&print::matcher(&route.matcher));
    let targets = |route: &Route| {
        let targets: Vec<_> = route.targets.iter().map(print::target).collect();
        if targets.is_empty() {
            Map::new()
        } else {
            Map::from_iter([("targets".to_owned(), value(&targets))])
        }
    };
    compare("match.", &matcher(one), &matcher(other), "anything", &mut found);
    compare("", &targets(one), &targets(other), DIALLED, &mut found);
    let (mut http, of_other) = ((*one.http).clone(), &other.http);
    let (retry, of_retry) = (&mut http.retry, &of_other.retry);
    // Of these two only what is missing or too much is told.
    let (on, of_on) = (retry.retry_on, of_retry.retry_on);
    let lists = [Condition::RetriableStatusCodes, Condition::RetriableHeaders];
    let implied = |condition: Condition| {
        lists.contains(&condition)
            || condition == Condition::ResetBeforeRequest && on.contains(Condition::Reset)
    };
    let word = |condition: Condition| condition.as_str().to_owned();
    let missing: Vec<_> = on.iter().filter(|one| !of_on.contains(*one) && !implied(*one)).map(word).collect();
    let added: Vec<_> = of_on.iter().filter(|one| !on.contains(*one) && !implied(*one)).map(word).collect();
    two("retryOn", &missing, &added, &mut found);
    let (codes, of_codes) = (retry.status_codes, of_retry.status_codes);
    let word = |code: u16| code.to_string();
    let missing: Vec<_> = codes.iter().filter(|code| !of_codes.contains(*code)).map(word).collect();
    let added: Vec<_> = of_codes.iter().filter(|code| !codes.contains(*code)).map(word).collect();
    two("retriableStatusCodes", &missing, &added, &mut found);
    (retry.retry_on, retry.status_codes) = (of_on, of_codes);
    let (was, is) = (print::settings(&http, of_other), print::settings(of_other, &http));
    compare("", &fields(&was), &fields(&is), "none", &mut found);
    found
}

/// What of a list is missing, or too much.
fn two(field: &str, missing: &[String], added: &[String], found: &mut Vec<Changed>) {
    let parts = [(missing, "cannot be said"), (added, "cannot be left out")];
    let said = parts.iter().filter(|(words, _)| !words.is_empty());
    let words: Vec<_> = said.map(|(words, what)| format!("{} {what}", words.join(", "))).collect();
    if !words.is_empty() {
        found.push((field.to_owned(), words.join("; ")));
    }
}

fn compare(
    prefix: &str,
    one: &Map<String, Value>,
    other: &Map<String, Value>,
    none: &str,
    found: &mut Vec<Changed>,
) {
    let mut names: Vec<_> = one.keys().chain(other.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (was, is) = (one.get(name), other.get(name));
        if was != is {
            let text = |value: Option<&Value>| match value.map(plain) {
                None => none.to_owned(),
                Some(text) if text == "0s" => "none".to_owned(),
                Some(text) => text,
            };
            // A match has one place, whatever of it is meant.
            let part = if prefix.is_empty() { String::new() } else { format!("{name} ") };
            let words = format!("{part}{} cannot be said; it becomes {}", text(was), text(is));
            found.push((format!("{prefix}{name}"), words));
        }
    }
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

fn fields(of: &impl Serialize) -> Map<String, Value> {
    match value(of) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A value on one line, without quotes.
fn plain(value: &Value) -> String {
    let join = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => format!("[{}]", join(items.iter().map(plain).collect())),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{name}: {}", plain(value));
            format!("{{{}}}", join(fields.iter().map(field).collect()))
        }
    }
}
