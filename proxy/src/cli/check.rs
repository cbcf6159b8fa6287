//! `redial check`: are these documents good?

use crate::dialect;
use clap::Args;
use std::{path::PathBuf, process::ExitCode};

/// Check policy documents, and say what is wrong with them
///
/// Exits with 0 where all of them can be used, and with 1 where any has an error.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Arguments {
    #[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let table = dialect::load(&self.paths)?;
        for policy in table.policies() {
            println!("{}: {}", policy.origin, policy.name);
        }
        Ok(ExitCode::SUCCESS)
    }
}
