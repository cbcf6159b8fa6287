//! Pictures of what was measured, as SVG: bars for the run, lines for what goes on over time. Their colours can be read on
//! light and on dark ground, and they have none of their own.

use std::fmt::Write as _;

use anyhow::Result;

use crate::report::{Cell, Document, REDIAL, Row};
use crate::work::Metric;

const TEXT: &str = "#7d8590";
pub const OURS: &str = "#2f81f7";
pub const THEIRS: &str = "#9198a1";

const COLUMN: f64 = 400.0;
const LABEL: f64 = 92.0;
const BAR: f64 = 190.0;
const LINE: f64 = 20.0;

/// A panel of bars.
struct Panel {
    title: &'static str,
    suite: &'static str,
    case: &'static str,
    metric: Metric,
}

const fn panel(title: &'static str, suite: &'static str, case: &'static str, metric: Metric) -> Panel {
    Panel { title, suite, case, metric }
}

const PANELS: &[Panel] = &[
    panel("requests per CPU-second", "http", "small answers", Metric::CpuMicrosecondsPerRequest),
    panel("requests per CPU-second", "http", "small, 30 % fail", Metric::CpuMicrosecondsPerRequest),
    panel("requests per CPU-second", "http", "gRPC, 256 streams", Metric::CpuMicrosecondsPerRequest),
    panel("requests per CPU-second", "http", "new connections", Metric::CpuMicrosecondsPerRequest),
    panel("GiB a second", "tcp", "1 stream down", Metric::GibibytesPerSecond),
    panel("GiB a second", "tcp", "64 streams down", Metric::GibibytesPerSecond),
];

/// What stands in a panel: a path's name, and how much it has.
type Bar = (&'static str, f64);

/// Redial beside the others, as far as it was measured.
pub fn of(document: &Document) -> Result<String> {
    let panels: Vec<_> = PANELS.iter().map(|panel| (panel, panel.bars(&document.rows))).collect();
    let panels: Vec<_> = panels.into_iter().filter(|(_, bars)| !bars.is_empty()).collect();
    let (mut body, mut y) = (String::new(), 0.0);
    for pair in panels.chunks(2) {
        let mut lines = 0;
        for ((panel, bars), x) in pair.iter().zip([0.0, COLUMN]) {
            body += &panel.draw(bars, x, y)?;
            lines = lines.max(bars.len());
        }
        y += 44.0 + LINE * number(lines)?;
    }
    svg(2.0 * COLUMN, y, &body)
}

/// A picture of a size.
pub fn svg(width: f64, height: f64, body: &str) -> Result<String> {
    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="12" fill="{TEXT}">"#
    )?;
    svg.push_str(body);
    svg.push_str("</svg>\n");
    Ok(svg)
}

impl Panel {
    fn bars(&self, rows: &[Row]) -> Vec<Bar> {
        let row = |metric| {
            rows.iter().find(|row| (row.suite, row.case, row.metric) == (self.suite, self.case, metric))
        };
        let Some(measured) = row(self.metric) else { return Vec::new() };
        let failed = row(Metric::FailedPercent);
        // Who passes failures on has done something else.
        let has_failed =
            |path| failed.and_then(|row| row.paths.get(path)).is_some_and(|cell| cell.median > 0.0);
        let shown = |path: &str| path == REDIAL || !path.starts_with("redial");
        let cells = measured.paths.iter().filter(|(path, _)| shown(path) && !has_failed(**path));
        let mut bars: Vec<Bar> = cells.map(|(path, cell)| (*path, self.amount(*cell))).collect();
        bars.sort_by(|left, right| right.1.total_cmp(&left.1));
        bars
    }

    fn amount(&self, cell: Cell) -> f64 {
        if self.metric == Metric::CpuMicrosecondsPerRequest { 1e6 / cell.median } else { cell.median }
    }

    fn draw(&self, bars: &[Bar], x: f64, y: f64) -> Result<String> {
        let mut svg = String::new();
        let title = y + 16.0;
        writeln!(
            svg,
            r#"<text x="{x}" y="{title}" font-weight="600">{}<tspan font-weight="400">, {}</tspan></text>"#,
            self.title, self.case
        )?;
        let most = bars.first().map_or(1.0, |(_, amount)| *amount);
        let ours = bars.iter().find(|(path, _)| *path == REDIAL).map(|(_, amount)| *amount);
        for (index, (path, amount)) in bars.iter().enumerate() {
            let top = y + 26.0 + LINE * number(index)?;
            let (is_ours, base) = (*path == REDIAL, top + 12.0);
            let colour = if is_ours { OURS } else { THEIRS };
            let name = if is_ours { "redial" } else { path };
            let (bar, length) = (x + LABEL, BAR * amount / most);
            let end = bar + length + 6.0;
            let times = ours.map_or(String::new(), |ours| format!("{:.2}×", amount / ours));
            let weight = if is_ours { r#" font-weight="600""# } else { "" };
            writeln!(
                svg,
                r#"<text x="{:.0}" y="{base}" text-anchor="end"{weight}>{name}</text>"#,
                bar - 8.0
            )?;
            writeln!(
                svg,
                r#"<rect x="{bar}" y="{top}" width="{length:.1}" height="15" rx="2" fill="{colour}"/>"#
            )?;
            writeln!(svg, r#"<text x="{end:.1}" y="{base}"{weight}>{}  {times}</text>"#, short(*amount))?;
        }
        Ok(svg)
    }
}

/// With a k for thousands.
pub fn short(amount: f64) -> String {
    match amount {
        ..10.0 => format!("{amount:.2}"),
        10.0..1000.0 => format!("{amount:.0}"),
        _ => format!("{:.1}k", amount / 1000.0),
    }
}

pub fn number(count: usize) -> Result<f64> {
    Ok(f64::from(u32::try_from(count)?))
}
