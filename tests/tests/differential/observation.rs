//! What was seen of one run of a scenario, made comparable.

use std::collections::BTreeMap;

use redial_tests::exchange::{Protocol, Response, Seen, shown};
use redial_tests::http_upstream::Attempt;
use redial_tests::http1::Fields;
use serde_json::{Map, Value, json};

use crate::scenario::{Compare, Differs, Facts, Interval, Scenario};

/// Request headers that each proxy adds or takes away on its own account, and that mean nothing about retries:
/// - Envoy always adds `x-forwarded-proto` and, to a request from the same network, `x-envoy-internal`;
/// - `x-request-id` is random, `x-envoy-expected-rq-timeout-ms` has the time that is left in it;
/// - `connection` and its kin are each hop's own: Envoy writes them anew, redial passes them on.
const REQUEST_IGNORED: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-internal",
    "x-forwarded-proto",
    "x-request-id",
];

/// The same of responses: Envoy adds a `date` where there is none, and how long the upstream took.
const RESPONSE_IGNORED: &[&str] = &["connection", "date", "keep-alive", "x-envoy-upstream-service-time"];

/// What one system did with one scenario.
#[derive(Clone, Debug)]
pub(crate) struct Observation {
    pub attempts: Vec<Attempt>,
    /// At the upstreams besides, by name.
    pub others: BTreeMap<String, Vec<Attempt>>,
    /// Attempts to connect, where the network interferes.
    pub connects: Option<usize>,
    pub seen: Vec<Seen>,
}

/// A place where two observations differ.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub place: String,
    pub envoy: Value,
    pub redial: Value,
}

impl Observation {
    /// All that is compared.
    pub(crate) fn comparable(&self, scenario: &Scenario) -> Value {
        if scenario.copies.is_some() {
            // Which of several clients gets what is chance; how many of them is not.
            let total: usize = self.others.values().map(Vec::len).sum();
            return json!({"attempts": self.attempts.len(), "others": total, "statuses": self.statuses()});
        }
        let requests = |attempts: &[Attempt]| -> Vec<_> {
            attempts.iter().map(|attempt| request(attempt, scenario)).collect()
        };
        let others: BTreeMap<_, _> = self.others.iter().map(|(name, all)| (name, requests(all))).collect();
        let client: Vec<_> = self
            .seen
            .iter()
            .map(|seen| {
                let responses: Vec<_> =
                    seen.responses.iter().map(|response| self::response(response, scenario)).collect();
                json!({"responses": responses, "end": seen.end})
            })
            .collect();
        let attempts = requests(&self.attempts);
        json!({"attempts": attempts, "others": others, "connects": self.connects, "client": client})
    }

    /// How long the clients waited, at most.
    pub(crate) fn ms(&self) -> u64 {
        self.seen.iter().map(|seen| seen.ms).max().unwrap_or_default()
    }

    /// What is not as the scenario says.
    pub(crate) fn contradictions(&self, facts: &Facts) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut check = |what: &str, expected: Option<Value>, got: Value| {
            if expected.as_ref().is_some_and(|expected| *expected != got) {
                wrong.push(format!("{what} is {got}, not {}", expected.unwrap_or_default()));
            }
        };
        let last = self.seen.last().and_then(|seen| seen.responses.last());
        check("attempts", facts.attempts.map(Value::from), json!(self.attempts.len()));
        for (name, expected) in &facts.others {
            check(name, Some(json!(expected)), json!(self.others.get(name).map(Vec::len)));
        }
        check("connects", facts.connects.map(Value::from), json!(self.connects));
        check("status", facts.status.map(Value::from), json!(last.map_or(0, |response| response.status)));
        check("end", facts.end.clone().map(Value::from), json!(last.map(|response| response.end.clone())));
        let expected = facts.statuses.as_ref().map(|statuses| json!(statuses));
        check("statuses", expected, json!(self.statuses()));
        if let Some(word) = &facts.body
            && !last.is_some_and(|response| response.body.contains(word.as_str()))
        {
            wrong.push(format!("the body has no `{word}` in it"));
        }
        if let Some((least, most)) = facts.ms {
            let took = self.seen.last().map_or(0, |seen| seen.ms);
            if !(least..=most).contains(&took) {
                wrong.push(format!("it took {took} ms, not {least} to {most}"));
            }
        }
        wrong
    }

    /// Which bounds the times between attempts do not keep.
    pub(crate) fn bad_intervals(&self, bounds: &[Interval]) -> Vec<String> {
        let mut by_path: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
        for attempt in &self.attempts {
            by_path.entry(&attempt.path).or_default().push(attempt);
        }
        let mut wrong = Vec::new();
        for (index, bound) in bounds.iter().enumerate() {
            let samples: Vec<u128> = by_path
                .values()
                .filter_map(|attempts| {
                    let (one, next) = (attempts.get(index)?, attempts.get(index + 1)?);
                    Some(next.at.duration_since(one.at).as_millis())
                })
                .collect();
            let count = u128::try_from(samples.len()).unwrap_or(0).max(1);
            let mean = samples.iter().sum::<u128>() / count;
            let inside =
                |(least, most): (u64, u64), value: u128| (least.into()..=most.into()).contains(&value);
            if samples.is_empty()
                || !inside(bound.mean, mean)
                || samples.iter().any(|sample| !inside(bound.within, *sample))
            {
                wrong.push(format!("before retry {index}: {samples:?} ms, {mean} on average, for {bound:?}"));
            }
        }
        wrong
    }

    /// Which upstreams have more than their share, or less.
    pub(crate) fn bad_shares(&self, shares: &BTreeMap<String, (usize, usize)>) -> Vec<String> {
        let count = |name: &str| self.others.get(name).map_or(0, Vec::len);
        let is_wrong = |(name, (least, most)): &(&String, &(usize, usize))| {
            !(*least..=*most).contains(&count(name.as_str()))
        };
        let wrong = shares.iter().filter(is_wrong);
        wrong.map(|(name, share)| format!("{name} has {} requests, not {share:?}", count(name))).collect()
    }

    fn statuses(&self) -> BTreeMap<u16, usize> {
        let mut statuses = BTreeMap::new();
        for response in self.seen.iter().flat_map(|seen| &seen.responses) {
            *statuses.entry(response.status).or_default() += 1;
        }
        statuses
    }
}

