//! No text is too much for the readers of documents, and each complaint and note is one line with a place. What
//! they are translated into can be read.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use redial::dialect::parse;
use redial::dialect::translate::{Format, Translation, translate};
use redial::policy::Table;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse(Path::new("fuzz.yaml"), text) {
        Ok(parsed) => {
            for note in &parsed.notes {
                assert!(note.line > 0 && !note.to_string().contains('\n'), "{note}");
            }
            for format in [Format::Native, Format::GatewayApi] {
                let Translation { text, .. } = translate(&parsed, format);
                if let Err(problems) = parse(Path::new("translated.yaml"), &text) {
                    panic!("{problems:?}\n{text}");
                }
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
