//! Colours: of the printed page, and of a web page that follows the reader's light or dark setting.

/// The colours of a drawing, as SVG paints.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Theme {
    /// Behind everything; also inside rings.
    pub paper: &'static str,
    /// Titles, names and the total.
    pub ink: &'static str,
    /// Axes and numbers.
    pub soft: &'static str,
    /// Grid lines.
    pub grid: &'static str,
    /// Marks of epochs.
    pub mark: &'static str,
    /// Of tasks, in their order.
    pub tasks: [&'static str; 6],
}

/// Dark on white. The tasks' colours are Okabe and Ito's palette (https://jfly.uni-koeln.de/color/) without its black
/// and its yellow, which white swallows: told apart with any colour vision. From the seventh task on, dashes set them
/// apart.
pub const PAPER: Theme = Theme {
    paper: "#ffffff",
    ink: "#1b1b1b",
    soft: "#5f6368",
    grid: "#e6e8eb",
    mark: "#9aa0a6",
    tasks: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"],
};

/// Custom properties of the page's style sheet, which says what they are in light and in dark.
pub const WEB: Theme = Theme {
    paper: "var(--paper)",
    ink: "var(--ink)",
    soft: "var(--soft)",
    grid: "var(--grid)",
    mark: "var(--mark)",
    tasks: ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)"],
};

/// Dashes of tasks 0–5, 6–11, 12–17; then again from the start.
pub const DASHES: [&str; 3] = ["", "7 4", "2 4"];

/// What a curve stands for, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hue {
    /// The sum over tasks.
    Total,
    /// A quantity of the run that no task has.
    Run,
    /// The task of this number.
    Task(usize),
}

impl Theme {
    /// The colour.
    pub fn color(&self, hue: Hue) -> &'static str {
        match hue {
            Hue::Total => self.ink,
            Hue::Run => self.soft,
            Hue::Task(index) => self.tasks[index % self.tasks.len()],
        }
    }
}

impl Hue {
    /// The dashes of its lines.
    pub fn dashes(self) -> &'static str {
        match self {
            Hue::Task(index) => DASHES[index / PAPER.tasks.len() % DASHES.len()],
            Hue::Total | Hue::Run => "",
        }
    }
}
