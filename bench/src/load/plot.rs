//! The load curve: latency percentiles against the offered rate, as SVG.

use super::open_loop::Figures;
use anyhow::Context;
use plotters::prelude::*;
use std::path::Path;

/// Draws p50, p99 and p99.9 (log scale) over the offered rate, with the latency bound.
pub(crate) fn latency_curve(path: &Path, steps: &[Figures], bound_ms: f64) -> anyhow::Result<()> {
    draw(path, steps, bound_ms).map_err(|e| anyhow::anyhow!("{e}")).with_context(|| format!("plot {}", path.display()))
}

type Pick = fn(&Figures) -> f64;

fn draw(path: &Path, steps: &[Figures], bound_ms: f64) -> Result<(), Box<dyn std::error::Error>> {
    let rate_max = steps.iter().map(|s| s.offered_rps).fold(1.0, f64::max) * 1.05;
    let low = steps.iter().map(|s| s.p50_ms).fold(bound_ms, f64::min).max(0.05) / 2.0;
    let high = steps.iter().map(|s| s.p999_ms).fold(bound_ms, f64::max) * 2.0;
    let area = SVGBackend::new(path, (900, 520)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Latency from the scheduled arrival", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..rate_max, (low..high).log_scale())?;
    chart.configure_mesh().x_desc("offered requests/s").y_desc("milliseconds").light_line_style(WHITE).draw()?;
    let lines: [(&str, RGBColor, Pick); 3] = [
        ("p50", RGBColor(31, 119, 180), |s| s.p50_ms),
        ("p99", RGBColor(255, 127, 14), |s| s.p99_ms),
        ("p99.9", RGBColor(214, 39, 40), |s| s.p999_ms),
    ];
    for (name, colour, pick) in lines {
        let points: Vec<(f64, f64)> = steps.iter().map(|s| (s.offered_rps, pick(s).max(low))).collect();
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .draw_series(LineSeries::new([(0.0, bound_ms), (rate_max, bound_ms)], BLACK.mix(0.5)))?
        .label(format!("bound {bound_ms} ms"))
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.mix(0.5)));
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .position(SeriesLabelPosition::UpperLeft)
        .draw()?;
    area.present()?;
    Ok(())
}
