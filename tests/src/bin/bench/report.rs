//! What a run measured: medians, their spread, their ratio to the direct path and redial's to each peer, as tables and as
//! JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Write as _, stdout};
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::paths::Path;
use crate::run::Length;
use crate::work::{Aim, Case, Measured, Metric, Suite};

/// The path that is set beside each peer.
pub const REDIAL: &str = "redial held";

const LABEL: usize = 46;
const COLUMN: usize = 17;

/// The values of all rounds of a suite, by case, metric and path.
#[derive(Debug)]
pub struct Report {
    suite: Suite,
    rows: BTreeMap<(&'static str, Metric), BTreeMap<&'static str, Vec<f64>>>,
}

/// What the rounds come to for one metric of one case on one path.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cell {
    pub median: f64,
    min: f64,
    max: f64,
    /// The median as a multiple of the direct path's; nothing of which the direct path has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

/// All of a run, for a program to read.
#[derive(Serialize)]
pub struct Document {
    kernel: String,
    processors: usize,
    rounds: usize,
    seconds: f64,
    pub rows: Vec<Row>,
}

#[derive(Serialize)]
pub struct Row {
    pub suite: &'static str,
    pub case: &'static str,
    pub metric: Metric,
    unit: &'static str,
    pub paths: BTreeMap<&'static str, Cell>,
    /// How many times as good as each peer [`REDIAL`] is, of what can be good or bad.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    beside: BTreeMap<&'static str, f64>,
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
                    let beside = self.beside(*metric, &paths);
                    let (suite, unit) = (self.suite.name, metric.unit());
                    rows.push(Row { suite, case: case.name, metric: *metric, unit, paths, beside });
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

    fn beside(&self, metric: Metric, cells: &BTreeMap<&'static str, Cell>) -> BTreeMap<&'static str, f64> {
        let Some((redial, aim)) = cells.get(REDIAL).zip(metric.aim()) else { return BTreeMap::new() };
        let peers = self.suite.paths.iter().filter(|path| path.is_peer());
        peers
            .filter_map(|peer| {
                let theirs = cells.get(peer.name)?.median;
                let times = match aim {
                    Aim::High => redial.median / theirs,
                    Aim::Low => theirs / redial.median,
                };
                times.is_finite().then_some((peer.name, times))
            })
            .collect()
    }
}

impl Document {
    pub fn new(reports: &[Report], length: Length) -> Result<Self> {
        let Length { rounds, each } = length;
        let rows = reports.iter().map(Report::rows).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processors: available_parallelism()?.get(),
            rounds,
            seconds: each.as_secs_f64(),
            rows: rows.into_iter().flatten().collect(),
        })
    }
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

/// Two tables: what there is of each path, and how [`REDIAL`] does beside each peer.
pub fn print(report: &Report) -> Result<()> {
    let rows = report.rows()?;
    let paths: Vec<_> = report.suite.paths.iter().map(|path| path.name).collect();
    let mut text = heading(report.suite.name, &paths)?;
    for row in &rows {
        let (mut medians, mut spreads) = (String::new(), String::new());
        for path in &paths {
            let (median, spread) = match row.paths.get(path) {
                Some(cell) => {
                    let ratio = cell.ratio.map(|ratio| format!("  {ratio:.2}x")).unwrap_or_default();
                    (
                        format!("{}{ratio}", short(cell.median)),
                        format!("{}..{}", short(cell.min), short(cell.max)),
                    )
                }
                None => ("-".to_owned(), String::new()),
            };
            write!(medians, "{median:>COLUMN$}")?;
            write!(spreads, "{spread:>COLUMN$}")?;
        }
        writeln!(text, "{:LABEL$}{medians}\n{:LABEL$}{spreads}", row.label(), "")?;
    }
    let mut peers = report.suite.paths.iter().filter(|path| path.is_peer()).map(|path| path.name).peekable();
    if peers.peek().is_some() {
        let peers: Vec<_> = peers.collect();
        text += &heading(&format!("{REDIAL} beside each, more is better"), &peers)?;
        for row in rows.iter().filter(|row| !row.beside.is_empty()) {
            write!(text, "{:LABEL$}", row.label())?;
            for peer in &peers {
                let times = row.beside.get(peer).map_or("-".to_owned(), |times| format!("{times:.2}x"));
                write!(text, "{times:>COLUMN$}")?;
            }
            text.push('\n');
        }
    }
    Ok(stdout().write_all(text.as_bytes())?)
}

fn heading(what: &str, columns: &[&str]) -> Result<String> {
    let mut text = format!("\n{what:LABEL$}");
    for column in columns {
        write!(text, "{column:>COLUMN$}")?;
    }
    Ok(text + "\n")
}

impl Row {
    fn label(&self) -> String {
        format!("{}, {} {}", self.case, self.metric.label(), self.unit)
    }
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
