//! Documents to policies: one file a document format.
//!
//! Documents are read together, whatever files they are in, since they refer to each other. A document is told by its
//! `apiVersion` and `kind`, its `type`, or its shape. With any problem nothing is used, and all problems are told at once, each with file, line, field and what is allowed. What is legal but does nothing, or harm, is noted.
//! Parsing takes texts; only [`files`] reads files.

pub mod duration;
pub mod files;
pub mod size;
pub mod translate;

mod app_mesh;
mod common;
mod fields;
mod gateway;
mod istio;
mod kind;
mod kuma;
mod lint;
mod native;
mod note;
mod tree;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

pub use fields::Problem;
pub use files::{LoadError, Loaded, ObjectText, Together, load, load_together, load_with, read_with};
pub use kind::{KINDS, Kind};
pub use note::{Code, Note};

use crate::policy::{Origin, Policy};
use fields::{Field, Problems};
use tree::Node;

/// The most bytes that a file may have.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// The most documents that a file may have.
pub const MAX_DOCUMENTS: usize = 1_000;
/// The most pairs of a destination and a route, of all documents.
const MAX_RULES: usize = 1 << 22;

/// What the operator says of how documents are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether an App Mesh route without a retry policy has App Mesh's default one.
    pub app_mesh_default_retry: bool,
    /// Whether they are read for a cluster: then its Services can be found by their names.
    pub in_cluster: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { app_mesh_default_retry: true, in_cluster: false }
    }
}

/// What documents say.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// Format by format.
    pub policies: Vec<Policy>,
    /// In the order of the files.
    pub notes: Vec<Note>,
}

