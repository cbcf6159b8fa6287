//! A scenario, as it is written in `tests/scenarios/*.yaml`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use redial_tests::exchange::{Client, Protocol};
use redial_tests::http_upstream::{Reaction, Welcome};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::import::Import;
use crate::policy::{Budget, Policy};

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Scenario {
    pub name: String,
    #[serde(default = "both")]
    pub protocols: Vec<Protocol>,
    #[serde(default)]
    pub policy: Policy,
    /// In place of the policy: another system's documents, and Envoy's configuration that the system makes of them.
    pub import: Option<Import>,
    pub budget: Option<Budget>,
    /// How long a connect may take, in milliseconds.
    pub connect_timeout: Option<u64>,
    /// What the network does to the SYNs of attempts to connect.
    pub network: Option<Network>,
    #[serde(default)]
    pub connections: Vec<Welcome>,
    #[serde(default)]
    pub client: Client,
    /// So many clients at once. Only numbers are compared then: see `Observation`.
    pub copies: Option<usize>,
    #[serde(default)]
    pub upstream: Vec<Reaction>,
    /// Headers that are not compared unless a scenario names them here, and how they are to be.
    #[serde(default)]
    pub compare: BTreeMap<String, Compare>,
    /// Response bodies that are each system's own are not compared.
    #[serde(default)]
    pub own_words: bool,
    /// Of many copies: how many of their requests each upstream besides has, at least and at most. It is chance, and so the
    /// two systems' numbers are not compared.
    #[serde(default)]
    pub shares: BTreeMap<String, (usize, usize)>,
    /// Bounds of the time between the n-th attempt and the next, from zero, for each.
    #[serde(default)]
    pub intervals: Vec<Interval>,
    /// What must be so with Envoy, so that the scenario tests what its name says.
    pub envoy: Facts,
    /// What redial is meant to do otherwise: one difference or a list.
    #[serde(default, deserialize_with = "one_or_many")]
    pub differs: Vec<Differs>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Network {
    Refuse,
    /// The first so many.
    RefuseFirst(u32),
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compare {
    Exact,
    /// Not at all.
    Ignored,
    /// Only whether it is there.
    Presence,
    /// A number of milliseconds, rounded up to whole seconds.
    Rough,
}

/// Of many samples.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Interval {
    /// Every sample is in here, in milliseconds. The network and the machine may add to it, so this is never tight.
    pub within: (u64, u64),
    /// Their mean is in here.
    pub mean: (u64, u64),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Facts {
    /// Requests that the upstream saw.
    pub attempts: Option<usize>,
    /// Requests that the upstreams besides saw.
    #[serde(default)]
    pub others: BTreeMap<String, usize>,
    /// Attempts to connect; only where the network interferes.
    pub connects: Option<usize>,
    /// Of the last response; 0 for none.
    pub status: Option<u16>,
    /// How the last response ended.
    pub end: Option<String>,
    /// What its body has in it.
    pub body: Option<String>,
    /// How long the client waited, in milliseconds.
    pub ms: Option<(u64, u64)>,
    /// How many copies got which status.
    pub statuses: Option<BTreeMap<u16, usize>>,
}

/// That redial is meant to be different here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Differs {
    /// As docs/semantics.md calls it.
    pub name: String,
    /// For one protocol only.
    pub protocol: Option<Protocol>,
    /// Each place in the observation that differs, and what redial has there. An object stands for any that has these
    /// members; null for nothing.
    pub redial: BTreeMap<String, Value>,
}

/// `{500}` in a text is so many letters, and `{headers}` two hundred headers: what nobody wants to read in a file.
fn expand(value: &mut Value) {
    match value {
        Value::String(text) => {
            if text.contains("{headers}") {
                *text = text.replace("{headers}", &"X-A: b\r\n".repeat(200));
            }
            if let Some((before, rest)) = text.split_once('{')
                && let Some((count, after)) = rest.split_once('}')
                && let Ok(count) = count.parse()
            {
                *text = format!("{before}{}{after}", "x".repeat(count));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(expand),
        Value::Object(map) => map.values_mut().for_each(expand),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<Differs>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let list = if value.is_array() { value } else { Value::Array(vec![value]) };
    serde_json::from_value(list).map_err(D::Error::custom)
}

fn both() -> Vec<Protocol> {
    vec![Protocol::H1, Protocol::H2]
}

impl Scenario {
    /// All of them, by file.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut files: Vec<_> = std::fs::read_dir(&folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()
            .with_context(|| format!("reading {}", folder.display()))?;
        files.sort();
        let mut scenarios = Vec::new();
        for file in files {
            let topic = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&file)?;
            let list: Vec<Value> =
                serde_saphyr::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
            for mut value in list {
                let shown = value["name"].as_str().unwrap_or("without a name").to_owned();
                // Documents have braces of their own.
                let import = value.as_object_mut().and_then(|fields| fields.remove("import"));
                expand(&mut value);
                if let Some(import) = import {
                    let is_said = |field: &&&str| !value[**field].is_null();
                    if let Some(field) = ["policy", "budget", "connect-timeout"].iter().find(is_said) {
                        bail!("{topic}: {shown} has an import, which {field} has no part in");
                    }
                    value["import"] = import;
                }
                let mut scenario: Self = serde_json::from_value(value)
                    .with_context(|| format!("{}: the scenario {shown}", file.display()))?;
                ensure!(
                    scenario.envoy.attempts.or(scenario.envoy.connects).is_some(),
                    "{topic}: {shown} does not say how many attempts there are"
                );
                if let Some(import) = &scenario.import {
                    import.check().with_context(|| format!("{topic}: {shown}"))?;
                }
                scenario.name = format!("{topic}: {shown}");
                scenarios.push(scenario);
            }
        }
        Ok(scenarios)
    }
}

impl Differs {
    pub(crate) fn concerns(&self, protocol: Protocol) -> bool {
        self.protocol.is_none_or(|own| own == protocol)
    }
}
