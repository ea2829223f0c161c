//! Task mixing: which examples an optimizer step holds, and how they are packed.
//!
//! [`Sampler`] answers, for any step, which examples it holds, from the seed and the step's number alone:
//! resuming needs no stored state. [`pack`] joins the examples of a micro-batch into one sequence without
//! padding.

mod packing;
mod sampler;

pub use packing::{PackedBatch, label_counts, pack};
pub use sampler::{MixError, Sampler, SamplerOptions};
