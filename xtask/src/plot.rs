//! A plot as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use xdp_lb_tests::report::Plot;

const SIZE: (u32, u32) = (1_000, 600);
/// Told apart by those who see few colours, too (Okabe and Ito, "Color Universal Design", 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(140, 140, 140),
];

/// Draws it.
pub fn draw(plot: &Plot) -> Result<String> {
    let mut picture = String::new();
    {
        let area = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        draw_on(plot, &area).map_err(|error| anyhow!("{error}"))?;
        area.present().map_err(|error| anyhow!("{error}"))?;
    }
    Ok(picture)
}

fn draw_on<B: DrawingBackend>(
    plot: &Plot,
    area: &DrawingArea<B, plotters::coord::Shift>,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let points = || plot.lines.iter().flat_map(|(_, points)| points);
    let right = points().map(|(x, _)| *x).fold(10.0, f64::max);
    let top = points().map(|(_, y)| *y).fold(1.0, f64::max);
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(&plot.title, ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d((1.0..right).log_scale(), 0.0..top * 1.05)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_desc(&plot.x)
        .y_desc(&plot.y)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style(("sans-serif", 15))
        .draw()?;
    for ((name, points), colour) in plot.lines.iter().zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(4))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .legend_area_size(32)
        .label_font(("sans-serif", 15))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()
}

/// 1,000 as 1k, 1,000,000 as 1M.
fn short(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.0}M", n / 1e6),
        n if n >= 1e3 => format!("{:.0}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_drawn_and_named() -> Result<()> {
        let line = |name: &str, y| (name.to_owned(), vec![(1.0, y), (1e3, y), (8e6, y)]);
        let plot = Plot {
            file: "test".to_owned(),
            title: "A plot".to_owned(),
            x: "flows".to_owned(),
            y: "nanoseconds".to_owned(),
            lines: vec![line("one", 10.0), line("other", 20.0)],
        };
        let picture = draw(&plot)?;
        for text in ["A plot", "flows", "nanoseconds", "one", "other", "1k", "1M"] {
            assert!(picture.contains(&format!("\n{text}\n")), "{text} is not in {picture}");
        }
        let lines =
            picture.lines().filter(|line| line.contains("<polyline") && line.contains("stroke-width=\"2\""));
        assert_eq!(lines.count(), 4, "two lines, and two in the legend");
        Ok(())
    }
}
