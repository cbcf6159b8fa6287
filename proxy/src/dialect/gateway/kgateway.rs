//! kgateway's documents: what is attached to routes, and backends.

use super::attached::{self, Attached};
use super::overlay::{Limit, Overlay, unless_zero};
use super::{OBJECT, port};
use crate::dialect::common::{self, Metadata};
use crate::dialect::fields::{Field, Map, Problems};
use crate::dialect::note::Code;
use crate::policy::{Place, Setting, TargetAddress};
use crate::retry::request::{
    Condition, Conditions, HostSelection, RateLimitedBackoff, ResetFormat, ResetHeader, StatusCodes,
};
use crate::retry::{Backoff, RequestRetry};

/// What a RouteOption's `options` may have besides that says nothing of where requests go, or how often.
const IGNORED_OPTIONS: &[&str] = &["cors", "tracing", "shadowing", "stats", "upgrades"];
const REFUSED_OPTIONS: &[&str] = &[
    "ai",
    "appendXForwardedHost",
    "autoHostRewrite",
    "bufferPerRoute",
    "csrf",
    "dlp",
    "envoyMetadata",
    "extProc",
    "extauth",
    "extensions",
    "faults",
    "headerManipulation",
    "hostRewrite",
    "hostRewriteHeader",
    "hostRewritePathRegex",
    "jwt",
    "jwtProvidersStaged",
    "jwtStaged",
    "lbHash",
    "maxStreamDuration",
    "prefixRewrite",
    "ratelimit",
    "ratelimitBasic",
    "ratelimitEarly",
    "ratelimitRegular",
    "rateLimitConfigs",
    "rateLimitEarlyConfigs",
    "rateLimitRegularConfigs",
    "rbac",
    "regexRewrite",
    "stagedTransformations",
    "transformations",
    "waf",
];

/// As above, of a TrafficPolicy's `spec`.
const IGNORED_SETTINGS: &[&str] = &["cors", "compression", "tracing"];
const REFUSED_SETTINGS: &[&str] = &[
    "ai",
    "apiKeyAuth",
    "autoHostRewrite",
    "basicAuth",
    "buffer",
    "csrf",
    "extAuth",
    "extProc",
    "headerModifiers",
    "jwt",
    "jwtAuth",
    "oauth2",
    "rateLimit",
    "rbac",
    "transformation",
    "urlRewrite",
];

/// An address of static backends, and who it is.
pub(super) struct Backend<'a> {
    pub(super) metadata: Metadata<'a>,
    pub(super) address: TargetAddress,
}

pub(super) fn route_option<'a>(root: &Field<'a>, problems: &mut Problems) -> Option<Attached<'a>> {
    let metadata = common::metadata(root, problems);
    let spec = root.map_of(OBJECT, problems)?.required("spec", problems)?;
    let spec = spec.map_of(&["options", "targetRefs"], problems)?;
    let aims = attached::aims(&spec, problems);
    let options = spec.required("options", problems)?;
    let known: Vec<_> =
        ["retries", "timeout", "idleTimeout"].iter().chain(REFUSED_OPTIONS).copied().collect();
    let map = options.map_ignoring(&known, IGNORED_OPTIONS, problems)?;
    let is_plain = common::is_plain(&map, REFUSED_OPTIONS, problems);
    let retry = map.optional("retries", None, |field| retries(&field, problems).map(Some));
    let timeouts = timeouts(&map, ["timeout", "idleTimeout"], problems);
    let place = |name| options.place(&["retries", name]);
    let places = vec![
        (Setting::RetryOn, place("retryOn")),
        (Setting::NumRetries, place("numRetries")),
        (Setting::PerTryTimeout, place("perTryTimeout")),
        (Setting::Backoff, place("retryBackOff")),
        (Setting::StatusCodes, place("retriableStatusCodes")),
        (Setting::RateLimitedBackoff, place("rateLimitedRetryBackOff")),
        (Setting::Timeout, options.place(&["timeout"])),
        (Setting::IdleTimeout, options.place(&["idleTimeout"])),
    ];
    let says = says(retry?, timeouts?, places);
    let attached = Attached::new("RouteOption", metadata?, root, aims?, says);
    is_plain.then_some(attached)
}

