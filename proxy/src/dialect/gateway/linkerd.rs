//! Linkerd's annotations, on routes and Services.

use super::is_same;
use super::overlay::{Limit, Overlay};
use crate::dialect::common::{self, Metadata};
use crate::dialect::fields::{Field, Problems};
use crate::dialect::note::Code;
use crate::policy::{Policy, PolicyName, Setting};
use crate::retry::RequestRetry;
use crate::retry::request::{Condition, Conditions, StatusCodes};

const HTTP: &str = "retry.linkerd.io/http";
const GRPC: &str = "retry.linkerd.io/grpc";
const LIMIT: &str = "retry.linkerd.io/limit";
const PER_TRY: &str = "retry.linkerd.io/timeout";
const REQUEST: &str = "timeout.linkerd.io/request";
const RESPONSE: &str = "timeout.linkerd.io/response";
const IDLE: &str = "timeout.linkerd.io/idle";

/// What Linkerd keeps of a request's body.
pub(super) const MAX_BODY: usize = 64 << 10;

/// A Service whose annotations say something of its requests.
pub(super) struct Service<'a> {
    metadata: Metadata<'a>,
    root: Field<'a>,
    says: Overlay,
}

impl Service<'_> {
    pub(super) fn is(&self, name: &str, namespace: Option<&str>) -> bool {
        self.metadata.name == name && is_same(self.metadata.namespace, namespace)
    }

    /// Tells that its profile is what holds for it.
    pub(super) fn give_way(&self, problems: &mut Problems) {
        let message = "Linkerd takes no annotations of a Service that has a ServiceProfile";
        problems.note(Code::InertSetting, &self.root.place(&["metadata", "annotations"]), message);
    }

    pub(super) fn policy(&self) -> Policy {
        let Metadata { name, namespace, .. } = self.metadata;
        let to = super::service(name, namespace, None);
        super::whole(PolicyName::of_kind("Service", namespace, name), &self.root, to, &self.says)
    }
}

pub(super) fn service<'a>(root: &Field<'a>, problems: &mut Problems) -> Option<Service<'a>> {
    let metadata = common::metadata(root, problems)?;
    let says = annotations("Service", root, problems).filter(|says| says.is_linkerd)?;
    Some(Service { metadata, root: root.clone(), says })
}

/// What a route's annotations say, and those of the Service that it hangs on where it says nothing of retries, or nothing of
/// timeouts.
pub(super) fn of_route(
    kind: &str,
    root: &Field<'_>,
    service: Option<&Service<'_>>,
    problems: &mut Problems,
) -> Option<Overlay> {
    let own = annotations(kind, root, problems)?;
    let Some(Service { says: service, .. }) = service else { return Some(own) };
    let is_of_timeouts = |setting: &Setting| matches!(setting, Setting::Timeout | Setting::IdleTimeout);
    let said = |timeouts: bool| {
        own.places.iter().any(|(setting, place)| is_of_timeouts(setting) == timeouts && place.is_said)
    };
    let (retries, timeouts) = if said(false) { (&own, said(true)) } else { (service, said(true)) };
    let timeouts = if timeouts { &own } else { service };
    let retry = retries.retry.clone().and_then(|retry| meant_for(kind, retry));
    let of = |overlay: &Overlay, timeouts: bool| {
        let places = overlay.places.iter().filter(|(setting, _)| is_of_timeouts(setting) == timeouts);
        places.cloned().collect::<Vec<_>>()
    };
    Some(Overlay {
        per_try_timeout: retries.per_try_timeout.filter(|_| retry.is_some()),
        max_buffered_body: retries.max_buffered_body.filter(|_| retry.is_some()),
        retry,
        timeout: timeouts.timeout,
        idle_timeout: timeouts.idle_timeout,
        is_linkerd: true,
        places: [of(retries, false), of(timeouts, true)].concat(),
        ..Overlay::default()
    })
}

/// What a route of this kind takes of a Service's conditions: status codes are for HTTP, gRPC's statuses for gRPC.
fn meant_for(kind: &str, retry: RequestRetry) -> Option<RequestRetry> {
    let is_grpc = kind == "GRPCRoute";
    let retry_on: Conditions =
        retry.retry_on.iter().filter(|condition| condition.grpc_status().is_some() == is_grpc).collect();
    Some(RequestRetry { retry_on, ..retry }).filter(|retry| !retry.retry_on.is_empty())
}

