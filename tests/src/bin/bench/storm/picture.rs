//! The load at the upstream over time.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::{Run, Upstream};
use crate::chart::{OURS, THEIRS, number, short, svg};

const OTHERS: &str = "#db6d28";

/// Of each panel, and where its plot is.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 40.0;
const RIGHT: f64 = 385.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 212.0;

/// So many ticks are one point.
const SMOOTHED: usize = 5;
const POINTS_PER_SECOND: u32 = 2;

pub fn of(runs: &[Run]) -> Result<String> {
    let most = runs.iter().flat_map(|run| rates(&run.arrived.arrived)).fold(1.0, f64::max);
    let mut body = String::new();
    for (upstream, x) in [(Upstream::Well, 0.0), (Upstream::Weak, WIDTH)] {
        let runs: Vec<_> = runs.iter().filter(|run| run.plan.upstream == upstream).collect();
        writeln!(body, r#"<g transform="translate({x} 0)">"#)?;
        body += &panel(upstream, &runs, most)?;
        writeln!(body, "</g>")?;
    }
    let names =
        [("what clients ask for", THEIRS), ("with redial's budget", OURS), ("without a budget", OTHERS)];
    for ((name, colour), x) in names.into_iter().zip([LEFT, 230.0, 420.0]) {
        let y = HEIGHT - 8.0;
        writeln!(body, r#"<rect x="{x}" y="{}" width="18" height="3" fill="{colour}"/>"#, y - 5.0)?;
        writeln!(body, r#"<text x="{}" y="{y}">{name}</text>"#, x + 24.0)?;
    }
    svg(2.0 * WIDTH, HEIGHT, &body)
}

fn panel(upstream: Upstream, runs: &[&Run], most: f64) -> Result<String> {
    let plan = runs.first().context("no runs")?.plan;
    let across = |seconds: f64| LEFT + (RIGHT - LEFT) * seconds / plan.ends;
    let up = |rate: f64| BOTTOM - (BOTTOM - TOP) * rate / most;
    let mut svg = String::new();
    let (title, more) = match upstream {
        Upstream::Well => ("requests a second at the upstream", ""),
        Upstream::Weak => ("the same", ", and afterwards it bears 1.5 times the usual load"),
    };
    writeln!(
        svg,
        r#"<text x="0" y="16" font-weight="600">{title}<tspan font-weight="400">{more}</tspan></text>"#
    )?;
    let (from, to) = (across(plan.fails_from), across(plan.fails_to));
    writeln!(
        svg,
        r#"<rect x="{from:.1}" y="{TOP}" width="{:.1}" height="{}" fill="{THEIRS}" fill-opacity="0.15"/>"#,
        to - from,
        BOTTOM - TOP
    )?;
    writeln!(svg, r#"<text x="{from:.1}" y="{}">everything fails</text>"#, TOP - 6.0)?;
    for share in [0.0, 0.5, 1.0] {
        let (rate, y) = (most * share, up(most * share));
        writeln!(svg, r#"<path d="M{LEFT} {y:.1}H{RIGHT}" stroke="{THEIRS}" stroke-opacity="0.4"/>"#)?;
        writeln!(
            svg,
            r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
            LEFT - 6.0,
            y + 4.0,
            short(rate)
        )?;
    }
    for share in [0.0, 0.5, 1.0] {
        let seconds = plan.ends * share;
        let (x, y) = (across(seconds), BOTTOM + 15.0);
        writeln!(svg, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{seconds} s</text>"#)?;
    }
    let asked = runs.iter().find(|run| run.has_budget).map(|run| (&run.asked.begun, THEIRS));
    let arrived = runs.iter().map(|run| (&run.arrived.arrived, if run.has_budget { OURS } else { OTHERS }));
    for (counts, colour) in asked.into_iter().chain(arrived) {
        let mut points = String::new();
        for (index, rate) in rates(counts).enumerate() {
            let middle = (number(index)? + 0.5) / f64::from(POINTS_PER_SECOND);
            write!(points, "{:.1},{:.1} ", across(middle.min(plan.ends)), up(rate))?;
        }
        writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
            points.trim_end()
        )?;
    }
    Ok(svg)
}

/// A second, of each point; what is less than a point at the end is left out.
fn rates(counts: &[u32]) -> impl Iterator<Item = f64> {
    let (whole, _) = counts.as_chunks::<SMOOTHED>();
    whole.iter().map(|counts| f64::from(counts.iter().sum::<u32>() * POINTS_PER_SECOND))
}
