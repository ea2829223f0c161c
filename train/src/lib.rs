//! Data, task mixing, loss, schedules, checkpoints, metrics, evaluation and the training loop.

pub mod config;
mod error;
pub mod events;
pub mod plot;
pub mod schedule;
pub mod state;
pub use error::{Error, Result};
