//! Reading a document field by field, and gathering what is wrong with it and what is to be said of it.
//!
//! A reader returns what it read, or none after it has told a [`Problem`]: so a caller goes on to the next field, and
//! everything wrong with a document is told at once.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::duration::{self, DurationError};
use super::note::{Code, Note};
use super::size;
use super::tree::{Key, Node, Value};
use crate::policy::{Origin, Place};

/// What is wrong, and where: `file:line: field: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: Arc<Path>,
    pub line: Option<u64>,
    /// Such as `spec.to[0].cidrs[1]`; none where the whole file or document is meant.
    pub field: Option<String>,
    pub message: String,
}

/// The problems so far, and the notes, which do no harm.
#[derive(Clone, Debug, Default)]
pub(super) struct Problems {
    list: Vec<Problem>,
    notes: Vec<Note>,
}

/// A value, and the path that leads to it.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    file: &'a Arc<Path>,
    path: String,
    node: &'a Node,
}

/// The fields of a map.
#[derive(Debug)]
pub(super) struct Map<'a> {
    file: &'a Arc<Path>,
    path: String,
    line: u64,
    entries: &'a [(Key, Node)],
}

impl Problems {
    /// The problems and the notes.
    pub(super) fn into_parts(self) -> (Vec<Problem>, Vec<Note>) {
        (self.list, self.notes)
    }

    pub(super) fn note(&mut self, code: Code, place: &Place, message: impl Into<String>) {
        let Place { file, line, field, .. } = place;
        let (file, field) = (Arc::clone(file), field.clone());
        self.notes.push(Note { code, file, line: *line, field, message: message.into() });
    }

    /// Whether anything is wrong with this file so far.
    pub(super) fn are_in(&self, file: &Path) -> bool {
        self.list.iter().any(|problem| &*problem.file == file)
    }

    /// Leaves out these problems.
    pub(super) fn forget(&mut self, others: &[Problem]) {
        self.list.retain(|problem| !others.contains(problem));
    }

    /// Tells a problem of a file as a whole.
    pub(super) fn push(&mut self, problem: Problem) {
        self.list.push(problem);
    }

    pub(super) fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.list.extend(problems);
    }

    fn add(&mut self, file: &Arc<Path>, line: u64, path: &str, message: String) {
        let field = (!path.is_empty()).then(|| path.to_owned());
        self.list.push(Problem { file: Arc::clone(file), line: Some(line), field, message });
    }
}

impl<'a> Field<'a> {
    /// A whole document.
    pub(super) fn root(file: &'a Arc<Path>, node: &'a Node) -> Self {
        Self { file, path: String::new(), node }
    }

