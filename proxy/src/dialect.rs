//! One file a document format.
