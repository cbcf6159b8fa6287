//! Documents as text.

use serde::Serialize;

/// A document as YAML 1.1 and 1.2 read it alike.
pub(in crate::dialect) fn write(document: &impl Serialize) -> String {
    let options = serde_saphyr::ser_options! { compact_list_indent: false, prefer_block_scalars: false };
    // Only a map whose keys are no texts could not be written, and a document has none.
    serde_saphyr::to_string_with_options(document, options).unwrap_or_default()
}
