//! From a Hugging Face folder to a running model: config, blocks, weights, adapters, cache,
//! generation, tokenizer, templates.

pub mod adapter;
pub mod config;
mod error;
pub mod export;
pub mod generate;
pub mod gguf;
pub mod llama;
pub mod placement;
pub mod projection;
pub mod rope;
pub mod template;
pub mod tokenizer;
mod trained;
pub mod weights;

pub use config::ModelConfig;
pub use error::{Error, Result};
pub use llama::{Labels, Llama, Sequences};
pub use placement::Placement;
pub use projection::{Noise, Pass};
pub use trained::{Freeze, TrainedWeights};
pub use weights::BaseStorage;
