//! A simulator of PTX, the virtual instruction set of NVIDIA GPUs: it runs kernels on the CPU, checks
//! every memory access and barrier, and counts what the kernel would cost on a card.

pub mod count;
mod error;
pub mod npy;
pub mod report;
pub mod roofline;
pub mod semantics;

pub use error::{Fault, FaultKind, GpuError, ParseError};
