//! kgateway's documents that are attached to routes, and its backends.

use std::borrow::Cow;
use std::cell::Cell;

use super::overlay::{Limit, Overlay, unless_zero};
use super::{GATEWAY, OBJECT, is_same, port};
use crate::dialect::common::{self, Metadata};
use crate::dialect::fields::{Field, Problems};
use crate::dialect::note::Code;
use crate::policy::{Setting, TargetAddress};
use crate::retry::request::{
    Condition, Conditions, HostSelection, RateLimitedBackoff, ResetFormat, ResetHeader, StatusCodes,
};
use crate::retry::{Backoff, RequestRetry};

/// A document that says something of the requests of routes.
pub(super) struct Attached<'a> {
    pub(super) kind: &'static str,
    pub(super) metadata: Metadata<'a>,
    pub(super) root: Field<'a>,
    pub(super) aims: Vec<Aim<'a>>,
    pub(super) says: Overlay,
    pub(super) is_used: Cell<bool>,
}

/// What a document is attached to by its own word.
pub(super) struct Aim<'a> {
    pub(super) kind: &'static str,
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a str>,
    pub(super) section: Option<&'a str>,
    /// Where the target is named.
    pub(super) field: Field<'a>,
}

pub(super) struct Backend<'a> {
    pub(super) metadata: Metadata<'a>,
    pub(super) address: TargetAddress,
}

/// What a document may be attached to: a route and the names of its rules, or a Gateway.
pub(super) struct Place<'a> {
    kind: &'static str,
    name: Cow<'a, str>,
    namespace: Option<Cow<'a, str>>,
    sections: Vec<Cow<'a, str>>,
}

impl<'a> Place<'a> {
    /// The places that a document tells of, whatever else is wrong with it.
    pub(super) fn all(kind: &'static str, root: &Field<'a>) -> Vec<Self> {
        let metadata = |name| root.child("metadata").and_then(|metadata| metadata.child(name)?.word());
        let Some(name) = metadata("name") else { return Vec::new() };
        let namespace = metadata("namespace");
        let listed = |name| {
            let list = root.child("spec").and_then(|spec| spec.child(name));
            list.into_iter().flat_map(|list| list.items().collect::<Vec<_>>())
        };
        let says = |field: &Field<'a>, name| field.child(name).and_then(|field| field.word());
        let parents =
            listed("parentRefs").filter(|parent| says(parent, "kind").is_none_or(|kind| kind == "Gateway"));
        let gateway = |parent: Field<'a>| {
            let namespace = says(&parent, "namespace").or_else(|| namespace.clone());
            Some(Self { kind: "Gateway", name: says(&parent, "name")?, namespace, sections: Vec::new() })
        };
        let mut places: Vec<_> = parents.filter_map(gateway).collect();
        let sections = listed("rules").filter_map(|rule| says(&rule, "name")).collect();
        places.push(Self { kind, name, namespace: namespace.clone(), sections });
        places
    }
}

impl Attached<'_> {
    /// Tells which targets are not there. Returns whether all are.
    pub(super) fn resolve(&self, places: &[Place<'_>], problems: &mut Problems) -> Option<()> {
        let mut is_sound = true;
        for aim in &self.aims {
            let named = || {
                places.iter().filter(|place| {
                    place.kind == aim.kind
                        && place.name == aim.name
                        && is_same(place.namespace.as_deref(), aim.namespace)
                })
            };
            let wrong = match aim.section {
                _ if named().next().is_none() => {
                    Some(("name", format!("no document is or names the {} {:?}", aim.kind, aim.name)))
                }
                Some(section)
                    if !named().any(|place| place.sections.iter().any(|known| known == section)) =>
                {
                    Some(("sectionName", format!("no rule of {:?} is named {section:?}", aim.name)))
                }
                _ => None,
            };
            if let Some((key, message)) = wrong {
                let field = aim.field.child(key).unwrap_or_else(|| aim.field.clone());
                is_sound &= field.problem::<()>(message, problems).is_some();
            }
        }
        is_sound.then_some(())
    }
}

pub(super) fn route_option<'a>(root: &Field<'a>, problems: &mut Problems) -> Option<Attached<'a>> {
    let metadata = common::metadata(root, problems);
    let spec = root.map_of(OBJECT, problems)?.required("spec", problems)?;
    let spec = spec.map_of(&["options", "targetRefs"], problems)?;
    let aims = spec.each_up_to("targetRefs", 16, problems, aim);
    let options = spec.required("options", problems)?;
    let ignored = ["cors", "tracing", "shadowing", "stats"];
    let options = options.map_ignoring(&["retries", "timeout", "idleTimeout"], &ignored, problems)?;
    let mut time = |name| {
        options.optional(name, None, |field| {
            field.duration_or_zero(problems).map(|limit| Some(Limit::of(limit)))
        })
    };
    let (timeout, idle_timeout) = (time("timeout"), time("idleTimeout"));
    let retry = options.optional("retries", None, |field| retries(&field, problems).map(Some));
    let place = |name| root.place(&["spec", "options", "retries", name]);
    let places = vec![
        (Setting::RetryOn, place("retryOn")),
        (Setting::NumRetries, place("numRetries")),
        (Setting::PerTryTimeout, place("perTryTimeout")),
        (Setting::Backoff, place("retryBackOff")),
        (Setting::StatusCodes, place("retriableStatusCodes")),
        (Setting::RateLimitedBackoff, place("rateLimitedRetryBackOff")),
        (Setting::Timeout, root.place(&["spec", "options", "timeout"])),
        (Setting::IdleTimeout, root.place(&["spec", "options", "idleTimeout"])),
    ];
    let (retry, timeout, idle_timeout) = (retry?, timeout?, idle_timeout?);
    let per_try_timeout = retry.as_ref().and_then(|retry| retry.per_try_timeout).map(Limit::After);
    let says = Overlay {
        retry,
        per_try_timeout,
        timeout,
        idle_timeout,
        is_kgateway: true,
        places,
        ..Overlay::default()
    };
    Some(attached("RouteOption", metadata?, root, aims?, says))
}

