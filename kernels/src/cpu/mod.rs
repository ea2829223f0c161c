//! The CPU engine shared by every op: run-time instruction-set dispatch, vector primitives and the matrix engine.

pub(crate) mod activation;
pub(crate) mod elementwise;
pub mod gemm;
mod isa;
pub(crate) mod lanes;

pub use isa::{Isa, isa};
