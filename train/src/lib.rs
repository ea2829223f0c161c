//! Data, task mixing, loss, schedules, checkpoints, metrics, evaluation and the training loop.

pub mod config;
pub mod data;
pub mod mix;
