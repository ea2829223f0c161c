//! The panels as parts of a web page: one SVG each, in colours that the page's style sheet sets, and their numbers
//! for a script that tells them to who points at a curve.

use super::axis::Scale;
use super::panel::{Area, draw_epochs, draw_steps, panels};
use super::series::curves;
use super::svg::Svg;
use super::theme::{Hue, WEB};
use crate::state::LogEntry;
use serde_json::{Value, json};

const WIDTH: f64 = 1000.0;
const AREA: Area = Area { left: 76.0, right: 984.0, top: 30.0, bottom: 0.0 };

/// A panel of a web page.
#[derive(Debug, Clone, PartialEq)]
pub struct WebPanel {
    /// What it shows.
    pub title: String,
    /// The drawing: an `svg` element.
    pub svg: String,
    /// `left`, `right` (of the axes, in the SVG's units), `steps` (the last one, at the right) and `lines`: name,
    /// colour, dashes and `points` of `[step, value]`.
    pub numbers: Value,
    /// Name, colour and dashes of its lines, where they are no tasks.
    pub names: Vec<(String, String, &'static str)>,
}

/// Every panel that a history has data for, and name, colour and dashes of the total and the tasks.
pub fn web_panels(history: &[LogEntry]) -> (Vec<WebPanel>, Vec<(String, String, &'static str)>) {
    let curves = curves(history);
    let steps = Scale::new((0.0, curves.last_step.max(1) as f64), (AREA.left, AREA.right));
    let draw = |panel: &super::panel::Panel| {
        let height = (panel.height * 0.85).min(330.0);
        let area = Area { bottom: AREA.top + height, ..AREA };
        let mut svg = Svg::inline(WIDTH, area.bottom + 56.0, &panel.title);
        panel.draw(&mut svg, &area, &steps, &WEB);
        draw_epochs(&mut svg, &curves, &area, &steps, &WEB);
        draw_steps(&mut svg, &area, &steps, &WEB);
        let lines: Vec<Value> = panel
            .lines
            .iter()
            .filter(|line| line.told)
            .map(|line| json!({"name": line.name, "color": WEB.color(line.hue), "points": line.points}))
            .collect();
        let names = panel.lines.iter().map(|line| legend(line.name.clone(), line.hue));
        WebPanel {
            title: panel.title.clone(),
            svg: svg.finish(),
            numbers: json!({
                "left": AREA.left,
                "right": AREA.right,
                "top": area.top,
                "bottom": area.bottom,
                "steps": curves.last_step.max(1),
                "lines": lines,
            }),
            names: if panel.named { names.collect() } else { vec![] },
        }
    };
    let all = panels(&curves).iter().map(draw).collect();
    let total = (!curves.total.is_empty()).then(|| legend("total".into(), Hue::Total));
    let tasks = curves.tasks.keys().enumerate().map(|(index, name)| legend(name.clone(), Hue::Task(index)));
    (all, total.into_iter().chain(tasks).collect())
}

fn legend(name: String, hue: Hue) -> (String, String, &'static str) {
    (name, WEB.color(hue).to_string(), hue.dashes())
}
