//! The Lion update (Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675), fused with
//! unscaling and clipping: the sign of a blend of momentum and gradient, so every element moves by the learning
//! rate. One moment instead of AdamW's two.
//!
//! Floor: memory-bound, 20 bytes a parameter with an f32 moment (p, g, m read; p, m written), 14.03 with an
//! 8-bit one.

mod cuda;
#[cfg(test)]
mod tests;

use super::blockwise::{BLOCK, Quantised, SMALLEST, TASK, signed_code, tables};
use super::step::{self, Clip, Parameter, Progress, State, StepReport, Update};
use super::{CHUNK, control, same_length};
use medley_tensor::device::{CudaDevice, Device};
use medley_tensor::{DType, Result, Tensor};
use rayon::prelude::*;

const NAME: &str = "lion";

/// One step's constants, in f64 as Python's are, rounded to f32 for the loop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lion {
    /// Learning rate of this step.
    pub lr: f64,
    /// Share of the momentum in what the sign is taken of.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
    /// Decoupled weight decay: the parameter is multiplied by `1 − lr · weight_decay`.
    pub weight_decay: f64,
    /// Multiplies the gradient first: loss unscaling and clipping in one factor.
    pub grad_scale: f32,
    /// Multiplies the learning rate.
    pub lr_scale: f64,
}

impl Lion {
    /// Updates `param` and `m` in place, in the order of operations of bitsandbytes:
    ///
    /// ```text
    /// p ← p·(1 − lr·wd) − lr · sign(β₁·m + (1 − β₁)·g)        m ← β₂·m + (1 − β₂)·g
    /// ```
    ///
    /// # Errors
    /// When the slices have different lengths.
    pub fn update(&self, param: &mut [f32], grad: &[f32], m: &mut [f32]) -> Result<()> {
        for (what, len) in [("the gradient", grad.len()), ("m", m.len())] {
            same_length(NAME, param.len(), what, len)?;
        }
        let constants = self.constants();
        (param.par_chunks_mut(CHUNK), grad.par_chunks(CHUNK), m.par_chunks_mut(CHUNK))
            .into_par_iter()
            .for_each(|(param, grad, m)| {
                for ((p, g), m) in param.iter_mut().zip(grad).zip(m) {
                    constants.element(p, *g, m);
                }
            });
        Ok(())
    }

    /// [`Lion::update`] with the moment in 8 bits ([`super::blockwise`]): the parameter moves by the exact new
    /// moment, rounding enters the next step only.
    ///
    /// # Errors
    /// When the slices have different lengths.
    pub fn update_8bit(&self, param: &mut [f32], grad: &[f32], m: Quantised) -> Result<()> {
        let (n, blocks) = (param.len(), param.len().div_ceil(BLOCK));
        for (what, expected, len) in [
            ("the gradient", n, grad.len()),
            ("m", n, m.codes.len()),
            ("absmax of m", blocks, m.absmax.len()),
        ] {
            same_length("lion_8bit", expected, what, len)?;
        }
        let (constants, tables) = (self.constants(), tables());
        let span = TASK * BLOCK;
        (
            param.par_chunks_mut(span),
            grad.par_chunks(span),
            m.codes.par_chunks_mut(span),
            m.absmax.par_chunks_mut(TASK),
        )
            .into_par_iter()
            .for_each(|(p, g, codes, absmax)| {
                let blocks = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK)).zip(codes.chunks_mut(BLOCK));
                for (((p, g), codes), absmax) in blocks.zip(absmax) {
                    let mut m = [0.0f32; BLOCK];
                    for (((p, g), code), m) in p.iter_mut().zip(g).zip(codes.iter()).zip(&mut m) {
                        *m = tables[*code as usize] * *absmax;
                        constants.element(p, *g, m);
                    }
                    *absmax = m.iter().fold(0.0, |a, x| x.abs().max(a));
                    for (code, m) in codes.iter_mut().zip(&m) {
                        *code = signed_code(tables, *m, *absmax);
                    }
                }
            });
        Ok(())
    }

    fn constants(&self) -> Constants {
        Constants {
            step_size: self.lr as f32 * self.lr_scale as f32,
            decay: (1.0 - self.lr * self.lr_scale * self.weight_decay) as f32,
            beta1: self.beta1 as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
            scale: self.grad_scale,
        }
    }
}

