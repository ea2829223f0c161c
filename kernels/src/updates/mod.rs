//! Kernels outside the graph: what happens to gradients, weights and optimizer state between two
//! backward passes. They differ from [`crate::ops`] in that they have no gradient, are no [`Op`s] and
//! work on plain slices, most of them in place; each has its own folder with its tests all the same.
//!
//! All are parallel over chunks of fixed size, so that results do not depend on the number of threads.
//!
//! [`Op`s]: medley_tensor::Op

pub mod accumulate;
pub mod adamw;
pub mod cast;
pub mod grad_norm;
pub mod nf4;

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
