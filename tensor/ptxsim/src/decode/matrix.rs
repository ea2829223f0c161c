//! `mma wmma ldmatrix stmatrix`.

use super::modifiers::Modifiers;
use super::{Body, Decoded};
use crate::exec::regs::{Reg, Row};
use crate::parse::ast::{Operand, Space};
use crate::parse::types::Type;
use crate::program::{FragmentAccess, Kind, Matrix, Multiply, Place};
use crate::semantics::tensor::Mma;
use crate::semantics::wmma::WmmaAccess;

impl Body<'_, '_> {
    pub(super) fn matrix(&mut self, name: &str, opcode: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        match name {
            "ldmatrix" | "stmatrix" => self.matrix_access(name, m, ops),
            "movmatrix" => Err("this instruction is not known".to_string()),
            _ if m.has("load") || m.has("store") => self.fragment_access(opcode, m, ops),
            _ => self.multiply(opcode, m, ops),
        }
    }

    fn matrix_access(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        if !(m.take("sync") && m.take("aligned") && m.take("m8n8")) {
            return Err("only .sync.aligned.m8n8 is known".to_string());
        }
        let count = match m.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return Err("x1, x2 or x4 is missing".to_string()),
        };
        let transposed = m.take("trans");
        let shared = m.take("shared") || m.take("shared::cta");
        if m.ty()? != Type::B16 {
            return Err("the type is .b16".to_string());
        }
        let [first, second] = self.operands::<2>(ops)?;
        let load = name == "ldmatrix";
        let (vector, at) = if load { (first, second) } else { (second, first) };
        let elements = self.elements(vector).to_vec();
        if elements.len() != count {
            return Err(format!("{count} registers are expected, not {}", elements.len()));
        }
        let mut regs = Vec::new();
        for e in &elements {
            let row = if load { self.dst(e, Type::B32)? } else { self.src(e, Type::B32)? };
            regs.push(Reg::W32(row));
        }
        let located = self.address(at)?;
        let place = self.place(shared.then_some(Space::Shared), &located)?;
        let matrix = Box::new(Matrix { address: located.address, place, transposed, regs });
        Ok(if load { Kind::LoadMatrix(matrix) } else { Kind::StoreMatrix(matrix) })
    }

    fn multiply(&mut self, opcode: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let operation = Mma::from_opcode(opcode)?;
        m.take_all();
        let [d, a, b, c] = self.operands::<4>(ops)?;
        let ty = if operation.is_f64() { Type::B64 } else { Type::B32 };
        let n = operation.registers();
        let mut rows = |operand: &Operand, n: u32, write: bool| -> Result<Vec<Row>, String> {
            let elements = self.elements(operand).to_vec();
            if elements.len() != n as usize {
                return Err(format!("{n} registers are expected, not {}", elements.len()));
            }
            let row = |e| if write { self.dst(e, ty) } else { self.src(e, ty) };
            elements.iter().map(row).collect()
        };
        let (d, a) = (rows(d, n.d, true)?, rows(a, n.a, false)?);
        let (b, c) = (rows(b, n.b, false)?, rows(c, n.c, false)?);
        Ok(Kind::Multiply(Box::new(Multiply { operation, d, a, b, c })))
    }

    fn fragment_access(&mut self, opcode: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        // The space is ours, the rest the fragment's.
        let space = m.take_where(|p| matches!(p, "shared" | "global" | "shared::cta"));
        let rest: Vec<&str> = opcode
            .split('.')
            .filter(|p| !matches!(*p, "shared" | "global" | "shared::cta"))
            .collect();
        let access = WmmaAccess::from_opcode(&rest.join("."))?;
        m.take_all();
        let (first, second, stride) = match ops {
            [a, b] => (a, b, None),
            [a, b, c] => (a, b, Some(self.src(c, Type::U32)?)),
            _ => return Err("2 or 3 operands are expected".to_string()),
        };
        let (vector, at) = if access.store { (second, first) } else { (first, second) };
        let elements = self.elements(vector).to_vec();
        if elements.len() != access.fragment.registers as usize {
            return Err(format!(
                "{} registers are expected, not {}",
                access.fragment.registers,
                elements.len()
            ));
        }
        let ty = if access.fragment.element.bits() == 64 { Type::B64 } else { Type::B32 };
        let mut regs = Vec::new();
        for e in &elements {
            regs.push(if access.store { self.source(e, ty)? } else { self.dst_reg(e)? });
        }
        let located = self.address(at)?;
        let named = space.map(|s| if s == "global" { Space::Global } else { Space::Shared });
        let place: Place = self.place(named, &located)?;
        let address = located.address;
        let fragment = Box::new(FragmentAccess { place, address, access, stride, regs });
        Ok(if fragment.access.store {
            Kind::StoreFragment(fragment)
        } else {
            Kind::LoadFragment(fragment)
        })
    }
}
