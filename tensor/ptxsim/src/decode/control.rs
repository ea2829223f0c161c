//! Branches, calls, exits and block barriers.

use super::modifiers::Modifiers;
use super::scopes::Symbol;
use super::{Body, Decoded};
use crate::exec::regs::{Reg, Row};
use crate::parse::ast::{Function, Instruction, Operand, Space, Variable};
use crate::parse::types::Type;
use crate::program::{Barrier, BarrierKind, IndirectCall, Kind};

/// Functions of the runtime that only report; calling them is an error of the kernel.
const REPORTERS: [&str; 2] = ["__assertfail", "__assert_fail"];

/// Words copied between parameter frames, (from, to).
type WordCopies = Vec<(u32, u32)>;

impl Body<'_, '_> {
    pub(super) fn control(&mut self, name: &str, m: &mut Modifiers, i: &Instruction) -> Decoded {
        let ops = &i.operands[..];
        let kind = match name {
            "bra" => {
                m.take("uni");
                let label = self.label(ops.first())?;
                self.branches.push((self.decoder.code.len(), vec![label], self.scopes.current(), i.line));
                Kind::Branch(0)
            }
            "brx" => {
                if !m.take("idx") {
                    return Err("only brx.idx is known".to_string());
                }
                m.take("uni");
                let [index, list] = self.operands::<2>(ops)?;
                let index = self.src(index, Type::U32)?;
                let list = self.label(Some(list))?;
                let labels =
                    self.scopes.find_targets(&list).ok_or_else(|| format!("no .branchtargets `{list}`"))?;
                self.branches.push((self.decoder.code.len(), labels, self.scopes.current(), i.line));
                Kind::BranchIndexed { index, targets: Vec::new() }
            }
            "call" => {
                m.take("uni");
                self.call(ops)?
            }
            "ret" => {
                m.take("uni");
                Kind::Return
            }
            "exit" => Kind::Exit,
            "trap" => Kind::Trap,
            "brkpt" => Kind::Trap,
            "nanosleep" => {
                m.ty()?;
                Kind::Nop
            }
            "griddepcontrol" => {
                if m.one_of(&["wait", "launch_dependents"]).is_none() {
                    return Err("wait or launch_dependents is missing".to_string());
                }
                Kind::Nop
            }
            "pmevent" => {
                m.take("mask");
                Kind::Nop
            }
            _ => return self.barrier(name, m, ops),
        };
        Ok(kind)
    }

    fn label(&self, operand: Option<&Operand>) -> Result<String, String> {
        match operand {
            Some(Operand::Name { name, negated: false, offset: 0 }) => Ok(name.clone()),
            _ => Err("a label is expected".to_string()),
        }
    }

    /// `call{.uni} {(ret),} name{, (args)}{, prototype}`.
    fn call(&mut self, ops: &[Operand]) -> Result<Kind, String> {
        let (returns, rest) = match ops {
            [Operand::List(returns), rest @ ..] => (&returns[..], rest),
            rest => (&[][..], rest),
        };
        let [Operand::Name { name, .. }, rest @ ..] = rest else {
            return Err("a function's name is expected".to_string());
        };
        let arguments = match rest {
            [] => &[][..],
            [Operand::List(arguments), ..] => &arguments[..],
            _ => return Err("the arguments stand in parentheses".to_string()),
        };
        if REPORTERS.contains(&name.as_str()) {
            return Ok(Kind::Illegal("an assertion of the kernel failed".to_string()));
        }
        let functions = &self.decoder.file.functions;
        if let Some(Symbol::Register(Reg::W64(target), _)) = self.scopes.find(name) {
            return self.call_indirect(target, returns, arguments);
        }
        let Some(callee) = functions
            .iter()
            .find(|f| f.name == *name && f.defined)
            .or_else(|| functions.iter().find(|f| f.name == *name))
        else {
            return Err(format!("function `{name}` is not declared"));
        };
        if name == "vprintf" {
            return Ok(Kind::Illegal("printf is not simulated: compile the kernel without it".to_string()));
        }
        if !callee.defined {
            return Ok(Kind::Illegal(format!("calls `{name}`, which this module does not define")));
        }
        if arguments.len() != callee.params.len() || returns.len() != callee.returns.len() {
            return Err(format!(
                "`{name}` takes {} arguments and returns {}, not {} and {}",
                callee.params.len(),
                callee.returns.len(),
                arguments.len(),
                returns.len()
            ));
        }
        let (arguments, results) = self.call_copies(callee, returns, arguments)?;
        let function = self.decoder.function_index(callee);
        Ok(Kind::Call { function, arguments, results })
    }

