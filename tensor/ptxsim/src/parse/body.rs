//! Function bodies: declarations, labels, instructions and their operands.

use super::ast::{Instruction, Operand, Statement};
use super::{Parser, Result2};
use crate::lex::Token;

impl Parser<'_> {
    /// Statements up to the `}` that closes the function, which is consumed.
    pub(super) fn body(&mut self) -> Result2<Vec<Statement>> {
        let mut out = Vec::new();
        let mut depth = 0;
        loop {
            match self.peek() {
                None => return Err(self.expected("`}` at the end of the function")),
                Some(Token::Punct('}')) => {
                    self.at += 1;
                    if depth == 0 {
                        return Ok(out);
                    }
                    depth -= 1;
                    out.push(Statement::ScopeEnd);
                }
                Some(Token::Punct('{')) => {
                    self.at += 1;
                    depth += 1;
                    out.push(Statement::ScopeBegin);
                }
                // Inline assembly often ends `};` or `;;`.
                Some(Token::Punct(';')) => self.at += 1,
                Some(Token::Punct('@')) => {
                    let instruction = self.instruction()?;
                    out.push(Statement::Instruction(instruction));
                }
                Some(Token::Word(_)) => self.statement(&mut out)?,
                Some(_) => return Err(self.expected("an instruction")),
            }
        }
    }

    fn statement(&mut self, out: &mut Vec<Statement>) -> Result2<()> {
        let line = self.line();
        let word = self.peek_word().unwrap_or_default().to_string();
        if self.peek_at(1) == Some(&Token::Punct(':')) {
            self.at += 2;
            match self.peek_word() {
                Some(".branchtargets") => {
                    self.at += 1;
                    let mut names = vec![self.word("a label")?];
                    while self.accept(',') {
                        names.push(self.word("a label")?);
                    }
                    self.expect(';')?;
                    out.push(Statement::Targets(word, names));
                }
                Some(".callprototype" | ".calltargets") => self.skip_statement()?,
                _ => out.push(Statement::Label(word, line)),
            }
            return Ok(());
        }
        match word.as_str() {
            ".reg" => {
                self.at += 1;
                let (ty, _) = self.data_type()?;
                loop {
                    let name = self.word("a register's name")?;
                    let count = if self.accept('<') {
                        let n = self.small("a register count")?;
                        self.expect('>')?;
                        Some(n)
                    } else {
                        None
                    };
                    out.push(Statement::Registers { name, count, ty, line });
                    if !self.accept(',') {
                        break;
                    }
                }
                self.expect(';')
            }
            ".local" | ".shared" | ".param" | ".global" | ".const" => {
                let variables = self.variables(false)?;
                out.extend(variables.into_iter().map(Statement::Variable));
                Ok(())
            }
            ".extern" => {
                self.at += 1;
                let variables = self.variables(true)?;
                out.extend(variables.into_iter().map(Statement::Variable));
                Ok(())
            }
            ".pragma" => self.skip_statement(),
            _ if word.starts_with('.') => Err(self.expected("an instruction")),
            _ => {
                let instruction = self.instruction()?;
                out.push(Statement::Instruction(instruction));
                Ok(())
            }
        }
    }

    fn instruction(&mut self) -> Result2<Instruction> {
        let mut guard = None;
        if self.accept('@') {
            let negated = self.accept('!');
            guard = Some((self.word("a predicate")?, negated));
        }
        let line = self.line();
        let opcode = self.word("an opcode")?;
        let mut operands = Vec::new();
        if !self.accept(';') {
            loop {
                let operand = self.operand()?;
                operands.push(operand);
                if self.accept(';') {
                    break;
                }
                if !self.accept(',') {
                    return Err(self.expected("`,` or `;`"));
                }
            }
        }
        Ok(Instruction { guard, opcode, operands, line })
    }

    fn operand(&mut self) -> Result2<Operand> {
        let first = self.simple_operand()?;
        if self.accept('|') {
            let second = self.simple_operand()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn simple_operand(&mut self) -> Result2<Operand> {
        if self.accept('{') {
            return Ok(Operand::Vector(self.operands_until('}')?));
        }
        if self.accept('(') {
            return Ok(Operand::List(self.operands_until(')')?));
        }
        if self.accept('[') {
            let operand = if let Some(Token::Word(_)) = self.peek() {
                let base = Some(self.word("an address")?);
                Operand::Address { base, offset: self.offset()? }
            } else {
                Operand::Address { base: None, offset: self.int("an address")? as i64 }
            };
            self.expect(']')?;
            return Ok(operand);
        }
        if let Some(literal) = self.literal()? {
            return Ok(Operand::Literal(literal));
        }
        let negated = self.accept('!');
        let name = self.word("an operand")?;
        if name == "_" {
            return Ok(Operand::Sink);
        }
        let offset = self.offset()?;
        Ok(Operand::Name { name, negated, offset })
    }

    fn operands_until(&mut self, close: char) -> Result2<Vec<Operand>> {
        let mut out = Vec::new();
        if self.accept(close) {
            return Ok(out);
        }
        loop {
            let operand = self.operand()?;
            out.push(operand);
            if self.accept(close) {
                return Ok(out);
            }
            self.expect(',')?;
        }
    }
}
