//! What a run measured: medians, their spread and their ratio to the direct path, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Write as _, stdout};
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::paths::Path;
use crate::run::Length;
use crate::work::{Case, Measured, Metric, Suite};

const LABEL: usize = 34;
const COLUMN: usize = 20;

/// The values of all rounds of a suite, by case, metric and path.
#[derive(Debug)]
pub struct Report {
    suite: Suite,
    rows: BTreeMap<(&'static str, Metric), BTreeMap<&'static str, Vec<f64>>>,
}

/// What the rounds come to for one metric of one case on one path.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cell {
    median: f64,
    min: f64,
    max: f64,
    /// The median as a multiple of the direct path's; nothing of which the direct path has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

#[derive(Serialize)]
struct Document {
    kernel: String,
    processors: usize,
    rounds: usize,
    seconds: f64,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    case: &'static str,
    metric: Metric,
    unit: &'static str,
    paths: BTreeMap<&'static str, Cell>,
}

impl Report {
    pub fn new(suite: Suite) -> Self {
        Self { suite, rows: BTreeMap::new() }
    }

    pub fn add(&mut self, case: &Case, path: Path, measured: &Measured) {
        for (metric, value) in &measured.values {
            let row = self.rows.entry((case.name, *metric)).or_default();
            row.entry(path.name).or_default().push(*value);
        }
    }

    /// In the order of the cases.
    fn rows(&self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for case in self.suite.cases {
            for ((name, metric), paths) in &self.rows {
                if *name == case.name {
                    let paths = self.cells(paths)?;
                    rows.push(Row { case: case.name, metric: *metric, unit: metric.unit(), paths });
                }
            }
        }
        Ok(rows)
    }

    fn cells(&self, paths: &BTreeMap<&'static str, Vec<f64>>) -> Result<BTreeMap<&'static str, Cell>> {
        let direct = match paths.get(self.suite.paths[0].name) {
            Some(values) => Some(Cell::of(values, None)?.median),
            None => None,
        };
        paths.iter().map(|(path, values)| Ok((*path, Cell::of(values, direct)?))).collect()
    }
}

/// All of a run, for a program to read.
pub fn json(reports: &[Report], length: Length) -> Result<String> {
    let Length { rounds, each } = length;
    let rows = reports.iter().map(Report::rows).collect::<Result<Vec<_>>>()?;
    let document = Document {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processors: available_parallelism()?.get(),
        rounds,
        seconds: each.as_secs_f64(),
        rows: rows.into_iter().flatten().collect(),
    };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

impl Cell {
    fn of(values: &[f64], direct: Option<f64>) -> Result<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = sorted.first().zip(sorted.last()).context("no rounds")?;
        let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Ok(Self { median, min: *min, max: *max, ratio: direct.map(|direct| median / direct) })
    }
}

/// Two lines a row: medians with their ratios to the direct path, and below them the least and the greatest.
pub fn print(report: &Report) -> Result<()> {
    let mut text = format!("{:LABEL$}", "");
    for path in report.suite.paths {
        write!(text, "{:>COLUMN$}", path.name)?;
    }
    text.push('\n');
    for row in report.rows()? {
        let (mut medians, mut spreads) = (String::new(), String::new());
        for path in report.suite.paths {
            let (median, spread) = match row.paths.get(path.name) {
                Some(cell) => (
                    format!(
                        "{}{}",
                        short(cell.median),
                        cell.ratio.map(|ratio| format!("  {ratio:.2}x")).unwrap_or_default()
                    ),
                    format!("{}..{}", short(cell.min), short(cell.max)),
                ),
                None => ("-".to_owned(), String::new()),
            };
            write!(medians, "{median:>COLUMN$}")?;
            write!(spreads, "{spread:>COLUMN$}")?;
        }
        let label = format!("{}, {}, {}", row.case, row.metric.label(), row.unit);
        writeln!(text, "{label:LABEL$}{medians}\n{:LABEL$}{spreads}", "")?;
    }
    Ok(stdout().write_all(text.as_bytes())?)
}

/// Three digits, or all before the point.
fn short(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::Cell;

    #[test]
    fn a_cell_is_the_middle_of_its_rounds_and_their_spread() {
        let written =
            |values: &[f64], direct| serde_json::to_string(&Cell::of(values, direct).unwrap()).unwrap();
        assert_eq!(
            written(&[30.0, 10.0, 20.0], Some(10.0)),
            r#"{"median":20.0,"min":10.0,"max":30.0,"ratio":2.0}"#
        );
        assert_eq!(written(&[4.0, 1.0, 2.0, 3.0], None), r#"{"median":2.5,"min":1.0,"max":4.0}"#);
        assert!(Cell::of(&[], None).is_err());
    }
}
