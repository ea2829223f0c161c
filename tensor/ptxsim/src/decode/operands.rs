//! Operands to rows, registers and addresses.

use super::Body;
use super::scopes::Symbol;
use crate::exec::regs::{Reg, Row};
use crate::parse::ast::{Literal, Operand, Space};
use crate::parse::types::Type;
use crate::program::{Address, Constant, Place, Special};

/// Where an address operand leads.
pub(super) struct Located {
    pub address: Address,
    /// Space of the variable named, if one is.
    pub space: Option<Space>,
    /// Bytes of the variable from the address on, if one is named.
    pub room: Option<u64>,
}

/// Bits of a literal used as a value of type `ty`.
fn bits(literal: Literal, ty: Type) -> Result<u64, String> {
    Ok(match (literal, ty) {
        (Literal::Int(i), Type::F32 | Type::Tf32) if i > u64::from(u32::MAX) => {
            return Err(format!("integer {i} where a 32-bit float is expected"));
        }
        (Literal::Int(i), _) => match ty.bytes() {
            1 => i & 0xff,
            2 => i & 0xffff,
            4 => i & 0xffff_ffff,
            _ => i,
        },
        (Literal::F32(b), Type::F64) => f64::from(f32::from_bits(b)).to_bits(),
        (Literal::F32(b), _) => u64::from(b),
        (Literal::F64(b), Type::F32) => u64::from((f64::from_bits(b) as f32).to_bits()),
        (Literal::F64(b), _) => b,
    })
}

/// The special register `name`, if it is one that stays constant for a thread.
fn special(name: &str) -> Option<Special> {
    let (base, dim) = match name.rsplit_once('.') {
        Some((base, "x")) => (base, 0),
        Some((base, "y")) => (base, 1),
        Some((base, "z")) => (base, 2),
        _ => (name, 0),
    };
    Some(match base {
        "%tid" => Special::Tid(dim),
        "%ntid" => Special::Ntid(dim),
        "%ctaid" => Special::Ctaid(dim),
        "%nctaid" => Special::Nctaid(dim),
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::WarpCount,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%smid" => Special::SmId,
        "%nsmid" => Special::SmCount,
        "%gridid" => Special::GridId,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        // A block is a cluster of its own.
        "%cluster_ctaid" | "%cluster_ctarank" => Special::Zero,
        "%reserved_smem_offset_begin" | "%reserved_smem_offset_0" => Special::ReservedShared(0),
        "%reserved_smem_offset_1" => Special::ReservedShared(512),
        "%reserved_smem_offset_end" | "%reserved_smem_offset_cap" => Special::ReservedShared(1024),
        "%cluster_nctaid" | "%cluster_nctarank" => Special::One,
        "%clusterid" => Special::Ctaid(dim),
        "%nclusterid" => Special::Nctaid(dim),
        "%is_explicit_cluster" => Special::Zero,
        _ if base.starts_with("%envreg") => Special::Zero,
        _ => return None,
    })
}

/// Registers that change while a thread runs.
pub(super) fn is_clock(name: &str) -> bool {
    matches!(
        name,
        "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi"
    )
}

impl Body<'_, '_> {
    pub(super) fn constant32(&mut self, constant: Constant) -> Row {
        self.decoder.pool32.row(constant)
    }

    pub(super) fn constant64(&mut self, constant: Constant) -> Row {
        self.decoder.pool64.row(constant)
    }

    fn constant(&mut self, constant: Constant, wide: bool) -> Reg {
        if wide { Reg::W64(self.constant64(constant)) } else { Reg::W32(self.constant32(constant)) }
    }

    /// A source of any kind; literals and symbols take the width of `ty`.
    pub(super) fn source(&mut self, operand: &Operand, ty: Type) -> Result<Reg, String> {
        match operand {
            Operand::Literal(literal) => Ok(self.constant(Constant::Bits(bits(*literal, ty)?), ty.wide())),
            Operand::Name { name, negated: false, offset } => {
                if let Some(Symbol::Register(reg, _)) = self.scopes.find(name) {
                    return if *offset == 0 {
                        Ok(reg)
                    } else {
                        Err(format!("register {name} with an offset outside an address"))
                    };
                }
                if let Some(special) = special(name) {
                    return Ok(self.constant(Constant::Special(special), ty.wide()));
                }
                if name == "WARP_SZ" {
                    return Ok(self.constant(Constant::Bits(32), ty.wide()));
                }
                let (constant, base) = self.symbol(name, *offset)?;
                if base.is_some() {
                    return Err(format!("address of local variable {name} outside `mov`"));
                }
                Ok(self.constant(constant, ty.wide()))
            }
            Operand::Name { name, negated: true, .. } => Err(format!("`!{name}` is for predicates only")),
            Operand::Sink => Err("`_` cannot be read".to_string()),
            _ => Err("a register or a literal is expected".to_string()),
        }
    }

