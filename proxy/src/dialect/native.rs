//! redial's own document: `apiVersion: redial.dev/v1alpha1`, `kind: RetryPolicy`. docs/policies.md describes it.

mod crd;
pub(super) mod document;
mod http;
pub(super) mod print;
mod route;
mod to;
pub(super) mod words;

use std::num::NonZeroU32;
use std::sync::Arc;

pub(super) use crd::definition;
pub(super) use document::schema;

use super::Document;
use super::common::{METADATA, backoff};
use super::fields::{Field, Map, Problems};
use crate::policy::{NameError, Place, Policy, PolicyName, Protocol, Rest, Setting, Sources};
use crate::retry::connect::{Failure, RetryOn};
use crate::retry::request::Condition;
use crate::retry::{BudgetPolicy, ConnectRetry};
use words::Words;

pub(super) fn policies(documents: &[Document<'_>], problems: &mut Problems) -> Vec<Policy> {
    documents.iter().filter_map(|document| policy(&document.root, problems)).collect()
}

const FIELDS: &[&str] = &["from", "to", "fallThrough", "protocol", "tcp", "http", "budget"];

fn policy(root: &Field<'_>, problems: &mut Problems) -> Option<Policy> {
    let document = root.map_of(&["apiVersion", "kind", "metadata", "spec", "status"], problems)?;
    let name = document.required("metadata", problems).and_then(|field| name(&field, problems));
    let spec = document.required("spec", problems)?;
    let spec = spec.map_of(FIELDS, problems)?;

    let namespace = name.as_ref().and_then(PolicyName::namespace);
    let from = spec.each("from", problems, to::workload);
    let to = spec.optional("to", Vec::new(), |field| to::destinations(&field, namespace, problems));
    let protocol = protocol(&spec, problems);
    let sources = Arc::new(sources(root, &["spec", "http"]));
    let falls_through = spec.optional("fallThrough", false, |field| field.boolean(problems));
    let rest = falls_through.map(|falls| if falls { Rest::GoesOn } else { Rest::Passes });
    let routes = spec.optional("http", Vec::new(), |field| {
        route::routes(&field, rest.unwrap_or(Rest::Passes), &sources, problems)
    });
    // What is said of requests alone holds for the connects before them too.
    let derived = || routes.as_deref().map(Policy::connects_of);
    let targets = spec.get("tcp").and_then(|field| field.child("targets"));
    let targets = targets.map_or_else(|| Some(Vec::new()), |field| route::targets(&field, problems));
    let tcp = spec.get("tcp").map_or_else(derived, |field| connect_retry(&field, problems));
    let budget = spec.optional("budget", BudgetPolicy::default(), |field| budget(&field, problems));

    let name = name?;
    if name.is_default()
        && let Some(to) = spec.get("to")
    {
        let message =
            "the policy named default holds where no other does; leave `to` out, or rename the policy";
        return to.problem(message, problems);
    }
    Some(Policy {
        name,
        origin: root.origin(),
        from: from?,
        to: to?,
        tcp: tcp?,
        protocol: protocol?,
        targets: targets?.into(),
        routes: routes?,
        rest: rest?,
        budget: budget?,
        sources,
    })
}

/// Where the document says what, with its settings for requests in this section.
fn sources(root: &Field<'_>, section: &[&str]) -> Sources {
    let settings = Setting::ALL.into_iter().chain(Condition::ALL.map(Setting::Condition));
    Sources::new(settings.map(|setting| (setting, place(root, section, setting))))
}

/// Where a document says this, or would.
fn place(root: &Field<'_>, section: &[&str], setting: Setting) -> Place {
    let http = |field| root.place(&[section, &[field]].concat());
    match setting {
        Setting::RetryOn => http("retryOn"),
        Setting::Condition(condition) => http::condition_place(root, section, condition),
        Setting::StatusCodes => http("retriableStatusCodes"),
        Setting::ResponseHeaders => http("retriableHeaders"),
        Setting::RequestHeaders => http("retriableRequestHeaders"),
        Setting::Methods => http("methods"),
        Setting::NumRetries => http("numRetries"),
        Setting::PerTryTimeout => http("perTryTimeout"),
        Setting::PerTryIdleTimeout => http("perTryIdleTimeout"),
        Setting::Timeout => http("timeout"),
        Setting::IdleTimeout => http("idleTimeout"),
        Setting::Backoff => http("backOff"),
        Setting::RateLimitedBackoff => http("rateLimitedBackOff"),
        Setting::HostSelection => http("hostSelection"),
        Setting::HedgeOnPerTryTimeout => http("hedgeOnPerTryTimeout"),
        Setting::MaxConcurrentRetries => http("maxConcurrentRetries"),
        Setting::MaxBufferedBody => http("maxBufferedBody"),
        Setting::AddedHeaders => http("addHeaders"),
        Setting::HonourRequestHeaders => http("honourRequestHeaders"),
        Setting::ConnectFailure => http("onConnectFailure"),
        Setting::Upstream => http("upstream"),
        // The section itself is for all requests.
        Setting::Matches if !section.is_empty() => root.place(section),
        Setting::Matches => http("match"),
        Setting::Targets => http("targets"),
        Setting::ConnectAttempts => root.place(&["spec", "tcp", "maxConnectAttempts"]),
        Setting::ConnectTimeout => root.place(&["spec", "tcp", "connectTimeout"]),
        Setting::ConnectsTimeout => root.place(&["spec", "tcp", "timeout"]),
        Setting::ConnectBackoff => root.place(&["spec", "tcp", "backOff"]),
        Setting::ConnectRetryOn => root.place(&["spec", "tcp", "retryOn"]),
        Setting::ConnectTargets => root.place(&["spec", "tcp", "targets"]),
        Setting::Budget => root.place(&["spec", "budget"]),
        Setting::From => root.place(&["spec", "from"]),
        Setting::To => root.place(&["spec", "to"]),
        Setting::Protocol => root.place(&["spec", "protocol"]),
    }
}

/// What is spoken, which has to go with whether there is anything to say about requests.
fn protocol(spec: &Map<'_>, problems: &mut Problems) -> Option<Protocol> {
    let Some(field) = spec.get("protocol") else { return Some(Protocol::Auto) };
    let protocol = field.one_of(&Protocol::words(), problems)?;
    match (protocol, spec.get("http").is_some()) {
        (Protocol::Tcp, true) => field.problem("tcp is relayed untouched; leave `http` out", problems),
        (Protocol::Http | Protocol::Grpc, false) => {
            let message = "without `http` everything is relayed untouched; `http: {}` is all its defaults";
            field.problem(message, problems)
        }
        (Protocol::Tcp, false) | (Protocol::Http | Protocol::Grpc, true) | (Protocol::Auto, _) => {
            Some(protocol)
        }
    }
}

fn name(metadata: &Field<'_>, problems: &mut Problems) -> Option<PolicyName> {
    // What else there is is for other tools: a document may go to Kubernetes as it is, and come from there.
    let metadata = metadata.map_of(METADATA, problems)?;
    let (name, namespace) = (metadata.required("name", problems), metadata.get("namespace"));
    let name_text = name.as_ref().and_then(|field| field.text(problems));
    let namespace_text = metadata.optional("namespace", None, |field| field.text(problems).map(Some));
    match PolicyName::try_new(namespace_text?, name_text?) {
        Ok(name) => Some(name),
        Err(error @ NameError::Name) => name?.expected(&error, problems),
        Err(error @ NameError::Namespace) => namespace?.expected(&error, problems),
    }
}

const TCP_FIELDS: &[&str] =
    &["maxConnectAttempts", "connectTimeout", "timeout", "backOff", "retryOn", "targets"];

fn connect_retry(tcp: &Field<'_>, problems: &mut Problems) -> Option<ConnectRetry> {
    let map = tcp.map_of(TCP_FIELDS, problems)?;
    let default = ConnectRetry::default();
    let attempts = map.optional("maxConnectAttempts", default.max_connect_attempts(), |field| {
        field.whole(1..=u32::MAX, problems).and_then(NonZeroU32::new)
    });
    let connect_timeout =
        map.optional("connectTimeout", default.connect_timeout(), |field| field.duration(problems).map(Some));
    let timeout = map.optional("timeout", default.timeout(), |field| field.duration(problems).map(Some));
    let backoff = map.optional("backOff", default.backoff(), |field| backoff(&field, problems));
    let retry_on = map.optional("retryOn", default.retry_on(), |field| retry_on(&field, problems));
    tcp.accept(ConnectRetry::try_new(attempts?, connect_timeout?, timeout?, backoff?, retry_on?), problems)
}

fn retry_on(set: &Field<'_>, problems: &mut Problems) -> Option<RetryOn> {
    let words = Failure::words();
    let failures: Vec<_> = set.list(problems)?.iter().map(|field| field.one_of(&words, problems)).collect();
    failures.into_iter().collect()
}

fn budget(budget: &Field<'_>, problems: &mut Problems) -> Option<BudgetPolicy> {
    let map = budget.map_of(&["percent", "minPerSecond", "interval"], problems)?;
    let default = BudgetPolicy::default();
    let percent = map
        .optional("percent", default.percent(), |field| field.whole(0..=BudgetPolicy::MAX_PERCENT, problems));
    let min_per_second =
        map.optional("minPerSecond", default.min_per_second(), |field| field.whole(0..=u32::MAX, problems));
    let interval = map.optional("interval", default.interval(), |field| field.duration(problems));
    let made = BudgetPolicy::try_new(percent?, min_per_second?, interval?);
    map.get("interval").as_ref().unwrap_or(budget).accept(made, problems)
}

#[cfg(test)]
mod tests;
