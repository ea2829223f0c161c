//! The panels of a plot: which there are, what lines they hold, and how one is drawn.

use super::axis::{Scale, grouped, label, range};
use super::series::{Curves, Point, Series, smoothed, thinned};
use super::svg::{Anchor, Stroke, Svg};
use super::theme::{Hue, Theme};

/// Pairs of tasks and scores beyond this many would be a thicket.
const MOST_NAMED: usize = 8;

/// How a panel's values run upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rise {
    /// From zero, where that does not flatten the curves.
    Linear,
    /// From zero to one, in per cent.
    Share,
    /// From −1 to 1.
    Cosine,
    /// By factors.
    Log,
}

/// One line of a panel.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What it is called where the reader points at it.
    pub name: String,
    /// Its colour.
    pub hue: Hue,
    /// Over the dashes of its hue.
    pub dashes: Option<&'static str>,
    /// In units of the page.
    pub width: f64,
    /// From 0, invisible, to 1.
    pub opacity: f64,
    /// Each point in a ring.
    pub rings: bool,
    /// The curve, thinned.
    pub points: Vec<Point>,
    /// Whether it is told to who points at the panel; a smoothed line beside the raw one is not.
    pub told: bool,
}

impl Line {
    fn new(name: impl Into<String>, hue: Hue, points: &[Point]) -> Self {
        Self {
            name: name.into(),
            hue,
            dashes: None,
            width: 2.0,
            opacity: 1.0,
            rings: false,
            points: thinned(points),
            told: true,
        }
    }

    fn faint(self) -> Self {
        Self { width: 1.0, opacity: 0.28, dashes: Some(""), ..self }
    }

    fn wide(self, width: f64) -> Self {
        Self { width, ..self }
    }

    fn untold(self) -> Self {
        Self { told: false, ..self }
    }

    /// As evaluations are drawn: thin, dashed, with rings.
    fn evaluated(self) -> Self {
        Self { width: 1.2, opacity: 0.8, dashes: Some("4 3"), rings: true, ..self }
    }

    /// As what was asked for is drawn beside what came of it.
    fn asked(self) -> Self {
        Self { width: 1.1, opacity: 0.8, dashes: Some("3 4"), ..self }
    }
}

/// A panel.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// Of the area within the axes.
    pub height: f64,
    /// How its values run upwards.
    pub rise: Rise,
    /// First what is drawn first, below the others.
    pub lines: Vec<Line>,
    /// Its lines have names of their own, not those of the tasks.
    pub named: bool,
}

const TALL: f64 = 416.0;
const LOW: f64 = 130.0;

/// The panels that a history has data for; the loss is always there.
pub fn panels(curves: &Curves) -> Vec<Panel> {
    let names: Vec<&String> = curves.tasks.keys().collect();
    let hue = |task: &str| Hue::Task(names.iter().position(|name| *name == task).unwrap_or(0));
    let of_tasks = |series: &std::collections::BTreeMap<String, Vec<Point>>, what: &str| -> Vec<Line> {
        series.iter().map(|(task, points)| Line::new(format!("{task}{what}"), hue(task), points)).collect()
    };
    let low =
        |title: &str, rise, lines| Panel { title: title.into(), height: LOW, rise, lines, named: false };
    let mut all = vec![Panel {
        title: "loss".into(),
        height: TALL,
        rise: Rise::Linear,
        lines: loss_lines(curves),
        named: false,
    }];
    // Weights that are 1 from first to last tell nothing.
    if curves.weights.values().flatten().any(|(_, weight)| *weight != 1.0) {
        all.push(low("weight of each task in the loss", Rise::Linear, of_tasks(&curves.weights, "")));
    }
    for (got, asked, title) in [
        (
            &curves.shares,
            Some(&curves.shares_asked),
            "share of examples (bold: got, on average, dashed: asked)",
        ),
        (&curves.token_shares, None, "share of labelled tokens"),
    ] {
        // The only task has all of it.
        if got.len() > 1 {
            let mut lines: Vec<Line> = asked
                .map(|asked| of_tasks(asked, " asked").into_iter().map(Line::asked).collect())
                .unwrap_or_default();
            // A step of few examples cannot hold every share: what counts is the average.
            lines.extend(of_tasks(got, "").into_iter().map(Line::faint));
            let average = got.iter().map(|(task, points)| (task.clone(), smoothed(points))).collect();
            lines.extend(of_tasks(&average, " on average").into_iter().map(Line::untold));
            all.push(low(title, Rise::Share, lines));
        }
    }
    if !curves.learning_rate.is_empty() || curves.is_empty() {
        let lines = vec![Line::new("learning rate", Hue::Run, &curves.learning_rate)];
        all.push(low("learning rate", Rise::Linear, lines));
    }
    if range(curves.grad_norm.iter().map(|point| point.1)).is_some_and(|(_, high)| high > 0.0) {
        let smooth = smoothed(&curves.grad_norm);
        let lines = vec![
            Line { opacity: 0.45, ..Line::new("gradient norm", Hue::Run, &curves.grad_norm).faint() },
            Line::new("smoothed", Hue::Run, &smooth).untold(),
        ];
        all.push(low("gradient norm before clipping (log scale)", Rise::Log, lines));
    }
    all.extend(cosine_panel(curves));
    all.extend(score_panel(curves));
    all
}

