//! The syntax tree: PTX as written, names not yet resolved.

use super::types::Type;
use crate::memory::FUNCTION_WINDOW;

/// A literal operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Literal {
    Int(u64),
    F32(u32),
    F64(u64),
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A register, symbol, label or special register; `negated` for `!%p`.
    Name {
        name: String,
        negated: bool,
        offset: i64,
    },
    Literal(Literal),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `[base + offset]`; a bare `[16]` has no base.
    Address {
        base: Option<String>,
        offset: i64,
    },
    /// `a|p`: a result and a predicate.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `_`.
    Sink,
}

/// One instruction as written.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    /// Guard predicate and whether it is negated.
    pub guard: Option<(String, bool)>,
    pub opcode: String,
    pub operands: Vec<Operand>,
    pub line: u32,
}

/// State space of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// One element of an initialiser.
#[derive(Clone, Debug)]
pub(crate) enum Initial {
    Literal(Literal),
    /// Address of a symbol plus an offset.
    Symbol(String, i64),
}

/// A variable of any space.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub name: String,
    pub space: Space,
    /// Element type.
    pub ty: Type,
    pub align: u32,
    /// Size in bytes; 0 for an array of unknown length (`extern .shared x[]`).
    pub bytes: u64,
    pub external: bool,
    pub initial: Vec<Initial>,
    pub line: u32,
    /// Whether a parameter was marked `.ptr`.
    pub pointer: bool,
}

/// One line of a function body.
#[derive(Clone, Debug)]
pub(crate) enum Statement {
    Label(String, u32),
    Instruction(Instruction),
    /// Registers: base name, count (`%r<10>`), type.
    Registers {
        name: String,
        count: Option<u32>,
        ty: Type,
        line: u32,
    },
    Variable(Variable),
    /// `name: .branchtargets a, b;`
    Targets(String, Vec<String>),
    ScopeBegin,
    ScopeEnd,
}

/// A `.func` or `.entry`.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub name: String,
    pub entry: bool,
    pub returns: Vec<Variable>,
    pub params: Vec<Variable>,
    /// Statements; empty with `defined == false` for a declaration.
    pub body: Vec<Statement>,
    pub defined: bool,
    pub line: u32,
    pub max_threads: Option<u32>,
    pub required_threads: Option<[u32; 3]>,
}

/// A whole PTX file.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub version: (u32, u32),
    pub target: String,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}

impl File {
    /// The address of the function called `name`: what a pointer to it holds.
    pub(crate) fn function_address(&self, name: &str) -> Option<u64> {
        let index = self.functions.iter().position(|f| f.name == name && !f.entry)?;
        Some(FUNCTION_WINDOW + 16 * (index as u64 + 1))
    }
}