pub(super) fn traffic_policy<'a>(root: &Field<'a>, problems: &mut Problems) -> Option<Attached<'a>> {
    let metadata = common::metadata(root, problems);
    let spec = root.map_of(OBJECT, problems)?.required("spec", problems)?;
    let known = ["targetRefs", "targetSelectors", "retry", "timeouts"];
    let known: Vec<_> = known.iter().chain(REFUSED_SETTINGS).copied().collect();
    let map = spec.map_ignoring(&known, IGNORED_SETTINGS, problems)?;
    let aims = attached::aims(&map, problems);
    let is_plain = common::is_plain(&map, REFUSED_SETTINGS, problems);
    let retry = map.optional("retry", None, |field| retry(&field, problems).map(Some));
    let timeouts = map.optional("timeouts", (None, None), |field| {
        let names = ["request", "streamIdle"];
        timeouts(&field.map_of(&names, problems)?, names, problems)
    });
    let place = |name| spec.place(&["retry", name]);
    let places = vec![
        (Setting::RetryOn, place("retryOn")),
        (Setting::NumRetries, place("attempts")),
        (Setting::PerTryTimeout, place("perTryTimeout")),
        (Setting::Backoff, place("backoffBaseInterval")),
        (Setting::StatusCodes, place("statusCodes")),
        (Setting::HostSelection, place("retryHostPredicates")),
        (Setting::Timeout, spec.place(&["timeouts", "request"])),
        (Setting::IdleTimeout, spec.place(&["timeouts", "streamIdle"])),
    ];
    let says = says(retry?, timeouts?, places);
    let attached = Attached::new("TrafficPolicy", metadata?, root, aims?, says);
    is_plain.then_some(attached)
}

/// The limits of a request's whole time, and of its time without a byte.
type Timeouts = (Option<Limit>, Option<Limit>);

fn timeouts(map: &Map<'_>, [whole, idle]: [&str; 2], problems: &mut Problems) -> Option<Timeouts> {
    let mut time = |name| {
        map.optional(name, None, |field| field.duration_or_zero(problems).map(|limit| Some(Limit::of(limit))))
    };
    let (whole, idle) = (time(whole), time(idle));
    Some((whole?, idle?))
}

fn says(
    retry: Option<RequestRetry>,
    (timeout, idle_timeout): Timeouts,
    places: Vec<(Setting, Place)>,
) -> Overlay {
    let per_try_timeout = retry.as_ref().and_then(|retry| retry.per_try_timeout).map(Limit::After);
    Overlay { retry, per_try_timeout, timeout, idle_timeout, is_kgateway: true, places, ..Overlay::default() }
}

fn retries(field: &Field<'_>, problems: &mut Problems) -> Option<RequestRetry> {
    let known = [
        "retryOn",
        "numRetries",
        "perTryTimeout",
        "retryBackOff",
        "retriableStatusCodes",
        "rateLimitedRetryBackOff",
    ];
    let map = field.map_ignoring(&known, &["previousPriorities"], problems)?;
    let default = common::envoy_defaults().retry;
    let retry_on = map.optional("retryOn", Conditions::default(), |field| tokens(&field, problems));
    let num_retries =
        map.optional("numRetries", default.num_retries, |field| field.whole(0..=u32::MAX, problems));
    let per_try_timeout =
        map.optional("perTryTimeout", None, |field| field.duration_or_zero(problems).map(unless_zero));
    let backoff = map.optional("retryBackOff", default.backoff, |field| {
        let map = field.map_of(&["baseInterval", "maxInterval"], problems)?;
        let base = map.required("baseInterval", problems).and_then(|field| field.duration(problems));
        let max = map.optional("maxInterval", None, |field| field.duration(problems).map(Some));
        field.accept(Backoff::try_new(base?, max?), problems)
    });
    let codes = codes(
        &map.each("retriableStatusCodes", problems, |field, problems| field.whole(100..=599, problems))?,
    );
    let rate_limited_backoff =
        map.optional("rateLimitedRetryBackOff", None, |field| rate_limited(&field, problems).map(Some));
    let retry_on = retry_on?;
    let codes = codes?;
    if let Some(field) = map.get("retriableStatusCodes")
        && !retry_on.contains(Condition::RetriableStatusCodes)
    {
        let message = "the codes do nothing, since retryOn has no retriable-status-codes; add it";
        problems.note(Code::InertSetting, &field.here(), message);
    }
    Some(RequestRetry {
        retry_on,
        num_retries: num_retries?,
        per_try_timeout: per_try_timeout?,
        backoff: backoff?,
        status_codes: codes,
        rate_limited_backoff: rate_limited_backoff?,
        ..default
    })
}

fn codes(codes: &[u32]) -> Option<StatusCodes> {
    StatusCodes::try_new(codes.iter().filter_map(|code| u16::try_from(*code).ok())).ok()
}

/// Envoy's words, separated by commas.
fn tokens(field: &Field<'_>, problems: &mut Problems) -> Option<Conditions> {
    let Some(text) = field.word() else {
        return field.expected(&"conditions, separated by commas", problems);
    };
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    Some(words.filter_map(|word| common::condition(word, field, problems)).collect())
}