/// Thin lines first and the total last, so that nothing important is covered.
fn loss_lines(curves: &Curves) -> Vec<Line> {
    let mut all: Vec<(&str, Hue, &Series)> = curves
        .tasks
        .iter()
        .enumerate()
        .map(|(index, (name, series))| (name.as_str(), Hue::Task(index), series))
        .collect();
    if !curves.total.is_empty() {
        all.push(("total", Hue::Total, &curves.total));
    }
    let faint = all.iter().map(|(name, hue, series)| Line::new(*name, *hue, &series.train).faint());
    let smooth = all.iter().map(|(name, hue, series)| {
        let width = if *hue == Hue::Total { 2.8 } else { 2.2 };
        Line::new(format!("{name} smoothed"), *hue, &smoothed(&series.train)).wide(width).untold()
    });
    let eval = all
        .iter()
        .map(|(name, hue, series)| Line::new(format!("{name} eval"), *hue, &series.eval).evaluated());
    faint.chain(smooth).chain(eval).filter(|line| !line.points.is_empty()).collect()
}

/// The pairs of tasks whose gradients agree least.
fn cosine_panel(curves: &Curves) -> Option<Panel> {
    let mean =
        |points: &[Point]| points.iter().map(|point| point.1).sum::<f64>() / points.len().max(1) as f64;
    let mut pairs: Vec<(&String, &Vec<Point>)> = curves.cosines.iter().collect();
    pairs.sort_by(|a, b| mean(a.1).total_cmp(&mean(b.1)));
    let more = pairs.len() > MOST_NAMED;
    let lines: Vec<Line> = pairs
        .iter()
        .take(MOST_NAMED)
        .enumerate()
        .map(|(index, (pair, points))| Line::new(pair.replace('/', " / "), Hue::Task(index), points))
        .collect();
    let title = "cosine between the tasks' gradients (below 0 they pull apart)";
    let title = if more { format!("{title}, the lowest {MOST_NAMED}") } else { title.to_string() };
    (!lines.is_empty()).then_some(Panel { title, height: LOW, rise: Rise::Cosine, lines, named: true })
}

/// What a task is judged by, best first.
const SCORES: [&str; 6] = ["macro_f1", "accuracy", "rougeL", "f1", "exact_match", "token_accuracy"];

/// Of each task, the score that says most among those that lie between 0 and 1.
fn score_panel(curves: &Curves) -> Option<Panel> {
    let within = |points: &[Point]| points.iter().all(|point| (0.0..=1.0).contains(&point.1));
    let mut lines = vec![];
    for (index, task) in curves.tasks.keys().enumerate() {
        let of_task = || {
            curves.scores.iter().filter_map(|((of, score), points)| {
                (of == task && within(points)).then_some((score.as_str(), points))
            })
        };
        let first = SCORES.iter().find_map(|wanted| of_task().find(|(score, _)| score == wanted));
        if let Some((score, points)) = first.or_else(|| of_task().next()) {
            let line = Line::new(format!("{task} {score}"), Hue::Task(index), points);
            lines.push(Line { rings: true, ..line });
        }
    }
    let title = "scores on the evaluation examples".to_string();
    (!lines.is_empty()).then_some(Panel { title, height: LOW + 40.0, rise: Rise::Share, lines, named: true })
}

/// Where a panel stands on its page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    /// Of its axes.
    pub left: f64,
    /// Of its axes.
    pub right: f64,
    /// Of its axes.
    pub top: f64,
    /// Of its axes.
    pub bottom: f64,
}

impl Panel {
    /// The scale of its values in `area`; `None` where it has no value.
    pub fn scale(&self, area: &Area) -> Option<Scale> {
        let (low, high) = range(self.lines.iter().flat_map(|line| &line.points).map(|point| point.1))?;
        let margin = (high - low) * 0.05;
        let pixels = (area.bottom, area.top);
        Some(match self.rise {
            // Starting at zero shows how much is left; far above zero it would flatten the curve.
            Rise::Linear if low >= 0.0 && low < 0.5 * high => Scale::new((0.0, high + margin), pixels),
            // A constant: from zero, and not at the very top.
            Rise::Linear if low == high && low > 0.0 => Scale::new((0.0, high * 1.25), pixels),
            Rise::Linear => Scale::new((low - margin, high + margin), pixels),
            Rise::Share => Scale::new((0.0, (high * 1.08).clamp(0.05, 1.0)), pixels),
            Rise::Cosine => Scale::new((low.min(-0.1) - 0.05, high.max(0.1) + 0.05), pixels),
            Rise::Log => Scale::log((low, high), pixels),
        })
    }