fn attached<'a>(
    kind: &'static str,
    metadata: Metadata<'a>,
    root: &Field<'a>,
    mut aims: Vec<Aim<'a>>,
    says: Overlay,
) -> Attached<'a> {
    for aim in &mut aims {
        aim.namespace = aim.namespace.or(metadata.namespace);
    }
    Attached { kind, metadata, root: root.clone(), aims, says, is_used: Cell::new(false) }
}

fn aim<'a>(field: &Field<'a>, problems: &mut Problems) -> Option<Aim<'a>> {
    let map = field.map_of(&["group", "kind", "name", "namespace", "sectionName"], problems)?;
    let kinds = [("HTTPRoute", "HTTPRoute"), ("GRPCRoute", "GRPCRoute"), ("Gateway", "Gateway")];
    let kind = map.required("kind", problems).and_then(|field| field.one_of(&kinds, problems));
    let name = map.required("name", problems).and_then(|field| field.text(problems));
    let group = map.optional("group", (), |field| field.one_of(&[(GATEWAY, ())], problems));
    let namespace = map.optional("namespace", None, |field| field.text(problems).map(Some));
    let section = map.optional("sectionName", None, |field| field.text(problems).map(Some));
    let (kind, section) = (kind?, section?);
    if let Some(listener) = map.get("sectionName").filter(|_| kind == "Gateway") {
        return listener
            .problem("there are no listeners here; leave it out to mean the whole Gateway", problems);
    }
    group?;
    Some(Aim { kind, name: name?, namespace: namespace?, section, field: field.clone() })
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

fn tokens(field: &Field<'_>, problems: &mut Problems) -> Option<Conditions> {
    let words: Vec<_> = Condition::ALL.iter().map(|condition| condition.as_str()).collect();
    let word = field.word().unwrap_or_default();
    word.split(',')
        .map(|token| Condition::parse(token.trim()))
        .collect::<Option<_>>()
        .or_else(|| field.expected(&format!("some of {}, separated by commas", words.join(", ")), problems))
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

pub(super) fn traffic_policy<'a>(root: &Field<'a>, problems: &mut Problems) -> Option<Attached<'a>> {
    let metadata = common::metadata(root, problems);
    let spec = root.map_of(OBJECT, problems)?.required("spec", problems)?;
    let ignored = ["cors", "compression"];
    let spec = spec.map_ignoring(&["targetRefs", "retry", "timeouts"], &ignored, problems)?;
    let aims = spec.each_up_to("targetRefs", 16, problems, aim);
    let retry = spec.optional("retry", None, |field| retry(&field, problems).map(Some));
    let timeouts = spec.optional("timeouts", (None, None), |field| {
        let map = field.map_of(&["request", "streamIdle"], problems)?;
        let mut time = |name| {
            map.optional(name, None, |field| {
                field.duration_or_zero(problems).map(|limit| Some(Limit::of(limit)))
            })
        };
        let (request, idle) = (time("request"), time("streamIdle"));
        Some((request?, idle?))
    });
    let place = |name| root.place(&["spec", "retry", name]);
    let places = vec![
        (Setting::RetryOn, place("retryOn")),
        (Setting::NumRetries, place("attempts")),
        (Setting::PerTryTimeout, place("perTryTimeout")),
        (Setting::Backoff, place("backoffBaseInterval")),
        (Setting::StatusCodes, place("statusCodes")),
        (Setting::HostSelection, place("retryHostPredicates")),
        (Setting::Timeout, root.place(&["spec", "timeouts", "request"])),
        (Setting::IdleTimeout, root.place(&["spec", "timeouts", "streamIdle"])),
    ];
    let (retry, (timeout, idle_timeout)) = (retry?, timeouts?);
    let per_try_timeout = retry.as_ref().and_then(|retry| retry.per_try_timeout).map(Limit::After);
    let says = Overlay {
        retry,
        per_try_timeout,
        timeout,
        idle_timeout,
        is_kgateway: true,
        places,
        ..Overlay::default()
    };
    Some(attached("TrafficPolicy", metadata?, root, aims?, says))
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