/// Where the two differ, in the order of the first's places.
pub(crate) fn differences(envoy: &Value, redial: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", envoy, redial, &mut found);
    found
}

fn compare(place: &str, envoy: &Value, redial: &Value, found: &mut Vec<Difference>) {
    let inside = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}/{key}") };
    match (envoy, redial) {
        (Value::Object(one), Value::Object(other)) => {
            let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
            for key in keys {
                let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&inside(key), &of(one), &of(other), found);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for index in 0..one.len().max(other.len()) {
                let of = |list: &[Value]| list.get(index).cloned().unwrap_or_default();
                compare(&inside(&index.to_string()), &of(one), &of(other), found);
            }
        }
        _ if envoy == redial => {}
        _ => found.push(Difference { place: place.to_owned(), envoy: envoy.clone(), redial: redial.clone() }),
    }
}

/// What is wrong about the differences, given the one that is meant to be.
pub(crate) fn surprises(differs: &[Differs], protocol: Protocol, found: &[Difference]) -> Vec<String> {
    let declared = differs.iter().filter(|differs| differs.concerns(protocol));
    let expected: BTreeMap<&String, &Value> = declared.flat_map(|differs| &differs.redial).collect();
    let mut wrong = Vec::new();
    for difference in found {
        let Difference { place, envoy, redial } = difference;
        match expected.get(place) {
            None => wrong.push(format!("{place}: Envoy {envoy}, redial {redial}")),
            Some(meant) if !covers(meant, redial) => {
                wrong.push(format!("{place}: Envoy {envoy}, redial {redial}, but it should be {meant}"));
            }
            Some(_) => {}
        }
    }
    for (place, meant) in expected {
        if !found.iter().any(|difference| difference.place == **place) {
            wrong.push(format!("{place}: no difference, but redial should have {meant}"));
        }
    }
    wrong
}

/// Whether a value is the one that is meant, or an object that has all that is meant.
fn covers(meant: &Value, value: &Value) -> bool {
    match (meant, value) {
        (Value::Object(meant), Value::Object(value)) => {
            meant.iter().all(|(key, meant)| value.get(key).is_some_and(|value| covers(meant, value)))
        }
        _ => meant == value,
    }
}

fn request(attempt: &Attempt, scenario: &Scenario) -> Value {
    json!({
        "method": attempt.method,
        "path": attempt.path,
        "headers": headers(&attempt.headers, REQUEST_IGNORED, scenario),
        // How much came of a body that did not come to its end is chance.
        "body": if attempt.complete { shown(&attempt.body) } else { String::new() },
        "trailers": attempt.trailers,
        "complete": attempt.complete,
        "cancelled": attempt.cancelled,
    })
}

fn response(response: &Response, scenario: &Scenario) -> Value {
    let interim: Vec<_> = response
        .interim
        .iter()
        .map(|interim| {
            let headers = headers(&interim.headers, RESPONSE_IGNORED, scenario);
            json!({"status": interim.status, "headers": headers})
        })
        .collect();
    let mut value = json!({
        "interim": interim,
        "status": response.status,
        "end": response.end,
        "trailers": response.trailers,
    });
    if !scenario.own_words {
        value["headers"] = json!(headers(&response.headers, RESPONSE_IGNORED, scenario));
        value["body"] = json!(response.body);
    }
    value
}

fn headers(all: &Fields, ignored: &[&str], scenario: &Scenario) -> Fields {
    let mut kept = Fields::new();
    for (name, values) in all {
        let key = name.to_ascii_lowercase();
        match scenario.compare.get(&key) {
            None if ignored.contains(&key.as_str()) => {}
            None | Some(Compare::Exact) => {
                kept.insert(name.clone(), values.clone());
            }
            Some(Compare::Ignored) => {}
            Some(Compare::Presence) => {
                kept.insert(key, vec!["(present)".to_owned(); values.len()]);
            }
            Some(Compare::Rough) => {
                kept.insert(key, values.iter().map(|value| rough(value)).collect());
            }
        }
    }
    kept
}

fn rough(value: &str) -> String {
    value
        .parse::<u64>()
        .map_or_else(|_| value.to_owned(), |number| format!("about {}", number.div_ceil(1000) * 1000))
}
