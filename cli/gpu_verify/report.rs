//! What a run found, as plain text on the screen and as Markdown in `docs/gpu/`.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// A titled table with a sentence before it.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its heading.
    pub title: String,
    /// What the columns mean, where it is not plain.
    pub note: String,
    /// Column names; the first column is text, the others are numbers.
    pub header: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str, note: &str, header: &[&str]) -> Table {
        let header = header.iter().map(|name| (*name).to_owned()).collect();
        Table { title: title.into(), note: note.into(), header, rows: vec![] }
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("## {}\n\n", self.title);
        if !self.note.is_empty() {
            let _ = write!(text, "{}\n\n", self.note);
        }
        text += &row(&self.header);
        let rule = |i| if i == 0 { "---" } else { "---:" };
        let _ = writeln!(text, "|{}|", (0..self.header.len()).map(rule).collect::<Vec<_>>().join("|"));
        self.rows.iter().for_each(|cells| text += &row(cells));
        text
    }

    /// Aligned columns for a terminal.
    pub fn plain(&self) -> String {
        let header: Vec<&str> = self.header.iter().map(String::as_str).collect();
        let note = if self.note.is_empty() { String::new() } else { format!("{}\n", self.note) };
        format!("{}\n{note}{}", self.title, crate::table::render(&header, &self.rows))
    }
}

/// The whole report as a Markdown file.
pub fn markdown(device: &str, facts: &[String], tables: &[Table], faults: &[String]) -> String {
    let mut text = format!("# gpu-verify on {device}\n\n");
    for fact in facts {
        let _ = writeln!(text, "- {fact}");
    }
    match faults {
        [] => text.push_str("- everything agrees\n"),
        _ => faults.iter().for_each(|fault| {
            let _ = writeln!(text, "- **FAULT** {fault}");
        }),
    }
    for table in tables {
        let _ = write!(text, "\n{}", table.markdown());
    }
    text
}

/// The name a report gets: `nvidia-geforce-rtx-4090-2026-11-24.md`.
pub fn file_name(card: &str, date: &str) -> String {
    let words: Vec<String> = card
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    format!("{}-{date}.md", words.join("-"))
}

/// Today in UTC, `YYYY-MM-DD`.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date(seconds / 86_400)
}

/// The civil date of a day number since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`).
fn date(days: u64) -> String {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// A number with three significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "–".into(),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        v if v >= 0.001 => format!("{value:.4}"),
        0.0 => "0".into(),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (days, text) in
            [(0, "1970-01-01"), (19_782, "2024-02-29"), (19_783, "2024-03-01"), (20_781, "2026-11-24")]
        {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn names_are_plain() {
        assert_eq!(file_name("NVIDIA A100-SXM4-40GB", "2026-11-24"), "nvidia-a100-sxm4-40gb-2026-11-24.md");
    }

    #[test]
    fn a_table_in_both_forms() {
        let mut table = Table::new("Ops", "", &["op", "error"]);
        table.rows.push(vec!["rope".into(), number(0.000_012)]);
        assert_eq!(table.markdown(), "## Ops\n\n| op | error |\n|---|---:|\n| rope | 1.2e-5 |\n");
        assert!(table.plain().contains("rope  1.2e-5"));
        let text = markdown("sim", &["sm_80".into()], &[table], &["rope is off".into()]);
        assert!(text.contains("- **FAULT** rope is off") && !text.contains("everything agrees"));
    }

    #[test]
    fn three_digits() {
        let shown: Vec<String> = [1234.5, 12.345, 1.2345, 0.012_345, 1.2e-7].map(number).into();
        assert_eq!(shown, ["1234", "12.3", "1.23", "0.0123", "1.2e-7"]);
    }
}
