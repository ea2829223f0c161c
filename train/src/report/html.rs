//! HTML being written, with everything that is not ours escaped.

use crate::plot::escape;
use std::fmt::Write;

/// A part of a page.
#[derive(Debug, Default)]
pub struct Html(String);

impl Html {
    /// Markup of our own, as it is.
    pub fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
        self.0.push('\n');
    }

    /// An element that holds a text.
    pub fn text(&mut self, element: &str, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "<{element}>{}</{element}>", escape(text));
    }

    /// As [`Self::text`], with a class.
    pub fn classed(&mut self, element: &str, class: &str, text: &str) {
        let _ = writeln!(self.0, "<{element} class=\"{}\">{}</{element}>", escape(class), escape(text));
    }

    /// A table whose first column is text and whose others are numbers.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        self.raw("<div class=\"wide\"><table><thead><tr>");
        header.iter().for_each(|cell| self.text("th", cell));
        self.raw("</tr></thead><tbody>");
        for row in rows {
            self.raw("<tr>");
            for (index, cell) in row.iter().enumerate() {
                if index == 0 {
                    self.raw(&format!("<th scope=\"row\">{}</th>", escape(cell)));
                } else {
                    self.text("td", cell);
                }
            }
            self.raw("</tr>");
        }
        self.raw("</tbody></table></div>");
    }

    /// The markup.
    pub fn finish(self) -> String {
        self.0
    }
}
