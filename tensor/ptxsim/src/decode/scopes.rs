//! Names in nested `{ }` scopes: registers, variables, labels, branch target lists.

use std::collections::HashMap;

use crate::exec::regs::{Reg, Row};
use crate::parse::ast::{Space, Variable};
use crate::parse::types::Type;

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Symbol {
    Register(Reg, Type),
    Variable { space: Space, offset: u32, bytes: u64, dynamic: bool },
}

#[derive(Default)]
struct Scope {
    parent: Option<usize>,
    names: HashMap<String, Symbol>,
    /// `%r<10>`: by prefix, the count, type and first row.
    ranges: HashMap<String, (u32, Type, u32)>,
    labels: HashMap<String, u32>,
    targets: HashMap<String, Vec<String>>,
}

pub(super) struct Scopes {
    all: Vec<Scope>,
    current: usize,
}

fn register(ty: Type, row: u32) -> Reg {
    let row = Row::frame(row);
    match ty.bytes() {
        0 => Reg::Pred(row),
        8 => Reg::W64(row),
        _ => Reg::W32(row),
    }
}

impl Scopes {
    pub(super) fn new() -> Self {
        Self { all: vec![Scope::default()], current: 0 }
    }

    pub(super) fn current(&self) -> usize {
        self.current
    }

    pub(super) fn begin(&mut self) {
        self.all.push(Scope { parent: Some(self.current), ..Scope::default() });
        self.current = self.all.len() - 1;
    }

    pub(super) fn end(&mut self) {
        self.current = self.all[self.current].parent.unwrap_or(0);
    }

    /// False if the scope has that label already.
    pub(super) fn label(&mut self, name: &str, pc: u32) -> bool {
        self.all[self.current].labels.insert(name.to_string(), pc).is_none()
    }

    pub(super) fn targets(&mut self, name: &str, labels: &[String]) {
        self.all[self.current].targets.insert(name.to_string(), labels.to_vec());
    }

    pub(super) fn registers(&mut self, name: &str, count: Option<u32>, ty: Type, first: u32) {
        let scope = &mut self.all[self.current];
        match count {
            Some(n) => {
                scope.ranges.insert(name.to_string(), (n, ty, first));
            }
            None => {
                let symbol = Symbol::Register(register(ty, first), ty);
                scope.names.insert(name.to_string(), symbol);
            }
        }
    }

    pub(super) fn variable(&mut self, v: &Variable, offset: u32) {
        let dynamic = v.space == Space::Shared && (v.external || v.bytes == 0);
        let symbol = Symbol::Variable { space: v.space, offset, bytes: v.bytes, dynamic };
        self.all[self.current].names.insert(v.name.clone(), symbol);
    }

    fn search<T>(&self, from: usize, f: impl Fn(&Scope) -> Option<T>) -> Option<T> {
        let mut at = Some(from);
        while let Some(index) = at {
            if let Some(found) = f(&self.all[index]) {
                return Some(found);
            }
            at = self.all[index].parent;
        }
        None
    }

    pub(super) fn find(&self, name: &str) -> Option<Symbol> {
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        self.search(self.current, |scope| {
            if let Some(&symbol) = scope.names.get(name) {
                return Some(symbol);
            }
            // A prefix may itself end in digits: try every split.
            for split in name.len() - digits..name.len() {
                if let Some(&(count, ty, first)) = scope.ranges.get(&name[..split])
                    && let Ok(index) = name[split..].parse::<u32>()
                    && index < count
                {
                    return Some(Symbol::Register(register(ty, first + index), ty));
                }
            }
            None
        })
    }

    pub(super) fn find_label(&self, name: &str, from: usize) -> Option<u32> {
        self.search(from, |scope| scope.labels.get(name).copied())
    }

    pub(super) fn find_targets(&self, name: &str) -> Option<Vec<String>> {
        self.search(self.current, |scope| scope.targets.get(name).cloned())
    }
}
