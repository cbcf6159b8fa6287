//! How it ends.

use std::fs;
use std::process::ExitCode;

use clap::Parser;
use tempfile::TempDir;

use super::{Arguments, BAD, UNREADABLE};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

#[test]
fn the_exit_code_says_whether_all_is_well() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = path(
        "good.yaml",
        "{apiVersion: redial.dev/v1alpha1, kind: RetryPolicy, metadata: {name: a}, spec: {http: {upstream: pool}}}",
    );
    let bad = path("bad.yaml", "{apiVersion: redial.dev/v1alpha1, kind: RetryPolicy}");
    let missing = folder.path().join("missing.yaml").display().to_string();
    for (words, code) in [
        (&["--to", "native", &good][..], ExitCode::SUCCESS),
        (&["--to", "native", "--deny-loss", &good], ExitCode::SUCCESS),
        (&["--to", "gateway-api", &good], ExitCode::SUCCESS),
        (&["--to", "gateway-api", "--deny-loss", &good], ExitCode::from(BAD)),
        (&["--to", "native", &good, &bad], ExitCode::from(BAD)),
        (&["--to", "native", &missing], ExitCode::from(UNREADABLE)),
    ] {
        let line = Line::try_parse_from(["redial"].iter().chain(words)).unwrap();
        assert_eq!(line.arguments.run(), code, "{words:?}");
    }
    for words in [&["--to", "kuma", "x"][..], &["--to", "native"], &["x"]] {
        Line::try_parse_from(["redial"].iter().chain(words)).unwrap_err();
    }
}
