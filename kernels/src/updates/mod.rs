//! Kernels outside the graph: what happens to gradients, weights and optimizer state between two
//! backward passes. They differ from [`crate::ops`] in that they have no gradient, are no [`Op`s] and
//! most of them work in place; each has its own folder with its tests all the same. On the CPU they work on
//! plain slices; functions over tensors choose the slice kernel or the CUDA kernel by where the tensors lie.
//!
//! All are parallel over chunks of fixed size, so that results do not depend on the number of threads.
//!
//! [`Op`s]: medley_tensor::Op

pub mod accumulate;
pub mod adafactor;
pub mod adamw;
pub mod blockwise;
pub mod cast;
mod control;
pub mod grad_norm;
pub mod lion;
pub mod nf4;
mod step;
#[cfg(test)]
mod stepping;
mod table;
#[cfg(test)]
mod traffic;

pub use step::{Clip, Parameter, Progress, State, StepReport};

use medley_tensor::{Error, Result};

/// Elements one task handles.
const CHUNK: usize = 1 << 15;

/// Refuses slices of different lengths.
fn same_length(op: &'static str, expected: usize, what: &str, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::value(op, format!("{what} has {got} elements, expected {expected}")))
}
