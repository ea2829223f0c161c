//! One optimizer step over all parameters: norm, unscaling, clipping, update.

use super::{AdamW, cuda};
use crate::updates::blockwise::{BLOCK, Quantised, SMALLEST};
use crate::updates::control;
use crate::updates::step::{self, Clip, Parameter, Progress, State, StepReport, Update};
use medley_tensor::device::{CudaDevice, Device};
use medley_tensor::{DType, Result, Tensor};

/// Both moments of one parameter, of its shape, on its device.
#[derive(Debug, Clone)]
pub enum Moments {
    /// In f32: 8 bytes an element.
    Full {
        /// First moment, f32.
        m: Tensor,
        /// Second moment, f32.
        v: Tensor,
    },
    /// In 8 bits ([`crate::updates::blockwise`]): 2.03 bytes an element.
    Blockwise {
        /// Codes of the first moment, u8.
        m: Tensor,
        /// Codes of the second moment, u8.
        v: Tensor,
        /// Scales of the first moment, f32, one a block of [`BLOCK`] elements.
        m_absmax: Tensor,
        /// Scales of the second moment.
        v_absmax: Tensor,
    },
}

impl Moments {
    /// Zero moments of a parameter of `shape`, in f32, or in 8 bits where `eight_bit` and the parameter has
    /// [`SMALLEST`] elements or more.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn zeros(device: &Device, shape: &[usize], eight_bit: bool) -> Result<Self> {
        let n: usize = shape.iter().product();
        let zeros = |shape: &[usize], dtype| Tensor::zeros_on(device, shape, dtype);
        if eight_bit && n >= SMALLEST {
            let blocks = [n.div_ceil(BLOCK)];
            return Ok(Moments::Blockwise {
                m: zeros(shape, DType::U8)?,
                v: zeros(shape, DType::U8)?,
                m_absmax: zeros(&blocks, DType::F32)?,
                v_absmax: zeros(&blocks, DType::F32)?,
            });
        }
        Ok(Moments::Full { m: zeros(shape, DType::F32)?, v: zeros(shape, DType::F32)? })
    }
}

impl State for Moments {
    fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Moments::Full { m, v } => vec![("exp_avg", m), ("exp_avg_sq", v)],
            Moments::Blockwise { m, v, m_absmax, v_absmax } => vec![
                ("exp_avg", m),
                ("exp_avg_sq", v),
                ("exp_avg_absmax", m_absmax),
                ("exp_avg_sq_absmax", v_absmax),
            ],
        }
    }

    fn parts_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        match self {
            Moments::Full { m, v } => vec![("exp_avg", m), ("exp_avg_sq", v)],
            Moments::Blockwise { m, v, m_absmax, v_absmax } => vec![
                ("exp_avg", m),
                ("exp_avg_sq", v),
                ("exp_avg_absmax", m_absmax),
                ("exp_avg_sq_absmax", v_absmax),
            ],
        }
    }
}

/// The settings of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the bias-corrected second moment.
    pub eps: f64,
    /// Clipping and loss scale.
    pub clip: Clip,
}

impl Step {
    /// Updates all parameters, or none when a gradient is not finite. All lie on one device; on a GPU the
    /// norm decides about clipping and skipping in device memory, and the host waits once, at the end, for
    /// the report.
    ///
    /// # Errors
    /// When shapes, dtypes or devices do not fit, and when device memory runs out.
    pub fn run(&self, parameters: &mut [Parameter<Moments>], progress: &mut Progress) -> Result<StepReport> {
        step::run(self, self.clip, parameters, progress)
    }
}

impl Update<Moments> for Step {
    const NAME: &'static str = "adamw";

    fn on_cpu(&self, parameters: &mut [Parameter<Moments>], step: u64, grad_scale: f32) -> Result<()> {
        for p in parameters {
            let update = AdamW {
                lr: self.lr,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                weight_decay: p.weight_decay,
                step,
                grad_scale,
                lr_scale: p.lr_scale,
            };
            let grad = p.grad.contiguous()?;
            let (value, grad) = (p.value.as_mut_slice::<f32>()?, grad.as_slice::<f32>()?);
            match &mut *p.state {
                Moments::Full { m, v } => {
                    update.update(value, grad, m.as_mut_slice()?, v.as_mut_slice()?)?;
                }
                Moments::Blockwise { m, v, m_absmax, v_absmax } => {
                    let m = Quantised { codes: m.as_mut_slice()?, absmax: m_absmax.as_mut_slice()? };
                    let v = Quantised { codes: v.as_mut_slice()?, absmax: v_absmax.as_mut_slice()? };
                    update.update_8bit(value, grad, m, v)?;
                }
            }
        }
        Ok(())
    }

    fn on_cuda(
        &self,
        device: &CudaDevice,
        parameters: &mut [Parameter<Moments>],
        _step: u64,
        clip: Clip,
        control: &control::State,
    ) -> Result<()> {
        cuda::step(self, device, parameters, clip, control)
    }
}
