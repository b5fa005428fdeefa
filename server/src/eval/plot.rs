//! Curves over the history length, and calibration, as SVG.

use super::bootstrap::Figure;
use super::labels::Bin;
use super::metrics::{Quality, number};
use super::report::{Impressions, Nexts, Report};
use anyhow::Context;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// Width and height of one panel.
const PANEL: (u32, u32) = (420, 340);
const BLUE: RGBColor = RGBColor(31, 99, 165);
const GREY: RGBColor = RGBColor(120, 120, 120);
const RED: RGBColor = RGBColor(196, 60, 50);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// One figure over the history length.
struct Curve {
    title: String,
    points: Vec<(f64, f64, f64)>,
    /// A line to compare with, and its name.
    level: Option<(f64, &'static str)>,
}

/// Calibration of one prediction at the longest history.
struct Reliability {
    title: String,
    bins: Vec<Bin>,
}

/// Draws a report.
///
/// # Errors
/// Nothing to draw, or the file cannot be written.
pub fn draw(path: &Path, report: &Report) -> anyhow::Result<()> {
    let (curves, bins) = (curves(report), reliability(report));
    let panels = curves.len() + bins.len();
    if panels == 0 {
        anyhow::bail!("--plot: nothing was measured");
    }
    panels_on(path, &curves, &bins)
        .map_err(|fault| anyhow::anyhow!("{fault}"))
        .with_context(|| format!("plot {}", path.display()))
}

fn panels_on(path: &Path, curves: &[Curve], bins: &[Reliability]) -> Drawn {
    let panels = curves.len() + bins.len();
    let columns = panels.min(3);
    let rows = panels.div_ceil(columns);
    let size = |panel: u32, count: usize| Ok::<_, std::num::TryFromIntError>(panel * u32::try_from(count)?);
    let area = SVGBackend::new(path, (size(PANEL.0, columns)?, size(PANEL.1, rows)?)).into_drawing_area();
    area.fill(&WHITE)?;
    let areas = area.split_evenly((rows, columns));
    let mut areas = areas.iter();
    for (curve, area) in curves.iter().zip(areas.by_ref()) {
        draw_curve(area, curve)?;
    }
    for (one, area) in bins.iter().zip(areas) {
        draw_reliability(area, one)?;
    }
    area.present()?;
    Ok(())
}

fn curves(report: &Report) -> Vec<Curve> {
    let mut list = Vec::new();
    if let Some(shown) = &report.impressions {
        let best = |key: &str, own: Option<f64>| {
            let value = own.or_else(|| shown.best_in_file.get(key).copied());
            value.filter(|value| value.is_finite()).map(|value| (value, "best achievable"))
        };
        let curve = |title: &str, pick: fn(&Impressions, usize) -> &Figure, level| {
            let points = shown.lengths.iter().enumerate().map(|(at, length)| point(length.length, pick(shown, at)));
            Curve { title: title.to_owned(), points: finite(points), level }
        };
        let own = |pick: fn(&super::report::Best) -> f64| shown.best.as_ref().map(pick);
        list.push(curve(
            "AUC (click)",
            |all, at| &all.lengths[at].click.auc,
            best("auc_click", own(|best| best.click.auc.value)),
        ));
        list.push(curve(
            "AUC (conversion)",
            |all, at| &all.lengths[at].conversion.auc,
            best("auc_conversion", own(|best| best.conversion.auc.value)),
        ));
    }
    if let Some(next) = &report.next {
        // recall of the longest list, NDCG of the shortest.
        let keys = next.popularity.recall.keys();
        if let (Some(&long), Some(&short)) = (keys.clone().last(), keys.clone().next()) {
            list.push(of_next(next, &format!("recall@{long}"), |quality| &quality.recall[&long]));
            list.push(of_next(next, &format!("NDCG@{short}"), |quality| &quality.ndcg[&short]));
        }
    }
    list
}

fn of_next(next: &Nexts, title: &str, pick: impl Fn(&Quality) -> &Figure) -> Curve {
    let points = next.lengths.iter().map(|at| point(at.length, pick(&at.quality)));
    let level = Some((pick(&next.popularity).value, "popularity"));
    Curve { title: title.to_owned(), points: finite(points), level }
}

fn point(length: usize, figure: &Figure) -> (f64, f64, f64) {
    (number(length), figure.value, if figure.error.is_finite() { figure.error } else { 0.0 })
}

fn finite(points: impl Iterator<Item = (f64, f64, f64)>) -> Vec<(f64, f64, f64)> {
    points.filter(|point| point.1.is_finite()).collect()
}

fn reliability(report: &Report) -> Vec<Reliability> {
    let Some(at) = report.impressions.as_ref().and_then(|shown| shown.lengths.last()) else { return Vec::new() };
    let of = |what: &str, bins: &[Bin]| Reliability {
        title: format!("calibration ({what}), {} events", at.length),
        bins: bins.to_vec(),
    };
    vec![of("click", &at.click.bins), of("conversion", &at.conversion.bins)]
}

/// The values drawn and some room around them.
fn span(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    if !low.is_finite() || !high.is_finite() {
        return 0.0..1.0;
    }
    // No figure is below 0.
    let room = ((high - low) * 0.15).max(high.abs() * 0.01).max(1e-4);
    (low - room).max(0.0)..high + room
}

fn draw_curve(area: &Area<'_>, curve: &Curve) -> Drawn {
    let ends = curve.points.iter().flat_map(|&(_, value, error)| [value - error, value + error]);
    let high = span(ends.chain(curve.level.map(|level| level.0)));
    let lengths: Vec<f64> = curve.points.iter().map(|point| point.0).collect();
    let first = lengths.first().copied().unwrap_or(1.0);
    let wide = first / 1.5..lengths.last().copied().unwrap_or(first) * 1.5;
    let mut chart = ChartBuilder::on(area)
        .caption(&curve.title, ("sans-serif", 17))
        .margin(12)
        .margin_right(26)
        .x_label_area_size(38)
        .y_label_area_size(58)
        .build_cartesian_2d(wide.clone().log_scale().with_key_points(lengths), high)?;
    chart
        .configure_mesh()
        .x_desc("newest events of the history")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.3}"))
        .y_labels(6)
        .light_line_style(WHITE)
        .draw()?;
    if let Some((level, name)) = curve.level {
        let line = [(wide.start, level), (wide.end, level)];
        chart.draw_series(DashedLineSeries::new(line, 6, 4, GREY.stroke_width(2)))?;
        let above = TextStyle::from(("sans-serif", 13)).color(&GREY).pos(Pos::new(HPos::Left, VPos::Bottom));
        chart.draw_series([Text::new(name, (wide.start * 1.05, level), above)])?;
    }
    let points = curve.points.iter();
    chart.draw_series(LineSeries::new(points.clone().map(|&(x, y, _)| (x, y)), BLUE.stroke_width(2)))?;
    chart.draw_series(
        points.map(|&(x, y, error)| ErrorBar::new_vertical(x, (y - error).max(0.0), y, y + error, BLUE.filled(), 8)),
    )?;
    Ok(())
}

fn draw_reliability(area: &Area<'_>, one: &Reliability) -> Drawn {
    let highest = one.bins.iter().map(|bin| bin.predicted.max(bin.observed + bin.error)).fold(0.0, f64::max);
    let high = if highest > 0.0 { highest * 1.08 } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(&one.title, ("sans-serif", 17))
        .margin(12)
        .margin_right(26)
        .x_label_area_size(38)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..high, 0.0..high)?;
    chart
        .configure_mesh()
        .x_desc("predicted (bins of equal mass)")
        .y_desc("observed")
        .x_label_formatter(&|x| format!("{x:.3}"))
        .y_label_formatter(&|y| format!("{y:.3}"))
        .x_labels(5)
        .y_labels(6)
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series(DashedLineSeries::new([(0.0, 0.0), (high, high)], 6, 4, GREY.stroke_width(1)))?;
    chart.draw_series(one.bins.iter().map(|bin| {
        let low = (bin.observed - bin.error).max(0.0);
        ErrorBar::new_vertical(bin.predicted, low, bin.observed, bin.observed + bin.error, RED.filled(), 6)
    }))?;
    Ok(())
}