/// What the annotations of an object say; nothing, and not as Linkerd, where there are none of its own.
fn annotations(kind: &str, root: &Field<'_>, problems: &mut Problems) -> Option<Overlay> {
    let Some(field) = root.child("metadata").and_then(|metadata| metadata.child("annotations")) else {
        return Some(Overlay::default());
    };
    let map = field.map(problems)?;
    let known = [HTTP, GRPC, LIMIT, PER_TRY, REQUEST, RESPONSE, IDLE];
    let ours = |name: &str| name.starts_with("retry.linkerd.io/") || name.starts_with("timeout.linkerd.io/");
    let mut is_sound = true;
    for (name, value) in map.entries().filter(|(name, _)| ours(name)) {
        if !known.contains(&name) {
            let message = format!("there is no such annotation; there are {}", known.join(", "));
            is_sound &= value.problem::<()>(message, problems).is_some();
        }
        if let ("HTTPRoute", GRPC) | ("GRPCRoute", HTTP) = (kind, name) {
            let message = format!("Linkerd does not look for it on an object of kind {kind}");
            problems.note(Code::InertSetting, &value.here(), message);
        }
    }
    if !map.entries().any(|(name, _)| ours(name)) {
        return Some(Overlay::default());
    }
    let codes = map.optional(HTTP, Vec::new(), |field| statuses(&field, problems));
    let codes = codes.map(|codes| if kind == "GRPCRoute" { Vec::new() } else { codes });
    let grpc = map.optional(GRPC, Conditions::default(), |field| grpc_conditions(&field, problems));
    let grpc = grpc.map(|grpc| if kind == "HTTPRoute" { Conditions::default() } else { grpc });
    let num_retries = map.optional(LIMIT, 1, |field| limit(&field, problems));
    let mut time = |name: &str| {
        map.optional(name, None, |field| field.duration_or_zero(problems).map(|limit| Some(Limit::of(limit))))
    };
    let (per_try, request, response, idle) = (time(PER_TRY), time(REQUEST), time(RESPONSE), time(IDLE));
    let (codes, grpc, num_retries) = (codes?, grpc?, num_retries?);
    let codes = StatusCodes::try_new(codes).ok()?;
    let mut retry_on = grpc;
    if !codes.is_empty() {
        retry_on = retry_on.with(Conditions::of(&[Condition::RetriableStatusCodes]));
    }
    let is_retried = !retry_on.is_empty();
    for field in [LIMIT, PER_TRY].into_iter().filter_map(|name| map.get(name)).filter(|_| !is_retried) {
        let message = format!("it does nothing without {HTTP} or {GRPC}");
        problems.note(Code::InertSetting, &field.here(), message);
    }
    let retry = RequestRetry { retry_on, status_codes: codes, num_retries, ..common::envoy_defaults().retry };
    let retry = Some(retry).filter(|_| is_retried);
    let place = |name: &str| field.place(&[name]);
    let conditions = if map.get(HTTP).is_some() || map.get(GRPC).is_none() { HTTP } else { GRPC };
    let timeout = if map.get(REQUEST).is_some() || map.get(RESPONSE).is_none() { REQUEST } else { RESPONSE };
    let grpc_places = retry_on.iter().filter(|condition| condition.grpc_status().is_some());
    let grpc_places = grpc_places.map(|condition| (Setting::Condition(condition), place(GRPC)));
    let mut places: Vec<_> = grpc_places.collect();
    places.extend([
        (Setting::RetryOn, place(conditions)),
        (Setting::StatusCodes, place(HTTP)),
        (Setting::NumRetries, place(LIMIT)),
        (Setting::PerTryTimeout, place(PER_TRY)),
        (Setting::Timeout, place(timeout)),
        (Setting::IdleTimeout, place(IDLE)),
    ]);
    is_sound.then_some(())?;
    Some(Overlay {
        retry,
        per_try_timeout: per_try?.filter(|_| is_retried),
        timeout: shortest(request?, response?),
        idle_timeout: idle?,
        max_buffered_body: is_retried.then_some(MAX_BODY),
        is_linkerd: true,
        places,
        ..Overlay::default()
    })
}

/// Both limits hold, so the shorter does.
fn shortest(one: Option<Limit>, other: Option<Limit>) -> Option<Limit> {
    match (one, other) {
        (Some(Limit::After(one)), Some(Limit::After(other))) => Some(Limit::After(one.min(other))),
        (Some(Limit::After(limit)), _) | (_, Some(Limit::After(limit))) => Some(Limit::After(limit)),
        (one, other) => one.or(other),
    }
}

fn limit(field: &Field<'_>, problems: &mut Problems) -> Option<u32> {
    let number = field.word().and_then(|word| word.parse().ok());
    number.or_else(|| field.expected(&"a whole number from 0 to 4294967295", problems))
}

fn statuses(field: &Field<'_>, problems: &mut Problems) -> Option<Vec<u16>> {
    let expected = "status codes such as 503, 500-504, gateway-error or 5xx, separated by commas";
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| StatusCodes::RANGE.contains(code));
    let word = field.word();
    let mut codes = Vec::new();
    for item in word.as_deref().unwrap_or_default().split(',').map(str::trim) {
        let range = match item {
            "5xx" => Some(500..=599),
            "gateway-error" => Some(502..=504),
            item => {
                let (first, last) = item.split_once('-').unwrap_or((item, item));
                code(first).zip(code(last)).filter(|(first, last)| first <= last).map(|(a, b)| a..=b)
            }
        };
        let Some(range) = range else { return field.expected(&expected, problems) };
        // Each code once, however often it is named.
        codes.extend(range);
        codes.sort_unstable();
        codes.dedup();
    }
    Some(codes)
}

fn grpc_conditions(field: &Field<'_>, problems: &mut Problems) -> Option<Conditions> {
    let known = Condition::ALL.into_iter().filter(|condition| condition.grpc_status().is_some());
    let words: Vec<_> = known.clone().map(Condition::as_str).collect();
    let text = field.text(problems)?;
    let conditions = text.split(',').map(|item| known.clone().find(|known| known.as_str() == item.trim()));
    conditions
        .collect::<Option<Conditions>>()
        .or_else(|| field.expected(&format!("some of {}, separated by commas", words.join(", ")), problems))
}
