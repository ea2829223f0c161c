//! The conflict matrix: a square a pair of tasks, coloured by the cosine between their gradients.

use super::figure::{FONT, fitted};
use super::svg::{Anchor, Svg};
use super::theme::PAPER;
use crate::weighting::conflict::ConflictReport;

const LEFT: f64 = 190.0;
const TOP: f64 = 120.0;
/// Side of a cell, at most; of many tasks all must fit on a page.
const CELL: f64 = 96.0;
const PAGE: f64 = 960.0;

/// −1, 0 and 1: Okabe and Ito's vermilion and blue around white, told apart with any colour vision.
const APART: [f64; 3] = [213.0, 94.0, 0.0];
const NEUTRAL: [f64; 3] = [255.0, 255.0, 255.0];
const TOGETHER: [f64; 3] = [0.0, 114.0, 178.0];

/// Draws the whole page.
pub fn draw(report: &ConflictReport) -> String {
    let tasks = report.tasks.len();
    let cell = CELL.min(PAGE / tasks.max(1) as f64);
    let side = cell * tasks as f64;
    let right = LEFT + side;
    let mut svg = Svg::new((right + 200.0).max(760.0), TOP + side + 80.0, FONT, PAPER.paper);
    svg.text((24.0, 42.0), 24.0, PAPER.ink, Anchor::Start, "Gradient conflicts");
    let measured = report.pairs.iter().map(|p| p.measurements).max().unwrap_or(0);
    let subtitle = format!(
        "mean cosine between the tasks' gradients  ·  {measured} measurements, every {} steps",
        report.every_steps
    );
    svg.text((24.0, 66.0), 14.0, PAPER.soft, Anchor::Start, &subtitle);
    svg.text((right + 14.0, TOP - 12.0), 13.0, PAPER.soft, Anchor::Start, "gradient norm");
    for (i, (task, row)) in report.tasks.iter().zip(&report.cosines).enumerate() {
        let y = TOP + cell * i as f64;
        let middle = y + cell / 2.0 + 5.0;
        svg.text((LEFT - 12.0, middle), 14.0, PAPER.ink, Anchor::End, &fitted(task, 14.0, 150.0));
        let column = LEFT + cell * (i as f64 + 0.5);
        // Long names of neighbours would run into each other: every other one stands higher.
        let raised = if i % 2 == 1 { 18.0 } else { 0.0 };
        svg.text(
            (column, TOP - 12.0 - raised),
            13.0,
            PAPER.ink,
            Anchor::Middle,
            &fitted(task, 13.0, (2.0 * cell - 10.0).max(40.0)),
        );
        if let Some(norm) = report.gradient_norms.get(i) {
            svg.text((right + 14.0, middle), 13.0, PAPER.soft, Anchor::Start, &format!("{norm:.4}"));
        }
        for (j, cosine) in row.iter().enumerate() {
            let x = LEFT + cell * j as f64;
            let (fill, text) = match cosine {
                Some(c) => (colour(*c), format!("{c:.2}")),
                None => ("#f1f3f4".to_string(), "–".to_string()),
            };
            svg.rect((x + 1.0, y + 1.0), (cell - 2.0, cell - 2.0), &fill);
            if cell >= 34.0 {
                let ink = if cosine.is_some_and(|c| c.abs() > 0.6) { "#ffffff" } else { PAPER.ink };
                svg.text((x + cell / 2.0, middle), 14.0_f64.min(cell / 3.0), ink, Anchor::Middle, &text);
            }
        }
    }
    legend(&mut svg, TOP + side + 30.0);
    svg.finish()
}

fn legend(svg: &mut Svg, y: f64) {
    let steps = 21;
    for i in 0..steps {
        let cosine = -1.0 + 2.0 * f64::from(i) / f64::from(steps - 1);
        svg.rect((LEFT + 12.0 * f64::from(i), y), (12.0, 12.0), &colour(cosine));
    }
    let end = LEFT + 12.0 * f64::from(steps);
    svg.text((LEFT - 8.0, y + 11.0), 12.0, PAPER.soft, Anchor::End, "−1 pull apart");
    svg.text((end + 8.0, y + 11.0), 12.0, PAPER.soft, Anchor::Start, "1 help each other");
    svg.text(((LEFT + end) / 2.0, y + 28.0), 12.0, PAPER.soft, Anchor::Middle, "0");
}

/// `#rrggbb` of a cosine. Its root sets the shade: gradients in millions of dimensions rarely leave ±0.3.
fn colour(cosine: f64) -> String {
    let end = if cosine < 0.0 { APART } else { TOGETHER };
    let share = cosine.abs().min(1.0).sqrt();
    let [r, g, b] = [0, 1, 2].map(|i| (NEUTRAL[i] + (end[i] - NEUTRAL[i]) * share).round() as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weighting::conflict::{Conflicts, Measurement};

    fn report(names: &[&str], cosine: f64) -> ConflictReport {
        let mut conflicts = Conflicts::new(names.len());
        for i in 0..4 {
            let noise = f64::from(i) * 1e-3;
            let mut gram = vec![vec![cosine + noise; names.len()]; names.len()];
            for (i, row) in gram.iter_mut().enumerate() {
                row[i] = 1.0;
            }
            conflicts.add(&Measurement::new(&gram, &vec![1.0; names.len()]));
        }
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        conflicts.report(&names, 5).unwrap()
    }

    #[test]
    fn a_cell_a_pair_in_the_colour_of_its_cosine() {
        let svg = conflict(&["qa", "summarization", "classi<fication"], -0.36);
        assert_eq!(svg.matches("<rect x=").count(), 9 + 21);
        // Six of the nine cells, in a shade of vermilion that is no step of the legend's.
        assert_eq!(svg.matches(&colour(-0.3585)).count(), 6);
        for text in ["qa", "classi&lt;fication", "-0.36", "1.00", "4 measurements", "every 5 steps"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(colour(0.0), "#ffffff");
        assert_eq!(colour(1.0), "#0072b2");
        assert_eq!(colour(-1.0), "#d55e00");
    }

    fn conflict(names: &[&str], cosine: f64) -> String {
        draw(&report(names, cosine))
    }

    #[test]
    fn many_tasks_fit_on_the_page() {
        let names: Vec<String> = (0..60).map(|i| format!("task number {i} of many")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let svg = conflict(&names, 0.1);
        assert_eq!(svg.matches("<rect x=").count(), 3600 + 21);
        assert!(svg.len() < 600_000 && !svg.contains("NaN"), "{}", svg.len());
        let path = std::path::Path::new("t.png");
        let png = super::super::render_png(&svg, path).unwrap();
        assert!(png.len() > 1000);
    }
}
