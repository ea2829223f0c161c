//! `mbarrier`: barriers in shared memory that count arrivals (PTX ISA §9.7.13.15).
//!
//! The 64-bit object is opaque to kernels. Here bits 0–19 hold the arrivals still pending, 20–39 those each
//! phase expects, and the rest the number of the phase; a state is the object as it was at an arrival.

use super::access::{addresses, classify};
use super::context::{Step, Trouble};
use super::memory::lanes;
use super::warp::Warp;
use crate::error::FaultKind;
use crate::memory::shared::Shared;
use crate::program::{Mbarrier, MbarrierOp, Order};

/// Largest count (PTX ISA: 2^20 - 1).
const MOST: u64 = (1 << 20) - 1;

#[derive(Clone, Copy)]
struct Object {
    pending: u64,
    expected: u64,
    phase: u64,
}

impl Object {
    fn unpack(bits: u64) -> Self {
        Self { pending: bits & MOST, expected: bits >> 20 & MOST, phase: bits >> 40 }
    }

    fn pack(self) -> u64 {
        self.pending | self.expected << 20 | (self.phase & 0xff_ffff) << 40
    }
}

impl Warp {
    pub(super) fn mbarrier(&mut self, m: &Mbarrier, mask: u32, shared: &mut Shared) -> Step<()> {
        if mask == 0 {
            return Ok(());
        }
        let mut at = addresses(&self.regs, &m.address);
        let spaces = classify(m.place, &mut at, mask);
        if spaces.shared != mask {
            let lane = (mask & !spaces.shared).trailing_zeros();
            let message = "an mbarrier outside shared memory".to_string();
            return Err(Trouble::new(FaultKind::OutOfBounds, lane, message));
        }
        if let MbarrierOp::CopiesArrive { .. } = m.op {
            self.wait_all(mask, shared);
        }
        let operand = m.operand.map(|reg| self.regs.get(reg));
        let mut results = [0; 32];
        for lane in lanes(mask) {
            let offset = self.shared_offset("uses an mbarrier of", at[lane], 8, lane, shared)?;
            let trouble = |p: crate::memory::shared::Problem| Trouble::new(p.kind, lane as u32, p.message);
            let wrong = |message: String| Trouble::new(FaultKind::IllegalInstruction, lane as u32, message);
            if shared.shadowed() {
                match m.op {
                    MbarrierOp::Init | MbarrierOp::Invalidate => {
                        shared.note_write(offset, 8, self.index).map_err(trouble)?;
                    }
                    MbarrierOp::Wait { .. } => {
                        shared.note_strong_read(offset, 8, self.index, false).map_err(trouble)?;
                    }
                    _ => {
                        let order = Order { strong: true, release: true, ..Order::default() };
                        shared.note_update(offset, 8, self.index, true, order).map_err(trouble)?;
                    }
                }
            }
            let word = offset / 4;
            let bits = u64::from(shared.word(word)) | u64::from(shared.word(word + 1)) << 32;
            let mut object = Object::unpack(bits);
            match m.op {
                MbarrierOp::Init => {
                    let count = operand.map_or(0, |o| o[lane] & u64::from(u32::MAX));
                    if count == 0 || count > MOST {
                        return Err(wrong(format!("mbarrier.init with a count of {count}: 1 to {MOST}")));
                    }
                    object = Object { pending: count, expected: count, phase: 0 };
                }
                MbarrierOp::Invalidate => object = Object::unpack(0),
                MbarrierOp::Wait { parity } => {
                    let given = operand.map_or(0, |o| o[lane]);
                    let done = if parity {
                        object.phase & 1 != given & 1
                    } else {
                        object.phase != Object::unpack(given).phase
                    };
                    if done && shared.shadowed() {
                        shared.note_strong_read(offset, 8, self.index, true).map_err(trouble)?;
                    }
                    results[lane] = u64::from(done);
                    continue;
                }
                MbarrierOp::Arrive { .. } | MbarrierOp::CopiesArrive { .. } => {
                    results[lane] = bits;
                    let count = match m.op {
                        // The phase expects this arrival on top of the others: nothing changes in sum.
                        MbarrierOp::CopiesArrive { expected: false } => 0,
                        _ => operand.map_or(1, |o| o[lane] & u64::from(u32::MAX)),
                    };
                    if object.expected == 0 && m.op != (MbarrierOp::Arrive { drop: true }) {
                        return Err(wrong("an mbarrier that is not initialised".to_string()));
                    }
                    if count > object.pending {
                        let pending = object.pending;
                        return Err(wrong(format!(
                            "{count} arrivals at an mbarrier whose phase waits for {pending} more"
                        )));
                    }
                    object.pending -= count;
                    if m.op == (MbarrierOp::Arrive { drop: true }) {
                        object.expected = object.expected.saturating_sub(count);
                    }
                    if object.pending == 0 && count > 0 {
                        object.phase += 1;
                        object.pending = object.expected;
                    }
                }
            }
            let bits = object.pack();
            *shared.word_mut(word) = bits as u32;
            *shared.word_mut(word + 1) = (bits >> 32) as u32;
        }
        self.regs.set(m.dst, mask, &results);
        Ok(())
    }
}
