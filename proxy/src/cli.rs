//! The command line: one file a subcommand. Arguments become settings here, and errors become exit codes.

mod check;
mod exec;
mod explain;
mod options;
mod privileges;
mod ready;
mod run;
mod schema;
mod status;
mod translate;

use crate::observe::logging::describe;
use clap::{Parser, Subcommand};
use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

/// What `redial` itself exits with when it fails: of no use to confuse with a command's own code.
const FAILURE: u8 = 1;

/// Makes outbound TCP connections survive transient failure, with eBPF and without a sidecar.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Exec(exec::Arguments),
    Check(check::Arguments),
    Explain(explain::Arguments),
    Schema(schema::Arguments),
    Ready(ready::Arguments),
    Status(status::Arguments),
    Translate(translate::Arguments),
}

/// Runs the command line that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => exit(arguments.run(), FAILURE),
        Command::Exec(arguments) => exit(arguments.run(), exec::FAILURE),
        Command::Check(arguments) => arguments.run(),
        Command::Explain(arguments) => arguments.run(),
        Command::Schema(arguments) => arguments.run(),
        Command::Ready(arguments) => exit(arguments.run(), FAILURE),
        Command::Status(arguments) => exit(arguments.run(), FAILURE),
        Command::Translate(arguments) => arguments.run(),
    }
}

fn exit(result: anyhow::Result<ExitCode>, failure: u8) -> ExitCode {
    result.unwrap_or_else(|error| {
        complain(format_args!("redial: {}", describe(error.as_ref())));
        ExitCode::from(failure)
    })
}

/// Writes what a command was asked for, and exits with this. Whoever reads it, such as `head`, need not read to the end.
fn answer(text: impl Display, code: ExitCode) -> ExitCode {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(format_args!("redial: cannot write the answer: {error}"));
            ExitCode::from(FAILURE)
        }
        Ok(()) | Err(_) => code,
    }
}

/// Says a line on the standard error. Where nobody listens there is nobody to tell that either.
fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
