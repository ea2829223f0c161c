//! Loads, stores, atomics, asynchronous copies, fences and hints.

use super::modifiers::Modifiers;
use super::{Body, Decoded};
use crate::exec::regs::{Alu, Reg};
use crate::parse::ast::{Operand, Space};
use crate::parse::types::Type;
use crate::program::{Atomic, AtomicOp, CopyAsync, Extend, Kind, Load, Order, Place, Store};

/// Cache operators and eviction priorities: they change speed only.
const HINTS: [&str; 14] = [
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "volatile",
];

const ORDERS: [&str; 4] = ["relaxed", "acquire", "release", "acq_rel"];

fn access_order(name: Option<&str>) -> Order {
    Order {
        strong: matches!(name, Some("relaxed" | "acquire" | "release" | "acq_rel")),
        volatile: false,
        acquire: matches!(name, Some("acquire" | "acq_rel")),
        release: matches!(name, Some("release" | "acq_rel")),
    }
}

pub(super) fn is_scope(p: &str) -> bool {
    matches!(p, "cta" | "cluster" | "gpu" | "sys")
}

fn take_hints(m: &mut Modifiers) -> bool {
    let mut policy = false;
    while m.one_of(&HINTS).is_some() {}
    while m.take_where(|p| matches!(p, "L2::64B" | "L2::128B" | "L2::256B")).is_some() {}
    while m.take_where(|p| p.starts_with("L2::evict")).is_some() {}
    while m.take("L2::cache_hint") {
        policy = true;
    }
    policy
}

pub(super) fn take_space(m: &mut Modifiers) -> Option<Space> {
    let name = m.take_where(|p| {
        matches!(
            p,
            "global"
                | "const"
                | "shared"
                | "shared::cta"
                | "local"
                | "param"
                | "param::entry"
                | "param::func"
        )
    })?;
    Some(match name {
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" | "shared::cta" => Space::Shared,
        "local" => Space::Local,
        _ => Space::Param,
    })
}

impl Body<'_, '_> {
    pub(super) fn memory(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        match name {
            "ld" | "ldu" => self.load(m, ops),
            "st" => self.store(m, ops),
            "atom" | "red" => self.atomic(name, m, ops),
            "cp" => self.copy_async(m, ops),
            "prefetch" | "prefetchu" | "applypriority" | "discard" => {
                take_space(m);
                while m.take_where(|p| p.starts_with('L')).is_some() {}
                if ops.is_empty() {
                    return Err("an address is expected".to_string());
                }
                self.address(&ops[0])?;
                Ok(Kind::Nop)
            }
            "createpolicy" => self.create_policy(m, ops),
            _ => {
                m.take_all_of(|p| {
                    is_scope(p)
                        || matches!(
                            p,
                            "sc" | "acq_rel" | "acquire" | "release" | "gl" | "proxy" | "async" | "alias"
                        )
                });
                Ok(Kind::Fence)
            }
        }
    }

    fn create_policy(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        m.take_all_of(|p| {
            matches!(p, "fractional" | "range" | "global" | "cvt" | "L2") || p.starts_with("L2::")
        });
        if m.ty()? != Type::B64 {
            return Err("the type is .b64".to_string());
        }
        let d = self.dst(ops.first().ok_or("operands are missing")?, Type::B64)?;
        // The value is opaque and only accepted as a hint.
        let alu: Alu = Box::new(move |regs, mask| regs.set64(d, mask, &[0; 32]));
        Ok(Kind::Alu(alu))
    }

    /// `.v2`, `.v4`: elements of a vector.
    fn vector(&self, m: &mut Modifiers, operand: &Operand) -> Result<Vec<Operand>, String> {
        let n = match m.one_of(&["v2", "v4"]) {
            None => 1,
            Some("v2") => 2,
            Some(_) => 4,
        };
        let elements = self.elements(operand).to_vec();
        if elements.len() != n {
            return Err(format!("{n} registers are expected, not {}", elements.len()));
        }
        Ok(elements)
    }

    /// Checks a `.param` access by name: nothing is left to check when it runs.
    fn check_call_param(
        &self,
        place: Place,
        offset: i64,
        room: Option<u64>,
        bytes: u32,
    ) -> Result<(), String> {
        if place != Place::CallParam {
            return Ok(());
        }
        match room {
            None => Err("a `.param` variable of a function can only be accessed by its name".into()),
            Some(room) if room < u64::from(bytes) => {
                Err(format!("{bytes} bytes do not fit the {room} bytes left of the variable"))
            }
            _ if offset % i64::from(bytes.min(4)) != 0 => {
                Err(format!("offset {offset} is not a multiple of {bytes}"))
            }
            _ => Ok(()),
        }
    }

