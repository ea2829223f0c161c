//! Task mixing: which examples an optimizer step holds, and how they are packed.
//!
//! [`Sampler`] answers, for any step, which examples it holds, from the seed and the step's number alone:
//! resuming needs no stored state. [`Strategy`] defines each strategy's shares and its epoch. [`pack`] joins
//! the examples of a micro-batch into one sequence without padding.

mod curriculum;
mod error;
mod packing;
mod sampler;
mod sources;
mod spread;
mod strategy;
#[cfg(test)]
mod tests;

pub use error::MixError;
pub use packing::{PackedBatch, label_counts, pack};
pub use sampler::{Drawable, Sampler, SamplerOptions};
pub use strategy::{EpochRule, Strategy};
