//! What a `MeshRetry` says of one target, setting by setting, so that several can be put together as Kuma puts them.
//!
//! Three slips of Kuma's are not repeated: `5XX`, as its documentation writes it, is read; `Canceled` retries what gRPC
//! calls cancelled; and `retriableResponseHeaders` retries by itself.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{BASE, GRPC_DEFAULT, HTTP_DEFAULT, by_method, connect_attempts, defaults};
use crate::dialect::common::MAX_ENTRIES;
use crate::dialect::fields::{Field, Map, Problem, Problems};
use crate::dialect::note::Code;
use crate::policy::{HeaderMatcher, HeaderName, HttpPolicy, Pattern, Place, Setting, ValueMatcher};
use crate::retry::Backoff;
use crate::retry::request::{
    Condition, Conditions, HostSelection, RateLimitedBackoff, RequestRetry, ResetFormat, ResetHeader,
    StatusCodes,
};

const HTTP_CONDITIONS: [(&str, Condition); 9] = [
    ("5xx", Condition::ServerError),
    ("5XX", Condition::ServerError),
    ("GatewayError", Condition::GatewayError),
    ("Reset", Condition::Reset),
    ("Retriable4xx", Condition::Retriable4xx),
    ("ConnectFailure", Condition::ConnectFailure),
    ("EnvoyRatelimited", Condition::EnvoyRateLimited),
    ("RefusedStream", Condition::RefusedStream),
    ("Http3PostConnectFailure", Condition::Http3PostConnectFailure),
];

const GRPC_CONDITIONS: [(&str, Condition); 6] = [
    ("Canceled", Condition::Cancelled),
    ("Cancelled", Condition::Cancelled),
    ("DeadlineExceeded", Condition::DeadlineExceeded),
    ("Internal", Condition::Internal),
    ("ResourceExhausted", Condition::ResourceExhausted),
    ("Unavailable", Condition::Unavailable),
];

const METHODS: [(&str, &str); 9] = [
    ("HttpMethodConnect", "CONNECT"),
    ("HttpMethodDelete", "DELETE"),
    ("HttpMethodGet", "GET"),
    ("HttpMethodHead", "HEAD"),
    ("HttpMethodOptions", "OPTIONS"),
    ("HttpMethodPatch", "PATCH"),
    ("HttpMethodPost", "POST"),
    ("HttpMethodPut", "PUT"),
    ("HttpMethodTrace", "TRACE"),
];

/// The longest value of a matcher.
pub(super) const MAX_VALUE: usize = 4_096;

/// A setting, and where it was said.
type Said<T> = Option<(T, Place)>;

/// A `default`.
#[derive(Clone)]
pub(super) struct Conf<'a> {
    http: Option<Requests<'a>>,
    grpc: Option<Requests<'a>>,
    connects: Said<NonZeroU32>,
    /// The whole of it.
    pub(super) at: Field<'a>,
    /// How much there is to copy, in bytes.
    pub(super) weight: usize,
}

/// The `http` or `grpc` of a `default`.
#[derive(Clone)]
struct Requests<'a> {
    num_retries: Said<u32>,
    per_try_timeout: Said<Duration>,
    base_interval: Said<Duration>,
    max_interval: Said<Duration>,
    reset_headers: Said<Vec<ResetHeader>>,
    max_reset_interval: Said<Duration>,
    triggers: Said<Triggers>,
    response_headers: Said<Vec<HeaderMatcher>>,
    request_headers: Said<Vec<HeaderMatcher>>,
    avoid_previous: Said<bool>,
    max_host_attempts: Said<u32>,
    at: Field<'a>,
}

/// A `retryOn`.
#[derive(Clone, Default)]
struct Triggers {
    conditions: Conditions,
    codes: StatusCodes,
    /// They say which requests, and not when.
    methods: Vec<HeaderMatcher>,
}

/// What holds for the requests of one kind, and where that is said.
pub(super) type Settled = (HttpPolicy, Vec<(Setting, Place)>);

impl<'a> Conf<'a> {
    pub(super) fn read(at: &Field<'a>, problems: &mut Problems) -> Option<Self> {
        let map = at.map_of(&["http", "grpc", "tcp"], problems)?;
        if map.entries().next().is_none() {
            return at.problem("at least one of http, grpc and tcp is required", problems);
        }
        let http = map.optional("http", None, |field| Requests::http(&field, problems).map(Some));
        let grpc = map.optional("grpc", None, |field| Requests::grpc(&field, problems).map(Some));
        let connects = map.optional("tcp", None, |field| {
            let names = ["maxConnectAttempt", "maxConnectAttempts"];
            let attempts = connect_attempts(&field, &names, problems)?;
            let said = names.into_iter().find_map(|name| field.child(name));
            Some(said.map(|said| (attempts, said.here())))
        });
        let (http, grpc) = (http?, grpc?);
        let weight = [&http, &grpc].into_iter().flatten().map(Requests::weight).sum();
        Some(Self { http, grpc, connects: connects?, at: at.clone(), weight })
    }

