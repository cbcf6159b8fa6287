//! `redial schema`: what a native document may say, for editors and other tools.

use super::answer;
use crate::dialect;
use clap::Args;
use std::process::ExitCode;

/// Print the JSON Schema of redial's own policy document
#[derive(Args, Debug)]
pub struct Arguments {}

impl Arguments {
    #[expect(clippy::unused_self, reason = "every command is run so")]
    pub fn run(self) -> ExitCode {
        answer(format_args!("{:#}\n", dialect::schema()), ExitCode::SUCCESS)
    }
}