    /// The address of a variable: a constant and, for local ones, the row to add.
    pub(super) fn symbol(&mut self, name: &str, offset: i64) -> Result<(Constant, Option<Row>), String> {
        if let Some(Symbol::Variable { space, offset: at, dynamic, .. }) = self.scopes.find(name) {
            let value = Constant::Bits((i64::from(at) + offset) as u64);
            return match space {
                Space::Shared if dynamic => Ok((Constant::DynamicShared(offset), None)),
                Space::Local => Ok((value, Some(self.local_base))),
                Space::Param if !self.function.entry => Err(format!(
                    "the address of `.param` variable {name} of a function is not known: only its name can be used"
                )),
                _ => Ok((value, None)),
            };
        }
        let variable = self.decoder.file.variables.iter().find(|v| v.name == name);
        if let Some(v) = variable {
            return match v.space {
                Space::Shared if v.external || v.bytes == 0 => {
                    let align = self.decoder.dynamic_align.max(v.align);
                    self.decoder.dynamic_align = align;
                    Ok((Constant::DynamicShared(offset), None))
                }
                Space::Shared => {
                    let at = self.decoder.shared_offset("", v)?;
                    Ok((Constant::Bits((i64::from(at) + offset) as u64), None))
                }
                _ => Ok((Constant::Symbol(name.to_string(), offset), None)),
            };
        }
        if self.decoder.file.functions.iter().any(|f| f.name == name) {
            return Ok((Constant::Symbol(name.to_string(), offset), None));
        }
        Err(format!("`{name}` is not declared"))
    }

    /// A source row of exactly the width of `ty`.
    pub(super) fn src(&mut self, operand: &Operand, ty: Type) -> Result<Row, String> {
        match (self.source(operand, ty)?, ty.wide()) {
            (Reg::W32(row), false) | (Reg::W64(row), true) => Ok(row),
            (reg, _) => Err(self.mismatch(operand, reg, ty)),
        }
    }

    /// A destination row of exactly the width of `ty`.
    pub(super) fn dst(&mut self, operand: &Operand, ty: Type) -> Result<Row, String> {
        match (self.dst_reg(operand)?, ty.wide()) {
            (Reg::Sink, _) => Ok(Row::frame(0)),
            (Reg::W32(row), false) | (Reg::W64(row), true) => Ok(row),
            (reg, _) => Err(self.mismatch(operand, reg, ty)),
        }
    }

    fn mismatch(&self, operand: &Operand, reg: Reg, ty: Type) -> String {
        let shown = match operand {
            Operand::Name { name, .. } => name.as_str(),
            _ => "operand",
        };
        let found = match reg {
            Reg::W32(_) => "at most 32 bits wide",
            Reg::W64(_) => "64 bits wide",
            Reg::Pred(_) => "a predicate",
            Reg::Sink => "`_`",
        };
        format!("{shown} is {found}, but the instruction works on {} bits", 8 * ty.bytes())
    }

    /// A destination register of any kind.
    pub(super) fn dst_reg(&mut self, operand: &Operand) -> Result<Reg, String> {
        match operand {
            Operand::Sink => Ok(Reg::Sink),
            Operand::Name { name, negated: false, offset: 0 } => match self.scopes.find(name) {
                Some(Symbol::Register(reg, _)) => Ok(reg),
                _ => Err(format!("`{name}` is not a register")),
            },
            _ => Err("a register is expected as destination".to_string()),
        }
    }

    /// Declared type of a register operand.
    pub(super) fn declared(&self, operand: &Operand) -> Option<Type> {
        match operand {
            Operand::Name { name, .. } => match self.scopes.find(name) {
                Some(Symbol::Register(_, ty)) => Some(ty),
                _ => None,
            },
            _ => None,
        }
    }

    /// The row of predicate `name`.
    pub(super) fn predicate(&self, name: &str) -> Result<Row, String> {
        match self.scopes.find(name) {
            Some(Symbol::Register(Reg::Pred(row), _)) => Ok(row),
            _ if name == "%pt" => Ok(Row::absolute(0)),
            _ => Err(format!("`{name}` is not a predicate")),
        }
    }

