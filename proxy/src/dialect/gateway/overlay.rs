//! What one document, or one part of one, says of requests; several of them together make what holds.

use std::time::Duration;

use crate::dialect::common;
use crate::policy::{AddedHeaders, HttpPolicy, Place, Setting};
use crate::retry::RequestRetry;
use crate::retry::request::Conditions;

/// What is said; none where nothing is. A limit that is said may be that there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    pub(super) retry: Option<RequestRetry>,
    pub(super) per_try_timeout: Option<Limit>,
    pub(super) timeout: Option<Limit>,
    pub(super) idle_timeout: Option<Limit>,
    pub(super) max_buffered_body: Option<usize>,
    /// From kgateway, which adds Envoy's headers and has its time limit.
    pub(super) is_kgateway: bool,
    /// From Linkerd, which says nothing of connects.
    pub(super) is_linkerd: bool,
    pub(super) places: Vec<(Setting, Place)>,
}

/// A limit of time that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Never,
    After(Duration),
}

impl Limit {
    /// Zero is no limit.
    pub(super) fn of(limit: Duration) -> Self {
        unless_zero(limit).map_or(Self::Never, Self::After)
    }

    pub(super) fn duration(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::After(limit) => Some(limit),
        }
    }
}

/// What holds where these say something, the first of them before the others.
pub(super) fn merge(overlays: &[&Overlay]) -> (HttpPolicy, Vec<(Setting, Place)>) {
    let default = common::envoy_defaults();
    let none = RequestRetry { retry_on: Conditions::default(), num_retries: 0, ..default.retry.clone() };
    // What says how to retry says it as a whole: nothing of it is from what is less specific.
    let winner = overlays.iter().position(|overlay| overlay.retry.is_some());
    let specific = overlays.iter().take(winner.map_or(overlays.len(), |winner| winner + 1));
    let winner = winner.and_then(|winner| overlays.get(winner));
    let mut retry = winner.and_then(|winner| winner.retry.clone()).unwrap_or(none);
    let per_try = specific.clone().find(|overlay| overlay.per_try_timeout.is_some());
    if let Some(limit) = per_try.and_then(|overlay| overlay.per_try_timeout) {
        retry.per_try_timeout = limit.duration();
    }
    let is_kgateway = overlays.iter().any(|overlay| overlay.is_kgateway);
    let timeout = overlays.iter().find_map(|overlay| overlay.timeout);
    let http = HttpPolicy {
        retry,
        timeout: timeout.map_or_else(|| default.timeout.filter(|_| is_kgateway), Limit::duration),
        idle_timeout: overlays.iter().find_map(|overlay| overlay.idle_timeout).and_then(Limit::duration),
        max_buffered_body: winner
            .and_then(|winner| winner.max_buffered_body)
            .unwrap_or(default.max_buffered_body),
        added_headers: if is_kgateway { AddedHeaders::Envoy } else { AddedHeaders::None },
        ..default
    };
    // What is said goes before where something would be said.
    let all = overlays.iter().flat_map(|overlay| {
        let is_winner = winner.is_none_or(|winner| std::ptr::eq(*winner, *overlay));
        let is_per_try = per_try.is_none_or(|per_try| std::ptr::eq(*per_try, *overlay));
        overlay.places.iter().filter(move |(setting, _)| match setting {
            Setting::Timeout | Setting::IdleTimeout => true,
            Setting::PerTryTimeout if per_try.is_some() => is_per_try,
            _ => is_winner,
        })
    });
    let (said, unsaid): (Vec<_>, Vec<_>) = all.cloned().partition(|(_, place)| place.is_said);
    (http, said.into_iter().chain(unsaid).collect())
}

/// No limit where it is zero.
pub(super) fn unless_zero(limit: Duration) -> Option<Duration> {
    Some(limit).filter(|limit| !limit.is_zero())
}
