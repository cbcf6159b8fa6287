//! `redial schema`: what a native document may say, for editors and other tools.

use super::answer;
use crate::dialect;
use clap::Args;
use std::process::ExitCode;

/// Print the JSON Schema of redial's own policy document
#[derive(Args, Debug)]
pub struct Arguments {
    /// Print the CustomResourceDefinition by which a Kubernetes cluster knows such documents instead
    #[arg(long)]
    crd: bool,
}

impl Arguments {
    pub fn run(self) -> ExitCode {
        let told = if self.crd { dialect::crd() } else { format!("{:#}\n", dialect::schema()) };
        answer(told, ExitCode::SUCCESS)
    }
}