    /// A predicate source and whether it is negated.
    pub(super) fn pred_src(&mut self, operand: &Operand) -> Result<(Row, bool), String> {
        match operand {
            Operand::Name { name, negated, .. } => Ok((self.predicate(name)?, *negated)),
            // Absolute predicate 0 is true.
            Operand::Literal(Literal::Int(i)) => Ok((Row::absolute(0), *i == 0)),
            _ => Err("a predicate is expected".to_string()),
        }
    }

    /// A predicate destination.
    pub(super) fn pred_dst(&mut self, operand: &Operand) -> Result<Row, String> {
        match operand {
            Operand::Sink => Ok(Row::frame(0)),
            Operand::Name { name, negated: false, .. } => self.predicate(name),
            _ => Err("a predicate is expected as destination".to_string()),
        }
    }

    /// Exactly `N` operands.
    pub(super) fn operands<'o, const N: usize>(
        &self,
        operands: &'o [Operand],
    ) -> Result<&'o [Operand; N], String> {
        operands.try_into().map_err(|_| format!("{N} operands are expected, not {}", operands.len()))
    }

    /// The elements of a vector operand, or the operand itself.
    pub(super) fn elements<'o>(&self, operand: &'o Operand) -> &'o [Operand] {
        match operand {
            Operand::Vector(elements) => elements,
            other => std::slice::from_ref(other),
        }
    }

    /// An address operand.
    pub(super) fn address(&mut self, operand: &Operand) -> Result<Located, String> {
        let Operand::Address { base, offset } = operand else {
            return Err("an address in brackets is expected".to_string());
        };
        let offset = *offset;
        let Some(name) = base else {
            let address = Address { base: None, offset };
            return Ok(Located { address, space: None, room: None });
        };
        match self.scopes.find(name) {
            Some(Symbol::Register(Reg::Pred(_), _)) => {
                return Err(format!("predicate {name} as an address"));
            }
            Some(Symbol::Register(reg, _)) => {
                let address = Address { base: Some(reg), offset };
                return Ok(Located { address, space: None, room: None });
            }
            Some(Symbol::Variable { space, offset: at, bytes, dynamic }) if !dynamic => {
                let base = (space == Space::Local).then_some(Reg::W64(self.local_base));
                let address = Address { base, offset: i64::from(at) + offset };
                let room = u64::try_from(offset).ok().and_then(|o| bytes.checked_sub(o));
                return Ok(Located { address, space: Some(space), room: Some(room.unwrap_or(0)) });
            }
            _ => {}
        }
        let (constant, _) = self.symbol(name, offset)?;
        let space = match constant {
            Constant::DynamicShared(_) | Constant::Bits(_) => Space::Shared,
            _ => self
                .decoder
                .file
                .variables
                .iter()
                .find(|v| v.name == *name)
                .map_or(Space::Global, |v| v.space),
        };
        let row = self.constant64(constant);
        let address = Address { base: Some(Reg::W64(row)), offset: 0 };
        Ok(Located { address, space: Some(space), room: None })
    }

    /// The place an access leads to: the space its opcode names, checked against the variable's.
    pub(super) fn place(&self, named: Option<Space>, located: &Located) -> Result<Place, String> {
        let space = match (named, located.space) {
            (Some(named), _) => Some(named),
            // Without a space in the opcode the address is generic: global variables' own are.
            (None, Some(Space::Global | Space::Const) | None) => None,
            (None, Some(space)) => {
                return Err(format!("generic access to a {space:?} variable by name"));
            }
        };
        if let (Some(a), Some(b)) = (named, located.space)
            && a != b
        {
            return Err(format!("the opcode says {a:?}, but the variable is in {b:?}"));
        }
        Ok(match space {
            None => Place::Generic,
            Some(Space::Global) => Place::Global,
            Some(Space::Const) => Place::Const,
            Some(Space::Shared) => Place::Shared,
            Some(Space::Local) => Place::Local,
            Some(Space::Param) if self.function.entry && !self.is_call_param(located) => Place::Param,
            Some(Space::Param) => Place::CallParam,
        })
    }

    /// Whether a `.param` address lies in a variable of the body: those follow the entry's parameters.
    fn is_call_param(&self, located: &Located) -> bool {
        located.address.base.is_none() && located.address.offset >= i64::from(self.formal_bytes)
    }
}
