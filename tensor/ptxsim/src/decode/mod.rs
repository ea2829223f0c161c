//! The syntax tree to [`Program`]s: names resolved, literals made rows, opcodes matched whole.

mod arithmetic;
mod bits;
mod compare;
mod control;
mod convert;
mod floats;
mod matrix;
mod mbarrier;
mod memory;
mod modifiers;
mod operands;
mod scopes;
mod video;
mod warp;

use std::collections::HashMap;
use std::sync::Arc;

use modifiers::Modifiers;
use scopes::Scopes;

use crate::error::ParseError;
use crate::exec::regs::Row;
use crate::lex::Source;
use crate::parse::ast::{File, Function, Instruction, Space, Statement, Variable};
use crate::program::{Class, Constant, FunctionFrame, Inst, Kind, Program};

/// Decodes entry `function` and everything it calls.
pub(crate) fn decode(file: &File, function: &Function, source: &Arc<Source>) -> Result<Program, ParseError> {
    let mut decoder = Decoder {
        file,
        source,
        code: Vec::new(),
        functions: Vec::new(),
        names: HashMap::new(),
        queue: Vec::new(),
        pool32: Pool::default(),
        pool64: Pool::default(),
        shared: HashMap::new(),
        shared_bytes: 0,
        dynamic_align: 16,
    };
    decoder.function_index(function);
    let mut next = 0;
    while next < decoder.queue.len() {
        decoder.function(next)?;
        next += 1;
    }
    decoder.finish()
}

/// Literals and special registers of one width.
#[derive(Default)]
struct Pool {
    rows: HashMap<Constant, u32>,
    values: Vec<Constant>,
}

impl Pool {
    fn row(&mut self, constant: Constant) -> Row {
        let next = self.values.len() as u32;
        let index = *self.rows.entry(constant.clone()).or_insert(next);
        if index == next {
            self.values.push(constant);
        }
        Row::absolute(index)
    }
}

/// State of decoding one entry.
pub(crate) struct Decoder<'a> {
    file: &'a File,
    source: &'a Arc<Source>,
    code: Vec<Inst>,
    functions: Vec<FunctionFrame>,
    /// Index in `functions` by name.
    names: HashMap<String, u32>,
    queue: Vec<&'a Function>,
    pool32: Pool,
    pool64: Pool,
    /// Offsets of static shared variables, by function (empty: module) and name.
    shared: HashMap<(String, String), u32>,
    shared_bytes: u32,
    dynamic_align: u32,
}

impl<'a> Decoder<'a> {
    fn function_index(&mut self, function: &'a Function) -> u32 {
        if let Some(&index) = self.names.get(&function.name) {
            return index;
        }
        let index = self.functions.len() as u32;
        self.functions.push(FunctionFrame { name: function.name.clone(), ..Default::default() });
        self.names.insert(function.name.clone(), index);
        self.queue.push(function);
        index
    }

    /// Offset of a static shared variable, given a place on first use.
    fn shared_offset(&mut self, function: &str, variable: &Variable) -> Result<u32, String> {
        let key = (function.to_string(), variable.name.clone());
        if let Some(&offset) = self.shared.get(&key) {
            return Ok(offset);
        }
        let offset = self.shared_bytes.next_multiple_of(variable.align.max(1));
        let end = u64::from(offset) + variable.bytes;
        self.shared_bytes = u32::try_from(end).map_err(|_| {
            format!("shared variable `{}` of {} bytes is too large", variable.name, variable.bytes)
        })?;
        self.shared.insert(key, offset);
        Ok(offset)
    }

    fn function(&mut self, index: usize) -> Result<(), ParseError> {
        let function = self.queue[index];
        let start = self.code.len() as u32;
        self.functions[index].start = start;
        let mut body = Body::new(self, function)?;
        for statement in &function.body {
            body.statement(statement)?;
        }
        // Falling off the end of a function returns from it.
        body.push(function.line, None, Kind::Return, Class::Control);
        body.resolve()?;
        let frame = body.frame();
        let name = std::mem::take(&mut self.functions[index].name);
        self.functions[index] = FunctionFrame { name, start, ..frame };
        Ok(())
    }

