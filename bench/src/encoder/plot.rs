//! Cost against the length of the history, as SVG.

use super::Point;
use anyhow::Context;
use plotters::prelude::*;
use std::path::Path;

/// Draws encoding cold, the warm request and its encoding part over the length, both axes logarithmic.
pub(super) fn draw(path: &Path, points: &[Point]) -> anyhow::Result<()> {
    curves(path, points).map_err(|e| anyhow::anyhow!("{e}")).with_context(|| format!("plot {}", path.display()))
}

type Pick = fn(&Point) -> f64;

#[expect(clippy::cast_precision_loss, reason = "lengths are small")]
fn curves(path: &Path, points: &[Point]) -> Result<(), Box<dyn std::error::Error>> {
    let lines: [(&str, RGBColor, Pick); 3] = [
        ("cold: encode all", RGBColor(214, 39, 40), |p| p.cold.advance_ms + p.cold.finish_ms),
        ("warm: encode and score", RGBColor(31, 119, 180), |p| p.warm.total()),
        ("warm: encode the new events", RGBColor(44, 160, 44), |p| p.warm.advance_ms + p.warm.finish_ms),
    ];
    let all = || points.iter().flat_map(|p| lines.iter().map(|(_, _, pick)| pick(p)));
    let (low, high) = (all().fold(f64::INFINITY, f64::min) / 2.0, all().fold(0.0, f64::max) * 2.0);
    let (from, to) = (points.first().map_or(1, |p| p.n) as f64, points.last().map_or(2, |p| p.n) as f64);
    let area = SVGBackend::new(path, (900, 520)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Encoder time against the length of the history", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((from * 0.9..to * 1.1).log_scale(), (low..high).log_scale())?;
    chart.configure_mesh().x_desc("events").y_desc("milliseconds").light_line_style(WHITE).draw()?;
    for (name, colour, pick) in lines {
        let line: Vec<(f64, f64)> = points.iter().map(|p| (p.n as f64, pick(p))).collect();
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(line.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .position(SeriesLabelPosition::UpperLeft)
        .draw()?;
    area.present()?;
    Ok(())
}