    fn load(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let volatile = m.take("volatile");
        let order = m.one_of(&["relaxed", "acquire", "weak"]);
        let uncached = m.take("cv");
        let strong = volatile || uncached || matches!(order, Some("relaxed" | "acquire"));
        m.take_where(is_scope);
        let space = take_space(m);
        let policy = take_hints(m);
        let (d, at) = match (ops, policy) {
            ([d, at], false) | ([d, at, _], true) => (d, at),
            _ => return Err("a destination and an address are expected".to_string()),
        };
        let elements = self.vector(m, d)?;
        let ty = m.ty()?;
        if ty.bytes() == 0 || ty.bytes() > 8 {
            return Err(format!("type {ty:?} cannot be loaded"));
        }
        let mut dst = Vec::new();
        for e in &elements {
            let reg = self.dst_reg(e)?;
            if matches!(reg, Reg::Pred(_)) {
                return Err("a predicate cannot be loaded".to_string());
            }
            if matches!(reg, Reg::W32(_)) && ty.bytes() == 8 {
                return Err("a 64-bit value does not fit the register".to_string());
            }
            dst.push(reg);
        }
        let located = self.address(at)?;
        let place = self.place(space, &located)?;
        let bytes = ty.bytes() * elements.len() as u32;
        if bytes > 16 {
            return Err(format!("{bytes} bytes are too much for one load"));
        }
        self.check_call_param(place, located.address.offset, located.room, bytes)?;
        let extend = if ty.signed() { Extend::Sign } else { Extend::Zero };
        Ok(Kind::Load(Box::new(Load {
            place,
            address: located.address,
            bytes: ty.bytes(),
            extend,
            dst,
            strong,
            order: Order { volatile, ..access_order(order) },
        })))
    }

    fn store(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let volatile = m.take("volatile");
        let order = Order { volatile, ..access_order(m.one_of(&["relaxed", "release", "weak"])) };
        m.take_where(is_scope);
        let space = take_space(m);
        let policy = take_hints(m);
        let (at, value) = match (ops, policy) {
            ([at, value], false) | ([at, value, _], true) => (at, value),
            _ => return Err("an address and a value are expected".to_string()),
        };
        let elements = self.vector(m, value)?;
        let ty = m.ty()?;
        if ty.bytes() == 0 || ty.bytes() > 8 {
            return Err(format!("type {ty:?} cannot be stored"));
        }
        let mut src = Vec::new();
        for e in &elements {
            let reg = self.source(e, ty)?;
            if matches!(reg, Reg::Pred(_)) || matches!(reg, Reg::W32(_)) && ty.bytes() == 8 {
                return Err("the register does not hold a value of this size".to_string());
            }
            src.push(reg);
        }
        let located = self.address(at)?;
        if space == Some(Space::Const) || located.space == Some(Space::Const) {
            return Err("constant memory cannot be written".to_string());
        }
        let place = self.place(space, &located)?;
        let bytes = ty.bytes() * elements.len() as u32;
        if bytes > 16 {
            return Err(format!("{bytes} bytes are too much for one store"));
        }
        self.check_call_param(place, located.address.offset, located.room, bytes)?;
        let address = located.address;
        Ok(Kind::Store(Box::new(Store { place, address, bytes: ty.bytes(), src, order })))
    }

