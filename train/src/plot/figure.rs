//! The layout: the loss above, the learning rate below, a legend on the right.

use super::axis::{Scale, grouped, label, range};
use super::series::{Curves, Point, Series, smoothed, thinned};
use super::svg::{Anchor, Stroke, Svg};

/// Family of the embedded font.
pub const FONT: &str = "DejaVu Sans";

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 780.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 950.0;
const LOSS: (f64, f64) = (110.0, 526.0);
const RATE: (f64, f64) = (578.0, 708.0);
const LEGEND: f64 = RIGHT + 34.0;

pub const INK: &str = "#1b1b1b";
pub const SOFT: &str = "#5f6368";
const GRID: &str = "#e6e8eb";
const TOTAL: &str = "#1b1b1b";

/// Okabe and Ito's palette (https://jfly.uni-koeln.de/color/) without its black and its yellow, which white swallows:
/// told apart with any colour vision. From the seventh task on, dashes set them apart.
const COLORS: [&str; 6] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const DASHES: [&str; 3] = ["", "7 4", "2 4"];

/// A curve with its place in the legend.
struct Curve<'a> {
    name: &'a str,
    series: &'a Series,
    smooth: Vec<Point>,
    color: &'static str,
    dashes: &'static str,
    width: f64,
}

/// Draws the whole page.
pub fn draw(curves: &Curves) -> String {
    let mut svg = Svg::new(WIDTH, HEIGHT, FONT);
    svg.text((LEFT, 42.0), 24.0, INK, Anchor::Start, "Training loss");
    svg.text((LEFT, 66.0), 14.0, SOFT, Anchor::Start, &subtitle(curves));

    let last = (curves.last_step.max(1)) as f64;
    let steps = Scale::new((0.0, last), (LEFT, RIGHT));
    let drawn = legend_of(curves);
    draw_loss(&mut svg, curves, &drawn, &steps);
    draw_rate(&mut svg, curves, &steps);
    draw_legend(&mut svg, &drawn);
    svg.finish()
}

fn subtitle(curves: &Curves) -> String {
    let mut parts = vec![format!("{} steps", grouped(curves.last_step))];
    if let Some((_, epochs)) = curves.epochs.last() {
        parts.push(format!("{epochs} {}", if *epochs == 1 { "epoch" } else { "epochs" }));
    }
    match curves.tasks.len() {
        0 => {}
        1 => parts.push("1 task".into()),
        count => parts.push(format!("{count} tasks")),
    }
    parts.push("bold: moving average, thin: as logged, rings: evaluation".into());
    parts.join("  ·  ")
}

/// The total first, then tasks by their last loss, highest first, as the curves end from top to bottom.
fn legend_of(curves: &Curves) -> Vec<Curve<'_>> {
    let total = Curve {
        name: "total",
        series: &curves.total,
        smooth: smoothed(&curves.total.train),
        color: TOTAL,
        dashes: "",
        width: 2.8,
    };
    let tasks = curves.tasks.iter().enumerate().map(|(index, (name, series))| Curve {
        name,
        series,
        smooth: smoothed(&series.train),
        color: COLORS[index % COLORS.len()],
        dashes: DASHES[(index / COLORS.len()) % DASHES.len()],
        width: 2.2,
    });
    let mut tasks: Vec<Curve<'_>> = tasks.collect();
    let height = |curve: &Curve<'_>| last_finite(&curve.smooth).or(last_finite(&curve.series.eval));
    tasks.sort_by(|a, b| {
        let (a, b) = (height(a).unwrap_or(f64::NEG_INFINITY), height(b).unwrap_or(f64::NEG_INFINITY));
        b.total_cmp(&a)
    });
    let has_total = !curves.total.train.is_empty() || !curves.total.eval.is_empty();
    has_total.then_some(total).into_iter().chain(tasks).collect()
}

fn last_finite(points: &[Point]) -> Option<f64> {
    points.iter().rev().map(|point| point.1).find(|value| value.is_finite())
}