    /// What is said here, and beside it what is said by one that this overrides.
    pub(super) fn over(self, lesser: &Self) -> Self {
        let both = |one: Option<Requests<'a>>, lesser: &Option<Requests<'a>>| match (one, lesser) {
            (Some(one), Some(lesser)) => Some(one.over(lesser)),
            (one, lesser) => one.or_else(|| lesser.clone()),
        };
        Self {
            http: both(self.http, &lesser.http),
            grpc: both(self.grpc, &lesser.grpc),
            connects: self.connects.or_else(|| lesser.connects.clone()),
            ..self
        }
    }

    pub(super) fn http(&self) -> Result<Option<Settled>, Problem> {
        self.http.as_ref().map(|requests| requests.settled(HTTP_DEFAULT)).transpose()
    }

    pub(super) fn grpc(&self) -> Result<Option<Settled>, Problem> {
        self.grpc.as_ref().map(|requests| requests.settled(GRPC_DEFAULT)).transpose()
    }

    /// The attempts to connect, and where they are said.
    pub(super) fn connects(&self) -> (Option<NonZeroU32>, Place) {
        match &self.connects {
            Some((attempts, place)) => (Some(*attempts), place.clone()),
            None => (None, self.at.place(&["tcp", "maxConnectAttempt"])),
        }
    }
}

impl<'a> Requests<'a> {
    fn http(at: &Field<'a>, problems: &mut Problems) -> Option<Self> {
        let known = [
            "numRetries",
            "perTryTimeout",
            "backOff",
            "rateLimitedBackOff",
            "retryOn",
            "retriableResponseHeaders",
            "retriableRequestHeaders",
            "hostSelection",
            "hostSelectionMaxAttempts",
        ];
        let map = at.map_of(&known, problems)?;
        let common = Self::common(&map, at, HTTP_DEFAULT, triggers, problems);
        let response_headers = said_list(&map, "retriableResponseHeaders", problems, matcher);
        let request_headers = said_list(&map, "retriableRequestHeaders", problems, matcher);
        let avoid_previous = said(&map, "hostSelection", |field| host_selection(field, problems));
        let max_host_attempts = said(&map, "hostSelectionMaxAttempts", |field| {
            field.whole(1..=HostSelection::MAX_ATTEMPTS, problems)
        });
        Some(Self {
            response_headers: response_headers?,
            request_headers: request_headers?,
            avoid_previous: avoid_previous?,
            max_host_attempts: max_host_attempts?,
            ..common?
        })
    }

