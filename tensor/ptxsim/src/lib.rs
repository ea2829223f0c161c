//! A simulator of PTX, the virtual instruction set of NVIDIA GPUs: it runs kernels on the CPU, checks
//! every memory access and barrier, and counts what the kernel would cost on a card.
#![deny(unsafe_code)]
// Loops over lanes index several rows at once,
// and bit patterns are put together from shifts and masks.
#![allow(clippy::needless_range_loop, clippy::precedence)]

pub mod count;
mod decode;
mod error;
mod exec;
mod gpu;
mod lex;
mod memory;
mod module;
pub mod npy;
mod parse;
mod program;
pub mod report;
pub mod roofline;
pub mod semantics;

pub use error::{Fault, FaultKind, GpuError, ParseError};
pub use gpu::{Checks, Gpu, GpuConfig, Launch, Leak, Loaded, shared_limit};
pub use module::{Entry, Module, Param};