    /// `call (ret), %rd, (args), prototype`: any function whose parameters have these sizes may be meant.
    fn call_indirect(
        &mut self,
        target: Row,
        returns: &[Operand],
        arguments: &[Operand],
    ) -> Result<Kind, String> {
        let size = |operand: &Operand| match operand {
            Operand::Name { name, .. } => match self.scopes.find(name) {
                Some(Symbol::Variable { space: Space::Param, bytes, .. }) => Some(bytes),
                _ => None,
            },
            _ => None,
        };
        let sizes = |operands: &[Operand]| operands.iter().map(size).collect::<Option<Vec<u64>>>();
        let (Some(given), Some(wanted)) = (sizes(arguments), sizes(returns)) else {
            return Err("arguments of calls are `.param` variables".to_string());
        };
        let fits = |f: &&Function| {
            let bytes = |variables: &[Variable]| variables.iter().map(|v| v.bytes).collect::<Vec<u64>>();
            f.defined && !f.entry && bytes(&f.params) == given && bytes(&f.returns) == wanted
        };
        let file = self.decoder.file;
        let found: Vec<&Function> = file.functions.iter().filter(fits).collect();
        let Some(first) = found.first() else {
            return Err("no function of the module has such parameters".to_string());
        };
        let (arguments, results) = self.call_copies(first, returns, arguments)?;
        let mut candidates = Vec::new();
        for function in found {
            if let Some(address) = file.function_address(&function.name) {
                candidates.push((address, self.decoder.function_index(function)));
            }
        }
        let call = IndirectCall { target, candidates, arguments, results };
        Ok(Kind::CallIndirect(Box::new(call)))
    }

    /// Which words of the caller's parameter frame go where in the callee's, and back.
    fn call_copies(
        &self,
        callee: &Function,
        returns: &[Operand],
        arguments: &[Operand],
    ) -> Result<(WordCopies, WordCopies), String> {
        // The callee's frame begins with its parameters, then its results, as `Body::new` lays them out.
        let mut used = 0u32;
        let mut places = Vec::new();
        for formal in callee.params.iter().chain(&callee.returns) {
            let offset = used.next_multiple_of(formal.align.max(4));
            places.push((offset, formal.bytes));
            used = offset + formal.bytes as u32;
        }
        let mut copies = Vec::new();
        for (operand, &(to, bytes)) in arguments.iter().chain(returns).zip(&places) {
            let Operand::Name { name, .. } = operand else {
                return Err("arguments of calls are `.param` variables".to_string());
            };
            let Some(Symbol::Variable { space: Space::Param, offset, bytes: size, .. }) =
                self.scopes.find(name)
            else {
                return Err(format!("`{name}` is not a `.param` variable"));
            };
            if size < bytes {
                return Err(format!("`{name}` has {size} bytes, the parameter {bytes}"));
            }
            let words = (bytes as u32).div_ceil(4);
            copies.push((0..words).map(|w| (offset / 4 + w, to / 4 + w)).collect::<Vec<_>>());
        }
        let results = copies.split_off(arguments.len());
        let results = results.into_iter().flatten().map(|(ours, theirs)| (theirs, ours)).collect();
        Ok((copies.into_iter().flatten().collect(), results))
    }

    /// `bar{.cta}.sync/.arrive/.red/.warp.sync` and `barrier{.cta}…`.
    fn barrier(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        if m.take("warp") {
            if !m.take("sync") {
                return Err("sync is missing".to_string());
            }
            let [members] = self.operands::<1>(ops)?;
            let members = Some(self.src(members, Type::B32)?);
            let operation = Box::new(crate::program::Collective::Barrier);
            return Ok(Kind::Collective { members, operation });
        }
        if m.take("cluster") {
            // A cluster is one block: waiting for it is a block barrier, arriving is nothing.
            return Err("clusters are not known".to_string());
        }
        m.take("cta");
        let action = m.one_of(&["sync", "arrive", "red"]).ok_or("sync, arrive or red is missing")?;
        // `bar` is short for `barrier….aligned`.
        let aligned = m.take("aligned") || name == "bar";
        let reduction = m.one_of(&["popc", "and", "or"]);
        let kind = match (action, reduction) {
            ("sync", None) => BarrierKind::Sync,
            ("arrive", None) => BarrierKind::Arrive,
            ("red", Some("popc")) => BarrierKind::Popc,
            ("red", Some("and")) => BarrierKind::And,
            ("red", Some("or")) => BarrierKind::Or,
            _ => return Err("red goes with popc, and or or".to_string()),
        };
        let (mut dst, mut input) = (Reg::Sink, None);
        let mut rest = ops;
        if reduction.is_some() {
            m.ty()?;
            let [d, middle @ .., p] = ops else {
                return Err("operands are missing".to_string());
            };
            dst = self.dst_reg(d)?;
            input = Some(self.pred_src(p)?);
            rest = middle;
        }
        let (id, count) = match rest {
            [id] => (id, None),
            [id, count] => (id, Some(self.src(count, Type::U32)?)),
            _ => return Err("a barrier number and perhaps a thread count are expected".to_string()),
        };
        if kind == BarrierKind::Arrive && count.is_none() {
            return Err("arrive needs a thread count".to_string());
        }
        let id = self.src(id, Type::U32)?;
        let barrier = Barrier { kind, id, count, aligned, input, dst };
        Ok(Kind::Barrier(Box::new(barrier)))
    }
}
