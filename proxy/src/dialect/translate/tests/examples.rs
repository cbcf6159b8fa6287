//! Documents as people have them, of every system: what is said of them, and what they mean, by redial's own words.
//!
//! Each folder of `tests/documents/examples` is read as `--config` reads it. Its `expected.txt` has the notes, and then the
//! translation. Whom a policy is for, and what, is said somewhere.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::dialect::translate::{Format, Translation, translate};
use crate::dialect::{Options, parse, read_with};
use crate::policy::{Setting, Table};

fn folders() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/documents/examples");
    let mut folders: Vec<_> = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

/// With `UPDATE_GOLDEN` set the files are written instead.
#[test]
fn they_mean_what_was_written_down() {
    let mut different = Vec::new();
    for folder in folders() {
        let read = read_with(std::slice::from_ref(&folder), Options::default());
        let parsed = read.unwrap_or_else(|error| panic!("{}:\n{error}", folder.display()));
        for policy in &parsed.policies {
            let said = |setting| policy.sources.is_said(setting);
            let (from, to) = (policy.from.is_empty(), policy.to.is_empty());
            assert!((from || said(Setting::From)) && (to || said(Setting::To)), "{}", policy.name);
        }
        let Translation { text, .. } = translate(&parsed, Format::Native);
        let again = parse(Path::new("translated.yaml"), &text).unwrap();
        Table::try_new(again.policies).unwrap();
        let notes = parsed.notes.iter().map(ToString::to_string).chain([String::new()]);
        let told = [notes.collect::<Vec<_>>().join("\n"), text]
            .join("\n")
            .replace(&format!("{}/", folder.display()), "");
        let file = folder.join("expected.txt");
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &told).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != told {
            different.push(format!("{} differs:\n{told}", file.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
