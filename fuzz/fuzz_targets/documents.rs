//! No text is too much for the readers of documents, and each complaint and note is one line with a place.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use redial::dialect::parse;
use redial::policy::Table;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse(Path::new("fuzz.yaml"), text) {
        Ok(parsed) => {
            for note in &parsed.notes {
                assert!(note.line > 0 && !note.to_string().contains('\n'), "{note}");
            }
            let _ = Table::try_new(parsed.policies);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(!problem.to_string().contains('\n'), "{problem}");
            }
        }
    }
});
