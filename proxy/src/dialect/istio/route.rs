//! One entry of `http`: which requests it is for, what holds for them, and where they go.

use std::mem;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::super::common;
use super::super::fields::{Field, Map, Problems};
use super::super::note::Code;
use super::matches::{self, Found};
use super::rules::Cluster;
use super::service::Context;
use super::{numbered, retry, whole_name};
use crate::policy::{
    Host, HttpPolicy, Place, RequestMatch, Setting, Target, TargetAddress, WorkloadSelector,
};

/// What changes the requests, or what comes of them.
const REFUSED: [&str; 6] = ["redirect", "directResponse", "rewrite", "delegate", "fault", "headers"];
const IGNORED: [&str; 6] =
    ["mirror", "mirrorPercentage", "mirrorPercent", "mirror_percent", "mirrors", "corsPolicy"];

/// What an entry says, and of which requests.
pub(super) struct Entry {
    pub(super) matches: Vec<Match>,
    pub(super) http: HttpPolicy,
    pub(super) targets: Arc<[Target]>,
    /// Where its requests go, as rules for destinations call it.
    pub(super) clusters: Vec<Cluster>,
    pub(super) places: Vec<(Setting, Place)>,
}

/// One way for a request to take the entry.
pub(super) struct Match {
    pub(super) name: Box<str>,
    /// Where it stands in the document.
    pub(super) place: u32,
    pub(super) matcher: RequestMatch,
    pub(super) port: Option<NonZeroU16>,
    pub(super) source: WorkloadSelector,
    /// Where that is said.
    pub(super) source_at: Option<Place>,
}

/// Reads an entry, whose first way to match has this place.
pub(super) fn read(
    entry: &Field<'_>,
    (index, first): (usize, u32),
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<Entry> {
    let known: Vec<_> = ["name", "match", "route", "retries", "timeout"].into_iter().chain(REFUSED).collect();
    let map = entry.map_ignoring(&known, &IGNORED, problems)?;
    let mut is_sound = common::is_plain(&map, &REFUSED, problems);
    if is_sound {
        is_sound = map.required("route", problems).is_some();
    }
    let name = map.optional("name", None, |field| field.text(problems).map(Some));
    let found = map.each("match", problems, |field, problems| matches::read(field, context, problems));
    let targets = targets(&map, entry, context, problems);
    let http = retry::policy(&map, problems);
    let name = name?.map_or_else(|| format!("http[{index}]"), str::to_owned);
    let mut all: Vec<(String, Found, RequestMatch)> = Vec::new();
    let found = found?;
    // Of an entry whose matches are all for gateways nothing is left.
    if found.is_empty() {
        all.push((name, Found::default(), RequestMatch::default()));
    } else {
        for (index, mut found) in found.into_iter().enumerate() {
            for matcher in mem::take(&mut found.matchers) {
                all.push((format!("{name}.match[{index}]"), found.clone(), matcher));
            }
        }
    }
    let ((targets, clusters), http) = (targets?, http?);
    is_sound.then_some(())?;
    let matches =
        (first..).zip(all).map(|(place, (name, Found { port, source, source_at, .. }, matcher))| Match {
            name: name.into(),
            place,
            matcher,
            port,
            source,
            source_at,
        });
    let (matches, targets) = (matches.collect(), targets.into());
    Some(Entry { matches, http, targets, clusters, places: retry::places(entry) })
}

/// One destination of several.
struct Share {
    host: Box<str>,
    subset: Option<Box<str>>,
    weight: Option<u32>,
    address: TargetAddress,
    cluster: Cluster,
}

/// Where requests or connections go. None where all go to where they were sent.
pub(super) fn targets(
    map: &Map<'_>,
    entry: &Field<'_>,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<(Vec<Target>, Vec<Cluster>)> {
    let shares = map.each("route", problems, |field, problems| share(field, context, problems))?;
    let is_split = |(index, one): (usize, &Share)| {
        shares.iter().skip(index + 1).any(|other| other.host == one.host && other.subset != one.subset)
    };
    if let Some(field) = map.get("route").filter(|_| shares.iter().enumerate().any(is_split)) {
        let message = "subsets are not told apart here, so requests are not split between those of one host";
        problems.note(Code::Ignored, &field.here(), message);
    }
    let is_alone = shares.len() == 1;
    let (targets, clusters): (Vec<_>, Vec<_>) = shares
        .into_iter()
        .map(|Share { host, weight, address, cluster, .. }| {
            // A single destination gets everything, whatever its weight.
            let weight = if is_alone { 1 } else { weight.unwrap_or_default() };
            (Target { name: host, weight, address }, cluster)
        })
        .unzip();
    if !targets.is_empty() && targets.iter().all(|target| target.weight == 0) {
        return entry.problem("no destination has a weight of more than 0", problems);
    }
    let is_elsewhere = targets.iter().any(|target| target.address != TargetAddress::Original);
    Some((if is_elsewhere { targets } else { Vec::new() }, clusters))
}

fn share(field: &Field<'_>, context: &Context<'_>, problems: &mut Problems) -> Option<Share> {
    let map = field.map_of(&["destination", "weight", "headers"], problems)?;
    let is_plain = common::is_plain(&map, &["headers"], problems);
    let weight = map.optional("weight", None, |field| field.whole(0..=1_000_000, problems).map(Some));
    let destination = map.required("destination", problems)?;
    let map = destination.map_of(&["host", "subset", "port"], problems)?;
    let host =
        map.required("host", problems).and_then(|field| Some((field.parsed::<Host>(problems)?, field)));
    let subset = map.optional("subset", None, |field| {
        let message = "subsets are not told apart here; any endpoint of the host is taken";
        problems.note(Code::Ignored, &field.here(), message);
        field.text(problems).map(Some)
    });
    let port = map.optional("port", None, |field| numbered(&field, problems).map(Some));
    let ((host, place), subset, port, weight) = (host?, subset?, port?, weight?);
    is_plain.then_some(())?;
    let name = host.as_str().into();
    let address = address(&host, &place, port, context, problems);
    let subset: Option<Box<str>> = subset.map(Box::from);
    let cluster = Cluster { host: whole_name(&host, context.namespace), subset: subset.clone(), port };
    Some(Share { host: name, subset, weight, address, cluster })
}

/// Where a destination is. Requests are on their way to the document's own hosts already, unless a port is said, which need
/// not be the one that was dialled.
fn address(
    host: &Host,
    place: &Field<'_>,
    port: Option<NonZeroU16>,
    context: &Context<'_>,
    problems: &mut Problems,
) -> TargetAddress {
    let is_short = !host.as_str().contains('.');
    if port.is_none() && context.own.contains(host) {
        return TargetAddress::Original;
    }
    if !is_short || context.namespace.is_some() {
        return TargetAddress::Host { host: whole_name(host, context.namespace), port };
    }
    let message = format!(
        "without a namespace nothing here tells where {:?} is; requests go where they were sent",
        host.as_str()
    );
    problems.note(Code::UnresolvedTarget, &place.here(), message);
    TargetAddress::Original
}