    fn atomic(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let order = Order { strong: true, ..access_order(m.one_of(&ORDERS)) };
        m.take_where(is_scope);
        let space = take_space(m);
        let op = match m.one_of(&["add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"]) {
            Some("add") => AtomicOp::Add,
            Some("min") => AtomicOp::Min,
            Some("max") => AtomicOp::Max,
            Some("inc") => AtomicOp::Inc,
            Some("dec") => AtomicOp::Dec,
            Some("and") => AtomicOp::And,
            Some("or") => AtomicOp::Or,
            Some("xor") => AtomicOp::Xor,
            Some("exch") => AtomicOp::Exch,
            Some(_) => AtomicOp::Cas,
            None => return Err("an operation such as .add is missing".to_string()),
        };
        let noftz = m.take("noftz");
        let policy = take_hints(m);
        let mut rest = ops;
        let mut dst = Vec::new();
        if name == "atom" {
            let [d, others @ ..] = ops else {
                return Err("operands are missing".to_string());
            };
            for e in self.elements(d) {
                dst.push(self.dst_reg(e)?);
            }
            rest = others;
        }
        if policy {
            rest = &rest[..rest.len().saturating_sub(1)];
        }
        let (at, value, swap) = match (rest, op) {
            ([at, compare, swap], AtomicOp::Cas) => (at, compare, Some(swap)),
            ([at, value], op) if op != AtomicOp::Cas => (at, value, None),
            _ => return Err("wrong number of operands".to_string()),
        };
        let elements = self.vector(m, value)?;
        let ty = m.ty()?;
        let known = match op {
            AtomicOp::Add => matches!(
                ty,
                Type::U32
                    | Type::S32
                    | Type::U64
                    | Type::S64
                    | Type::F32
                    | Type::F64
                    | Type::F16
                    | Type::F16x2
                    | Type::Bf16
                    | Type::Bf16x2
            ),
            AtomicOp::Min | AtomicOp::Max => {
                matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64)
                    || elements.len() > 1 && matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2)
            }
            AtomicOp::Inc | AtomicOp::Dec => ty == Type::U32,
            AtomicOp::And | AtomicOp::Or | AtomicOp::Xor => matches!(ty, Type::B32 | Type::B64),
            AtomicOp::Exch => {
                matches!(ty, Type::B32 | Type::B64 | Type::U32 | Type::U64 | Type::S32 | Type::F32)
            }
            AtomicOp::Cas => {
                matches!(ty, Type::B16 | Type::B32 | Type::B64 | Type::U32 | Type::U64 | Type::S32)
            }
        };
        if !known {
            return Err(format!("type {ty:?} does not go with this operation"));
        }
        if noftz != (op == AtomicOp::Add && matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2))
            && elements.len() == 1
        {
            return Err(if noftz {
                "noftz is for 16-bit floats".to_string()
            } else {
                "noftz is missing".to_string()
            });
        }
        let mut src = Vec::new();
        for e in &elements {
            src.push(self.source(e, ty)?);
        }
        let swap = swap.map(|s| self.source(s, ty)).transpose()?;
        let located = self.address(at)?;
        let place = self.place(space, &located)?;
        if !matches!(place, Place::Generic | Place::Global | Place::Shared) {
            return Err("atomics work on global and shared memory".to_string());
        }
        let address = located.address;
        Ok(Kind::Atomic(Box::new(Atomic { place, address, op, ty, dst, src, order, swap })))
    }

    fn copy_async(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        if !m.take("async") {
            return Err("only cp.async is known".to_string());
        }
        if m.take("commit_group") {
            return Ok(Kind::CommitGroup);
        }
        if m.take("wait_all") {
            return Ok(Kind::WaitAll);
        }
        if m.take("wait_group") {
            let [Operand::Literal(crate::parse::ast::Literal::Int(n))] = ops else {
                return Err("a number of groups is expected".to_string());
            };
            let n = u32::try_from(*n).map_err(|_| "too many groups".to_string())?;
            return Ok(Kind::WaitGroup(n));
        }
        if m.take("mbarrier") {
            return self.copies_arrive(m, ops);
        }
        let through_l2 = m.take("cg");
        if !through_l2 && !m.take("ca") {
            return Err("ca or cg is missing (bulk copies are not known)".to_string());
        }
        let to = take_space(m);
        let from = take_space(m);
        if (to, from) != (Some(Space::Shared), Some(Space::Global)) {
            return Err("only .shared.global is known".to_string());
        }
        let policy = take_hints(m);
        let (mut rest, mut ignore) = (ops, None);
        if policy {
            rest = &rest[..rest.len().saturating_sub(1)];
        }
        let [dst, src, size, more @ ..] = rest else {
            return Err("a destination, a source and a size are expected".to_string());
        };
        let Operand::Literal(crate::parse::ast::Literal::Int(bytes)) = *size else {
            return Err("the size is a literal".to_string());
        };
        if !(matches!(bytes, 4 | 8) && !through_l2 || bytes == 16) {
            return Err(format!("{bytes} bytes: ca copies 4, 8 or 16, cg 16"));
        }
        let mut source_bytes = None;
        if let Some(operand) = more.first() {
            if matches!(self.declared(operand), Some(Type::Pred)) {
                ignore = Some(self.pred_src(operand)?);
            } else {
                source_bytes = Some(self.source(operand, Type::U32)?);
            }
        }
        if more.len() > 1 {
            return Err("too many operands".to_string());
        }
        let (dst, src) = (self.address(dst)?, self.address(src)?);
        self.place(Some(Space::Shared), &dst)?;
        self.place(Some(Space::Global), &src)?;
        Ok(Kind::CopyAsync(Box::new(CopyAsync {
            dst: dst.address,
            src: src.address,
            bytes: bytes as u32,
            source_bytes,
            ignore,
        })))
    }
}
