//! The command line: one file a subcommand.

use std::process::ExitCode;

#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
