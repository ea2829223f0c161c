//! The layout of the page: panels below one another, a legend on the right.

use super::axis::{Scale, grouped};
use super::panel::{Area, Panel, draw_epochs, draw_steps, panels};
use super::series::{Curves, Point, Series, smoothed};
use super::svg::{Anchor, Stroke, Svg};
use super::theme::{Hue, PAPER, Theme};

/// Family of the embedded font.
pub const FONT: &str = "DejaVu Sans";

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 950.0;
/// Of the first panel.
const TOP: f64 = 110.0;
/// Between panels: room for a title.
const GAP: f64 = 52.0;
/// Below the last panel: numbers of steps.
const FOOT: f64 = 72.0;
const LEGEND: f64 = RIGHT + 34.0;
/// What a name in the legend may take.
const NAME_WIDTH: f64 = WIDTH - LEGEND - 32.0 - 10.0;
/// Of a name and its numbers.
const ROW: f64 = 40.0;
/// How far a long legend may stretch a page of few panels.
const LEAST_FOR_LEGEND: f64 = 780.0;

/// Draws the whole page.
pub fn draw(curves: &Curves) -> String {
    let theme = &PAPER;
    let panels = panels(curves);
    let mut bottom = TOP - GAP;
    let areas: Vec<Area> = panels
        .iter()
        .map(|panel| {
            let top = bottom + GAP;
            bottom = top + panel.height;
            Area { left: LEFT, right: RIGHT, top, bottom }
        })
        .collect();
    // As high as the legend needs, within reason.
    let wanted = TOP + ROW * (curves.tasks.len() + 1) as f64 + 20.0;
    let height = (bottom + FOOT).max(wanted.min(LEAST_FOR_LEGEND));
    let mut svg = Svg::new(WIDTH, height, FONT, theme.paper);
    svg.text((LEFT, 42.0), 24.0, theme.ink, Anchor::Start, "Training loss");
    svg.text((LEFT, 66.0), 14.0, theme.soft, Anchor::Start, &subtitle(curves));
    let steps = Scale::new((0.0, curves.last_step.max(1) as f64), (LEFT, RIGHT));
    for (panel, area) in panels.iter().zip(&areas) {
        panel.draw(&mut svg, area, &steps, theme);
        if panel.named {
            draw_names(&mut svg, panel, area, theme);
        }
    }
    if let (Some(first), Some(last)) = (areas.first(), areas.last()) {
        draw_epochs(&mut svg, curves, first, &steps, theme);
        draw_steps(&mut svg, last, &steps, theme);
    }
    let first_named = panels.iter().zip(&areas).find(|(panel, _)| panel.named);
    let end = first_named.map_or(height, |(_, area)| area.top) - 12.0;
    draw_legend(&mut svg, curves, end, theme);
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

/// A curve's place in the legend.
struct Row<'a> {
    name: &'a str,
    hue: Hue,
    train: Option<f64>,
    eval: Option<f64>,
}

impl<'a> Row<'a> {
    fn new(name: &'a str, hue: Hue, series: &Series) -> Self {
        Self { name, hue, train: last_finite(&smoothed(&series.train)), eval: last_finite(&series.eval) }
    }

    fn numbers(&self) -> String {
        match (self.train, self.eval) {
            (Some(train), Some(eval)) => format!("train {train:.3} · eval {eval:.3}"),
            (Some(train), None) => format!("train {train:.3}"),
            (None, Some(eval)) => format!("eval {eval:.3}"),
            (None, None) => "no numbers".into(),
        }
    }
}

fn last_finite(points: &[Point]) -> Option<f64> {
    points.iter().rev().map(|point| point.1).find(|value| value.is_finite())
}

