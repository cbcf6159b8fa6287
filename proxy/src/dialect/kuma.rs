//! To be written.

use super::Document;
use super::fields::{Field, Problems};
use crate::policy::Policy;

pub(super) const DOCUMENTS: &str = "Kuma Retry and MeshRetry";

pub(super) fn kind(_root: &Field<'_>) -> Option<&'static str> {
    None
}

pub(super) fn policies(_documents: &[Document<'_>], _problems: &mut Problems) -> Vec<Policy> {
    Vec::new()
}
