//! The model's own chat template: Jinja as Hugging Face's `apply_chat_template` runs it.
//!
//! Its environment is `trim_blocks`, `lstrip_blocks`, loop controls, Python's string and dict methods,
//! `raise_exception`, `strftime_now` (in UTC here, so that a text does not depend on the machine's time
//! zone) and a `tojson` that writes what Python's `json.dumps` writes. `{% generation %}` blocks, which
//! only mark a reply, are read as if they were not there.

use super::error::TemplateError;
use super::{Message, Role, Thinking};
use crate::tokenizer::{SpecialToken, Tokenizer};
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context, syntax::SyntaxConfig};
use serde::Serialize as _;

const NAME: &str = "chat_template";

/// A compiled chat template with the special tokens it may print.
pub(super) struct JinjaTemplate {
    environment: Environment<'static>,
    bos: Value,
    eos: Value,
    pad: Value,
    unk: Value,
    /// `enable_thinking`, undefined where both ways are learned.
    thinking: Value,
}

impl JinjaTemplate {
    pub(super) fn new(
        source: &str,
        tokenizer: &Tokenizer,
        thinking: Thinking,
    ) -> Result<JinjaTemplate, TemplateError> {
        let syntax_error = |e: Error| TemplateError::Syntax { reason: describe(&e) };
        let mut environment = Environment::new();
        let syntax =
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(syntax_error)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.add_template_owned(NAME, without_generation_marks(source)).map_err(syntax_error)?;
        let text = |token: Option<&SpecialToken>| Value::from(token.map_or("", |t| t.text.as_str()));
        Ok(JinjaTemplate {
            environment,
            bos: text(tokenizer.bos()),
            eos: text(tokenizer.eos()),
            pad: text(tokenizer.pad()),
            unk: text(tokenizer.unk()),
            thinking: match thinking {
                Thinking::On => Value::from(true),
                Thinking::Off => Value::from(false),
                Thinking::Mixed => Value::UNDEFINED,
            },
        })
    }

    /// The text of a conversation.
    pub(super) fn text(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| {
                let role = match m.role {
                    Role::System => "system",
                    Role::User => "user",
                    Role::Assistant => "assistant",
                };
                context! { role => role, content => m.content.as_str() }
            })
            .collect();
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages,
                    add_generation_prompt,
                    tools => Value::from(()),
                    documents => Value::from(()),
                    bos_token => self.bos.clone(),
                    eos_token => self.eos.clone(),
                    pad_token => self.pad.clone(),
                    unk_token => self.unk.clone(),
                    enable_thinking => self.thinking.clone(),
                })
            })
            .map_err(|e| TemplateError::Refused { reason: describe(&e) })
    }
}

/// The engine's message with its line, and the cause of it.
fn describe(error: &Error) -> String {
    let line = error.line().map(|l| format!(" (line {l})")).unwrap_or_default();
    let what = error.detail().map(str::to_string).unwrap_or_else(|| error.kind().to_string());
    format!("{what}{line}")
}

/// Turns `{% generation %}` into `{% if true %}`, keeping its whitespace marks.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, block) = rest.split_at(at + 2);
        out.push_str(before);
        let body = block.trim_start_matches(['-', '+']).trim_start();
        out.push_str(&block[..block.len() - body.len()]);
        let word_end = body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len());
        match &body[..word_end] {
            "generation" => out.push_str("if true"),
            "endgeneration" => out.push_str("endif"),
            word => out.push_str(word),
        }
        rest = &body[word_end..];
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `json.dumps(value, ensure_ascii=False, indent=…)` of Python: `", "` and `": "` between parts.
fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted and without effect: texts are never escaped, and keys stay in their order.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        None => {
            let mut to = serde_json::Serializer::with_formatter(&mut out, PythonFormatter);
            value.serialize(&mut to).map_err(failed)?;
        }
        Some(width) => {
            let spaces = " ".repeat(width);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut to = serde_json::Serializer::with_formatter(&mut out, formatter);
            value.serialize(&mut to).map_err(failed)?;
        }
    }
    String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        to: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, to: &mut W) -> std::io::Result<()> {
        to.write_all(b": ")
    }
}

fn strftime_now(format: String) -> Result<String, Error> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))?.as_secs();
    strftime(&format, seconds)
}

/// The directives of C's `strftime` that chat templates use, for a time in seconds since 1970, in UTC.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let piece = match chars.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('B') => month_name.to_string(),
            Some('b') => month_name[..3].to_string(),
            Some('d') => format!("{day:02}"),
            Some('A') => day_name.to_string(),
            Some('a') => day_name[..3].to_string(),
            Some('H') => format!("{:02}", second / 3600),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('%') => "%".to_string(),
            other => {
                let directive = other.map(String::from).unwrap_or_default();
                let message = format!("strftime_now: the directive %{directive} is not known here");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        };
        out.push_str(&piece);
    }
    Ok(out)
}

/// Year, month (1–12) and day (1–31) of a day counted from 1970-01-01: Howard Hinnant's
/// "chrono-compatible low-level date algorithms", `civil_from_days`.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_marks_vanish_with_their_whitespace_rules() {
        let source = "a {%- generation -%} b {% endgeneration %}{% if x %}generation{% endif %}{%";
        let wanted = "a {%- if true -%} b {% endif %}{% if x %}generation{% endif %}{%";
        assert_eq!(without_generation_marks(source), wanted);
    }

    #[test]
    fn dates_are_right() {
        let text = |seconds| strftime("%d %b %Y %A %H:%M:%S %%", seconds).unwrap();
        assert_eq!(text(0), "01 Jan 1970 Thursday 00:00:00 %");
        assert_eq!(text(951_868_799), "29 Feb 2000 Tuesday 23:59:59 %");
        assert_eq!(text(1_795_478_400), "24 Nov 2026 Tuesday 00:00:00 %");
        assert!(strftime("%Q", 0).unwrap_err().to_string().contains("%Q"));
    }

    #[test]
    fn tojson_writes_as_python_does() {
        let mut environment = Environment::new();
        environment.add_filter("tojson", tojson);
        let render = |source: &str| {
            environment.render_str(source, context! { x => context! { a => vec![1, 2], b => "é<" } }).unwrap()
        };
        assert_eq!(render("{{ x | tojson }}"), r#"{"a": [1, 2], "b": "é<"}"#);
        assert_eq!(render("{{ x.a | tojson(indent=2) }}"), "[\n  1,\n  2\n]");
    }
}
