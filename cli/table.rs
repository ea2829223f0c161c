//! Plain tables on stdout.

/// Columns aligned by their widest cell; the first to the left, the others to the right.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let all: Vec<Vec<&str>> = std::iter::once(header.to_vec())
        .chain(rows.iter().map(|r| r.iter().map(String::as_str).collect()))
        .collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|c| all.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &[&str]| -> String {
        let cells = row.iter().zip(&widths).enumerate().map(|(c, (cell, width))| {
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            if c == 0 { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1));
    let mut out = line(&all[0]) + "\n" + &rule + "\n";
    for row in &all[1..] {
        out += &line(row);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let text = super::render(
            &["task", "f1"],
            &[vec!["qa".into(), "0.5".into()], vec!["summary".into(), "0.25".into()]],
        );
        assert_eq!(text, "task       f1\n-------------\nqa        0.5\nsummary  0.25\n");
    }
}
