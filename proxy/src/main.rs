//! The `redial` command: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    redial::cli::main()
}
