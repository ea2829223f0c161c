//! `atom` and `red` on global and shared memory.

use std::sync::atomic::Ordering::Relaxed;

use super::access::{addresses, classify};
use super::context::{Context, Step, Trouble, Worker};
use super::memory::lanes;
use super::warp::Warp;
use crate::count::GlobalAccess;
use crate::error::FaultKind;
use crate::memory::global::Allocation;
use crate::memory::shared::Shared;
use crate::parse::types::Type;
use crate::program::{Atomic, AtomicOp};
use crate::semantics::exact::Rounding;
use crate::semantics::float::{FloatMode, MinMaxMode, add_f32, add_f64};
use crate::semantics::half2::{
    HalfKind, HalfMode, add_half, add_half2, max_half, max_half2, min_half, min_half2,
};
use crate::semantics::integer::{atomic_decrement, atomic_increment};

/// The new value of a place that held `old`.
fn combine(op: AtomicOp, ty: Type, old: u64, value: u64, swap: u64) -> u64 {
    let low = old as u32;
    match op {
        AtomicOp::Add => match ty {
            Type::F32 => {
                // atom.add.f32 on global memory flushes nothing; shared neither.
                let sum = add_f32(f32::from_bits(low), f32::from_bits(value as u32), FloatMode::RN);
                u64::from(sum.to_bits())
            }
            Type::F64 => add_f64(f64::from_bits(old), f64::from_bits(value), Rounding::Nearest).to_bits(),
            Type::F16x2 => add_half2(HalfKind::F16, low, value as u32, HalfMode::default()).into(),
            Type::Bf16x2 => add_half2(HalfKind::Bf16, low, value as u32, HalfMode::default()).into(),
            Type::F16 => add_half(HalfKind::F16, old as u16, value as u16, HalfMode::default()).into(),
            Type::Bf16 => add_half(HalfKind::Bf16, old as u16, value as u16, HalfMode::default()).into(),
            _ => old.wrapping_add(value),
        },
        AtomicOp::Min | AtomicOp::Max => {
            let largest = op == AtomicOp::Max;
            let mode = MinMaxMode::default();
            let smaller = match ty {
                Type::S32 => (old as i32) < value as i32,
                Type::S64 => (old as i64) < value as i64,
                Type::F16 | Type::Bf16 => {
                    let kind = if ty == Type::F16 { HalfKind::F16 } else { HalfKind::Bf16 };
                    let pick = if largest { max_half } else { min_half };
                    return pick(kind, old as u16, value as u16, mode).into();
                }
                Type::F16x2 | Type::Bf16x2 => {
                    let kind = if ty == Type::F16x2 { HalfKind::F16 } else { HalfKind::Bf16 };
                    let pick = if largest { max_half2 } else { min_half2 };
                    return pick(kind, low, value as u32, mode).into();
                }
                _ => old < value,
            };
            if smaller == largest { value } else { old }
        }
        AtomicOp::Inc => atomic_increment(low, value as u32).into(),
        AtomicOp::Dec => atomic_decrement(low, value as u32).into(),
        AtomicOp::And => old & value,
        AtomicOp::Or => old | value,
        AtomicOp::Xor => old ^ value,
        AtomicOp::Exch => value,
        AtomicOp::Cas => {
            if old == value {
                swap
            } else {
                old
            }
        }
    }
}

