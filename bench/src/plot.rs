//! Curves of milliseconds (log scale) as SVG.

use anyhow::Context;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::path::Path;

/// Colours of the lines, in their order.
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(255, 127, 14), RGBColor(214, 39, 40), RGBColor(44, 160, 44)];
/// Nothing below this is drawn.
const MS_MIN: f64 = 0.01;

/// What is drawn.
#[derive(Debug)]
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    /// Name of the horizontal axis.
    pub(crate) across: &'a str,
    /// Whether that axis is logarithmic too.
    pub(crate) across_log: bool,
    /// Names and points (x, ms), at most four.
    pub(crate) lines: Vec<(&'a str, Vec<(f64, f64)>)>,
    /// A level to compare with, in ms.
    pub(crate) bound_ms: Option<f64>,
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Plot<'_> {
    /// Writes the file.
    pub(crate) fn draw(&self, path: &Path) -> anyhow::Result<()> {
        self.to_svg(path).map_err(|e| anyhow::anyhow!("{e}")).with_context(|| format!("plot {}", path.display()))
    }

    fn to_svg(&self, path: &Path) -> Drawn {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let across = || points().map(|point| point.0);
        let heights = || points().map(|point| point.1).chain(self.bound_ms);
        let low = heights().fold(f64::INFINITY, f64::min).clamp(MS_MIN, 1e6) / 2.0;
        let high = heights().fold(low * 2.0, f64::max) * 2.0;
        let (from, to) = (across().fold(f64::INFINITY, f64::min).clamp(1.0, 1e9), across().fold(2.0, f64::max));
        let area = SVGBackend::new(path, (900, 520)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(&area);
        builder.caption(self.title, ("sans-serif", 20)).margin(16).x_label_area_size(44).y_label_area_size(64);
        let up = || (low..high).log_scale();
        if self.across_log {
            let across = (from * 0.9..to * 1.1).log_scale();
            self.fill(builder.build_cartesian_2d(across, up())?, (from * 0.9, to * 1.1), low)?;
        } else {
            let across: RangedCoordf64 = (0.0..to * 1.05).into();
            self.fill(builder.build_cartesian_2d(across, up())?, (0.0, to * 1.05), low)?;
        }
        area.present()?;
        Ok(())
    }

    fn fill<'a, 'b: 'a, X>(
        &self,
        mut chart: ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, LogCoord<f64>>>,
        (from, to): (f64, f64),
        low: f64,
    ) -> Drawn
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64> + 'a,
    {
        chart
            .configure_mesh()
            .x_desc(self.across)
            .x_label_formatter(&|x| label(*x, self.across_log))
            .y_desc("milliseconds")
            .light_line_style(WHITE)
            .draw()?;
        for ((name, points), colour) in self.lines.iter().zip(COLOURS) {
            let points: Vec<(f64, f64)> = points.iter().map(|&(x, ms)| (x, ms.max(low))).collect();
            chart
                .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, colour.filled())))?;
        }
        if let Some(bound) = self.bound_ms {
            chart
                .draw_series(LineSeries::new([(from, bound), (to, bound)], BLACK.mix(0.5)))?
                .label(format!("bound {bound} ms"))
                .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.mix(0.5)));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .position(SeriesLabelPosition::UpperLeft)
            .draw()?;
        Ok(())
    }
}

/// What stands at a place of the horizontal axis: on a logarithmic one nothing at 6, 7, 8 and 9 times a power of ten, where there is
/// no room.
fn label(x: f64, log: bool) -> String {
    let crowded = log && x > 0.0 && x / 10_f64.powf(x.log10().floor()) > 5.5;
    if crowded { String::new() } else { format!("{x:.0}") }
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn crowded_places_of_a_logarithmic_axis_stay_empty() {
        let shown = |x| label(x, true);
        assert_eq!([shown(1_000.0), shown(5_000.0), shown(9_000.0), shown(20_000.0)], ["1000", "5000", "", "20000"]);
        assert_eq!(label(900.0, false), "900");
    }
}
