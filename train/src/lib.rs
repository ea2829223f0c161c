//! Data, task mixing, loss, schedules, checkpoints, metrics, evaluation and the training loop.

pub mod compare;
pub mod config;
pub mod data;
mod error;
pub mod events;
pub mod metrics;
pub mod mix;
pub mod plot;
pub mod predict;
pub mod report;
pub mod schedule;
pub mod state;
pub mod tensorboard;
pub mod trainer;
pub mod weighting;

pub use error::{Error, Result};