    fn finish(mut self) -> Result<Program, ParseError> {
        let dynamic = self.shared_bytes.next_multiple_of(self.dynamic_align);
        for pool in [&mut self.pool32, &mut self.pool64] {
            for value in &mut pool.values {
                if let Constant::DynamicShared(offset) = value {
                    *value = Constant::Bits((i64::from(dynamic) + *offset) as u64);
                }
            }
        }
        let mut constants = self.pool32.values.iter().chain(&self.pool64.values);
        Ok(Program {
            reserved_shared: constants
                .any(|c| matches!(c, Constant::Special(crate::program::Special::ReservedShared(_)))),
            fences: self.code.iter().any(|i| matches!(i.kind, Kind::Fence)),
            code: self.code,
            functions: self.functions,
            constants32: self.pool32.values,
            constants64: self.pool64.values,
            shared_bytes: self.shared_bytes,
            dynamic_shared: dynamic,
            source: self.source.clone(),
        })
    }
}

/// State of decoding one function.
pub(crate) struct Body<'d, 'a> {
    decoder: &'d mut Decoder<'a>,
    function: &'a Function,
    scopes: Scopes,
    rows32: u32,
    rows64: u32,
    preds: u32,
    param_bytes: u32,
    local_bytes: u32,
    /// Bytes of the parameters proper; variables of calls follow.
    formal_bytes: u32,
    /// Carry flag of `.cc` instructions.
    carry: Row,
    /// Row with the frame's offset in local memory.
    local_base: Row,
    /// Branches whose labels come later: instruction, labels, scope, line.
    branches: Vec<(usize, Vec<String>, usize, u32)>,
}

impl<'d, 'a> Body<'d, 'a> {
    fn new(decoder: &'d mut Decoder<'a>, function: &'a Function) -> Result<Self, ParseError> {
        let mut body = Self {
            decoder,
            function,
            scopes: Scopes::new(),
            // Frame row 0 of each kind takes results nobody wants.
            rows32: 1,
            rows64: 2,
            preds: 2,
            param_bytes: 0,
            local_bytes: 0,
            formal_bytes: 0,
            carry: Row::frame(1),
            local_base: Row::frame(1),
            branches: Vec::new(),
        };
        for variable in function.params.iter().chain(&function.returns) {
            body.variable(variable)?;
        }
        body.formal_bytes = body.param_bytes;
        let row = body.local_base;
        let init: crate::exec::regs::Alu = Box::new(move |regs, mask| {
            let base = u64::from(regs.base.local);
            regs.set64(row, mask, &[base; 32]);
        });
        body.push(function.line, None, Kind::Alu(init), Class::Move);
        Ok(body)
    }

    fn frame(&self) -> FunctionFrame {
        FunctionFrame {
            name: String::new(),
            start: 0,
            rows32: self.rows32,
            rows64: self.rows64,
            preds: self.preds,
            param_words: self.param_bytes.div_ceil(4),
            local_bytes: self.local_bytes,
        }
    }

    fn error(&self, line: u32, message: impl Into<String>) -> ParseError {
        self.decoder.source.error(line, message)
    }

    fn push(&mut self, line: u32, guard: Option<(Row, bool)>, kind: Kind, class: Class) {
        self.decoder.code.push(Inst { guard, kind, line, class });
    }

    fn statement(&mut self, statement: &'a Statement) -> Result<(), ParseError> {
        match statement {
            Statement::ScopeBegin => self.scopes.begin(),
            Statement::ScopeEnd => self.scopes.end(),
            Statement::Label(name, line) => {
                let pc = self.decoder.code.len() as u32;
                if !self.scopes.label(name, pc) {
                    return Err(self.error(*line, format!("label `{name}` is defined twice")));
                }
            }
            Statement::Targets(name, labels) => self.scopes.targets(name, labels),
            Statement::Registers { name, count, ty, line } => {
                if ty.bytes() > 8 {
                    return Err(self.error(*line, "registers of 128 bits are not known"));
                }
                let n = count.unwrap_or(1);
                let next = if ty.bytes() == 0 {
                    &mut self.preds
                } else if ty.wide() {
                    &mut self.rows64
                } else {
                    &mut self.rows32
                };
                let first = *next;
                *next = next.checked_add(n).filter(|&n| n < 1 << 20).unwrap_or(u32::MAX);
                if *next == u32::MAX {
                    return Err(self.error(*line, format!("{n} registers are too many")));
                }
                self.scopes.registers(name, *count, *ty, first);
            }
            Statement::Variable(variable) => self.variable(variable)?,
            Statement::Instruction(instruction) => self.instruction(instruction)?,
        }
        Ok(())
    }