    /// Draws frame, grid, ticks and lines.
    pub fn draw(&self, svg: &mut Svg, area: &Area, steps: &Scale, theme: &Theme) {
        let Some(scale) = self.scale(area) else {
            self.frame(svg, area, steps, &[], theme);
            let middle = ((area.left + area.right) / 2.0, (area.top + area.bottom) / 2.0);
            svg.text(middle, 15.0, theme.soft, Anchor::Middle, &format!("no {} was logged", self.title));
            return;
        };
        self.frame(svg, area, steps, &self.ticks(&scale), theme);
        if self.rise == Rise::Cosine {
            let zero = scale.at(0.0);
            svg.line((area.left, zero), (area.right, zero), Stroke::new(theme.soft, 1.0));
        }
        for line in &self.lines {
            let points: Vec<Point> = line.points.iter().map(|(x, y)| (steps.at(*x), scale.at(*y))).collect();
            let color = theme.color(line.hue);
            let stroke = Stroke::new(color, line.width)
                .opacity(line.opacity)
                .dashes(line.dashes.unwrap_or(line.hue.dashes()));
            svg.polyline(&points, stroke);
            if line.rings {
                for point in points.into_iter().filter(|point| point.1.is_finite()) {
                    svg.ring(point, 4.0, color, theme.paper);
                }
            }
        }
    }

    /// Pixel and text of each tick.
    fn ticks(&self, scale: &Scale) -> Vec<(f64, String)> {
        let ticks = scale.ticks(if self.height > LOW + 50.0 { 7 } else { 4 });
        let step = match ticks.as_slice() {
            [first, second, ..] => second - first,
            [only] => only.abs() / 10.0,
            [] => 1.0,
        };
        let text = |tick: f64| match self.rise {
            Rise::Share => format!("{} %", label(tick * 100.0, step * 100.0)),
            // Neighbours are factors apart, so each needs its own digits.
            Rise::Log => label(tick, tick),
            Rise::Linear | Rise::Cosine => label(tick, step),
        };
        ticks.iter().map(|tick| (scale.at(*tick), text(*tick))).collect()
    }

    fn frame(&self, svg: &mut Svg, area: &Area, steps: &Scale, ticks: &[(f64, String)], theme: &Theme) {
        for tick in steps.whole_ticks(10) {
            let x = steps.at(tick);
            svg.line((x, area.top), (x, area.bottom), Stroke::new(theme.grid, 1.0));
        }
        for (y, text) in ticks {
            svg.line((area.left, *y), (area.right, *y), Stroke::new(theme.grid, 1.0));
            svg.text((area.left - 10.0, y + 4.5), 13.0, theme.soft, Anchor::End, text);
        }
        let axis = Stroke::new(theme.soft, 1.2);
        svg.line((area.left, area.bottom), (area.right, area.bottom), axis);
        svg.line((area.left, area.top), (area.left, area.bottom), axis);
        svg.text((area.left + 8.0, area.top - 9.0), 13.0, theme.soft, Anchor::Start, &self.title);
    }
}

/// Numbers of steps below an axis.
pub fn draw_steps(svg: &mut Svg, area: &Area, steps: &Scale, theme: &Theme) {
    for tick in steps.whole_ticks(10) {
        let x = steps.at(tick);
        svg.line((x, area.bottom), (x, area.bottom + 5.0), Stroke::new(theme.soft, 1.2));
        svg.text((x, area.bottom + 22.0), 13.0, theme.soft, Anchor::Middle, &grouped(tick as u64));
    }
    let middle = (area.left + area.right) / 2.0;
    svg.text((middle, area.bottom + 46.0), 13.0, theme.soft, Anchor::Middle, "optimizer step");
}

/// A mark at the end of each epoch; of many, every so many.
pub fn draw_epochs(svg: &mut Svg, curves: &Curves, area: &Area, steps: &Scale, theme: &Theme) {
    let every = curves.epochs.len().div_ceil(12).max(1) as u64;
    for (step, epoch) in curves.epochs.iter().filter(|(_, epoch)| epoch % every == 0) {
        let x = steps.at(*step);
        svg.line((x, area.top), (x, area.bottom), Stroke::new(theme.mark, 1.0).dashes("2 5"));
        svg.text((x - 5.0, area.top + 13.0), 11.0, theme.soft, Anchor::End, &format!("epoch {epoch}"));
    }
}
