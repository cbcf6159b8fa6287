//! `redial check`: are these documents good?

mod report;

use super::options::DialectOptions;
use super::{answer, complain};
use crate::dialect;
use clap::{Args, ValueEnum};
use report::Report;
use std::{path::PathBuf, process::ExitCode};

/// Check policy documents: say what is wrong with them, and what they say that does nothing or harm
///
/// Exits with 0 where all of them can be used, with or without warnings; with 1 where any has an error, or with
/// --deny-warnings a warning; and with 2 where the command line is wrong or a path can't be read.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    dialect: DialectOptions,

    /// How the answer is written: for people, for scripts, or for what shows the findings of code scanners
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Exit with 1 where there are warnings
    #[arg(long)]
    deny_warnings: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
    Sarif,
}

/// Some document has an error, or a warning that is denied.
const BAD: u8 = 1;
/// What clap exits with for a wrong command line.
const UNREADABLE: u8 = 2;

impl Arguments {
    pub fn run(self) -> ExitCode {
        let loaded = dialect::load_with(&self.paths, self.dialect.get());
        let report = Report::new(&loaded);
        let code = match &loaded {
            Err(error) if error.is_unreadable() => ExitCode::from(UNREADABLE),
            Err(_) => ExitCode::from(BAD),
            Ok(loaded) if self.deny_warnings && !loaded.notes.is_empty() => ExitCode::from(BAD),
            Ok(_) => ExitCode::SUCCESS,
        };
        match self.format {
            Format::Text if loaded.is_err() => {
                complain(report.text());
                code
            }
            Format::Text => answer(format_args!("{}\n", report.text()), code),
            Format::Json => answer(format_args!("{:#}\n", report.json()), code),
            Format::Sarif => answer(format_args!("{:#}\n", report.sarif()), code),
        }
    }
}

#[cfg(test)]
mod tests;
