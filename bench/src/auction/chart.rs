//! Draws a day: spend and return over time.

use super::market::{PlanResult, TickResult};
use anyhow::Context;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

/// Spend as a share of the budget above, return as a share of the target below, one line for each plan.
pub(super) fn day(path: &Path, title: &str, plans: &[PlanResult]) -> anyhow::Result<()> {
    draw(path, title, plans).map_err(|e| anyhow::anyhow!("{e}")).with_context(|| format!("plot {}", path.display()))
}

type Failed = Box<dyn std::error::Error>;

fn draw(path: &Path, title: &str, plans: &[PlanResult]) -> Result<(), Failed> {
    let root = SVGBackend::new(path, (900, 620)).into_drawing_area();
    root.fill(&WHITE)?;
    let halves = root.split_evenly((2, 1));
    panel(&halves[0], &format!("{title}: spent / budget"), plans, |plan, tick| tick.spent / plan.budget)?;
    panel(&halves[1], "return / target", plans, |plan, tick| {
        if tick.spent > 0.0 { (tick.value / tick.spent / plan.target).min(3.0) } else { 1.0 }
    })?;
    root.present()?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "ticks of a day")]
fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    plans: &[PlanResult],
    of: impl Fn(&PlanResult, &TickResult) -> f64,
) -> Result<(), Failed> {
    let line = |plan: &PlanResult| -> Vec<(f64, f64)> {
        let ticks = plan.path.len().max(1) as f64;
        plan.path.iter().enumerate().map(|(i, tick)| ((i + 1) as f64 * 24.0 / ticks, of(plan, tick))).collect()
    };
    let lines: Vec<_> = plans.iter().map(line).collect();
    let top = lines.iter().flatten().map(|point| point.1).fold(1.1, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..24.0, 0.0..top)
        .map_err(|e| e.to_string())?;
    chart.configure_mesh().x_desc("hour").light_line_style(WHITE).draw().map_err(|e| e.to_string())?;
    for (number, line) in lines.into_iter().enumerate() {
        let style = Palette99::pick(number).stroke_width(1);
        chart.draw_series(LineSeries::new(line, style)).map_err(|e| e.to_string())?;
    }
    let target = LineSeries::new([(0.0, 1.0), (24.0, 1.0)], BLACK.stroke_width(1));
    chart.draw_series(target).map_err(|e| e.to_string())?;
    Ok(())
}