    /// A map with any fields.
    pub(super) fn map(&self, problems: &mut Problems) -> Option<Map<'a>> {
        match &self.node.value {
            Value::Map(entries) => {
                Some(Map { file: self.file, path: self.path.clone(), line: self.node.line, entries })
            }
            _ => self.expected(&"a map", problems),
        }
    }

    /// A map with no other fields than these.
    pub(super) fn map_of(&self, known: &[&str], problems: &mut Problems) -> Option<Map<'a>> {
        let map = self.map(problems)?;
        for (key, _) in map.entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            let meant =
                meant(&key.name, known).map(|name| format!(" did you mean {name}?")).unwrap_or_default();
            let message = format!("there is no such field;{meant} there are {}", known.join(", "));
            problems.add(self.file, key.line, &below(&map.path, &key.name), message);
        }
        Some(map)
    }

    /// A map of another system's document: fields with these names, those that mean nothing here, of which a note is made,
    /// and no others.
    pub(super) fn map_ignoring(
        &self,
        known: &[&str],
        ignored: &[&str],
        problems: &mut Problems,
    ) -> Option<Map<'a>> {
        let all: Vec<_> = known.iter().chain(ignored).copied().collect();
        let map = self.map_of(&all, problems)?;
        for field in ignored.iter().filter_map(|name| map.get(name)) {
            problems.note(
                Code::Ignored,
                &field.here(),
                "it has no meaning here, and nothing is done about it",
            );
        }
        Some(map)
    }

    /// A list with something in it.
    pub(super) fn list(&self, problems: &mut Problems) -> Option<Vec<Field<'a>>> {
        match &self.node.value {
            Value::List(items) if items.is_empty() => {
                self.problem("the list is empty; leave the field out for its default", problems)
            }
            Value::List(items) => Some(self.each(items).collect()),
            _ => self.expected(&"a list", problems),
        }
    }

    /// Tells a problem where a list has more items than this.
    pub(super) fn up_to(&self, max: usize, problems: &mut Problems) -> Option<()> {
        match &self.node.value {
            Value::List(items) if items.len() > max => {
                let message = format!("the list may have at most {max} items, and has {}", items.len());
                self.problem(message, problems)
            }
            _ => Some(()),
        }
    }

    /// The items of a list, without a word where it is none.
    pub(super) fn items(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let items = match &self.node.value {
            Value::List(items) => items.as_slice(),
            _ => &[],
        };
        let (file, path) = (self.file, self.path.clone());
        let item = move |(index, node)| Field { file, path: format!("{path}[{index}]"), node };
        items.iter().enumerate().map(item)
    }

    /// The fields of a map, without a word where it is none.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        let (file, path) = (self.file, self.path.clone());
        entries
            .iter()
            .map(move |(key, node)| (key.name.as_str(), Field { file, path: below(&path, &key.name), node }))
    }

    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    /// The item of a list that is this word.
    pub(super) fn item(&self, word: &str) -> Option<Field<'a>> {
        match &self.node.value {
            Value::List(items) => self.each(items).find(|item| item.word().as_deref() == Some(word)),
            Value::Null
            | Value::Bool(_)
            | Value::Whole(_)
            | Value::Decimal(_)
            | Value::Text(_)
            | Value::Map(_) => None,
        }
    }

    /// What these keys lead to, one below the other, as far as they are there.
    pub(super) fn place(&self, keys: &[&str]) -> Place {
        let [first, rest @ ..] = keys else {
            return self.here();
        };
        let Some(child) = self.child(first) else {
            let field = keys.iter().fold(self.path.clone(), |path, key| below(&path, key));
            return Place { file: Arc::clone(self.file), line: self.node.line, field, is_said: false };
        };
        child.place(rest)
    }

    /// The place of what this is.
    pub(super) fn here(&self) -> Place {
        Place { file: Arc::clone(self.file), line: self.node.line, field: self.path.clone(), is_said: true }
    }

    /// Where a policy is from that this is the document of, or the part of one.
    pub(super) fn origin(&self) -> Origin {
        Origin::File { path: Arc::clone(self.file), line: self.node.line }
    }

    pub(super) fn child(&self, key: &str) -> Option<Field<'a>> {
        match &self.node.value {
            Value::Map(entries) => child(self.file, &self.path, entries, key),
            Value::Null
            | Value::Bool(_)
            | Value::Whole(_)
            | Value::Decimal(_)
            | Value::Text(_)
            | Value::List(_) => None,
        }
    }

    pub(super) fn text(&self, problems: &mut Problems) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Whole(_) | Value::Decimal(_) => {
                self.expected(&"text, in quotes where it looks like something else", problems)
            }
            Value::List(_) | Value::Map(_) => self.expected(&"text", problems),
        }
    }

    /// A text of a type whose error says what is expected.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, problems: &mut Problems) -> Option<T> {
        self.text(problems)?.parse().map_or_else(|error| self.expected(&error, problems), Some)
    }

    pub(super) fn whole(&self, range: RangeInclusive<u32>, problems: &mut Problems) -> Option<u32> {
        let number = match self.node.value {
            Value::Whole(number) => u32::try_from(number).ok().filter(|number| range.contains(number)),
            _ => None,
        };
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        number.or_else(|| self.expected(&expected(), problems))
    }

    /// A share of one, in percent.
    pub(super) fn share(&self, problems: &mut Problems) -> Option<u32> {
        let share = match self.node.value {
            Value::Decimal(share) => share,
            Value::Whole(0) => 0.0,
            Value::Whole(1) => 1.0,
            _ => f64::NAN,
        };
        let percent = (0..=100).find(|percent| (share * 100.0 - f64::from(*percent)).abs() < 1e-6);
        percent.or_else(|| self.expected(&"a number from 0 to 1 with at most two decimals", problems))
    }

    pub(super) fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        match self.node.value {
            Value::Bool(value) => Some(value),
            Value::Null
            | Value::Whole(_)
            | Value::Decimal(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => self.expected(&"true or false", problems),
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// A text, or what is one but for missing quotes: `503`.
    pub(super) fn word(&self) -> Option<Cow<'a, str>> {
        match &self.node.value {
            Value::Text(text) => Some(Cow::Borrowed(text)),
            Value::Whole(number) => Some(Cow::Owned(number.to_string())),
            Value::Null | Value::Bool(_) | Value::Decimal(_) | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What one of these words means.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&str, T)], problems: &mut Problems) -> Option<T> {
        let word = self.word();
        let known = words.iter().find(|(known, _)| word.as_deref() == Some(*known));
        known.map(|(_, meaning)| *meaning).or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.expected(&format!("one of {}", words.join(", ")), problems)
        })
    }

    /// A number of bytes.
    pub(super) fn size(&self, max: u64, problems: &mut Problems) -> Option<u64> {
        let size = self.word().and_then(|word| size::parse(&word).ok()).filter(|&size| size <= max);
        size.or_else(|| self.expected(&format!("{}, up to {}", size::NoSize, size::format(max)), problems))
    }

    /// A duration of more than zero.
    pub(super) fn duration(&self, problems: &mut Problems) -> Option<Duration> {
        let expected = "a duration of more than 0, such as 250ms, 5s or 1m30s";
        match self.any_duration() {
            Ok(Duration::ZERO) => self.expected_since(expected, "it is zero", problems),
            Ok(duration) => Some(duration),
            Err(error) => self.expected_since(expected, &error, problems),
        }
    }

    pub(super) fn duration_or_zero(&self, problems: &mut Problems) -> Option<Duration> {
        let expected = "a duration such as 250ms, 5s or 1m30s, or 0s for none";
        self.any_duration().map_or_else(|error| self.expected_since(expected, &error, problems), Some)
    }

    fn each(&self, items: &'a [Node]) -> impl Iterator<Item = Field<'a>> {
        let item = |(index, node)| Field { file: self.file, path: format!("{}[{index}]", self.path), node };
        items.iter().enumerate().map(item)
    }

    fn any_duration(&self) -> Result<Duration, DurationError> {
        let text = match &self.node.value {
            Value::Text(text) => text,
            // A bare number is an error of its own, but a bare 0 is Go's zero.
            Value::Whole(number) => &number.to_string(),
            Value::Decimal(number) => &number.to_string(),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => "",
        };
        duration::parse(text)
    }

    /// What a constructor made, or its complaint as this field's problem.
    pub(super) fn accept<T, E: Display>(&self, made: Result<T, E>, problems: &mut Problems) -> Option<T> {
        made.map_or_else(|error| self.problem(error.to_string(), problems), Some)
    }

    /// Tells that something else was expected here.
    pub(super) fn expected<T>(&self, what: &dyn Display, problems: &mut Problems) -> Option<T> {
        self.problem(format!("expected {what}, found {self}"), problems)
    }

    fn expected_since<T>(&self, what: &str, why: impl Display, problems: &mut Problems) -> Option<T> {
        self.problem(format!("expected {what}, found {self}: {why}"), problems)
    }

    /// Tells a problem here.
    pub(super) fn problem<T>(&self, message: impl Into<String>, problems: &mut Problems) -> Option<T> {
        problems.add(self.file, self.node.line, &self.path, message.into());
        None
    }
}

