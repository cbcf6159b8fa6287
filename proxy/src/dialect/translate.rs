//! Documents written anew in another format, with the same meaning.
//!
//! What is written is read back, and compared with what it was made of: each difference is a comment. So nothing that a
//! format cannot say gets lost without a word, whatever it is.

mod canonical;
mod difference;
mod gateway;
mod name;
pub(in crate::dialect) mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::note::{Code, Note};
use super::{Parsed, native, parse};
use crate::policy::{Origin, Policy, PolicyName};

/// A format that documents can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Native,
    GatewayApi,
}

/// Documents in another format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The documents, with `---` between them and comments above them.
    pub text: String,
    /// How many comments are about what could not be carried.
    pub losses: usize,
}

/// What is said above documents.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Comment {
    text: String,
    is_loss: bool,
}

/// What a policy became.
#[derive(Debug, Default)]
struct Written {
    comments: Vec<Comment>,
    documents: Vec<String>,
}

impl Comment {
    fn lost(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_loss: true }
    }

    fn told(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_loss: false }
    }
}

/// Writes documents that were read.
#[must_use]
pub fn translate(parsed: &Parsed, format: Format) -> Translation {
    let Parsed { policies, notes } = parsed;
    let names = name::all(policies);
    let written = match format {
        Format::Native => {
            let priorities = Priorities::of(policies);
            let mut written: Vec<_> =
                policies.iter().zip(&names).map(|(policy, name)| write(policy, name, &priorities)).collect();
            for (index, comment) in name::disorder(policies, &names) {
                written.get_mut(index).into_iter().for_each(|one| one.comments.push(comment.clone()));
            }
            written
        }
        Format::GatewayApi => gateway::write(policies, &names),
    };
    let noted = noted(policies, notes);
    let noted_of = |index: Option<usize>| {
        noted.iter().filter(move |(of, _)| *of == index).map(|(_, comment)| comment.clone())
    };
    let of_none: Vec<_> = noted_of(None).collect();
    let mut losses = lost(&of_none);
    let mut blocks = Vec::new();
    if !of_none.is_empty() {
        blocks.push(above(&of_none));
    }
    for (index, (policy, Written { comments, documents })) in policies.iter().zip(written).enumerate() {
        let mut all: Vec<_> = head(policy, format).into_iter().chain(noted_of(Some(index))).collect();
        for comment in comments {
            if !all.contains(&comment) {
                all.push(comment);
            }
        }
        losses += lost(&all);
        blocks.push(above(&all) + &documents.join("---\n"));
    }
    Translation { text: blocks.join("---\n"), losses }
}

fn lost(comments: &[Comment]) -> usize {
    comments.iter().filter(|comment| comment.is_loss).count()
}

fn above(comments: &[Comment]) -> String {
    comments.iter().map(|comment| format!("# {}\n", on_one_line(&comment.text))).collect::<Vec<_>>().concat()
}

/// Where a policy is from, unless it was in this format already.
fn head(policy: &Policy, format: Format) -> Option<Comment> {
    let is_native = policy.name.kind().is_none();
    let is_told = !(is_native && format == Format::Native);
    is_told.then(|| Comment::told(format!("{}: {}", policy.origin, policy.name)))
}

/// What was noted of the documents and matters in another format too, each with the policy that it is about: the last
/// whose document begins before.
fn noted(policies: &[Policy], notes: &[Note]) -> Vec<(Option<usize>, Comment)> {
    let about = |note: &Note| {
        let before = policies.iter().enumerate().filter_map(|(index, policy)| match &policy.origin {
            Origin::File { path, line } if *path == note.file && *line <= note.line => Some((*line, index)),
            Origin::File { .. } | Origin::BuiltIn => None,
        });
        // Of several policies of one document the first.
        before.max_by_key(|(line, index)| (*line, std::cmp::Reverse(*index))).map(|(_, index)| index)
    };
    let told = notes.iter().filter_map(|note| {
        let Note { code, file, line, field, message } = note;
        let text = format!("{}:{line}: {field}: {message}", file.display());
        let comment = match code {
            Code::Ignored => Comment::lost(text),
            Code::UnresolvedTarget | Code::AppliesEverywhere => Comment::told(text),
            _ => return None,
        };
        Some((about(note), comment))
    });
    told.collect()
}

fn write(policy: &Policy, name: &PolicyName, priorities: &Priorities) -> Written {
    let text = yaml::write(&native::print::document(policy, name, |key| priorities.of_key(key)));
    let again =
        read(&text).and_then(|read| read.into_iter().next().ok_or_else(|| "nothing is left".to_owned()));
    match again {
        Ok(again) => {
            let (one, other) = (canonical::policy(policy), canonical::policy(&again));
            let comments = difference::all(&one, &other).iter().map(|found| found.comment(&one)).collect();
            Written { comments, documents: vec![text] }
        }
        Err(problem) => {
            let text = format!("{}: it cannot be said: {problem}", policy.origin);
            Written { comments: vec![Comment::lost(text)], documents: Vec::new() }
        }
    }
}

/// The policies of what was written, or what is wrong with it.
fn read(text: &str) -> Result<Vec<Policy>, String> {
    let file = Path::new("translated");
    parse(file, text).map(|parsed| parsed.policies).map_err(|problems| {
        let first = problems.into_iter().next();
        first
            .map(|problem| format!("{}: {}", problem.field.unwrap_or_default(), problem.message))
            .unwrap_or_default()
    })
}

/// The last number that an App Mesh document may have. Greater ones are no user's.
const APP_MESH_LAST: u32 = 1_001;

/// The places of all routes among those of all policies, as single numbers.
struct Priorities {
    /// In their order, each with its number.
    ranks: BTreeMap<[u32; 5], u32>,
    /// The first number of each key is enough, and what the user knows it by.
    is_first_enough: bool,
}

impl Priorities {
    fn of(policies: &[Policy]) -> Self {
        let routes = policies.iter().flat_map(|policy| &policy.routes);
        // Where nothing is said the number is 0.
        let keys: BTreeSet<_> = routes.map(|route| route.precedence.among_all).chain([[0; 5]]).collect();
        let firsts: BTreeSet<_> = keys.iter().map(|[first, ..]| *first).collect();
        let is_written = firsts.last().is_none_or(|last| *last <= APP_MESH_LAST);
        let is_native = policies.iter().all(|policy| policy.name.kind().is_none());
        let is_first_enough = firsts.len() == keys.len() && (is_native || is_written);
        Self { ranks: keys.into_iter().zip(0..).collect(), is_first_enough }
    }

    fn of_key(&self, key: [u32; 5]) -> u32 {
        let [first, ..] = key;
        let rank = self.ranks.get(&key).copied().unwrap_or_default();
        if self.is_first_enough { first } else { rank }
    }
}

/// Comments quote documents, whatever is in them.
fn on_one_line(text: &str) -> String {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    text.chars().map(|c| if breaks(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
