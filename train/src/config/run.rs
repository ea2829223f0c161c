//! Seeds and hardware.

use super::choices::Device;
use serde::{Deserialize, Serialize};

/// Seeds and hardware.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunArgs {
    /// Seed of initialisation, dropout and sampling.
    pub seed: u64,
    /// Seed of the order of examples; `None`: `seed`.
    pub data_seed: Option<u64>,
    /// Where tensors live.
    pub device: Device,
    /// Compute in bfloat16 on a CUDA device.
    pub bf16: bool,
    /// Compute in half precision on a CUDA device, with dynamic loss scaling.
    pub fp16: bool,
    /// CPU threads; `None`: one a core.
    pub num_threads: Option<usize>,
}

impl Default for RunArgs {
    fn default() -> Self {
        Self { seed: 42, data_seed: None, device: Device::Auto, bf16: false, fp16: false, num_threads: None }
    }
}
