//! Optimizers: gradient norm, clipping and the update, fused over the parameters.

use crate::Param;
use medley_kernels::updates::{adamw, grad_norm};
use medley_tensor::ledger::{self, Category};
use medley_tensor::{DType, Error, Result, Tensor};
use std::sync::Arc;

/// AdamW's constants (Loshchilov & Hutter, arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; norms and biases are left out, as transformers does.
    pub weight_decay: f64,
}

/// AdamW over a fixed list of parameters, with its moments.
pub struct AdamW {
    config: AdamWConfig,
    params: Vec<Arc<Param>>,
    moments: Vec<(Tensor, Tensor)>,
    steps: u64,
}

impl AdamW {
    /// Zero moments for `params`, whose order must be the same when a run is resumed.
    ///
    /// # Errors
    /// None in practice; those of the tensor layer.
    pub fn new(config: AdamWConfig, params: Vec<Arc<Param>>) -> Result<Self> {
        let _scope = ledger::scope(Category::Optimizer);
        let moments = params
            .iter()
            .map(|p| {
                let shape = p.value().shape().to_vec();
                Ok((Tensor::zeros(&shape, DType::F32)?, Tensor::zeros(&shape, DType::F32)?))
            })
            .collect::<Result<_>>()?;
        Ok(AdamW { config, params, moments, steps: 0 })
    }

    /// The parameters.
    pub fn params(&self) -> &[Arc<Param>] {
        &self.params
    }

    /// First and second moments, in the order of the parameters.
    pub fn moments(&self) -> &[(Tensor, Tensor)] {
        &self.moments
    }

    /// Updates made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Restores what a checkpoint holds.
    ///
    /// # Errors
    /// When the number or a shape of the moments does not fit the parameters.
    pub fn restore(&mut self, steps: u64, moments: Vec<(Tensor, Tensor)>) -> Result<()> {
        if moments.len() != self.moments.len() {
            return Err(Error::value(
                "adamw",
                format!("{} pairs of moments for {} parameters", moments.len(), self.moments.len()),
            ));
        }
        for ((m, v), (old, _)) in moments.iter().zip(&self.moments) {
            for t in [m, v] {
                if t.shape() != old.shape() {
                    return Err(Error::shape("adamw", format!("{:?}", old.shape()), t.shape()));
                }
            }
        }
        self.moments = moments;
        self.steps = steps;
        Ok(())
    }

    /// The L2 norm of all gradients, summed in f64 in a fixed order.
    ///
    /// # Errors
    /// None in practice; those of the tensor layer.
    pub fn grad_norm(&self) -> Result<f64> {
        let grads: Vec<Tensor> = self.params.iter().filter_map(|p| p.grad()).collect();
        let slices = grads.iter().map(|g| g.as_slice::<f32>()).collect::<Result<Vec<_>>>()?;
        Ok(grad_norm::sum_of_squares(&slices).sqrt())
    }

    /// One update with gradients multiplied by `grad_scale` (unscaling and clipping in one), then
    /// forgets the gradients.
    ///
    /// # Errors
    /// None in practice; those of the tensor layer.
    pub fn step(&mut self, learning_rate: f64, grad_scale: f32) -> Result<()> {
        self.steps += 1;
        for (param, (m, v)) in self.params.iter().zip(&mut self.moments) {
            let name = param.name();
            let decays = !name.ends_with(".bias") && !name.contains("norm.") && !name.contains("layernorm");
            let update = adamw::AdamW {
                lr: learning_rate,
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                eps: self.config.eps,
                weight_decay: if decays { self.config.weight_decay } else { 0.0 },
                step: self.steps,
                grad_scale,
            };
            let (m, v) = (m.as_mut_slice::<f32>()?, v.as_mut_slice::<f32>()?);
            param.update(|value, grad| update.update(value, grad, m, v))?;
            param.zero_grad();
        }
        Ok(())
    }
}

/// The factor that brings a gradient of L2 norm `norm` down to `max_norm` (PyTorch's
/// `clip_grad_norm_`); 1 when it is smaller, or when `max_norm` is 0 (no clipping).
pub fn clip_scale(norm: f64, max_norm: f64) -> f32 {
    if max_norm <= 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) as f32 }
}
