//! Reverse-mode autograd over the ops of `medley_kernels`.
//!
//! A [`Var`] is a tensor and, when a gradient may flow through it, a node of the tape. Every op
//! records exactly what its backward needs. Leaves that are [`Param`]s accumulate their gradient
//! in f32. Under [`no_grad`] nothing is recorded; [`checkpoint`] records a segment by its inputs
//! and runs it again when the gradient comes back.
//!
//! Everything works where the tensors lie: values, gradients and optimizer state of a model on a GPU
//! stay there. Ops compute in the dtype of their activations (f32, bf16, f16) and return gradients of
//! weights in f32; gradients that meet at a fan-in are summed in the activations' dtype. Half precision
//! needs [`GradScaler`], bf16 does not.

mod backward;
mod checkpoint;
mod gradients;
pub mod optim;
mod param;
mod scaler;
mod var;

pub use backward::Gradients;
pub use checkpoint::checkpoint;
pub use gradients::GradientSet;
pub use medley_tensor::{Error, Result};
pub use param::Param;
pub use scaler::{GradScaler, ScalerConfig, ScalerState};
pub use var::{Var, is_recording, no_grad};

#[cfg(test)]
mod tests;