fn rate_limited(field: &Field<'_>, problems: &mut Problems) -> Option<RateLimitedBackoff> {
    let map = field.map_of(&["resetHeaders", "maxInterval"], problems)?;
    let formats = [("SECONDS", ResetFormat::Seconds), ("UNIX_TIMESTAMP", ResetFormat::UnixTimestamp)];
    let headers = map.each("resetHeaders", problems, |field, problems| {
        let map = field.map_of(&["name", "format"], problems)?;
        let name = map.required("name", problems).and_then(|field| field.parsed(problems));
        let format = map.optional("format", ResetFormat::Seconds, |field| field.one_of(&formats, problems));
        Some(ResetHeader { name: name?, format: format? })
    });
    let max = map.optional("maxInterval", RateLimitedBackoff::DEFAULT_MAX, |field| field.duration(problems));
    field.accept(RateLimitedBackoff::try_new(headers?, max?), problems)
}

fn retry(field: &Field<'_>, problems: &mut Problems) -> Option<RequestRetry> {
    let known =
        ["retryOn", "attempts", "perTryTimeout", "statusCodes", "backoffBaseInterval", "retryHostPredicates"];
    let map = field.map_of(&known, problems)?;
    let default = common::envoy_defaults().retry;
    if map.get("retryOn").is_none() && map.get("statusCodes").is_none() {
        return field.problem("retryOn or statusCodes is required", problems);
    }
    let words: Vec<_> = Condition::ALL
        .into_iter()
        .filter(|condition| *condition != Condition::RetriableHeaders)
        .map(|condition| (condition.as_str(), condition))
        .collect();
    let retry_on = map.each("retryOn", problems, |field, problems| field.one_of(&words, problems));
    let num_retries = map.optional("attempts", 1, |field| field.whole(0..=u32::MAX, problems));
    let per_try_timeout = map.optional("perTryTimeout", None, |field| field.duration(problems).map(Some));
    let list = map.each("statusCodes", problems, |field, problems| field.whole(400..=599, problems));
    let backoff = map.optional("backoffBaseInterval", default.backoff, |field| {
        let base = field.duration(problems)?;
        field.accept(Backoff::try_new(base, None), problems)
    });
    let predicates = map.each("retryHostPredicates", problems, |field, problems| {
        let is_previous = field.one_of(&[("PreviousHosts", true), ("OmitCanaryHosts", false)], problems)?;
        if !is_previous {
            problems.note(Code::Ignored, &field.here(), "no host is known to be a canary here");
        }
        Some(is_previous)
    });
    let list = list?;
    let mut retry_on: Conditions = retry_on?.into_iter().collect();
    if !list.is_empty() {
        retry_on = retry_on.with(Conditions::of(&[Condition::RetriableStatusCodes]));
    }
    let avoid_previous = predicates?.contains(&true) || default.hosts.avoid_previous;
    Some(RequestRetry {
        retry_on,
        num_retries: num_retries?,
        per_try_timeout: per_try_timeout?,
        status_codes: codes(&list)?,
        backoff: backoff?,
        hosts: HostSelection { avoid_previous, ..default.hosts },
        ..default
    })
}

pub(super) fn backend<'a>(root: &Field<'a>, problems: &mut Problems) -> Option<Backend<'a>> {
    let metadata = common::metadata(root, problems);
    let spec = root.map_of(OBJECT, problems)?.required("spec", problems)?;
    let spec = spec.map_of(&["type", "static"], problems)?;
    spec.optional("type", (), |field| field.one_of(&[("Static", ())], problems))?;
    let fixed = spec.required("static", problems)?;
    let map = fixed.map_ignoring(&["hosts"], &["appProtocol"], problems)?;
    map.required("hosts", problems)?;
    let hosts = map.each("hosts", problems, |field, problems| {
        let map = field.map_of(&["host", "port"], problems)?;
        let host =
            map.required("host", problems).and_then(|field| field.text(problems).map(|text| (field, text)));
        let port = map.optional("port", None, |field| port(&field, problems).map(Some));
        Some((host?, port?))
    })?;
    let addresses = hosts.iter().map(|((_, text), port)| Some((text.parse().ok()?, *port)));
    let address = match (addresses.collect::<Option<Vec<_>>>(), hosts.as_slice()) {
        (Some(addresses), _) => TargetAddress::Addresses(addresses.into()),
        (None, [((field, _), port)]) => TargetAddress::Host { host: field.parsed(problems)?, port: *port },
        (None, _) => return fixed.problem("several hosts must all be addresses here", problems),
    };
    Some(Backend { metadata: metadata?, address })
}
