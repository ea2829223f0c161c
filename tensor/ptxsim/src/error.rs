//! What can go wrong: text that does not parse, a module or launch that is refused, a kernel that faults.

use std::fmt;

use thiserror::Error;

/// PTX text that does not parse or does not decode.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("PTX line {line}: {message}\n  {line} | {text}")]
pub struct ParseError {
    /// Line in the PTX text, counted from 1.
    pub line: u32,
    /// That line, trimmed.
    pub text: String,
    /// What was expected and what stands there.
    pub message: String,
}

/// What kind of mistake a kernel or the call that launched it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside every allocation, or outside the shared, local, constant or parameter space.
    OutOfBounds,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// A read of memory nothing has written.
    UninitialisedRead,
    /// Two threads touch the same shared memory without a barrier between them, one of them writing.
    SharedRace,
    /// A barrier that some thread of the block or warp never reaches.
    BarrierDivergence,
    /// Bytes of a `cp.async` used before `wait_group` (and, by others, a barrier) made them visible.
    MissingWait,
    /// A warp-wide operation that names or reads a lane which does not take part.
    InactiveLane,
    /// Threads wait for one another and none can go on.
    Deadlock,
    /// The instruction budget ran out.
    InstructionLimit,
    /// An instruction, or a combination of operands, that the simulator does not know.
    IllegalInstruction,
    /// The kernel executed `trap`.
    Trap,
    /// A write to constant memory or to a parameter.
    ReadOnly,
    /// The launch itself was refused: arguments, sizes, an unknown entry.
    InvalidLaunch,
}

impl FaultKind {
    /// The kind in words, as reports print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OutOfBounds => "out-of-bounds access",
            Self::Misaligned => "misaligned access",
            Self::UninitialisedRead => "read of uninitialised memory",
            Self::SharedRace => "shared-memory race",
            Self::BarrierDivergence => "barrier divergence",
            Self::MissingWait => "missing cp.async wait",
            Self::InactiveLane => "inactive lane",
            Self::Deadlock => "deadlock",
            Self::InstructionLimit => "instruction limit",
            Self::IllegalInstruction => "illegal instruction",
            Self::Trap => "trap",
            Self::ReadOnly => "write to read-only memory",
            Self::InvalidLaunch => "invalid launch",
        }
    }
}

/// A mistake found while a kernel ran, or a launch that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of mistake.
    pub kind: FaultKind,
    /// The entry that was launched.
    pub entry: String,
    /// Line of the instruction in the PTX text, from 1; 0 when no instruction is at fault.
    pub line: u32,
    /// That line, trimmed.
    pub text: String,
    /// Block index (`%ctaid`).
    pub block: [u32; 3],
    /// Thread index in the block (`%tid`).
    pub thread: [u32; 3],
    /// What happened, with addresses and the nearest allocation.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}: {}", self.kind.name(), self.entry, self.message)?;
        if self.line > 0 {
            let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
            write!(f, "\n  block ({bx},{by},{bz}) thread ({tx},{ty},{tz})")?;
            write!(f, "\n  {} | {}", self.line, self.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// A call on [`Gpu`](crate::Gpu) that was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum GpuError {
    /// The allocation does not fit the configured memory.
    #[error("out of device memory: {requested} bytes asked for, {free} of {total} free")]
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes not in use.
        free: u64,
        /// Configured memory in bytes.
        total: u64,
    },
    /// An address that is not the start of a live allocation.
    #[error("0x{0:x} is not the start of a live allocation")]
    NotAllocated(u64),
    /// A copy or fill that leaves its allocation.
    #[error("copy of {bytes} bytes at 0x{address:x} leaves device memory: {nearest}")]
    OutOfBounds {
        /// First address of the copy.
        address: u64,
        /// Its length.
        bytes: u64,
        /// The nearest allocation, in words.
        nearest: String,
    },
    /// The module was built for another card or a newer driver.
    #[error("{0}")]
    Unsupported(String),
    /// The module's text does not decode.
    #[error(transparent)]
    Parse(#[from] ParseError),
}
