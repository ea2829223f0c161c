//! Where a model's weights live, and the dtype it computes in.

use medley_tensor::{DType, Device, Result, Tensor};

/// A device and the dtype of the activations on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// Holds the weights and runs the kernels.
    pub device: Device,
    /// Dtype of activations and of the frozen matrices they meet: f32, bf16 or f16. The CPU computes in
    /// f32 from weights of any dtype.
    pub compute: DType,
}

impl Default for Placement {
    fn default() -> Self {
        Placement { device: Device::Cpu, compute: DType::F32 }
    }
}

impl Placement {
    /// A frozen weight where the model wants it. On the CPU it stays in its file. On a CUDA device matrices
    /// take the compute dtype (NF4 stays NF4) and vectors, which are small and enter norms and sums, f32.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn frozen(&self, weight: Tensor) -> Result<Tensor> {
        if self.device == Device::Cpu {
            return Ok(weight);
        }
        let dtype = match (weight.dtype(), weight.rank()) {
            (DType::Nf4, _) => DType::Nf4,
            (_, 0 | 1) => DType::F32,
            _ => self.compute,
        };
        let weight = if dtype == DType::Nf4 { weight } else { weight.to_dtype(dtype)? };
        weight.to_device(&self.device)
    }

    /// A trained f32 weight on the device.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn trained(&self, weight: Tensor) -> Result<Tensor> {
        weight.to_device(&self.device)
    }
}
