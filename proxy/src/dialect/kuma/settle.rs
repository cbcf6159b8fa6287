//! What the policies of one mesh with `targetRef` and `to` mean together.
//!
//! Kuma merges, for each proxy and each of its destinations, whatever is said of both, field by field. So for each
//! destination that a document names there is a policy for each group of workloads in which the same documents hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::conf::{Conf, Settled};
use super::document::Resource;
use super::entry::{Entry, Head};
use super::route::Rule;
use super::target::To;
use super::workloads::{Workloads, groups};
use super::{connects, selector};
use crate::dialect::fields::{Problem, Problems};
use crate::dialect::note::Code;
use crate::policy::{
    HttpPolicy, Place, Policy, Precedence, Protocol, RequestMatch, RequestProtocol, Rest, Route, Setting,
    Sources, WorkloadSelector,
};

/// The most that merged policies may take, in bytes: of each so much, and so much of each document that it is made of,
/// besides what that has in matchers.
const MAX_WEIGHT: usize = 64 << 20;
const ONE: usize = 4 << 10;
const NAME: usize = 256;

/// Looks for the routes that retries are for. Where no route is given at all, a document has to work alone.
pub(super) fn find_routes(
    retries: &mut [Retries<'_>],
    rules: &[Rules<'_>],
    documents: &[Resource<'_>],
    problems: &mut Problems,
) {
    for Head { to, target, resource, .. } in retries.iter_mut().map(|entry| &mut entry.head) {
        let To::Route(route) = *to else { continue };
        let in_mesh =
            |document: &&Resource<'_>| document.kind == "MeshHTTPRoute" && document.mesh == resource.mesh;
        let mut routes = documents.iter().filter(in_mesh).peekable();
        if routes.peek().is_none() {
            let message = "no document is this MeshHTTPRoute, so it applies to all destinations; add it";
            problems.note(Code::AppliesEverywhere, target, message);
            *to = To::Mesh;
        } else if !routes.any(|document| route.is(&document.called())) {
            let message = "no document is this MeshHTTPRoute; add it, or correct its name";
            problems.push(problem_at(target, message));
        } else if !rules.iter().any(|rules| route.is(&rules.head.resource.called())) {
            let message = "nothing of this route holds here, and so nothing of what is said of it";
            problems.note(Code::Ignored, target, message);
        }
    }
}

pub(super) type Retries<'a> = Entry<'a, Conf<'a>>;
pub(super) type Rules<'a> = Entry<'a, Vec<Rule>>;

/// What is said in one mesh.
pub(super) struct Mesh<'e, 'a> {
    pub(super) retries: Vec<&'e Retries<'a>>,
    pub(super) rules: Vec<&'e Rules<'a>>,
    /// There are documents of other meshes.
    pub(super) is_one_of_several: bool,
}

/// What holds for the connections of a group of workloads to one destination, the greatest first.
struct Applying<'e, 'a> {
    destination: To<'a>,
    retries: Vec<&'e Retries<'a>>,
    rules: Vec<&'e Rules<'a>>,
    /// Less where it comes before others.
    precedence: u32,
    from: Vec<WorkloadSelector>,
    names_mesh: bool,
}

impl<'e, 'a> Mesh<'e, 'a> {
    pub(super) fn policies(mut self, problems: &mut Problems) -> Vec<Policy> {
        self.retries.sort_by(|one, other| other.head.rank.cmp(&one.head.rank));
        self.rules.sort_by(|one, other| other.head.rank.cmp(&one.head.rank));
        let retries = self.retries.iter().map(|entry| entry.head.to);
        let destinations: BTreeSet<_> = retries.chain(self.rules.iter().map(|entry| entry.head.to)).collect();
        let (mut policies, mut wrong, mut weight) = (Vec::new(), Vec::new(), 0);
        for destination in destinations.into_iter().filter(|to| !matches!(to, To::Route(_))) {
            let all = self.about(destination);
            let Some(groups) = all.groups() else {
                let message = "there are too many combinations of the workloads that these policies are for";
                problems.extend(all.heads().next().map(|head| problem_at(&head.target, message)));
                return policies;
            };
            for group in groups {
                let applying = all.to(&group, self.is_one_of_several);
                weight += applying.weight();
                if weight > MAX_WEIGHT {
                    let message = "there are too many combinations of workloads and destinations to merge; narrow the \
                                   policies that are for all of them";
                    problems.extend(applying.heads().last().map(|head| problem_at(&head.target, message)));
                    return policies;
                }
                match applying.policies() {
                    Ok(found) => policies.extend(found),
                    Err(problem) if !wrong.contains(&problem) => wrong.push(problem),
                    Err(_) => {}
                }
            }
        }
        problems.extend(wrong);
        policies
    }

    /// What holds for the connections to one destination.
    fn about(&self, destination: To<'a>) -> Applying<'e, 'a> {
        let covers = |head: &Head<'_>| head.to.covers(&destination);
        let rules: Vec<_> = self.rules.iter().copied().filter(|entry| covers(&entry.head)).collect();
        let is_for = |to: &To<'_>| {
            let is_route = |rules: &&Rules<'_>| matches!(to, To::Route(route) if route.is(&rules.head.resource.called()));
            rules.iter().any(is_route)
        };
        let concerns = |head: &Head<'_>| covers(head) || is_for(&head.to);
        let retries = self.retries.iter().copied().filter(|entry| concerns(&entry.head)).collect();
        Applying { destination, retries, rules, precedence: 0, from: Vec::new(), names_mesh: false }
    }
}

impl<'e, 'a> Applying<'e, 'a> {
    fn heads(&self) -> impl Iterator<Item = &'e Head<'a>> {
        self.retries.iter().map(|entry| &entry.head).chain(self.rules.iter().map(|entry| &entry.head))
    }

    fn workloads(&self) -> BTreeSet<&'e Workloads> {
        self.heads().map(|head| &head.workloads).collect()
    }

    /// The groups of workloads for which not the same holds.
    fn groups(&self) -> Option<BTreeSet<Workloads>> {
        let own = self.heads().filter(|head| head.to == self.destination).map(|head| &head.workloads);
        groups(own, self.workloads())
    }

    /// Of all this what holds for one group.
    fn to(&self, group: &Workloads, is_one_of_several: bool) -> Self {
        let holds = |head: &Head<'_>| group.are_among(&head.workloads);
        let count = self.workloads().into_iter().filter(|workloads| group.are_among(workloads)).count();
        let mesh = self.heads().next().filter(|_| is_one_of_several).map(|head| head.resource.mesh);
        Self {
            destination: self.destination,
            retries: self.retries.iter().copied().filter(|entry| holds(&entry.head)).collect(),
            rules: self.rules.iter().copied().filter(|entry| holds(&entry.head)).collect(),
            precedence: u32::MAX - u32::try_from(count).unwrap_or(u32::MAX),
            from: selector(group.selector(), mesh).into_iter().collect(),
            names_mesh: is_one_of_several,
        }
    }

    /// How much its policies may take, in bytes.
    fn weight(&self) -> usize {
        let retries = self.retries.iter().map(|entry| NAME + entry.says.weight);
        let rules = self.rules.iter().map(|entry| NAME + entry.says.iter().map(Rule::weight).sum::<usize>());
        ONE + retries.chain(rules).sum::<usize>()
    }

    /// The routes come first, and then what holds for all other requests.
    fn policies(&self) -> Result<Vec<Policy>, Problem> {
        let mut policies = self.routes()?;
        if self.retries.iter().any(|entry| entry.head.to == self.destination)
            && let Some(conf) = self.conf(|to| to.covers(&self.destination))
        {
            let sections = [
                ("grpc", RequestProtocol::Grpc, conf.grpc()?),
                ("http", RequestProtocol::Http, conf.http()?),
            ];
            let routes = (0..).zip(sections).filter_map(|(within, (name, protocol, settled))| {
                let (http, places) = settled?;
                let matcher = RequestMatch { protocol, ..RequestMatch::default() };
                Some(self.route(name.into(), [1, 0], within, matcher, (Arc::new(http), places)))
            });
            let routes = routes.collect();
            let entries = self.retries.iter().filter(|entry| entry.head.to.covers(&self.destination));
            let heads: Vec<_> = entries.map(|entry| &entry.head).collect();
            // Named after the greatest of those that name the destination.
            let first = heads.iter().position(|head| head.to == self.destination).unwrap_or_default();
            policies.extend(self.policy(first, &heads, routes, &conf));
        }
        Ok(policies)
    }

    /// What is said of the destinations that are asked for.
    fn conf(&self, is_meant: impl Fn(&To<'_>) -> bool) -> Option<Conf<'a>> {
        let mut meant = self.retries.iter().filter(|entry| is_meant(&entry.head.to)).map(|entry| &entry.says);
        let first = meant.next()?.clone();
        Some(meant.fold(first, Conf::over))
    }

    /// One policy for each document that has rules.
    fn routes(&self) -> Result<Vec<Policy>, Problem> {
        // Of rules with the same matches the greatest is taken, and from the others what it does not say.
        let mut all: Vec<(usize, Rule)> = Vec::new();
        for (document, rule) in self
            .rules
            .iter()
            .enumerate()
            .flat_map(|(index, entry)| entry.says.iter().map(move |rule| (index, rule)))
        {
            match all.iter_mut().find(|(_, known)| known.matches == rule.matches) {
                Some((_, known)) => known.targets = known.targets.take().or_else(|| rule.targets.clone()),
                None => all.push((document, rule.clone())),
            }
        }
        let mut matches: Vec<_> = all
            .iter()
            .flat_map(|(document, rule)| {
                let only = rule.matches.len() == 1;
                let named = move |index| {
                    if only {
                        format!("rules[{}]", rule.index)
                    } else {
                        format!("rules[{}].matches[{index}]", rule.index)
                    }
                };
                let matches = rule.matches.iter().enumerate();
                matches.map(move |(index, (matcher, order))| (*order, *document, named(index), matcher, rule))
            })
            .collect();
        matches.sort_by_key(|(order, ..)| *order);
        let mut policies = Vec::new();
        let own = self.conf(|to| to.covers(&self.destination));
        for (index, entry) in self.rules.iter().enumerate() {
            let route = entry.head.resource.called();
            // What is said of a route takes the place of what is said of its service, but for what is said of all.
            let is_told = |to: &To<'_>| matches!(to, To::Route(told) if told.is(&route));
            let special = self.retries.iter().any(|entry| is_told(&entry.head.to));
            let conf = if special { self.conf(|to| is_told(to) || *to == To::Mesh) } else { own.clone() };
            let (grpc, http) = match &conf {
                Some(conf) => (conf.grpc()?, conf.http()?),
                None => (None, None),
            };
            let shared = |settled: Option<Settled>| settled.map(|(http, places)| (Arc::new(http), places));
            let (grpc, http) = (shared(grpc), shared(http));
            let passing = || (Arc::new(HttpPolicy::passing().clone()), Vec::new());
            let mut routes = Vec::new();
            let of_document = (0..).zip(&matches).filter(|(_, (_, document, ..))| *document == index);
            for (order, (_, _, name, matcher, rule)) in of_document {
                let sections = match (&grpc, &http) {
                    (None, None) => vec![("", RequestProtocol::Any, None)],
                    _ => vec![
                        (":grpc", RequestProtocol::Grpc, grpc.clone()),
                        ("", RequestProtocol::Http, http.clone()),
                    ],
                };
                for (suffix, protocol, settled) in sections {
                    let asked = RequestMatch { protocol, ..RequestMatch::clone(matcher) };
                    let (http, mut places) = settled.unwrap_or_else(passing);
                    places.extend(rule.places.iter().cloned());
                    let name = format!("{name}{suffix}").into();
                    let route = self.route(name, [0, order], 0, asked, (http, places));
                    routes.push(Route { targets: rule.targets.clone().unwrap_or_default(), ..route });
                }
            }
            let heads = self.rules.iter().map(|entry| &entry.head);
            let heads: Vec<_> = heads.chain(self.retries.iter().map(|entry| &entry.head)).collect();
            let conf = conf.or_else(|| own.clone());
            if !routes.is_empty() {
                policies.extend(match conf {
                    Some(conf) => self.policy(index, &heads, routes, &conf),
                    None => heads.get(index).map(|head| self.bare(head, &heads, routes)),
                });
            }
        }
        Ok(policies)
    }

    fn route(
        &self,
        name: Box<str>,
        [kind, order]: [u32; 2],
        within: u32,
        matcher: RequestMatch,
        (http, places): (Arc<HttpPolicy>, Vec<(Setting, Place)>),
    ) -> Route {
        let precedence = Precedence { among_all: [0, self.precedence, kind, order, 0], within };
        let sources = Arc::new(Sources::new(places));
        Route { name, precedence, matcher, http, targets: Arc::default(), sources }
    }

    /// A policy of these routes, as what this one of the heads says together with the others.
    fn policy(
        &self,
        first: usize,
        heads: &[&Head<'_>],
        routes: Vec<Route>,
        conf: &Conf<'_>,
    ) -> Option<Policy> {
        let head = heads.get(first)?;
        let (attempts, place) = conf.connects();
        let tcp = connects(attempts, routes.iter().map(|route| &*route.http));
        let protocol = if routes.is_empty() { Protocol::Tcp } else { Protocol::Auto };
        let bare = self.bare(head, heads, routes);
        let sources = Arc::new(Sources::new(
            [(Setting::ConnectAttempts, place)].into_iter().chain(self.places(head, heads)),
        ));
        Some(Policy { tcp, protocol, sources, ..bare })
    }

    fn bare(&self, head: &Head<'_>, heads: &[&Head<'_>], routes: Vec<Route>) -> Policy {
        Policy {
            name: head.name(heads, self.names_mesh),
            origin: head.resource.root.origin(),
            from: self.from.clone(),
            to: self.destination.destinations(),
            routes,
            rest: Rest::GoesOn,
            sources: Arc::new(Sources::new(self.places(head, heads))),
            ..Policy::built_in()
        }
    }

    /// Where it is said for whom this is, and for which destination: by the document that it is named after, or else by
    /// another. One without a target that is for its namespace alone says that by its own.
    fn places(&self, head: &Head<'_>, heads: &[&Head<'_>]) -> impl Iterator<Item = (Setting, Place)> + use<> {
        let targets = [head].into_iter().chain(heads.iter().copied());
        let mut targets = targets.map(|head| head.resource.spec.place(&["targetRef"]));
        let own = head.resource.root.place(&["metadata", "namespace"]);
        let from = targets.find(|place| place.is_said).or(Some(own).filter(|_| !self.from.is_empty()));
        from.map(|place| (Setting::From, place)).into_iter().chain([(Setting::To, head.target.clone())])
    }
}

fn problem_at(place: &Place, message: &str) -> Problem {
    let Place { file, line, field, .. } = place.clone();
    Problem { file, line: Some(line), field: Some(field), message: message.to_owned() }
}
