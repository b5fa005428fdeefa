//! Draws what policies brought in a market: the share of the optimum, and a day's spend and return over time.

use super::market::{PlanResult, TickResult};
use anyhow::Context;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

/// One bar of the upper panel.
pub(super) struct Bar {
    /// Scenario.
    pub(super) group: String,
    /// Policy.
    pub(super) name: String,
    pub(super) height: f64,
}

/// One policy's day.
pub(super) struct Way {
    /// Policy.
    pub(super) name: String,
    pub(super) scenario: String,
    pub(super) plans: Vec<PlanResult>,
}

type Failed = Box<dyn std::error::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const COLOURS: [RGBColor; 8] = [
    RGBColor(150, 150, 150),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(227, 119, 194),
    RGBColor(31, 119, 180),
];
/// Returns above this multiple of the target are drawn there.
const RETURN_TOP: f64 = 2.5;

/// Above, shares of the best constant multiplier by scenario and policy; below, spend over budget and expected return over target in the
/// course of the day, of one plan (one whose budget binds, one whose return does: by the last policy's figures) and of the mean of all plans, one
/// line for each policy.
pub(super) fn market(path: &Path, bars: &[Bar], ways: &[Way]) -> anyhow::Result<()> {
    draw(path, bars, ways).map_err(|e| anyhow::anyhow!("{e}")).with_context(|| format!("plot {}", path.display()))
}

fn draw(path: &Path, bars: &[Bar], ways: &[Way]) -> Result<(), Failed> {
    let root = SVGBackend::new(path, (1_000, 960)).into_drawing_area();
    root.fill(&WHITE)?;
    let (above, below) = root.split_vertically(400);
    let (left, right) = above.split_horizontally(890);
    let names = names(bars);
    shares(&left, bars, &names)?;
    legend(&right, &names)?;
    let Some(first) = ways.first() else { return Ok(root.present()?) };
    let last = ways.last().unwrap_or(first);
    let (poor, near) = (budget_bound(&last.plans), return_bound(&last.plans));
    let panels = below.split_evenly((2, 2));
    let scenario = &first.scenario;
    let name = |number: usize| first.plans.get(number).map_or("", |plan| plan.name.as_str());
    let spend = |plan: &PlanResult, tick: &TickResult| tick.spent / plan.budget;
    let earned = |plan: &PlanResult, tick: &TickResult| {
        if tick.spent > 0.0 { (tick.value / tick.spent / plan.target).min(RETURN_TOP) } else { 1.0 }
    };
    let poor_one = |way: &Way| way.plans.iter().skip(poor).take(1).cloned().collect::<Vec<_>>();
    let near_one = |way: &Way| way.plans.iter().skip(near).take(1).cloned().collect::<Vec<_>>();
    let all = |way: &Way| way.plans.clone();
    let lines = |plans: &dyn Fn(&Way) -> Vec<PlanResult>, of: &dyn Fn(&PlanResult, &TickResult) -> f64| {
        ways.iter().map(|way| (colour(&names, &way.name), mean(&plans(way), of))).collect::<Vec<_>>()
    };
    over_time(&panels[0], &format!("{scenario}, {}: spent / budget", name(poor)), 1.1, lines(&poor_one, &spend))?;
    over_time(&panels[1], &format!("{scenario}, mean of plans: spent / budget"), 1.1, lines(&all, &spend))?;
    let title = format!("{scenario}, {}: expected return / target", name(near));
    over_time(&panels[2], &title, RETURN_TOP, lines(&near_one, &earned))?;
    over_time(
        &panels[3],
        &format!("{scenario}, mean of plans: expected return / target"),
        RETURN_TOP,
        lines(&all, &earned),
    )?;
    root.present()?;
    Ok(())
}

/// Policies in their first order.
fn names(bars: &[Bar]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for bar in bars {
        if !names.contains(&bar.name) {
            names.push(bar.name.clone());
        }
    }
    names
}

fn colour(names: &[String], name: &str) -> RGBColor {
    COLOURS[names.iter().position(|known| known == name).unwrap_or(0) % COLOURS.len()]
}

