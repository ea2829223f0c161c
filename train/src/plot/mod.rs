//! `training_loss.png` and `.svg`: loss in total and by task with its evaluations, and below it, where the history has
//! them, weights and shares of the tasks, learning rate, gradient norm, cosines between gradients, and scores.
//! `gradient_conflicts.svg`: a heat map of the cosines (conflicts.rs).
//!
//! ```text
//! log_history ─ series.rs ─► curves ─ panel.rs (axis.rs: scales, ticks) ─► figure.rs (layout) ─► SVG (svg.rs) ─ resvg ─► PNG
//!                                                    └──────────────► web.rs (one SVG a panel, for report.html)
//! ```

mod axis;
mod conflicts;
mod figure;
mod panel;
mod series;
mod svg;
mod theme;
mod web;

pub(crate) use series::score_of;
pub(crate) use svg::escape;
pub use web::{WebPanel, web_panels};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use medley_tensor::io::write_atomic;
use resvg::{tiny_skia, usvg};

use crate::state::LogEntry;
use crate::weighting::conflict::ConflictReport;
use crate::{Error, Result};

/// DejaVu Sans cut down to Latin (see `font/README.md`): the same picture on machines without fonts.
const FONT: &[u8] = include_bytes!("font/DejaVuSans-subset.ttf");

/// Pixels of the PNG for one unit of the SVG.
const PNG_SCALE: f32 = 1.5;

/// Draws a history as an SVG document. Any history has a picture, the empty one too.
pub fn training_loss_svg(history: &[LogEntry]) -> String {
    figure::draw(&series::curves(history))
}

/// Draws the cosines between the tasks' gradients as a heat map, an SVG document.
pub fn conflict_matrix_svg(report: &ConflictReport) -> String {
    conflicts::draw(report)
}

/// Writes `training_loss.svg` and `training_loss.png` into `folder`; returns the PNG's path.
///
/// # Errors
/// A file cannot be written.
pub fn write_training_loss(folder: &Path, history: &[LogEntry]) -> Result<PathBuf> {
    let svg = training_loss_svg(history);
    write_atomic(&folder.join("training_loss.svg"), svg.as_bytes())?;
    let path = folder.join("training_loss.png");
    write_atomic(&path, &render_png(&svg, &path)?)?;
    Ok(path)
}

/// Renders an SVG document; `path` is for errors only.
fn render_png(svg: &str, path: &Path) -> Result<Vec<u8>> {
    let failed = |what: String| Error::Run(format!("{}: cannot draw the plot: {what}", path.display()));
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    let options = usvg::Options {
        fontdb: Arc::new(fonts),
        font_family: figure::FONT.into(),
        ..usvg::Options::default()
    };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| failed(error.to_string()))?;
    let size =
        tree.size().to_int_size().scale_by(PNG_SCALE).ok_or_else(|| failed("it has no size".into()))?;
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height())
        .ok_or_else(|| failed(format!("{}×{} pixels are too many", size.width(), size.height())))?;
    let scale = tiny_skia::Transform::from_scale(PNG_SCALE, PNG_SCALE);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests;
