//! YAML text to a tree of values that know their lines. JSON is YAML.
//!
//! The tree is small by construction: input, depth, nodes and what aliases expand to are all limited.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter};

use super::{MAX_DOCUMENTS, MAX_FILE_BYTES, Problem};

/// A value and the line where it starts.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Whole(i128),
    Decimal(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the document; no key is there twice.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) line: u64,
    pub(super) name: String,
}

/// Why a text is no YAML, or too much.
#[derive(Debug)]
pub(super) struct TreeError {
    line: Option<u64>,
    message: String,
}

/// The documents of a text, without the empty ones.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, TreeError> {
    if text.len() > MAX_FILE_BYTES {
        let message = format!("the file is longer than {MAX_FILE_BYTES} bytes");
        return Err(TreeError { line: None, message });
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            max_documents: MAX_DOCUMENTS,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| TreeError {
        line: error.location().map(|location| location.line()),
        message: on_one_line(&UserMessageFormatter.format_message(error.without_snippet())),
    })
}

impl TreeError {
    pub(super) fn at(self, file: &Arc<Path>) -> Problem {
        Problem { file: Arc::clone(file), line: self.line, field: None, message: self.message }
    }
}

/// The parser's messages quote the text, whatever is in it.
fn on_one_line(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// As an error shows a value; a long text and what is inside of a collection are left out.
impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 80;
        match self {
            Self::Null => f.write_str("no value"),
            Self::Bool(value) => value.fmt(f),
            Self::Whole(value) => value.fmt(f),
            // Not all the digits of 1e99.
            Self::Decimal(value) => write!(f, "{value:?}"),
            Self::Text(text) if text.chars().count() > LONGEST => {
                write!(f, "{:?}...", text.chars().take(LONGEST).collect::<String>())
            }
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a map"),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, defined, .. } = Spanned::deserialize(deserializer)?;
        Ok(Self { line: defined.line(), value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Decimal(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = items.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(Spanned { value: name, defined, .. }) = entries.next_key::<Spanned<String>>()? {
            map.push((Key { line: defined.line(), name }, entries.next_value()?));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::{Node, TreeError, Value, parse};

    /// The tree as text: every line with what starts there.
    fn outline(node: &Node) -> String {
        match &node.value {
            Value::List(items) => {
                format!("{}:[{}]", node.line, items.iter().map(outline).collect::<Vec<_>>().join(" "))
            }
            Value::Map(entries) => {
                let entries =
                    entries.iter().map(|(key, node)| format!("{}:{}={}", key.line, key.name, outline(node)));
                format!("{}:{{{}}}", node.line, entries.collect::<Vec<_>>().join(" "))
            }
            value => format!("{}:{value}", node.line),
        }
    }

    fn outlines(text: &str) -> Vec<String> {
        parse(text).unwrap().iter().map(outline).collect()
    }

    fn refusal(text: &str) -> TreeError {
        parse(text).unwrap_err()
    }

    #[test]
    fn every_value_knows_its_line() {
        let text =
            "# a comment\na:\n  - 1\n  - -2\n  - 0.5\nb: {c: yes, d: true, e: '7', f: 010}\ng: ~\nh:\n";
        assert_eq!(
            outlines(text),
            [
                r#"2:{2:a=3:[3:1 4:-2 5:0.5] 6:b=6:{6:c=6:"yes" 6:d=6:true 6:e=6:"7" 6:f=6:"010"} 7:g=7:no value 8:h=8:no value}"#
            ]
        );
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(outlines("{\n\"a\": [1,\n \"b\"]\n}\n"), [r#"1:{2:a=2:[2:1 3:"b"]}"#]);
    }

    #[test]
    fn documents_are_counted_from_the_start_of_the_file() {
        assert_eq!(
            outlines("---\n---\n# none\n---\na: 1\n---\n---\nb: 2\n...\n"),
            ["5:{5:a=5:1}", "8:{8:b=8:2}"]
        );
        assert!(outlines("").is_empty());
        assert!(outlines("# nothing\n").is_empty());
        assert_eq!(outlines("\u{feff}a: 1\n"), ["1:{1:a=1:1}"]);
    }

    #[test]
    fn an_alias_is_where_its_anchor_is() {
        assert_eq!(outlines("a: &x\n  - 1\nb: *x\n"), ["1:{1:a=2:[2:1] 3:b=2:[2:1]}"]);
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_line() {
        for (text, line, part) in [
            ("a: 1\nb: [1\n", 2, "unclosed bracket"),
            ("a: 1\n\tb: 2\n", 1, "tab"),
            ("a: 1\nb: 2\na: 3\n", 3, "duplicate"),
            ("\"a\\n\": 1\n\"a\\n\": 3\n", 2, "duplicate"),
            ("a: 1\n? [b]\n: 2\n", 2, ""),
            ("a: *b\n", 1, "unknown value"),
        ] {
            let error = refusal(text);
            assert_eq!(error.line, Some(line), "{text}: {error:?}");
            assert!(error.message.contains(part) && !error.message.contains('\n'), "{text}: {error:?}");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            writeln!(laughs, "a{n}: &a{n} [{aliases}]").unwrap();
        }
        let deep = "[".repeat(40) + &"]".repeat(40);
        let many = "---\na: 1\n".repeat(1_001);
        let long = format!("a: {}\n", "x".repeat(1 << 20));
        for text in [laughs, deep, many, long] {
            parse(&text).unwrap_err();
        }
        assert_eq!(parse(&"---\na: 1\n".repeat(1_000)).unwrap().len(), 1_000);
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "\\PC{0,80}|[-a-c:{}\\[\\],&*!|>'\"#? \n\t0-9]{0,80}") {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.message.contains('\n'), "{:?}", error);
            }
        }
    }
}
