//! PTX text to tokens. Debug directives that fill a line (`.loc`, `.file`) and comments vanish here.

use crate::error::ParseError;

/// One token of PTX text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name, opcode, directive or register: everything that starts with a letter or one of `._$%@`.
    Word(String),
    /// An integer literal, as its two's complement bits.
    Int(u64),
    /// A double literal: `0d…` bits or decimal digits with a point.
    Float64(u64),
    /// A single literal, `0f…`: its bits.
    Float32(u32),
    /// A string between quotes.
    Text(String),
    /// Punctuation.
    Punct(char),
}

/// A token and the line it stands on.
#[derive(Clone, Debug)]
pub(crate) struct Spanned {
    pub token: Token,
    pub line: u32,
}

/// Source text by line, for messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    lines: Vec<String>,
}

impl Source {
    pub(crate) fn new(text: &str) -> Self {
        Self { lines: text.lines().map(|l| l.trim().to_string()).collect() }
    }

    /// Text of `line` (from 1), trimmed; empty when there is none.
    pub(crate) fn line(&self, line: u32) -> &str {
        (line as usize).checked_sub(1).and_then(|i| self.lines.get(i)).map_or("", String::as_str)
    }

    /// An error that names `line` and its text.
    pub(crate) fn error(&self, line: u32, message: impl Into<String>) -> ParseError {
        ParseError { line, text: self.line(line).to_string(), message: message.into() }
    }
}

fn word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'.' | b'_' | b'$' | b'%')
}

fn word_part(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'$' | b'%' | b':') || c >= 0x80
}

/// Splits `text` into tokens.
pub(crate) fn lex(text: &str, source: &Source) -> Result<Vec<Spanned>, ParseError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::with_capacity(bytes.len() / 4);
    let (mut i, mut line) = (0usize, 1u32);
    while i < bytes.len() {
        let c = bytes[i];
        match c {
            b'\n' => {
                line += 1;
                i += 1;
            }
            // PTX text from a driver's image often ends in a NUL.
            b' ' | b'\t' | b'\r' | 0 => i += 1,
            b'/' if bytes.get(i + 1) == Some(&b'/') => i = end_of_line(bytes, i),
            b'/' if bytes.get(i + 1) == Some(&b'*') => {
                let start = line;
                i += 2;
                loop {
                    match bytes.get(i) {
                        None => return Err(source.error(start, "comment without `*/`")),
                        Some(b'*') if bytes.get(i + 1) == Some(&b'/') => break,
                        Some(b'\n') => line += 1,
                        Some(_) => {}
                    }
                    i += 1;
                }
                i += 2;
            }
            b'"' => {
                let start = i + 1;
                i = start;
                while i < bytes.len() && bytes[i] != b'"' && bytes[i] != b'\n' {
                    i += 1;
                }
                if bytes.get(i) != Some(&b'"') {
                    return Err(source.error(line, "string without a closing quote"));
                }
                tokens.push(Spanned { token: Token::Text(text[start..i].to_string()), line });
                i += 1;
            }
            _ if word_start(c) => {
                let start = i;
                while i < bytes.len() && word_part(bytes[i]) {
                    // `a::b` is one word (`L2::128B`); a single `:` ends a label.
                    if bytes[i] == b':' {
                        if bytes.get(i + 1) != Some(&b':') {
                            break;
                        }
                        i += 1;
                    }
                    i += 1;
                }
                let word = &text[start..i];
                if word == ".loc" || word == ".file" {
                    i = end_of_line(bytes, i);
                } else {
                    tokens.push(Spanned { token: Token::Word(word.to_string()), line });
                }
            }
            _ if c.is_ascii_digit() => {
                let start = i;
                while i < bytes.len()
                    && (bytes[i].is_ascii_alphanumeric()
                        || bytes[i] == b'.'
                        || (matches!(bytes[i], b'+' | b'-')
                            && matches!(bytes[i - 1], b'e' | b'E')
                            && text[start..i].contains('.')))
                {
                    i += 1;
                }
                let token = number(&text[start..i]).ok_or_else(|| {
                    source.error(line, format!("`{}` is not a number", &text[start..i]))
                })?;
                tokens.push(Spanned { token, line });
            }
            b'{' | b'}' | b'(' | b')' | b'[' | b']' | b'<' | b'>' | b',' | b';' | b':' | b'@'
            | b'!' | b'+' | b'-' | b'*' | b'=' | b'|' | b'&' | b'~' | b'^' | b'/' => {
                tokens.push(Spanned { token: Token::Punct(c as char), line });
                i += 1;
            }
            _ => {
                let shown = text[i..].chars().next().unwrap_or('?');
                return Err(source.error(line, format!("unexpected character `{shown}`")));
            }
        }
    }
    Ok(tokens)
}

fn end_of_line(bytes: &[u8], from: usize) -> usize {
    bytes[from..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| from + n)
}

/// A literal of PTX ISA §4.5: decimal, hexadecimal, octal or binary with an optional `U`, `0f`, `0d`.
fn number(text: &str) -> Option<Token> {
    let lower = text.to_ascii_lowercase();
    if let Some(bits) = lower.strip_prefix("0f") {
        return (bits.len() == 8).then(|| u32::from_str_radix(bits, 16).ok().map(Token::Float32))?;
    }
    if let Some(bits) = lower.strip_prefix("0d") {
        return (bits.len() == 16).then(|| u64::from_str_radix(bits, 16).ok().map(Token::Float64))?;
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let parsed = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if digits.contains('.') {
        return digits.parse::<f64>().ok().map(|f| Token::Float64(f.to_bits()));
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse::<u64>()
    };
    parsed.ok().map(Token::Int)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        lex(text, &Source::new(text)).unwrap().into_iter().map(|s| s.token).collect()
    }

    #[test]
    fn literals_of_every_kind() {
        use Token::*;
        assert_eq!(
            tokens("10 0x1F 0b101 017 7U 0f3F800000 0d3FF0000000000000 8.4"),
            [
                Int(10),
                Int(31),
                Int(5),
                Int(15),
                Int(7),
                Float32(0x3f80_0000),
                Float64(0x3ff0_0000_0000_0000),
                Float64(8.4f64.to_bits())
            ]
        );
    }

    #[test]
    fn comments_and_line_directives_vanish_and_lines_still_count() {
        let text = "// a\n/* b\n c */ .loc 1 2 3, function_name x\nret;";
        let tokens = lex(text, &Source::new(text)).unwrap();
        assert_eq!(tokens.len(), 2);
        assert_eq!(tokens[0].line, 4);
    }

    #[test]
    fn words_keep_scopes_and_labels_end_at_a_colon() {
        assert_eq!(
            tokens("ld.global.L2::128B.b32 L1:"),
            [
                Token::Word("ld.global.L2::128B.b32".into()),
                Token::Word("L1".into()),
                Token::Punct(':')
            ]
        );
    }

    #[test]
    fn bad_text_names_its_line() {
        let text = "ret;\n 0xZZ";
        let error = lex(text, &Source::new(text)).unwrap_err();
        assert_eq!((error.line, error.text.as_str()), (2, "0xZZ"));
        assert!(lex("/* x", &Source::new("/* x")).is_err());
        assert!(lex("\"x", &Source::new("\"x")).is_err());
        assert!(lex("`", &Source::new("`")).is_err());
    }
}
