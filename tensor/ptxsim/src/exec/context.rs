//! What all blocks of a launch share, and what one worker thread owns.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::count::Accumulator;
use crate::error::{Fault, FaultKind};
use crate::gpu::Checks;
use crate::memory::global::{Allocation, nearest};
use crate::program::{Program, Special};

/// A problem an instruction met, before it is known which launch and line it belongs to.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub kind: FaultKind,
    pub message: String,
    /// Lane at fault; the first active one where it is not known.
    pub lane: Option<u32>,
}

impl Trouble {
    #[cold]
    pub(crate) fn new(kind: FaultKind, lane: u32, message: impl Into<String>) -> Box<Self> {
        Box::new(Self { kind, message: message.into(), lane: Some(lane) })
    }

    #[cold]
    pub(crate) fn warp(kind: FaultKind, message: impl Into<String>) -> Box<Self> {
        Box::new(Self { kind, message: message.into(), lane: None })
    }
}

/// Result of executing something.
pub(crate) type Step<T> = Result<T, Box<Trouble>>;

/// One launch.
pub(crate) struct Context<'a> {
    pub program: &'a Program,
    pub entry: &'a str,
    pub allocations: Vec<Arc<Allocation>>,
    pub freed: Vec<(u64, u64)>,
    pub constants32: Vec<ConstantRow<u32>>,
    pub constants64: Vec<ConstantRow<u64>>,
    pub arguments: Vec<u8>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub threads: u32,
    pub warps: usize,
    /// Static plus dynamic.
    pub shared_bytes: u32,
    pub dynamic_shared_bytes: u32,
    pub checks: Checks,
    pub shared_fill: u8,
    pub counts: bool,
    pub multiprocessors: u32,
    pub grid_id: u64,
    /// Warp instructions executed by all blocks, updated now and then.
    pub executed: AtomicU64,
    pub max_instructions: Option<u64>,
    /// Set when some block has faulted: the others stop.
    pub stop: AtomicBool,
    /// Orders 64-bit atomics, whose two words cannot be exchanged at once.
    pub wide_atomics: [Mutex<()>; 64],
}

/// What fills an absolute row, addresses resolved.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ConstantRow<T> {
    Same(T),
    Special(Special),
}

impl Context<'_> {
    /// Index of the allocation that holds `address`.
    pub(crate) fn find(&self, address: u64) -> Option<usize> {
        let after = self.allocations.partition_point(|a| a.base <= address);
        let index = after.checked_sub(1)?;
        self.allocations[index].contains(address, 1).then_some(index)
    }

    #[cold]
    pub(crate) fn out_of_bounds(
        &self,
        verb: &str,
        space: &str,
        address: u64,
        bytes: u32,
        lane: u32,
    ) -> Box<Trouble> {
        let place = nearest(&self.allocations, &self.freed, address, u64::from(bytes));
        Trouble::new(
            FaultKind::OutOfBounds,
            lane,
            format!("{verb} {bytes} bytes of {space} memory at 0x{address:x}, {place}"),
        )
    }

    /// Value of a special register in `lane` of `warp` of block `block`.
    pub(crate) fn special(&self, special: Special, block: [u32; 3], warp: u32, lane: u32) -> u64 {
        let thread = warp * 32 + lane;
        let [bx, by, _] = self.block;
        u64::from(match special {
            Special::Tid(0) => thread % bx,
            Special::Tid(1) => thread / bx % by,
            Special::Tid(_) => thread / bx / by,
            Special::Ntid(d) => self.block[usize::from(d)],
            Special::Ctaid(d) => block[usize::from(d)],
            Special::Nctaid(d) => self.grid[usize::from(d)],
            Special::LaneId => lane,
            Special::WarpId => warp,
            Special::WarpCount => self.warps as u32,
            Special::LaneMaskEq => 1 << lane,
            Special::LaneMaskLe => u32::MAX >> (31 - lane),
            Special::LaneMaskLt => (1 << lane) - 1,
            Special::LaneMaskGe => u32::MAX << lane,
            Special::LaneMaskGt => (u32::MAX << lane) & !(1 << lane),
            Special::SmId => self.linear_block(block) % self.multiprocessors.max(1),
            Special::SmCount => self.multiprocessors,
            Special::GridId => return self.grid_id,
            Special::DynamicShared => self.dynamic_shared_bytes,
            Special::TotalShared => self.shared_bytes,
            Special::ReservedShared(at) => self.reserved_shared() + u32::from(at),
            Special::Zero => 0,
            Special::One => 1,
        })
    }

    /// Where reserved shared memory begins: behind the kernel's own.
    pub(crate) fn reserved_shared(&self) -> u32 {
        self.shared_bytes.next_multiple_of(16)
    }

    fn linear_block(&self, [x, y, z]: [u32; 3]) -> u32 {
        let row = z.wrapping_mul(self.grid[1]).wrapping_add(y);
        row.wrapping_mul(self.grid[0]).wrapping_add(x)
    }

    #[cold]
    pub(crate) fn fault(&self, trouble: Trouble, pc: Option<u32>, block: [u32; 3], thread: u32) -> Fault {
        let line = pc.and_then(|pc| self.program.code.get(pc as usize)).map_or(0, |i| i.line);
        let [bx, by, _] = self.block;
        Fault {
            kind: trouble.kind,
            entry: self.entry.to_string(),
            line,
            text: self.program.source.line(line).to_string(),
            block,
            thread: [thread % bx, thread / bx % by, thread / bx / by],
            message: trouble.message,
        }
    }

    /// Adds to the instruction total; an error when the budget is spent or another block has faulted.
    pub(crate) fn spend(&self, instructions: u64) -> Step<()> {
        let before = self.executed.fetch_add(instructions, Relaxed);
        if self.max_instructions.is_some_and(|max| before + instructions > max) {
            let max = self.max_instructions.unwrap_or_default();
            return Err(Trouble::warp(
                FaultKind::InstructionLimit,
                format!(
                    "the launch's budget of {max} warp instructions is spent: an endless loop, or a longer kernel than --max-instructions allows"
                ),
            ));
        }
        Ok(())
    }
}

/// What one worker thread owns and keeps from block to block.
pub(crate) struct Worker {
    /// Allocation each instruction used last.
    pub site: Vec<u32>,
    pub counts: Accumulator,
    /// Warp instructions since the last report to [`Context::spend`].
    pub unreported: u64,
}
