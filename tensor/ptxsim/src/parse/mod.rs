//! Tokens to the syntax tree: module level. Function bodies are read in [`body`].

pub(crate) mod ast;
mod body;
pub(crate) mod types;

use ast::{File, Function, Initial, Literal, Space, Variable};
use types::Type;

use crate::error::ParseError;
use crate::lex::{Source, Spanned, Token, lex};

/// Parses a whole PTX file.
pub(crate) fn parse(text: &str, source: &Source) -> Result<File, ParseError> {
    let tokens = lex(text, source)?;
    let mut parser = Parser { tokens, at: 0, source };
    parser.file()
}

struct Parser<'a> {
    tokens: Vec<Spanned>,
    at: usize,
    source: &'a Source,
}

type Result2<T> = Result<T, ParseError>;

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|s| &s.token)
    }

    fn peek_at(&self, n: usize) -> Option<&Token> {
        self.tokens.get(self.at + n).map(|s| &s.token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |s| s.line)
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        self.source.error(self.line(), message)
    }

    fn expected(&self, what: &str) -> ParseError {
        let found = match self.peek() {
            None => "the end of the text".to_string(),
            Some(Token::Word(w)) => format!("`{w}`"),
            Some(Token::Punct(c)) => format!("`{c}`"),
            Some(Token::Text(s)) => format!("\"{s}\""),
            Some(Token::Int(i)) => format!("`{i}`"),
            Some(_) => "a number".to_string(),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    fn accept(&mut self, c: char) -> bool {
        let yes = self.peek() == Some(&Token::Punct(c));
        self.at += usize::from(yes);
        yes
    }

    fn expect(&mut self, c: char) -> Result2<()> {
        if self.accept(c) { Ok(()) } else { Err(self.expected(&format!("`{c}`"))) }
    }

    fn peek_word(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word(w)) => Some(w),
            _ => None,
        }
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let yes = self.peek_word() == Some(word);
        self.at += usize::from(yes);
        yes
    }

    fn word(&mut self, what: &str) -> Result2<String> {
        match self.peek() {
            Some(Token::Word(w)) => {
                let w = w.clone();
                self.at += 1;
                Ok(w)
            }
            _ => Err(self.expected(what)),
        }
    }

    fn int(&mut self, what: &str) -> Result2<u64> {
        let negative = self.accept('-');
        match self.peek() {
            Some(&Token::Int(i)) => {
                self.at += 1;
                Ok(if negative { i.wrapping_neg() } else { i })
            }
            _ => Err(self.expected(what)),
        }
    }

    fn small(&mut self, what: &str) -> Result2<u32> {
        let value = self.int(what)?;
        u32::try_from(value).map_err(|_| self.error(format!("{what} {value} is too large")))
    }

    fn file(&mut self) -> Result2<File> {
        let mut file = File::default();
        while let Some(token) = self.peek() {
            let Token::Word(word) = token else {
                return Err(self.expected("a directive"));
            };
            match word.as_str() {
                ".version" => {
                    self.at += 1;
                    file.version = match self.peek() {
                        Some(&Token::Float64(bits)) => {
                            let v = f64::from_bits(bits);
                            (v as u32, ((v * 10.0).round() as u32) % 10)
                        }
                        _ => return Err(self.expected("a version such as 8.4")),
                    };
                    self.at += 1;
                }
                ".target" => {
                    self.at += 1;
                    file.target = self.word("a target such as sm_80")?;
                    while self.accept(',') {
                        self.word("a target option")?;
                    }
                }
                ".address_size" => {
                    self.at += 1;
                    let bits = self.int("an address size")?;
                    if bits != 64 {
                        return Err(self.error(format!("address size {bits}: only 64 is known")));
                    }
                }
                ".section" => {
                    self.at += 1;
                    self.skip_braces()?;
                }
                ".pragma" => self.skip_statement()?,
                _ => self.declaration(&mut file)?,
            }
        }
        if file.version == (0, 0) {
            return Err(self.source.error(1, "no `.version` directive: this is not PTX"));
        }
        if file.target.is_empty() {
            return Err(self.source.error(1, "no `.target` directive"));
        }
        Ok(file)
    }

    fn skip_statement(&mut self) -> Result2<()> {
        while !self.accept(';') {
            if self.peek().is_none() {
                return Err(self.expected("`;`"));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn skip_braces(&mut self) -> Result2<()> {
        while self.peek() != Some(&Token::Punct('{')) {
            if self.peek().is_none() {
                return Err(self.expected("`{`"));
            }
            self.at += 1;
        }
        let mut depth = 0;
        loop {
            match self.peek() {
                None => return Err(self.expected("`}`")),
                Some(Token::Punct('{')) => depth += 1,
                Some(Token::Punct('}')) => depth -= 1,
                Some(_) => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn declaration(&mut self, file: &mut File) -> Result2<()> {
        let mut external = false;
        loop {
            match self.peek_word() {
                Some(".extern") => external = true,
                Some(".visible" | ".weak" | ".common") => {}
                _ => break,
            }
            self.at += 1;
        }
        match self.peek_word() {
            Some(".entry" | ".func") => {
                let function = self.function()?;
                file.functions.push(function);
            }
            Some(".global" | ".const" | ".shared") => {
                let variables = self.variables(external)?;
                file.variables.extend(variables);
            }
            _ => return Err(self.expected("`.entry`, `.func`, `.global`, `.const` or `.shared`")),
        }
        Ok(())
    }

    fn space(&mut self) -> Result2<Space> {
        let space = match self.peek_word() {
            Some(".global") => Space::Global,
            Some(".const") => Space::Const,
            Some(".shared") => Space::Shared,
            Some(".local") => Space::Local,
            Some(".param") => Space::Param,
            _ => return Err(self.expected("a state space")),
        };
        self.at += 1;
        Ok(space)
    }

    fn data_type(&mut self) -> Result2<(Type, u32)> {
        let mut lanes = 1;
        loop {
            let Some(word) = self.peek_word() else { return Err(self.expected("a type")) };
            match word {
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                _ => {
                    let Some(ty) = word.strip_prefix('.').and_then(Type::parse) else {
                        return Err(self.expected("a type"));
                    };
                    self.at += 1;
                    return Ok((ty, lanes));
                }
            }
            self.at += 1;
        }
    }

    /// `.space [.align n] [.ptr …] .type name[n] [= …], …;` — the trailing `;` included.
    fn variables(&mut self, external: bool) -> Result2<Vec<Variable>> {
        let space = self.space()?;
        let mut out = Vec::new();
        let first = self.variable(space, external)?;
        let model = (first.ty, first.align);
        out.push(first);
        while self.accept(',') {
            out.push(self.declarator(space, external, model.0, 1, model.1)?);
        }
        self.expect(';')?;
        Ok(out)
    }

    fn variable(&mut self, space: Space, external: bool) -> Result2<Variable> {
        let (mut align, mut pointer) = (0, false);
        let (ty, lanes) = loop {
            if self.accept_word(".align") {
                align = self.small("an alignment")?;
                if !align.is_power_of_two() {
                    return Err(self.error(format!("alignment {align} is not a power of two")));
                }
            } else if self.peek_word().is_some_and(|w| w.starts_with(".attribute")) {
                self.at += 1;
                self.expect('(')?;
                while !self.accept(')') {
                    if self.peek().is_none() {
                        return Err(self.expected("`)`"));
                    }
                    self.at += 1;
                }
            } else {
                break self.data_type()?;
            }
        };
        while let Some(word) = self.peek_word() {
            match word {
                ".ptr" => pointer = true,
                // `.ptr .global .align 16`: the alignment is the pointee's, not the parameter's.
                ".align" => {
                    self.at += 1;
                    self.small("an alignment")?;
                    continue;
                }
                ".global" | ".shared" | ".const" | ".local" | ".generic" if pointer => {}
                _ => break,
            }
            self.at += 1;
        }
        let natural = ty.bytes().max(1) * lanes;
        let mut variable = self.declarator(space, external, ty, lanes, align.max(natural))?;
        variable.pointer = pointer;
        Ok(variable)
    }

    fn declarator(
        &mut self,
        space: Space,
        external: bool,
        ty: Type,
        lanes: u32,
        align: u32,
    ) -> Result2<Variable> {
        let line = self.line();
        let name = self.word("a variable's name")?;
        let mut bytes = u64::from(ty.bytes() * lanes);
        while self.accept('[') {
            if self.accept(']') {
                bytes = 0;
            } else {
                let n = self.int("an array length")?;
                bytes = bytes
                    .checked_mul(n)
                    .filter(|&b| b <= 1 << 40)
                    .ok_or_else(|| self.error("array too large"))?;
                self.expect(']')?;
            }
        }
        let mut initial = Vec::new();
        if self.accept('=') {
            self.initialiser(&mut initial)?;
            bytes = bytes.max(initial.len() as u64 * u64::from(ty.bytes()));
        }
        Ok(Variable { name, space, ty, align, bytes, external, initial, line, pointer: false })
    }

    fn initialiser(&mut self, out: &mut Vec<Initial>) -> Result2<()> {
        if self.accept('{') {
            if self.accept('}') {
                return Ok(());
            }
            loop {
                self.initialiser(out)?;
                if !self.accept(',') {
                    break;
                }
            }
            return self.expect('}');
        }
        if let Some(literal) = self.literal()? {
            out.push(Initial::Literal(literal));
            return Ok(());
        }
        let mut name = self.word("an initial value")?;
        if name == "generic" && self.accept('(') {
            name = self.word("a symbol")?;
            self.expect(')')?;
        }
        let offset = self.offset()?;
        out.push(Initial::Symbol(name, offset));
        Ok(())
    }

    /// `+ n` or `- n` after a name; 0 when neither follows.
    fn offset(&mut self) -> Result2<i64> {
        let mut total = 0i64;
        loop {
            if self.accept('+') || self.peek() == Some(&Token::Punct('-')) {
                total = total.wrapping_add(self.int("an offset")? as i64);
            } else {
                return Ok(total);
            }
        }
    }

    fn literal(&mut self) -> Result2<Option<Literal>> {
        let negative = self.peek() == Some(&Token::Punct('-'));
        let token = if negative { self.peek_at(1) } else { self.peek() };
        let literal = match token {
            Some(&Token::Int(i)) => Literal::Int(if negative { i.wrapping_neg() } else { i }),
            Some(&Token::Float32(b)) => Literal::F32(if negative { b ^ 1 << 31 } else { b }),
            Some(&Token::Float64(b)) => Literal::F64(if negative { b ^ 1 << 63 } else { b }),
            _ if negative => return Err(self.expected("a number after `-`")),
            _ => return Ok(None),
        };
        self.at += 1 + usize::from(negative);
        Ok(Some(literal))
    }

    fn function(&mut self) -> Result2<Function> {
        let line = self.line();
        let entry = self.word("`.entry`")? == ".entry";
        let mut returns = Vec::new();
        if !entry && self.peek() == Some(&Token::Punct('(')) {
            returns = self.parameters()?;
        }
        let name = self.word("a function's name")?;
        let params = if self.peek() == Some(&Token::Punct('(')) { self.parameters()? } else { Vec::new() };
        let (mut max_threads, mut required_threads) = (None, None);
        while let Some(word) = self.peek_word() {
            let word = word.to_string();
            match word.as_str() {
                ".maxntid" | ".reqntid" | ".minnctapersm" | ".maxnctapersm" | ".maxnreg" => {
                    self.at += 1;
                    let mut dims = vec![self.small("a number")?];
                    while self.accept(',') {
                        dims.push(self.small("a number")?);
                    }
                    dims.resize(3, 1);
                    match word.as_str() {
                        ".maxntid" => max_threads = Some(dims[0] * dims[1] * dims[2]),
                        ".reqntid" => required_threads = Some([dims[0], dims[1], dims[2]]),
                        _ => {}
                    }
                }
                ".noreturn" => self.at += 1,
                ".pragma" => self.skip_statement()?,
                _ => return Err(self.expected("a function body")),
            }
        }
        let mut function = Function {
            name,
            entry,
            returns,
            params,
            body: Vec::new(),
            defined: false,
            line,
            max_threads,
            required_threads,
        };
        if !self.accept(';') {
            self.expect('{')?;
            function.defined = true;
            function.body = self.body()?;
            // A body may be followed by a stray `;`.
            self.accept(';');
        }
        Ok(function)
    }

    fn parameters(&mut self) -> Result2<Vec<Variable>> {
        self.expect('(')?;
        let mut out = Vec::new();
        if self.accept(')') {
            return Ok(out);
        }
        loop {
            if self.accept_word(".reg") {
                let mut v = self.variable(Space::Param, false)?;
                v.pointer = false;
                out.push(v);
            } else {
                let space = self.space()?;
                out.push(self.variable(space, false)?);
            }
            if self.accept(')') {
                return Ok(out);
            }
            self.expect(',')?;
        }
    }
}

#[cfg(test)]
mod tests;
