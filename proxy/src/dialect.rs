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
mod kuma;
mod lint;
mod native;
mod note;
mod tree;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

pub use fields::Problem;
pub use files::{LoadError, Loaded, Together, load, load_together, load_with, read_with};
pub use note::{Code, Note};

use crate::policy::Policy;
use fields::{Field, Problems};
use tree::Node;

/// The most bytes that a file may have.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// The most documents that a file may have.
pub const MAX_DOCUMENTS: usize = 1_000;

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

/// A document format. To add one is to add its file and its line in [`DIALECTS`].
struct Dialect {
    /// What its documents are, as an error lists what is supported.
    documents: &'static str,
    /// The kind of a document of this format.
    kind: fn(&Field<'_>) -> Option<&'static str>,
    /// The policies of all documents of this format.
    policies: fn(&[Document<'_>], &mut Problems) -> Vec<Policy>,
}

/// One document.
struct Document<'a> {
    kind: &'static str,
    root: Field<'a>,
    options: Options,
}

const DIALECTS: &[Dialect] = &[
    Dialect { documents: native::DOCUMENTS, kind: native::kind, policies: native::policies },
    Dialect { documents: app_mesh::DOCUMENTS, kind: app_mesh::kind, policies: app_mesh::policies },
    Dialect { documents: kuma::DOCUMENTS, kind: kuma::kind, policies: kuma::policies },
    Dialect { documents: gateway::DOCUMENTS, kind: gateway::kind, policies: gateway::policies },
    Dialect { documents: istio::DOCUMENTS, kind: istio::kind, policies: istio::policies },
];

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
        let mut known = known.filter_map(|(dialect, documents)| Some(((dialect.kind)(&root)?, documents)));
        match known.next() {
            Some((kind, documents)) => documents.push(Document { kind, root, options }),
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
    for policy in &policies {
        lint::note(policy, &mut problems);
    }
    let (mut problems, mut notes) = problems.into_parts();
    let order = |file: &Path| trees.iter().position(|(known, _)| &**known == file);
    problems.sort_by_key(|problem| (order(&problem.file), problem.line));
    notes.sort_by_key(|note| (order(&note.file), note.line));
    // What several documents have in common is told once.
    let mut told = HashSet::new();
    notes.retain(|note| told.insert(note.clone()));
    (Parsed { policies, notes }, problems)
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
    let supported = DIALECTS.iter().map(|dialect| dialect.documents).collect::<Vec<_>>().join("; ");
    let message = if said.is_empty() {
        format!(
            "this is no document that is known: it has neither apiVersion and kind nor type; supported: {supported}"
        )
    } else {
        format!("{said} is not supported; supported: {supported}")
    };
    root.problem(message, problems)
}

/// Whether a document says that it is of this API group, in any version, and kind.
fn is_kind(root: &Field<'_>, group: &str, kind: &str) -> bool {
    let text = |name| root.child(name).and_then(|field| field.word());
    let version = text("apiVersion");
    let in_group = version.as_deref().and_then(|version| version.rsplit_once('/')).map(|(group, _)| group);
    in_group == Some(group) && text("kind").as_deref() == Some(kind)
}

#[cfg(test)]
mod tests;
