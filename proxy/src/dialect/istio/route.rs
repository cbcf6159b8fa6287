//! One entry of `http`: which requests it is for, what holds for them, and where they go.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::super::fields::{Field, Map, Problems};
use super::super::note::Code;
use super::{CLUSTER, Context, matches, retry};
use crate::policy::{Host, Precedence, RequestMatch, Route, Sources, Target, TargetAddress};

/// What changes the requests, or what comes of them.
const REFUSED: [&str; 6] = ["redirect", "directResponse", "rewrite", "delegate", "fault", "headers"];
const IGNORED: [&str; 6] =
    ["mirror", "mirrorPercentage", "mirrorPercent", "mirror_percent", "mirrors", "corsPolicy"];

/// The routes of an entry, one for each way to match.
pub(super) fn read(
    entry: &Field<'_>,
    (index, first): (usize, u32),
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<Vec<Route>> {
    let known: Vec<_> = ["name", "match", "route", "retries", "timeout"].into_iter().chain(REFUSED).collect();
    let map = entry.map_ignoring(&known, &IGNORED, problems)?;
    let mut is_sound = is_plain(&map, &REFUSED, problems);
    if is_sound {
        is_sound = map.required("route", problems).is_some();
    }
    let name = map.optional("name", None, |field| field.text(problems).map(Some));
    let found = map.each("match", problems, matches::read);
    let targets = targets(&map, entry, context, problems);
    let http = retry::policy(&map, problems);
    let name = name?.map_or_else(|| format!("http[{index}]"), str::to_owned);
    let mut matchers: Vec<(String, RequestMatch)> = Vec::new();
    for (index, ways) in found?.into_iter().enumerate() {
        matchers.extend(ways.into_iter().map(|way| (format!("{name}.match[{index}]"), way)));
    }
    if matchers.is_empty() {
        matchers.push((name, RequestMatch::default()));
    }
    let (targets, http): (Arc<[Target]>, _) = (targets?.into(), Arc::new(http?));
    let sources = Arc::new(Sources::new(retry::places(entry)));
    is_sound.then_some(())?;
    let routes = (first..).zip(matchers).map(|(within, (name, matcher))| Route {
        name: name.into(),
        precedence: Precedence { within, ..Precedence::default() },
        matcher,
        http: Arc::clone(&http),
        targets: Arc::clone(&targets),
        sources: Arc::clone(&sources),
    });
    Some(routes.collect())
}

/// Whether none of these is said.
fn is_plain(map: &Map<'_>, refused: &[&str], problems: &mut Problems) -> bool {
    let mut is_plain = true;
    for field in refused.iter().filter_map(|name| map.get(name)) {
        let message = "it changes what requests get, and cannot be honoured here";
        is_plain &= field.problem::<()>(message, problems).is_some();
    }
    is_plain
}

/// One destination of several.
struct Share {
    host: Box<str>,
    subset: Option<Box<str>>,
    weight: Option<u32>,
    address: TargetAddress,
}

/// Where requests or connections go. None where all go to where they were sent.
pub(super) fn targets(
    map: &Map<'_>,
    entry: &Field<'_>,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Option<Vec<Target>> {
    let shares = map.each("route", problems, |field, problems| share(field, context, problems))?;
    let is_split = |(index, one): (usize, &Share)| {
        shares.iter().skip(index + 1).any(|other| other.host == one.host && other.subset != one.subset)
    };
    if let Some(field) = map.get("route").filter(|_| shares.iter().enumerate().any(is_split)) {
        let message = "subsets are not told apart here, so requests are not split between those of one host";
        problems.note(Code::Ignored, &field.here(), message);
    }
    let is_alone = shares.len() == 1;
    let targets: Vec<_> = shares
        .into_iter()
        .map(|Share { host, weight, address, .. }| {
            // A single destination gets everything, whatever its weight.
            let weight = if is_alone { 1 } else { weight.unwrap_or_default() };
            Target { name: host, weight, address }
        })
        .collect();
    if !targets.is_empty() && targets.iter().all(|target| target.weight == 0) {
        return entry.problem("no destination has a weight of more than 0", problems);
    }
    let is_elsewhere = targets.iter().any(|target| target.address != TargetAddress::Original);
    Some(if is_elsewhere { targets } else { Vec::new() })
}

fn share(field: &Field<'_>, context: &Context<'_>, problems: &mut Problems) -> Option<Share> {
    let map = field.map_of(&["destination", "weight", "headers"], problems)?;
    let is_plain = is_plain(&map, &["headers"], problems);
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
    let port = map.optional("port", None, |field| {
        let number = field.map_of(&["number"], problems)?.required("number", problems)?;
        let port = number.whole(1..=u16::MAX.into(), problems)?;
        Some(u16::try_from(port).ok().and_then(NonZeroU16::new))
    });
    let ((host, place), subset, port, weight) = (host?, subset?, port?, weight?);
    is_plain.then_some(())?;
    let name = host.as_str().into();
    let address = address(&host, &place, port, context, problems);
    Some(Share { host: name, subset: subset.map(Box::from), weight, address })
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
    let whole = match context.namespace {
        _ if !is_short => Some(host.clone()),
        Some(namespace) => format!("{}.{namespace}{CLUSTER}", host.as_str()).parse().ok(),
        None => None,
    };
    if let Some(host) = whole {
        return TargetAddress::Host { host, port };
    }
    let message = format!(
        "without a namespace nothing here tells where {:?} is; requests go where they were sent",
        host.as_str()
    );
    problems.note(Code::UnresolvedTarget, &place.here(), message);
    TargetAddress::Original
}