/// A document format. To add one is to add its file, its line in [`DIALECTS`], and its [`kind::KINDS`].
struct Dialect {
    /// Those of the kinds that are its own.
    groups: &'static [&'static str],
    /// What documents it has that are no objects of Kubernetes, as an error lists them, and the kind of one.
    others: Option<(&'static str, Shape)>,
    /// The policies of all documents of this format.
    policies: fn(&[Document<'_>], &mut Problems) -> Vec<Policy>,
}

type Shape = fn(&Field<'_>) -> Option<&'static str>;

/// One document.
struct Document<'a> {
    kind: &'static str,
    root: Field<'a>,
    options: Options,
}

const DIALECTS: &[Dialect] = &[
    Dialect { groups: &["redial.dev"], others: None, policies: native::policies },
    Dialect {
        groups: &["appmesh.k8s.aws"],
        others: Some((app_mesh::OTHERS, app_mesh::kind)),
        policies: app_mesh::policies,
    },
    Dialect { groups: &[kuma::GROUP], others: Some((kuma::OTHERS, kuma::kind)), policies: kuma::policies },
    Dialect { groups: gateway::GROUPS, others: None, policies: gateway::policies },
    Dialect { groups: &["networking.istio.io"], others: None, policies: istio::policies },
];

impl Dialect {
    /// The kind of a document of this format.
    fn kind(&self, root: &Field<'_>) -> Option<&'static str> {
        match Kind::of(root) {
            Some(kind) => Some(kind.kind).filter(|_| self.groups.contains(&kind.group)),
            None => self.others.and_then(|(_, kind)| kind(root)),
        }
    }

    /// What its documents are, as an error lists what is supported.
    fn documents(&self) -> impl Iterator<Item = String> {
        let group = |group: &&str| {
            let kinds = Kind::watched().filter(|kind| kind.group == *group).map(|kind| kind.kind);
            let kinds = kinds.collect::<Vec<_>>().join(", ");
            if group.is_empty() { "v1 Service".to_owned() } else { format!("{group} {kinds}") }
        };
        self.groups.iter().map(group).chain(self.others.map(|(others, _)| others.to_owned()))
    }
}

/// The policies of a file's documents; empty documents are skipped.
pub fn parse(file: &Path, text: &str) -> Result<Parsed, Vec<Problem>> {
    parse_all_with(Options::default(), &[(Arc::from(file), text)])
}

/// The policies of the documents of these files together, read so.
pub fn parse_all_with(options: Options, files: &[(Arc<Path>, &str)]) -> Result<Parsed, Vec<Problem>> {
    let mut problems = Problems::default();
    let tree = |(file, text): &(_, &str)| (Arc::clone(file), nodes(file, text, &mut problems));
    let trees: Vec<_> = files.iter().map(tree).collect();
    let (parsed, problems) = read_all(options, &trees, problems);
    if problems.is_empty() { Ok(parsed) } else { Err(problems) }
}

/// The documents of a file; none where it can't be read.
fn nodes(file: &Arc<Path>, text: &str, problems: &mut Problems) -> Vec<Node> {
    tree::parse(text).unwrap_or_else(|error| {
        problems.push(error.at(file));
        Vec::new()
    })
}

/// What can be read of these files, and all that is wrong with them.
fn read_all(
    options: Options,
    trees: &[(Arc<Path>, Vec<Node>)],
    mut problems: Problems,
) -> (Parsed, Vec<Problem>) {
    let roots = trees.iter().flat_map(|(file, nodes)| nodes.iter().map(|node| Field::root(file, node)));
    let roots: Vec<_> = roots.flat_map(|root| unlisted(root, &mut problems)).collect();
    let mut by_dialect: Vec<Vec<Document<'_>>> = DIALECTS.iter().map(|_| Vec::new()).collect();
    for root in roots {
        let known = DIALECTS.iter().zip(&mut by_dialect);
        let mut known = known.filter_map(|(dialect, documents)| Some((dialect.kind(&root)?, documents)));
        match known.next() {
            Some((kind, documents)) => {
                if let Some(kind) = Kind::of(&root) {
                    kind.check_version(&root, &mut problems);
                }
                documents.push(Document { kind, root, options });
            }
            None => drop(unsupported(&root, &mut problems)),
        }
    }
    let mut policies: Vec<_> = DIALECTS
        .iter()
        .zip(&by_dialect)
        .flat_map(|(dialect, documents)| (dialect.policies)(documents, &mut problems))
        .collect();
    for policy in policies.iter_mut().filter(|_| options.in_cluster) {
        common::leave_out_short_names(&mut policy.to);
    }
    leave_out_too_many(&mut policies, &mut problems);
    lint::note_all(&policies, &mut problems);
    let (mut problems, mut notes) = problems.into_parts();
    let order = |file: &Path| trees.iter().position(|(known, _)| &**known == file);
    problems.sort_by_key(|problem| (order(&problem.file), problem.line));
    notes.sort_by_key(|note| (order(&note.file), note.line));
    // What several documents have in common is told once.
    let mut told = HashSet::new();
    notes.retain(|note| told.insert(note.clone()));
    (Parsed { policies, notes }, problems)
}

/// Each route of a policy is looked for by each of its destinations, which takes memory. A policy for which there is no room
/// is told.
fn leave_out_too_many(policies: &mut Vec<Policy>, problems: &mut Problems) {
    let mut room = MAX_RULES;
    policies.retain(|policy| {
        let (destinations, routes) = (policy.to.len().max(1), policy.routes.len());
        let left = room.checked_sub(destinations.saturating_mul(routes + 1));
        if let (None, Origin::File { path, line }) = (left, &policy.origin) {
            let message = format!(
                "{destinations} destinations with {routes} routes each are too many: of all documents together there may be \
                 {MAX_RULES} pairs of the two"
            );
            problems.push(Problem { file: Arc::clone(path), line: Some(*line), field: None, message });
        }
        room = left.unwrap_or(room);
        left.is_some()
    });
}

/// The JSON Schema of the native document.
#[must_use]
pub fn schema() -> serde_json::Value {
    native::schema()
}

/// The definition by which a Kubernetes cluster knows the native document, in YAML.
#[must_use]
pub fn crd() -> String {
    translate::yaml::write(&native::definition())
}

/// The items of a list as `kubectl get -o yaml` writes it, or the document itself. A list may be empty, as a file's
/// documents may be.
fn unlisted<'a>(root: Field<'a>, problems: &mut Problems) -> Vec<Field<'a>> {
    let is_list = root.child("kind").and_then(|kind| kind.word()).is_some_and(|kind| kind.ends_with("List"));
    match root.child("items").filter(|_| is_list) {
        Some(items) if items.is_empty_list() => Vec::new(),
        Some(items) => {
            items.up_to(MAX_DOCUMENTS, problems).and_then(|()| items.list(problems)).unwrap_or_default()
        }
        None => vec![root],
    }
}

fn unsupported(root: &Field<'_>, problems: &mut Problems) -> Option<()> {
    let document = root.map(problems)?;
    if let Some(field) = ["apiVersion", "kind", "type"]
        .into_iter()
        .filter_map(|name| document.get(name))
        .find(|field| field.word().is_none())
    {
        field.text(problems)?;
    }
    match ["apiVersion", "kind"].map(|name| document.get(name).is_some()) {
        [true, false] => drop(document.required("kind", problems)?),
        [false, true] => drop(document.required("apiVersion", problems)?),
        [true, true] | [false, false] => {}
    }
    let said =
        ["apiVersion", "kind", "type"].map(|name| document.get(name).map(|value| format!("{name} {value}")));
    let said = said.into_iter().flatten().collect::<Vec<_>>().join(" with ");
    let supported = DIALECTS.iter().flat_map(Dialect::documents).collect::<Vec<_>>().join("; ");
    let word = |name| document.get(name).and_then(|field| field.word());
    let meant = match (word("apiVersion"), word("kind"), word("type")) {
        (Some(version), Some(kind), _) => Kind::meant(&version, &kind),
        (None, None, Some(said)) => {
            fields::meant(&said, &kuma::types().collect::<Vec<_>>()).map(|meant| format!("type {meant}"))
        }
        _ => None,
    };
    let meant = meant.map(|meant| format!(" did you mean {meant}?")).unwrap_or_default();
    let message = if said.is_empty() {
        format!(
            "this is no document that is known: it has neither apiVersion and kind nor type; supported: {supported}"
        )
    } else {
        format!("{said} is not supported;{meant} supported: {supported}")
    };
    root.problem(message, problems)
}

#[cfg(test)]
mod tests;
