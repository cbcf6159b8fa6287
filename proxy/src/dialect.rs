//! Documents to policies: one file a document format.
//!
//! A document is told by its `apiVersion` and `kind`. Nothing of a document with a problem is used, and all its problems
//! are told at once, each with file, line, field and what is allowed. What is legal but does nothing, or harm, is noted.
//! Parsing takes texts; only [`files`] reads files.

pub mod duration;
pub mod files;
pub mod size;

mod fields;
mod lint;
mod native;
mod note;
mod tree;

use std::path::Path;
use std::sync::Arc;

pub use fields::Problem;
pub use files::{LoadError, Loaded, load};
pub use note::{Code, Note};

use crate::policy::Policy;
use fields::{Field, Place, Problems};
use lint::{Finding, Setting};

/// The most bytes that a file may have.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// The most documents that a file may have.
pub const MAX_DOCUMENTS: usize = 1_000;

/// What a file says.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// In the order of the documents.
    pub policies: Vec<Policy>,
    pub notes: Vec<Note>,
}

/// A document format. To add one is to add its file and its line in [`DIALECTS`].
struct Dialect {
    api_version: &'static str,
    kind: &'static str,
    policy: fn(&Field<'_>, &mut Problems) -> Option<Policy>,
    /// Where a document says this about its policy, or would.
    place: fn(&Field<'_>, Setting) -> Place,
}

const DIALECTS: &[Dialect] = &[Dialect {
    api_version: native::API_VERSION,
    kind: native::KIND,
    policy: native::policy,
    place: native::place,
}];

/// The policies of a file's documents; empty documents are skipped.
pub fn parse(file: &Path, text: &str) -> Result<Parsed, Vec<Problem>> {
    let file = Arc::from(file);
    let documents = tree::parse(text).map_err(|error| vec![error.at(&file)])?;
    let mut problems = Problems::new(file);
    let policies = documents.iter().filter_map(|node| document(&Field::root(node), &mut problems)).collect();
    problems.none_or_notes().map(|notes| Parsed { policies, notes })
}

fn document(root: &Field<'_>, problems: &mut Problems) -> Option<Policy> {
    let document = root.map(problems)?;
    let (version, kind) = (document.required("apiVersion", problems), document.required("kind", problems));
    let (version, kind) = (version?, kind?);
    let (version_text, kind_text) = (version.text(problems), kind.text(problems));
    let (version_text, kind_text) = (version_text?, kind_text?);
    let known = DIALECTS.iter().find(|known| known.api_version == version_text && known.kind == kind_text);
    let Some(dialect) = known else {
        let supported: Vec<_> =
            DIALECTS.iter().map(|known| format!("{} {}", known.api_version, known.kind)).collect();
        let supported = supported.join(", ");
        let message =
            format!("apiVersion {version} with kind {kind} is not supported; supported: {supported}");
        return root.problem(message, problems);
    };
    let policy = (dialect.policy)(root, problems)?;
    let place = |setting| (dialect.place)(root, setting);
    for Finding { code, about, message } in lint::findings(&policy, |setting| place(setting).is_said) {
        problems.note(code, place(about), message);
    }
    Some(policy)
}