impl Warp {
    pub(super) fn atomic(
        &mut self,
        atomic: &Atomic,
        mask: u32,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<()> {
        if mask == 0 {
            return Ok(());
        }
        let mut at = addresses(&self.regs, &atomic.address);
        let spaces = classify(atomic.place, &mut at, mask);
        let bytes = atomic.ty.bytes();
        if spaces.local | spaces.param != 0 {
            let lane = (spaces.local | spaces.param).trailing_zeros();
            return Err(Trouble::new(
                FaultKind::IllegalInstruction,
                lane,
                "an atomic on local or parameter memory",
            ));
        }
        if context.counts {
            let total = bytes * atomic.src.len() as u32;
            if spaces.global != 0 {
                let mask = spaces.global;
                worker.counts.global_access(self.pc, GlobalAccess::Atomic, &at, mask, total);
            }
            if spaces.shared != 0 {
                let offsets = at.map(|a| a as u32);
                worker.counts.shared_access(self.pc, &offsets, spaces.shared, total);
            }
        }
        let swap = atomic.swap.map_or([0; 32], |reg| self.regs.get(reg));
        for (element, &src) in atomic.src.iter().enumerate() {
            let value = self.regs.get(src);
            let mut old = [0; 32];
            for lane in lanes(mask) {
                let address = at[lane] + element as u64 * u64::from(bytes);
                if !address.is_multiple_of(u64::from(bytes)) {
                    return Err(Trouble::new(
                        FaultKind::Misaligned,
                        lane as u32,
                        format!("atomic of {bytes} bytes at 0x{address:x}"),
                    ));
                }
                let keep = if bytes == 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 };
                let (new, with) = (value[lane] & keep, swap[lane] & keep);
                let f = |old| combine(atomic.op, atomic.ty, old, new, with) & keep;
                old[lane] = if spaces.global >> lane & 1 != 0 {
                    let Some(a) = self.allocation(address, bytes, context, worker) else {
                        if !context.checks.bounds {
                            continue;
                        }
                        let lane = lane as u32;
                        return Err(context.out_of_bounds("changes", "global", address, bytes, lane));
                    };
                    if a.read_only() {
                        return Err(Trouble::new(
                            FaultKind::ReadOnly,
                            lane as u32,
                            format!("an atomic on constant memory at 0x{address:x}"),
                        ));
                    }
                    let offset = (address - a.base) as usize;
                    if context.checks.uninitialised
                        && atomic.op != AtomicOp::Exch
                        && !a.is_written(offset, bytes)
                    {
                        return Err(Trouble::new(
                            FaultKind::UninitialisedRead,
                            lane as u32,
                            format!(
                                "atomic on {bytes} bytes of global memory at 0x{address:x}, which nothing has written"
                            ),
                        ));
                    }
                    let old = global_update(a, offset, bytes, context, f);
                    a.mark_written(offset, bytes);
                    old
                } else {
                    let offset = self.shared_offset("changes", address, bytes, lane, shared)?;
                    if shared.shadowed() {
                        shared
                            .note_update(offset, bytes, self.index, atomic.op != AtomicOp::Exch, atomic.order)
                            .map_err(|p| Trouble::new(p.kind, lane as u32, p.message))?;
                    }
                    shared_update(shared, offset, bytes, f)
                };
            }
            if let Some(&dst) = atomic.dst.get(element) {
                self.regs.set(dst, mask, &old);
            }
        }
        Ok(())
    }
}

/// Replaces a value by `f` of it, at once; what was there before.
fn global_update(
    a: &Allocation,
    offset: usize,
    bytes: u32,
    context: &Context,
    f: impl Fn(u64) -> u64,
) -> u64 {
    if bytes == 8 {
        // The two words cannot be exchanged together: atomics on them take turns by address.
        let lock = &context.wide_atomics[offset / 8 % context.wide_atomics.len()];
        let _turn = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let words = a.run(offset, 2);
        let old = u64::from(words[0].load(Relaxed)) | u64::from(words[1].load(Relaxed)) << 32;
        let new = f(old);
        words[0].store(new as u32, Relaxed);
        words[1].store((new >> 32) as u32, Relaxed);
        return old;
    }
    let word = &a.run(offset & !3, 1)[0];
    let shift = 8 * (offset % 4) as u32;
    let keep = if bytes == 4 { u32::MAX } else { (1 << (8 * bytes)) - 1 };
    let mut seen = word.load(Relaxed);
    loop {
        let old = seen >> shift & keep;
        let new = (f(u64::from(old)) as u32 & keep) << shift;
        let next = seen & !(keep << shift) | new;
        match word.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
            Ok(_) => return u64::from(old),
            Err(now) => seen = now,
        }
    }
}

fn shared_update(shared: &mut Shared, offset: usize, bytes: u32, f: impl Fn(u64) -> u64) -> u64 {
    if bytes == 8 {
        let old = u64::from(shared.word(offset / 4)) | u64::from(shared.word(offset / 4 + 1)) << 32;
        let new = f(old);
        *shared.word_mut(offset / 4) = new as u32;
        *shared.word_mut(offset / 4 + 1) = (new >> 32) as u32;
        return old;
    }
    let old = u64::from(shared.load(offset, bytes));
    shared.store(offset, bytes, f(old) as u32);
    old
}