    /// Gives a parameter or a variable declared in the body its place.
    fn variable(&mut self, v: &Variable) -> Result<(), ParseError> {
        let natural = self.function.entry && self.function.params.iter().any(|p| p.name == v.name);
        // The frames of calls are copied by word; only the kernel's own parameters have a layout to keep.
        let align = if v.space == Space::Param && !natural { v.align.max(4) } else { v.align.max(1) };
        let place = |used: &mut u32| {
            let offset = used.next_multiple_of(align);
            let end = u64::from(offset) + v.bytes;
            *used = u32::try_from(end).ok().filter(|&e| e < 1 << 24)?;
            Some(offset)
        };
        let offset = match v.space {
            Space::Param => place(&mut self.param_bytes),
            Space::Local => place(&mut self.local_bytes),
            Space::Shared if v.external || v.bytes == 0 => {
                self.decoder.dynamic_align = self.decoder.dynamic_align.max(align);
                Some(0)
            }
            Space::Shared => {
                let name = self.function.name.clone();
                let offset = self.decoder.shared_offset(&name, v);
                Some(offset.map_err(|m| self.error(v.line, m))?)
            }
            Space::Global | Space::Const => {
                let message = format!("`{}` must be declared outside the function", v.name);
                return Err(self.error(v.line, message));
            }
        };
        let Some(offset) = offset else {
            return Err(self.error(v.line, format!("`{}` of {} bytes is too large", v.name, v.bytes)));
        };
        self.scopes.variable(v, offset);
        Ok(())
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<(), ParseError> {
        let line = instruction.line;
        let mut guard = None;
        if let Some((name, negated)) = &instruction.guard {
            let row = self.predicate(name).map_err(|m| self.error(line, m))?;
            guard = Some((row, *negated));
        }
        let (name, mut modifiers) = Modifiers::new(&instruction.opcode);
        let decoded = self.opcode(name, &mut modifiers, instruction);
        let decoded = decoded.and_then(|kind| modifiers.finish().map(|()| kind));
        match decoded {
            Ok(kind) => {
                self.push(line, guard, kind, Class::of_opcode(&instruction.opcode));
                Ok(())
            }
            Err(message) => Err(self.error(line, format!("`{}`: {message}", instruction.opcode))),
        }
    }

    fn opcode(&mut self, name: &str, m: &mut Modifiers, i: &Instruction) -> Decoded {
        let ops = &i.operands[..];
        match name {
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "min" | "max" | "abs" | "neg" | "sad"
            | "addc" | "subc" | "madc" | "mad24" | "mul24" | "dp4a" | "dp2a" => self.arithmetic(name, m, ops),
            "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "testp" | "copysign" => {
                self.float_function(name, m, ops)
            }
            "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "lop3" | "prmt" | "bfe"
            | "bfi" | "bfind" | "brev" | "clz" | "popc" | "fns" | "bmsk" | "szext" => self.bits(name, m, ops),
            "setp" | "set" | "selp" | "slct" => self.compare(name, m, ops),
            "cvt" => self.cvt(m, ops),
            "mov" | "cvta" | "isspacep" | "mapa" => self.moves(name, m, ops),
            "ld" | "ldu" | "st" | "atom" | "red" | "cp" | "prefetch" | "prefetchu" | "createpolicy"
            | "applypriority" | "discard" | "membar" | "fence" => self.memory(name, m, ops),
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "bar" | "barrier"
            | "griddepcontrol" | "pmevent" => self.control(name, m, i),
            "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => self.warp(name, m, ops),
            "mma" | "wmma" | "ldmatrix" | "stmatrix" | "movmatrix" => self.matrix(name, &i.opcode, m, ops),
            "mbarrier" => self.mbarrier(m, ops),
            _ if name.starts_with('v') => self.video(name, m, ops),
            _ => Err("this instruction is not known".to_string()),
        }
    }

    /// Points branches at their labels.
    fn resolve(&mut self) -> Result<(), ParseError> {
        for (at, labels, scope, line) in std::mem::take(&mut self.branches) {
            let mut found = Vec::new();
            for label in &labels {
                let pc = self.scopes.find_label(label, scope);
                found.push(pc.ok_or_else(|| self.error(line, format!("no label `{label}`")))?);
            }
            match &mut self.decoder.code[at].kind {
                Kind::BranchIndexed { targets, .. } => *targets = found,
                kind => *kind = Kind::Branch(found[0]),
            }
        }
        Ok(())
    }
}

/// A decoded instruction or what is wrong with it.
type Decoded = Result<Kind, String>;