fn draw_loss(svg: &mut Svg, curves: &Curves, drawn: &[Curve<'_>], steps: &Scale) {
    let values = drawn.iter().flat_map(|curve| curve.series.train.iter().chain(&curve.series.eval));
    let Some((low, high)) = range(values.map(|point| point.1)) else {
        draw_frame(svg, LOSS, steps, &[], "loss");
        svg.text(((LEFT + RIGHT) / 2.0, 310.0), 15.0, SOFT, Anchor::Middle, "no loss was logged");
        return;
    };
    // Starting at zero shows how much is left; far above zero it would flatten the curve.
    let margin = (high - low) * 0.05;
    let low = if low >= 0.0 && low < 0.5 * high { 0.0 } else { low - margin };
    let losses = Scale::new((low, high + margin), (LOSS.1, LOSS.0));
    let ticks = losses.ticks(7);
    draw_frame(svg, LOSS, steps, &labelled(&losses, &ticks), "loss");
    draw_epochs(svg, curves, steps);
    let place = |points: &[Point]| -> Vec<Point> {
        thinned(points).iter().map(|(step, value)| (steps.at(*step), losses.at(*value))).collect()
    };
    // Thin lines first and the total last, so that nothing important is covered.
    for curve in drawn.iter().rev() {
        svg.polyline(&place(&curve.series.train), Stroke::new(curve.color, 1.0).opacity(0.28));
    }
    for curve in drawn.iter().rev() {
        svg.polyline(&place(&curve.smooth), Stroke::new(curve.color, curve.width).dashes(curve.dashes));
    }
    for curve in drawn.iter().rev() {
        let eval = place(&curve.series.eval);
        svg.polyline(&eval, Stroke::new(curve.color, 1.2).opacity(0.8).dashes("4 3"));
        for point in eval.into_iter().filter(|point| point.1.is_finite()) {
            svg.ring(point, 4.0, curve.color);
        }
    }
}

fn draw_rate(svg: &mut Svg, curves: &Curves, steps: &Scale) {
    let top = range(curves.learning_rate.iter().map(|point| point.1)).map(|range| range.1);
    let Some(top) = top else {
        draw_frame(svg, RATE, steps, &[], "learning rate");
        draw_steps(svg, steps);
        return;
    };
    let rates = Scale::new((0.0, if top > 0.0 { top * 1.08 } else { 1.0 }), (RATE.1, RATE.0));
    let ticks = rates.ticks(3);
    draw_frame(svg, RATE, steps, &labelled(&rates, &ticks), "learning rate");
    let points: Vec<Point> = thinned(&curves.learning_rate)
        .iter()
        .map(|(step, rate)| (steps.at(*step), rates.at(*rate)))
        .collect();
    svg.polyline(&points, Stroke::new(SOFT, 2.0));
    draw_steps(svg, steps);
}

/// Pixel and text of each tick.
fn labelled(scale: &Scale, ticks: &[f64]) -> Vec<(f64, String)> {
    let step = if ticks.len() > 1 {
        ticks[1] - ticks[0]
    } else {
        ticks.first().map_or(1.0, |tick| tick.abs() / 10.0)
    };
    ticks.iter().map(|tick| (scale.at(*tick), label(*tick, step))).collect()
}

fn draw_frame(svg: &mut Svg, panel: (f64, f64), steps: &Scale, ticks: &[(f64, String)], title: &str) {
    for tick in steps.whole_ticks(10) {
        let x = steps.at(tick);
        svg.line((x, panel.0), (x, panel.1), Stroke::new(GRID, 1.0));
    }
    for (y, text) in ticks {
        svg.line((LEFT, *y), (RIGHT, *y), Stroke::new(GRID, 1.0));
        svg.text((LEFT - 10.0, y + 4.5), 13.0, SOFT, Anchor::End, text);
    }
    svg.line((LEFT, panel.1), (RIGHT, panel.1), Stroke::new(SOFT, 1.2));
    svg.line((LEFT, panel.0), (LEFT, panel.1), Stroke::new(SOFT, 1.2));
    svg.text((LEFT + 8.0, panel.0 - 8.0), 13.0, SOFT, Anchor::Start, title);
}

fn draw_steps(svg: &mut Svg, steps: &Scale) {
    for tick in steps.whole_ticks(10) {
        svg.line((steps.at(tick), RATE.1), (steps.at(tick), RATE.1 + 5.0), Stroke::new(SOFT, 1.2));
        svg.text((steps.at(tick), RATE.1 + 22.0), 13.0, SOFT, Anchor::Middle, &grouped(tick as u64));
    }
    svg.text(((LEFT + RIGHT) / 2.0, RATE.1 + 46.0), 13.0, SOFT, Anchor::Middle, "optimizer step");
}

/// A mark at the end of each epoch; of many, every so many.
fn draw_epochs(svg: &mut Svg, curves: &Curves, steps: &Scale) {
    let every = curves.epochs.len().div_ceil(12).max(1) as u64;
    for (step, epoch) in curves.epochs.iter().filter(|(_, epoch)| epoch % every == 0) {
        let x = steps.at(*step);
        svg.line((x, LOSS.0), (x, LOSS.1), Stroke::new("#9aa0a6", 1.0).dashes("2 5"));
        svg.text((x - 5.0, LOSS.0 + 13.0), 11.0, SOFT, Anchor::End, &format!("epoch {epoch}"));
    }
}

/// What fits on the page; the rest is counted.
const LEGEND_ROWS: usize = 15;

fn draw_legend(svg: &mut Svg, drawn: &[Curve<'_>]) {
    if drawn.is_empty() {
        return;
    }
    let mut y = LOSS.0 - 18.0;
    for curve in drawn.iter().take(LEGEND_ROWS) {
        y += 28.0;
        svg.line(
            (LEGEND, y - 4.5),
            (LEGEND + 24.0, y - 4.5),
            Stroke::new(curve.color, 3.0).dashes(curve.dashes),
        );
        if !curve.series.eval.is_empty() {
            svg.ring((LEGEND + 12.0, y - 4.5), 3.6, curve.color);
        }
        svg.text((LEGEND + 32.0, y), 14.0, INK, Anchor::Start, &shortened(curve.name));
        let number = |points: &[Point]| last_finite(points).map(|value| format!("{value:.3}"));
        let numbers = match (number(&curve.smooth), number(&curve.series.eval)) {
            (Some(train), Some(eval)) => format!("train {train} · eval {eval}"),
            (Some(train), None) => format!("train {train}"),
            (None, Some(eval)) => format!("eval {eval}"),
            (None, None) => "no numbers".into(),
        };
        svg.text((LEGEND + 32.0, y + 15.0), 12.0, SOFT, Anchor::Start, &numbers);
        y += 12.0;
    }
    if drawn.len() > LEGEND_ROWS {
        let more = format!("and {} more", drawn.len() - LEGEND_ROWS);
        svg.text((LEGEND + 32.0, y + 26.0), 13.0, SOFT, Anchor::Start, &more);
    }
}

/// A name that fits beside the curves.
pub fn shortened(name: &str) -> String {
    const MOST: usize = 20;
    if name.chars().count() <= MOST {
        return name.to_string();
    }
    name.chars().take(MOST - 1).chain(['…']).collect()
}
