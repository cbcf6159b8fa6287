//! Installing Helm, which renders the chart, from the module `helm.sh/helm/v3`.

use super::{Program, go, missing, programs, there};
use crate::shell::{self, tools};
use anyhow::Result;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const VERSION: &str = "3.22.0";

const TO_BUILD: &[Program] = &[("go", "golang")];

/// Builds it once, in two minutes.
pub(super) fn install() -> Result<()> {
    let program = program()?;
    if program.is_file() {
        there("helm", VERSION);
        return Ok(());
    }
    missing("helm");
    programs(TO_BUILD)?;
    let root = tools()?;
    fs::create_dir_all(&root)?;
    shell::run(
        Command::new(go::program(&root)?)
            .args(["install", "-trimpath"])
            .arg(format!("-ldflags=-s -w -X helm.sh/helm/v3/internal/version.version=v{VERSION}"))
            .arg(format!("helm.sh/helm/v3/cmd/helm@v{VERSION}"))
            .current_dir(&root)
            .envs([("CGO_ENABLED", "0"), ("GOFLAGS", ""), ("GOTOOLCHAIN", "local"), ("GOWORK", "off")])
            .env("GOBIN", program.with_file_name("")),
    )
}

/// Where [`install`] puts it.
pub(crate) fn program() -> Result<PathBuf> {
    Ok(tools()?.join(format!("helm-{VERSION}/bin/helm")))
}