    fn grpc(at: &Field<'a>, problems: &mut Problems) -> Option<Self> {
        let known = ["numRetries", "perTryTimeout", "backOff", "rateLimitedBackOff", "retryOn"];
        let map = at.map_of(&known, problems)?;
        let on = |field: &Field<'a>, problems: &mut Problems| {
            let read = |item: &Field<'a>, problems: &mut Problems| item.one_of(&GRPC_CONDITIONS, problems);
            let conditions = list(field, problems, read)?.into_iter().collect();
            Some(Triggers { conditions, ..Triggers::default() })
        };
        Self::common(&map, at, GRPC_DEFAULT, on, problems)
    }

    /// What is said of HTTP and gRPC alike.
    fn common(
        map: &Map<'a>,
        at: &Field<'a>,
        default: Conditions,
        triggers: impl FnOnce(&Field<'a>, &mut Problems) -> Option<Triggers>,
        problems: &mut Problems,
    ) -> Option<Self> {
        if map.entries().next().is_none() {
            return at.problem("at least one setting is required; leave the section out instead", problems);
        }
        let num_retries = said(map, "numRetries", |field| field.whole(0..=u32::MAX, problems));
        let per_try_timeout = said(map, "perTryTimeout", |field| field.duration_or_zero(problems));
        let triggers = said(map, "retryOn", |field| triggers(field, problems));
        let backoff = map.optional("backOff", (None, None), |field| {
            let map = field.map_of(&["baseInterval", "maxInterval"], problems)?;
            if map.entries().next().is_none() {
                return field.problem("one of baseInterval and maxInterval is required", problems);
            }
            let mut interval = |name| said(&map, name, |field| field.duration(problems));
            let (base, max) = (interval("baseInterval"), interval("maxInterval"));
            Some((base?, max?))
        });
        let rate_limited = map.optional("rateLimitedBackOff", (None, None), |field| {
            let map = field.map_of(&["resetHeaders", "maxInterval"], problems)?;
            map.required("resetHeaders", problems)?;
            let headers = said_list(&map, "resetHeaders", problems, reset_header);
            let max = said(&map, "maxInterval", |field| field.duration(problems));
            Some((headers?, max?))
        });
        let (base_interval, max_interval) = backoff?;
        let (reset_headers, max_reset_interval) = rate_limited?;
        let all = Self {
            num_retries: num_retries?,
            per_try_timeout: per_try_timeout?,
            base_interval,
            max_interval,
            reset_headers,
            max_reset_interval,
            triggers: triggers?,
            response_headers: None,
            request_headers: None,
            avoid_previous: None,
            max_host_attempts: None,
            at: at.clone(),
        };
        match all.settled(default) {
            Ok(_) => Some(all),
            Err(problem) => {
                problems.push(problem);
                None
            }
        }
    }

    /// Kuma merges objects field by field, and replaces lists.
    fn over(self, lesser: &Self) -> Self {
        Self {
            num_retries: self.num_retries.or_else(|| lesser.num_retries.clone()),
            per_try_timeout: self.per_try_timeout.or_else(|| lesser.per_try_timeout.clone()),
            base_interval: self.base_interval.or_else(|| lesser.base_interval.clone()),
            max_interval: self.max_interval.or_else(|| lesser.max_interval.clone()),
            reset_headers: self.reset_headers.or_else(|| lesser.reset_headers.clone()),
            max_reset_interval: self.max_reset_interval.or_else(|| lesser.max_reset_interval.clone()),
            triggers: self.triggers.or_else(|| lesser.triggers.clone()),
            response_headers: self.response_headers.or_else(|| lesser.response_headers.clone()),
            request_headers: self.request_headers.or_else(|| lesser.request_headers.clone()),
            avoid_previous: self.avoid_previous.or_else(|| lesser.avoid_previous.clone()),
            max_host_attempts: self.max_host_attempts.or_else(|| lesser.max_host_attempts.clone()),
            at: self.at,
        }
    }

    fn weight(&self) -> usize {
        let lists = [&self.response_headers, &self.request_headers];
        lists.into_iter().flatten().flat_map(|(list, _)| list.iter().map(weight)).sum()
    }

    fn settled(&self, default: Conditions) -> Result<Settled, Problem> {
        let defaults = defaults(Conditions::default());
        let value = |said: &Said<Duration>| said.as_ref().map(|(value, _)| *value);
        let Triggers { conditions, codes, methods } =
            self.triggers.as_ref().map(|(triggers, _)| triggers.clone()).unwrap_or_default();
        let headers =
            |said: &Said<Vec<HeaderMatcher>>| said.as_ref().map(|(list, _)| list.clone()).unwrap_or_default();
        let (response_headers, mut request_headers) =
            (headers(&self.response_headers), headers(&self.request_headers));
        request_headers.extend(methods);
        let mut retry_on = conditions;
        // Codes and methods are no conditions, so that the default ones hold beside them.
        if retry_on.is_empty() {
            retry_on = default;
        }
        if !codes.is_empty() {
            retry_on = retry_on.with(Conditions::of(&[Condition::RetriableStatusCodes]));
        }
        if !response_headers.is_empty() {
            retry_on = retry_on.with(Conditions::of(&[Condition::RetriableHeaders]));
        }
        let backoff = Backoff::try_new(value(&self.base_interval).unwrap_or(BASE), value(&self.max_interval));
        let backoff = backoff.map_err(|error| problem(self.max_interval.as_ref(), &self.at, &error))?;
        let rate_limited = self.reset_headers.as_ref().map(|(headers, _)| {
            let max = value(&self.max_reset_interval).unwrap_or(RateLimitedBackoff::DEFAULT_MAX);
            RateLimitedBackoff::try_new(headers.clone(), max)
        });
        let rate_limited = rate_limited
            .transpose()
            .map_err(|error| problem(self.reset_headers.as_ref(), &self.at, &error))?;
        let hosts = HostSelection {
            avoid_previous: self.avoid_previous.as_ref().is_some_and(|(avoid, _)| *avoid),
            max_attempts: self.max_host_attempts.as_ref().map_or(1, |(attempts, _)| *attempts),
        };
        let num_retries = self.num_retries.as_ref().map_or(defaults.retry.num_retries, |(number, _)| *number);
        // Kuma leaves the whole of Envoy's retry policy out where there is no retry.
        let per_try_timeout =
            value(&self.per_try_timeout).filter(|limit| !limit.is_zero() && num_retries > 0);
        let retry = RequestRetry {
            retry_on,
            status_codes: codes,
            response_headers,
            request_headers,
            num_retries,
            per_try_timeout,
            backoff,
            rate_limited_backoff: rate_limited,
            hosts,
            ..defaults.retry
        };
        Ok((HttpPolicy { retry, ..defaults }, self.sources()))
    }

    fn sources(&self) -> Vec<(Setting, Place)> {
        fn of<T>(at: &Field<'_>, said: Option<&(T, Place)>, keys: &[&str]) -> Place {
            said.map_or_else(|| Place { is_said: false, ..at.place(keys) }, |(_, place)| place.clone())
        }
        let at = &self.at;
        let codes = self.triggers.as_ref().filter(|(triggers, _)| !triggers.codes.is_empty());
        let methods = self.triggers.as_ref().filter(|(triggers, _)| !triggers.methods.is_empty());
        let request_headers = match (methods, &self.request_headers) {
            (Some((_, place)), None) => place.clone(),
            (_, said) => of(at, said.as_ref(), &["retriableRequestHeaders"]),
        };
        let backoff = self.base_interval.as_ref().or(self.max_interval.as_ref());
        vec![
            (Setting::RetryOn, of(at, self.triggers.as_ref(), &["retryOn"])),
            (Setting::NumRetries, of(at, self.num_retries.as_ref(), &["numRetries"])),
            (Setting::PerTryTimeout, of(at, self.per_try_timeout.as_ref(), &["perTryTimeout"])),
            (Setting::Backoff, of(at, backoff, &["backOff"])),
            (Setting::RateLimitedBackoff, of(at, self.reset_headers.as_ref(), &["rateLimitedBackOff"])),
            (Setting::StatusCodes, of(at, codes, &["retryOn"])),
            (Setting::ResponseHeaders, of(at, self.response_headers.as_ref(), &["retriableResponseHeaders"])),
            (Setting::RequestHeaders, request_headers.clone()),
            (Setting::Methods, request_headers),
            (Setting::HostSelection, of(at, self.avoid_previous.as_ref(), &["hostSelection"])),
        ]
    }
}