/// The total first, then tasks by their last loss, highest first, as the curves end from top to bottom.
fn draw_legend(svg: &mut Svg, curves: &Curves, end: f64, theme: &Theme) {
    let mut rows: Vec<Row<'_>> = curves
        .tasks
        .iter()
        .enumerate()
        .map(|(index, (name, series))| Row::new(name, Hue::Task(index), series))
        .collect();
    let height = |row: &Row<'_>| row.train.or(row.eval).unwrap_or(f64::NEG_INFINITY);
    rows.sort_by(|a, b| height(b).total_cmp(&height(a)));
    if !curves.total.is_empty() {
        rows.insert(0, Row::new("total", Hue::Total, &curves.total));
    }
    // What does not fit is counted.
    let room = ((end - TOP) / ROW).floor().max(1.0) as usize;
    let shown = if rows.len() > room { room - 1 } else { rows.len() };
    let mut y = TOP + 10.0;
    for row in &rows[..shown] {
        let color = theme.color(row.hue);
        let stroke = Stroke::new(color, 3.0).dashes(row.hue.dashes());
        svg.line((LEGEND, y - 4.5), (LEGEND + 24.0, y - 4.5), stroke);
        if row.eval.is_some() {
            svg.ring((LEGEND + 24.0, y - 4.5), 3.6, color, theme.paper);
        }
        svg.text((LEGEND + 32.0, y), 14.0, theme.ink, Anchor::Start, &fitted(row.name, 14.0, NAME_WIDTH));
        svg.text((LEGEND + 32.0, y + 15.0), 12.0, theme.soft, Anchor::Start, &row.numbers());
        y += ROW;
    }
    if shown < rows.len() {
        let more = format!("and {} more", rows.len() - shown);
        svg.text((LEGEND + 32.0, y), 13.0, theme.soft, Anchor::Start, &more);
    }
}

/// A legend of a panel whose lines are no tasks.
fn draw_names(svg: &mut Svg, panel: &Panel, area: &Area, theme: &Theme) {
    let row = ((area.bottom - area.top) / panel.lines.len().max(1) as f64).min(22.0);
    for (index, line) in panel.lines.iter().enumerate() {
        let y = area.top + 8.0 + index as f64 * row;
        let stroke = Stroke::new(theme.color(line.hue), 2.6).dashes(line.hue.dashes());
        svg.line((LEGEND, y - 4.0), (LEGEND + 24.0, y - 4.0), stroke);
        svg.text((LEGEND + 32.0, y), 12.0, theme.ink, Anchor::Start, &fitted(&line.name, 12.0, NAME_WIDTH));
    }
}

/// About how wide a text in the embedded font is, from DejaVu Sans' advance widths in three classes.
fn width(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '!' | '|' | '\'' | ' ' => 0.33,
        'f' | 't' | 'r' | '-' | '(' | ')' | '/' => 0.41,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' => 0.99,
        'A'..='Z' => 0.74,
        c if c.is_ascii() => 0.64,
        _ => 1.0,
    };
    text.chars().map(em).sum::<f64>() * size
}

/// A name that fits: its middle left out, since long names of tasks differ at either end.
pub fn fitted(name: &str, size: f64, most: f64) -> String {
    if width(name, size) <= most {
        return name.to_string();
    }
    let letters: Vec<char> = name.chars().collect();
    let cut = |kept: usize| -> String {
        let tail = kept / 2;
        letters[..kept - tail].iter().chain(&['…']).chain(&letters[letters.len() - tail..]).collect()
    };
    (1..letters.len()).rev().map(cut).find(|text| width(text, size) <= most).unwrap_or_else(|| "…".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(fitted("qa", 14.0, 170.0), "qa");
        let name = fitted("classification_of_news_articles_en", 14.0, 170.0);
        assert!(name.starts_with("classif") && name.ends_with("_en") && name.contains('…'), "{name}");
        assert!(width(&name, 14.0) <= 170.0);
        assert!(width(&fitted(&"m".repeat(60), 14.0, 170.0), 14.0) <= 170.0);
        assert_eq!(fitted("ab", 14.0, 1.0), "…");
    }
}
