//! The closed sets of words that a document may say, each in one place: the readers, the schema and what writes documents
//! all take them from here.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::policy::{AddedHeaders, ConnectFailure, Protocol, UpstreamMode};
use crate::retry::connect::Failure;
use crate::retry::request::{Condition, ResetFormat};

/// A set of words, and what each of them means.
pub(in crate::dialect) trait Words: Copy + PartialEq + 'static {
    fn words() -> Vec<(&'static str, Self)>;
}

/// One word of a set, as a document has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dialect) struct Word<T>(pub(in crate::dialect) T);

/// What a value of a header or a parameter has to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dialect) enum MatchType {
    Exact,
    Prefix,
    Suffix,
    Contains,
    RegularExpression,
    Range,
    Present,
    Absent,
}

/// A [`MatchType`] of what has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dialect) struct PresentType(pub(in crate::dialect) MatchType);

impl Words for Protocol {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("auto", Self::Auto), ("http", Self::Http), ("grpc", Self::Grpc), ("tcp", Self::Tcp)]
    }
}

impl Words for AddedHeaders {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("none", Self::None), ("envoy", Self::Envoy)]
    }
}

impl Words for ConnectFailure {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("errno", Self::Errno), ("503", Self::Unavailable)]
    }
}

impl Words for UpstreamMode {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("connection", Self::Connection), ("pool", Self::Pool)]
    }
}

impl Words for Condition {
    fn words() -> Vec<(&'static str, Self)> {
        Self::ALL.map(|condition| (condition.as_str(), condition)).into()
    }
}

impl Words for Failure {
    fn words() -> Vec<(&'static str, Self)> {
        Self::ALL.map(|failure| (failure.as_str(), failure)).into()
    }
}

impl Words for ResetFormat {
    fn words() -> Vec<(&'static str, Self)> {
        Self::ALL.map(|format| (format.as_str(), format)).into()
    }
}

impl Words for MatchType {
    fn words() -> Vec<(&'static str, Self)> {
        let present = PresentType::words().into_iter().map(|(word, PresentType(kind))| (word, kind));
        present.chain([("Absent", Self::Absent)]).collect()
    }
}

impl Words for PresentType {
    fn words() -> Vec<(&'static str, Self)> {
        let all = [
            ("Exact", MatchType::Exact),
            ("Prefix", MatchType::Prefix),
            ("Suffix", MatchType::Suffix),
            ("Contains", MatchType::Contains),
            ("RegularExpression", MatchType::RegularExpression),
            ("Range", MatchType::Range),
            ("Present", MatchType::Present),
        ];
        all.map(|(word, kind)| (word, Self(kind))).into()
    }
}

impl<T: Words> Word<T> {
    pub(in crate::dialect) fn as_str(self) -> &'static str {
        let words = T::words();
        let known = words.iter().find(|(_, meaning)| *meaning == self.0);
        known.map(|(word, _)| *word).unwrap_or_default()
    }
}

impl<T: Words> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<T: Words> JsonSchema for Word<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<_> = T::words().into_iter().map(|(word, _)| word).collect();
        json_schema!({ "type": "string", "enum": words })
    }
}