/// A step's constants as the loop uses them.
#[derive(Clone, Copy)]
struct Constants {
    step_size: f32,
    decay: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    scale: f32,
}

impl Constants {
    #[inline(always)]
    fn element(&self, p: &mut f32, g: f32, m: &mut f32) {
        let g = g * self.scale;
        let blend = *m * self.beta1 + self.rest1 * g;
        // The sign of zero is zero: an element without a gradient stays.
        let sign = f32::from(blend > 0.0) - f32::from(blend < 0.0);
        *p = *p * self.decay - self.step_size * sign;
        *m = *m * self.beta2 + self.rest2 * g;
    }
}

/// The moment of one parameter, of its shape, on its device.
#[derive(Debug, Clone)]
pub enum Moment {
    /// In f32: 4 bytes an element.
    Full {
        /// f32.
        m: Tensor,
    },
    /// In 8 bits ([`super::blockwise`]): 1.02 bytes an element.
    Blockwise {
        /// Codes, u8.
        m: Tensor,
        /// Scales, f32, one a block of [`BLOCK`] elements.
        m_absmax: Tensor,
    },
}

impl Moment {
    /// A zero moment of a parameter of `shape`, in f32, or in 8 bits where `eight_bit` and the parameter has
    /// [`SMALLEST`] elements or more.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn zeros(device: &Device, shape: &[usize], eight_bit: bool) -> Result<Self> {
        let n: usize = shape.iter().product();
        if eight_bit && n >= SMALLEST {
            return Ok(Moment::Blockwise {
                m: Tensor::zeros_on(device, shape, DType::U8)?,
                m_absmax: Tensor::zeros_on(device, &[n.div_ceil(BLOCK)], DType::F32)?,
            });
        }
        Ok(Moment::Full { m: Tensor::zeros_on(device, shape, DType::F32)? })
    }
}

impl State for Moment {
    fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Moment::Full { m } => vec![("exp_avg", m)],
            Moment::Blockwise { m, m_absmax } => vec![("exp_avg", m), ("exp_avg_absmax", m_absmax)],
        }
    }

    fn parts_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        match self {
            Moment::Full { m } => vec![("exp_avg", m)],
            Moment::Blockwise { m, m_absmax } => vec![("exp_avg", m), ("exp_avg_absmax", m_absmax)],
        }
    }
}

/// The settings of one step over all parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub lr: f64,
    /// Share of the momentum in what the sign is taken of.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
    /// Clipping and loss scale.
    pub clip: Clip,
}

impl Step {
    /// Updates all parameters, or none when a gradient is not finite.
    ///
    /// # Errors
    /// When shapes, dtypes or devices do not fit, and when device memory runs out.
    pub fn run(&self, parameters: &mut [Parameter<Moment>], progress: &mut Progress) -> Result<StepReport> {
        step::run(self, self.clip, parameters, progress)
    }
}

impl Update<Moment> for Step {
    const NAME: &'static str = NAME;

    fn on_cpu(&self, parameters: &mut [Parameter<Moment>], _step: u64, grad_scale: f32) -> Result<()> {
        for p in parameters {
            let update = Lion {
                lr: self.lr,
                beta1: self.beta1,
                beta2: self.beta2,
                weight_decay: p.weight_decay,
                grad_scale,
                lr_scale: p.lr_scale,
            };
            let grad = p.grad.contiguous()?;
            let (value, grad) = (p.value.as_mut_slice::<f32>()?, grad.as_slice::<f32>()?);
            match &mut *p.state {
                Moment::Full { m } => update.update(value, grad, m.as_mut_slice()?)?,
                Moment::Blockwise { m, m_absmax } => {
                    let m = Quantised { codes: m.as_mut_slice()?, absmax: m_absmax.as_mut_slice()? };
                    update.update_8bit(value, grad, m)?;
                }
            }
        }
        Ok(())
    }

    fn on_cuda(
        &self,
        device: &CudaDevice,
        parameters: &mut [Parameter<Moment>],
        _step: u64,
        clip: Clip,
        control: &control::State,
    ) -> Result<()> {
        cuda::step(self, device, parameters, clip, control)
    }
}
