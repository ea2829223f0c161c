//! The few SVG elements that a plot is made of.

/// An SVG document being written.
pub struct Svg {
    text: String,
}

/// Where a text is held.
#[derive(Clone, Copy)]
pub enum Anchor {
    /// At its beginning.
    Start,
    /// In its middle.
    Middle,
    /// At its end.
    End,
}

/// How a line is drawn.
#[derive(Clone, Copy)]
pub struct Stroke<'a> {
    /// `#rrggbb`
    pub color: &'a str,
    /// In units of the page.
    pub width: f64,
    /// From 0, invisible, to 1.
    pub opacity: f64,
    /// Lengths of dashes and gaps; empty is a full line.
    pub dashes: &'a str,
}

impl<'a> Stroke<'a> {
    /// A full, opaque line.
    pub fn new(color: &'a str, width: f64) -> Self {
        Self { color, width, opacity: 1.0, dashes: "" }
    }

    /// The same, less opaque.
    pub fn opacity(self, opacity: f64) -> Self {
        Self { opacity, ..self }
    }

    /// The same, dashed.
    pub fn dashes(self, dashes: &'a str) -> Self {
        Self { dashes, ..self }
    }

    fn attributes(self) -> String {
        let mut text = format!(r#"stroke="{}" stroke-width="{}""#, self.color, round(self.width));
        if self.opacity < 1.0 {
            text += &format!(r#" stroke-opacity="{}""#, round(self.opacity));
        }
        if !self.dashes.is_empty() {
            text += &format!(r#" stroke-dasharray="{}""#, self.dashes);
        }
        text
    }
}

impl Svg {
    /// An empty page.
    pub fn new(width: f64, height: f64, font: &str, paper: &str) -> Self {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"{font}, Verdana, sans-serif\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"{paper}\"/>\n"
        );
        Self { text }
    }

    /// A part of an HTML page, which scales it and gives it font and background; `title` is for who cannot see it.
    pub fn inline(width: f64, height: f64, title: &str) -> Self {
        let title = escape(title);
        let text = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">\n");
        Self { text }
    }

    /// The finished document.
    pub fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: Stroke<'_>) {
        let (x1, y1, x2, y2) = (round(from.0), round(from.1), round(to.0), round(to.1));
        self.element(&format!(r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {}/>"#, stroke.attributes()));
    }

    /// Straight lines through points; a point that is not finite breaks the line, and one alone between breaks
    /// is a dot.
    pub fn polyline(&mut self, points: &[(f64, f64)], stroke: Stroke<'_>) {
        for run in points.split(|(x, y)| !x.is_finite() || !y.is_finite()) {
            match run {
                [] => {}
                [point] => self.dot(*point, stroke.width.max(1.5), stroke.color, stroke.opacity),
                _ => {
                    let mut path = String::new();
                    for (x, y) in run {
                        path += &format!("{},{} ", round(*x), round(*y));
                    }
                    self.element(&format!(
                        r#"<polyline points="{}" fill="none" stroke-linejoin="round" stroke-linecap="round" {}/>"#,
                        path.trim_end(),
                        stroke.attributes()
                    ));
                }
            }
        }
    }

    /// A filled rectangle without an edge.
    pub fn rect(&mut self, corner: (f64, f64), size: (f64, f64), color: &str) {
        let (x, y, width, height) = (round(corner.0), round(corner.1), round(size.0), round(size.1));
        self.element(&format!(r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{color}"/>"#));
    }

    /// A filled circle.
    pub fn dot(&mut self, center: (f64, f64), radius: f64, color: &str, opacity: f64) {
        let (x, y) = (round(center.0), round(center.1));
        self.element(&format!(
            r#"<circle cx="{x}" cy="{y}" r="{}" fill="{color}" fill-opacity="{}"/>"#,
            round(radius),
            round(opacity)
        ));
    }

    /// A circle with a coloured edge on the page's `paper`.
    pub fn ring(&mut self, center: (f64, f64), radius: f64, color: &str, paper: &str) {
        let (x, y) = (round(center.0), round(center.1));
        self.element(&format!(
            r#"<circle cx="{x}" cy="{y}" r="{}" fill="{paper}" stroke="{color}" stroke-width="1.6"/>"#,
            round(radius)
        ));
    }

    /// A line of text; `y` is its baseline.
    pub fn text(&mut self, at: (f64, f64), size: f64, color: &str, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.element(&format!(
            r#"<text x="{}" y="{}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{}</text>"#,
            round(at.0),
            round(at.1),
            escape(text)
        ));
    }

    fn element(&mut self, element: &str) {
        self.text.push_str(element);
        self.text.push('\n');
    }
}

/// Two decimals, without trailing zeros: a hundredth of a pixel is enough and keeps files small.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Text as XML character data; characters that XML cannot hold become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {
                escaped.push('\u{fffd}');
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b & \"c\"\u{1}"), "a&lt;b &amp; &quot;c&quot;\u{fffd}");
    }

    #[test]
    fn lines_break_where_there_is_no_number() {
        let mut svg = Svg::new(10.0, 10.0, "X", "#ffffff");
        let points = [
            (0.0, 0.0),
            (1.0, 1.0),
            (2.0, f64::NAN),
            (3.0, 3.0),
            (4.0, f64::INFINITY),
            (5.0, 5.0),
            (6.0, 1.0),
        ];
        svg.polyline(&points, Stroke::new("#000000", 1.0));
        let text = svg.finish();
        assert_eq!(text.matches("<polyline").count(), 2);
        assert_eq!(text.matches("<circle").count(), 1);
        assert!(!text.contains("NaN") && !text.contains("inf"));
        assert!(text.contains(r#"points="0,0 1,1""#), "{text}");
    }
}