impl<'a> Map<'a> {
    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        child(self.file, &self.path, self.entries, name)
    }

    /// All fields in their order, by name.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        self.entries.iter().map(|(key, node)| {
            (key.name.as_str(), Field { file: self.file, path: below(&self.path, &key.name), node })
        })
    }

    /// Every item of a list, or nothing where the list is left out.
    pub(super) fn each<T>(
        &self,
        name: &str,
        problems: &mut Problems,
        mut read: impl FnMut(&Field<'a>, &mut Problems) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(list) = self.get(name) else { return Some(Vec::new()) };
        // Each item is read, whatever was wrong with those before it.
        let items: Vec<_> = list.list(problems)?.iter().map(|item| read(item, problems)).collect();
        items.into_iter().collect()
    }

    /// Every item of a list that may have only so many.
    pub(super) fn each_up_to<T>(
        &self,
        name: &str,
        max: usize,
        problems: &mut Problems,
        read: impl FnMut(&Field<'a>, &mut Problems) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.get(name).map_or(Some(()), |list| list.up_to(max, problems))?;
        self.each(name, problems, read)
    }

    pub(super) fn required(&self, name: &str, problems: &mut Problems) -> Option<Field<'a>> {
        let field = self.get(name);
        if field.is_none() {
            problems.add(self.file, self.line, &below(&self.path, name), "the field is required".to_owned());
        }
        field
    }

    /// What is read from a field, or the default where it is left out.
    pub(super) fn optional<T>(
        &self,
        name: &str,
        default: T,
        read: impl FnOnce(Field<'a>) -> Option<T>,
    ) -> Option<T> {
        self.get(name).map_or(Some(default), read)
    }
}

/// The value, as an error shows it.
impl Display for Field<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.node.value.fmt(f)
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { file, line, field, message } = self;
        write!(f, "{}:", file.display())?;
        if let Some(line) = line {
            write!(f, "{line}:")?;
        }
        if let Some(field) = field {
            write!(f, " {field}:")?;
        }
        write!(f, " {message}")
    }
}

fn child<'a>(file: &'a Arc<Path>, path: &str, entries: &'a [(Key, Node)], name: &str) -> Option<Field<'a>> {
    let (_, node) = entries.iter().find(|(key, _)| key.name == name)?;
    Some(Field { file, path: below(path, name), node })
}

/// The field that a misspelt name is likely to mean.
pub(super) fn meant<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Of what is this long nothing is near, and comparing takes as much memory as the name.
    const MAX_BYTES: usize = 64;
    if name.len() > MAX_BYTES {
        return None;
    }
    let distance = |known: &str| {
        if known.eq_ignore_ascii_case(name) { 0 } else { strsim::osa_distance(known, name) }
    };
    let near = known.iter().map(|known| (distance(known), *known));
    // In a short name two letters are most of it.
    let near = near.filter(|(distance, known)| *distance <= 2 && 2 * distance < known.len());
    near.min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// A key that is not a plain word is quoted, so that a problem stays on one line.
fn below(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.chars().all(plain) || key.is_empty() {
        format!("{path}[{key:?}]")
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