fn problem<T>(said: Option<&(T, Place)>, at: &Field<'_>, error: &impl ToString) -> Problem {
    let Place { file, line, field, .. } = said.map_or_else(|| at.here(), |(_, place)| place.clone());
    Problem { file, line: Some(line), field: Some(field), message: error.to_string() }
}

fn said<'a, T>(map: &Map<'a>, name: &str, read: impl FnOnce(&Field<'a>) -> Option<T>) -> Option<Said<T>> {
    match map.get(name) {
        Some(field) => read(&field).map(|value| Some((value, field.here()))),
        None => Some(None),
    }
}

fn said_list<'a, T>(
    map: &Map<'a>,
    name: &str,
    problems: &mut Problems,
    read: impl FnMut(&Field<'a>, &mut Problems) -> Option<T>,
) -> Option<Said<Vec<T>>> {
    said(map, name, |field| list(field, problems, read))
}

/// The items of a list. An empty one is said too: it takes the place of what another policy says.
fn list<'a, T>(
    field: &Field<'a>,
    problems: &mut Problems,
    mut read: impl FnMut(&Field<'a>, &mut Problems) -> Option<T>,
) -> Option<Vec<T>> {
    if field.is_empty_list() {
        return Some(Vec::new());
    }
    field.up_to(MAX_ENTRIES, problems)?;
    let items: Vec<_> = field.list(problems)?.iter().map(|item| read(item, problems)).collect();
    items.into_iter().collect()
}

fn triggers(field: &Field<'_>, problems: &mut Problems) -> Option<Triggers> {
    let mut all = Triggers::default();
    list(field, problems, |item, problems| {
        let word = item.word().unwrap_or_default();
        if let Some((_, condition)) = HTTP_CONDITIONS.iter().find(|(known, _)| *known == word) {
            all.conditions = all.conditions.with(Conditions::of(&[*condition]));
        } else if let Some((_, method)) = METHODS.iter().find(|(known, _)| *known == word) {
            all.methods.extend(by_method(method));
        } else if let Some(codes) = word.parse().ok().and_then(|code| all.codes.with(code).ok()) {
            all.codes = codes;
        } else {
            let words: Vec<_> = HTTP_CONDITIONS.iter().map(|(word, _)| *word).collect();
            let expected = format!(
                "one of {}, HttpMethod with a method such as HttpMethodGet, or a status code",
                words.join(", ")
            );
            return item.expected(&expected, problems);
        }
        Some(())
    })?;
    Some(all)
}

