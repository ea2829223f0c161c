//! What a kernel costs, counted while it runs: instructions by class, coalescing of global memory, bank
//! conflicts of shared memory, tensor-core work, divergence — for each line of the PTX.
//!
//! * [`Class`] — what an instruction is counted as
//! * [`sectors`] — 32-byte sectors of a global access, and the memory a kernel touches at all
//! * [`banks`] — wavefronts of a shared access
//! * [`Counts`] — the sums, lines and loops of a launch; they add up over launches
//!
//! One instruction of PTX is one issue slot here. `ptxas` folds address arithmetic, fuses `mul` and
//! `add`, and splits 64-bit integer work, so the hardware's own count differs by some per cent.

mod accumulate;
pub mod banks;
mod class;
pub mod sectors;
mod sums;

pub use accumulate::{Accumulator, GlobalAccess};
pub use class::Class;
pub use sums::{ClassCounts, Counts, LineCounts, LoopCounts};
