//! `redial translate`: the same policies in another format.

use super::options::DialectOptions;
use super::{answer, complain};
use crate::dialect::{self, translate};
use clap::{Args, ValueEnum};
use std::{path::PathBuf, process::ExitCode};

/// Write policy documents anew in another format, with the same meaning
///
/// What the format can't say is a comment above the document, with its place in the original. Exits with 0; with 1
/// where any document has an error, or with --deny-loss where something can't be said; and with 2 where the command
/// line is wrong or a path can't be read.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// redial's own RetryPolicy; or HTTPRoute, GRPCRoute and XBackendTrafficPolicy
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Format,

    #[command(flatten)]
    dialect: DialectOptions,

    /// Exit with 1 where something can't be said in the other format
    #[arg(long)]
    deny_loss: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Native,
    GatewayApi,
}

/// Some document has an error, or something that can't be said, which is denied.
const BAD: u8 = 1;
/// What clap exits with for a wrong command line.
const UNREADABLE: u8 = 2;

impl Arguments {
    pub fn run(self) -> ExitCode {
        let parsed = match dialect::read_with(&self.paths, self.dialect.get()) {
            Ok(parsed) => parsed,
            Err(error) => {
                complain(&error);
                return ExitCode::from(if error.is_unreadable() { UNREADABLE } else { BAD });
            }
        };
        let format = match self.to {
            Format::Native => translate::Format::Native,
            Format::GatewayApi => translate::Format::GatewayApi,
        };
        let translate::Translation { text, losses } = translate::translate(&parsed, format);
        let is_denied = self.deny_loss && losses > 0;
        let code = answer(text, if is_denied { ExitCode::from(BAD) } else { ExitCode::SUCCESS });
        if losses > 0 {
            let things = if losses == 1 { "1 thing" } else { &format!("{losses} things") };
            complain(format_args!(
                "redial: {things} cannot be said in this format; the comments above the documents say what"
            ));
        }
        code
    }
}

#[cfg(test)]
mod tests;