/// A header matcher, of a policy or of a route. Kuma takes no pseudo-headers.
pub(super) fn matcher(entry: &Field<'_>, problems: &mut Problems) -> Option<HeaderMatcher> {
    let map = entry.map_of(&["name", "type", "value"], problems)?;
    let name = map.required("name", problems).and_then(|field| {
        let name: HeaderName = field.parsed(problems)?;
        if name.as_str().starts_with(':') {
            return field.expected(&"the name of a header; one that begins with : is none in Kuma", problems);
        }
        Some(name)
    });
    let words = ["Exact", "Prefix", "RegularExpression", "Present", "Absent"].map(|word| (word, word));
    let kind = map.optional("type", "Exact", |field| field.one_of(&words, problems))?;
    if matches!(kind, "Present" | "Absent") {
        if let Some(value) = map.get("value") {
            return value.problem("a matcher of this type has no value", problems);
        }
        let invert = kind == "Absent";
        return Some(HeaderMatcher { name: name?, value: ValueMatcher::Present, invert });
    }
    let field = map.required("value", problems)?;
    let text = short(&field, problems)?;
    let value = match kind {
        "Prefix" => ValueMatcher::Prefix(text.into()),
        "RegularExpression" => match Pattern::try_new(text) {
            Ok(pattern) => ValueMatcher::Regex(pattern),
            Err(error) => return field.expected(&error, problems),
        },
        _ => ValueMatcher::Exact(text.into()),
    };
    Some(HeaderMatcher { name: name?, value, invert: false })
}

/// How much there is to copy of a matcher, in bytes.
pub(super) fn weight(matcher: &HeaderMatcher) -> usize {
    match &matcher.value {
        ValueMatcher::Exact(text) | ValueMatcher::Prefix(text) => text.len(),
        _ => MAX_VALUE,
    }
}

/// A text that is kept for each policy that it is part of.
pub(super) fn short<'a>(field: &Field<'a>, problems: &mut Problems) -> Option<&'a str> {
    let text = field.text(problems)?;
    if text.len() > MAX_VALUE {
        return field.problem(format!("it may have {MAX_VALUE} bytes at most"), problems);
    }
    Some(text)
}

fn reset_header(entry: &Field<'_>, problems: &mut Problems) -> Option<ResetHeader> {
    let map = entry.map_of(&["name", "format"], problems)?;
    let name = map.required("name", problems).and_then(|field| field.parsed(problems));
    let words = [("Seconds", ResetFormat::Seconds), ("UnixTimestamp", ResetFormat::UnixTimestamp)];
    let format = map.required("format", problems).and_then(|field| field.one_of(&words, problems));
    Some(ResetHeader { name: name?, format: format? })
}

/// Whether a retry goes to another endpoint.
fn host_selection(field: &Field<'_>, problems: &mut Problems) -> Option<bool> {
    let (mut avoids, mut has_priorities) = (false, false);
    list(field, problems, |item, problems| {
        let map = item.map_of(&["predicate", "tags", "updateFrequency"], problems)?;
        let words =
            ["OmitPreviousHosts", "OmitHostsWithTags", "OmitPreviousPriorities"].map(|word| (word, word));
        let predicate = map.required("predicate", problems)?.one_of(&words, problems)?;
        let frequency =
            map.optional("updateFrequency", 2, |field| field.whole(1..=i32::MAX.unsigned_abs(), problems));
        match predicate {
            "OmitPreviousHosts" => avoids = true,
            "OmitHostsWithTags" => drop(map.required("tags", problems)?),
            _ if has_priorities => {
                return item.problem("OmitPreviousPriorities may be there only once", problems);
            }
            _ => has_priorities = true,
        }
        if predicate != "OmitPreviousHosts" {
            // It changes only which of the service's endpoints is taken.
            let message = "nothing is done about it, since the tags and priorities of endpoints are not known here; \
                           a retry goes to any endpoint of the service";
            problems.note(Code::Ignored, &item.here(), message);
        }
        frequency
    })?;
    Some(avoids)
}
