//! `redial schema`: what a native document may say, for editors and other tools.

use crate::dialect;
use clap::Args;
use std::process::ExitCode;

/// Print the JSON Schema of redial's own policy document
#[derive(Args, Debug)]
pub struct Arguments {}

impl Arguments {
    #[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
    #[expect(clippy::unused_self, reason = "every command is run so")]
    pub fn run(self) -> ExitCode {
        println!("{:#}", dialect::schema());
        ExitCode::SUCCESS
    }
}
