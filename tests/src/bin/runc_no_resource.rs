//! runc for a machine whose root lacks `CAP_SYS_RESOURCE`, as root inside a container may: it leaves out of a container
//! what takes that capability, which is the capability itself, limits, and a protection from the OOM killer.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let bundle = arguments.iter().enumerate().find_map(|(index, argument)| match argument.as_str() {
        "--bundle" | "-b" => arguments.get(index + 1).map(String::as_str),
        other => other.strip_prefix("--bundle="),
    });
    if let Some(bundle) = bundle {
        let config = Path::new(bundle).join("config.json");
        let text = fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
        let mut value: Value = serde_json::from_str(&text)?;
        if let Some(process) = value.get_mut("process") {
            leave_out(process)?;
        }
        fs::write(&config, value.to_string())?;
    }
    Err(Command::new("runc").args(arguments).exec()).context("starting runc")
}

fn leave_out(process: &mut Value) -> Result<()> {
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        set.retain(|capability| capability != "CAP_SYS_RESOURCE");
    }
    let own: i64 = fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse()?;
    let process = process.as_object_mut().context("a process that is no object")?;
    process.remove("rlimits");
    if process.get("oomScoreAdj").and_then(Value::as_i64).is_some_and(|wanted| wanted < own) {
        process.insert("oomScoreAdj".to_owned(), own.into());
    }
    Ok(())
}
