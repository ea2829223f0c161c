//! The contract of a differentiable op. `kernels` implements it, one folder an op; `autograd`
//! records it.

use crate::{Error, Result, Tensor};
use std::ops::RangeInclusive;

/// What bounds an op's time. Activation checkpointing recomputes [`Cost::Memory`] ops freely and
/// keeps the outputs of [`Cost::Compute`] ops where it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Bound by arithmetic: dear to recompute.
    Compute,
    /// Bound by memory traffic: cheap to recompute.
    Memory,
}

/// A differentiable op: its settings are the fields of the implementing struct.
///
/// There are no default bodies: an op without a backward does not compile.
pub trait Op: Send + Sync + 'static {
    /// Name used in messages and in the op list.
    const NAME: &'static str;
    /// How many inputs it takes.
    const ARITY: RangeInclusive<usize>;
    /// How many outputs it has.
    const OUTPUTS: usize;
    /// What bounds its time.
    const COST: Cost;
    /// Exactly what the backward pass needs; holding more costs the user memory.
    type Saved: Send + 'static;

    /// Computes the outputs. `needs[i]` says whether a gradient of input `i` will be wanted, so
    /// that `Saved` keeps nothing that no gradient reads.
    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)>;

    /// Computes the gradients of the inputs with `needs[i]`, `None` for the others.
    /// `grads[j]` is the gradient of output `j`, `None` where nothing depended on that output.
    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>>;

    /// Refuses a wrong number of inputs.
    fn check_arity(got: usize) -> Result<()>
    where
        Self: Sized,
    {
        if Self::ARITY.contains(&got) {
            return Ok(());
        }
        let (low, high) = (*Self::ARITY.start(), *Self::ARITY.end());
        let expected = if low == high { low.to_string() } else { format!("{low} to {high}") };
        Err(Error::Arity { op: Self::NAME, expected, got })
    }
}