/// The first plan that used up its budget, else the first.
fn budget_bound(plans: &[PlanResult]) -> usize {
    plans.iter().position(|plan| plan.spent > 0.95 * plan.budget).unwrap_or(0)
}

/// The plan whose return is nearest to its target.
fn return_bound(plans: &[PlanResult]) -> usize {
    let off = |plan: &PlanResult| (plan.expected_ratio() - 1.0).abs();
    let nearest = plans.iter().enumerate().min_by(|(_, a), (_, b)| off(a).total_cmp(&off(b)));
    nearest.map_or(0, |(number, _)| number)
}

/// Mean over plans by tick: (hour at the tick's end, figure).
#[expect(clippy::cast_precision_loss, reason = "ticks of a day, a count of plans")]
fn mean(plans: &[PlanResult], of: &dyn Fn(&PlanResult, &TickResult) -> f64) -> Vec<(f64, f64)> {
    let ticks = plans.iter().map(|plan| plan.path.len()).min().unwrap_or(0);
    let at = |tick: usize| plans.iter().map(|plan| of(plan, &plan.path[tick])).sum::<f64>() / plans.len() as f64;
    (0..ticks).map(|tick| ((tick + 1) as f64 * 24.0 / ticks as f64, at(tick))).collect()
}

/// Bars of each scenario side by side.
#[expect(clippy::cast_precision_loss, reason = "a count of bars")]
fn shares(area: &Area<'_>, bars: &[Bar], names: &[String]) -> Result<(), Failed> {
    let mut groups: Vec<&str> = bars.iter().map(|bar| bar.group.as_str()).collect();
    groups.dedup();
    let width = names.len() as f64 + 1.0;
    let across = width * groups.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption("value over that of the best constant multiplier in hindsight", ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(26)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..across, 0.0..1.1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(WHITE)
        .y_label_formatter(&|y| format!("{y:.2}"))
        .draw()?;
    for name in names {
        let colour = colour(names, name);
        let of = bars.iter().filter(|bar| bar.name == *name).map(|bar| {
            let group = groups.iter().position(|group| *group == bar.group).unwrap_or(0);
            let at = width * group as f64 + 0.5 + names.iter().position(|other| other == name).unwrap_or(0) as f64;
            Rectangle::new([(at + 0.06, 0.0), (at + 0.94, bar.height)], colour.filled())
        });
        chart.draw_series(of)?;
    }
    chart.draw_series(LineSeries::new([(0.0, 1.0), (across, 1.0)], BLACK.stroke_width(1)))?;
    let style = ("sans-serif", 14).into_font().color(&BLACK).pos(plotters::style::text_anchor::Pos::new(
        plotters::style::text_anchor::HPos::Center,
        plotters::style::text_anchor::VPos::Top,
    ));
    for (number, group) in groups.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(width * (number as f64 + 0.5), 0.0));
        let (left, top) = area.get_base_pixel();
        area.draw(&Text::new((*group).to_owned(), (x - left, y - top + 6), style.clone()))?;
    }
    Ok(())
}

/// Colours and names, one under the other.
fn legend(area: &Area<'_>, names: &[String]) -> Result<(), Failed> {
    let mut y = 60;
    for name in names {
        area.draw(&Rectangle::new([(0, y), (14, y + 12)], colour(names, name).filled()))?;
        area.draw(&Text::new(name.clone(), (22, y), ("sans-serif", 14).into_font().color(&BLACK)))?;
        y += 24;
    }
    Ok(())
}

fn over_time(area: &Area<'_>, title: &str, top: f64, lines: Vec<(RGBColor, Vec<(f64, f64)>)>) -> Result<(), Failed> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..24.0, 0.0..top)?;
    chart.configure_mesh().x_desc("hour").x_labels(9).light_line_style(WHITE).draw()?;
    chart.draw_series(LineSeries::new([(0.0, 1.0), (24.0, 1.0)], BLACK.mix(0.6)))?;
    for (colour, line) in lines {
        chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
    }
    Ok(())
}
